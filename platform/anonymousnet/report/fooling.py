"""The perturbation's plot: how many faces it fools, by its size and after what the world does to a photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from anonymousnet.report.plots import ACCENT, GREY, INK, LIMIT

COLOURS = (ACCENT, LIMIT, INK)


def plot_fooling(
    path: Path, targets: Sequence[str], curve: list[dict[str, Any]], robustness: list[dict[str, Any]], xi: float
) -> None:
    """Write a PNG of `fooling_curve`'s and `robustness`'s rows: v filled and drawn through, noise hollow and dashed."""
    figure = Figure((9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = [row["epsilon"] * 255 for row in curve]
    places = [row["after"] for row in robustness]
    for i, (target, colour) in enumerate(zip(targets, COLOURS, strict=False)):
        for key, style, fill in (("fooled", "o-", colour), ("noise", "o--", "none")):
            name = target if key == "fooled" else f"{target}, noise"
            left.plot(sizes, [row[key][i] for row in curve], style, color=colour, markerfacecolor=fill, label=name)
            right.plot([row[key][i] for row in robustness], places, "o", color=colour, markerfacecolor=fill)
    left.set_xlabel("largest change, grey levels of 255")
    left.set_ylabel("faces fooled")
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    left.set_ylim(-0.03, 1.03)
    left.set_xticks(sizes, [f"{size:g}" for size in sizes])
    left.legend(fontsize=7, frameon=False)
    right.invert_yaxis()
    right.set_xlabel(f"faces fooled at {xi * 255:g}/255")
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set_xlim(-0.03, 1.03)
    for axes in (left, right):
        _plain(axes)
    with matplotlib.rc_context({"font.family": "sans-serif"}):
        FigureCanvasAgg(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GREY, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
