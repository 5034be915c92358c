"""Plots as inline SVG: text stays text, ink follows the page's colours, nothing is fetched."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK, ACCENT, GREY, LIMIT = "#010101", "#0d8377", "#8a949e", "#c0392b"
"""INK is replaced by the page's text colour; the others can be read on white and on near black."""
WIDTH = 4.3
"""Inches, of 72 units each: as wide as a phone shows without shrinking its text."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of `bars`: a value with its interval, shares from 0 to 1."""

    name: str
    value: float
    low: float
    high: float
    chosen: bool = False


def bars(title: str, rows: Sequence[Bar], limit: float | None, floor: float | None) -> str:
    """Dots with intervals, one row each, first on top. `limit`: the policy's; `floor`: what chance reaches."""
    figure = Figure((WIDTH, 0.62 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        colour = ACCENT if row.chosen else GREY
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=3.5, alpha=0.45, solid_capstyle="round")
        axes.plot(row.value, y, "o", color=colour, markersize=6.5)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for value, colour, style in ((limit, LIMIT, "--"), (floor, GREY, ":")):
        if value is not None:
            axes.axvline(value, color=colour, linestyle=style, linewidth=1.2)
    return _svg(figure, axes, title)


def curve(title: str, xs: Sequence[float], points: Sequence[Bar], limit: float | None, share: bool, log: bool) -> str:
    """A line with its interval over a setting; chosen points are marked by a ring."""
    figure = Figure((WIDTH, 2.3), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(xs, [p.low for p in points], [p.high for p in points], color=ACCENT, alpha=0.2, linewidth=0)
    axes.plot(xs, [p.value for p in points], "o-", color=ACCENT, markersize=4.5, linewidth=1.6)
    for x, point in zip(xs, points, strict=True):
        if point.chosen:
            axes.plot(x, point.value, "o", markersize=12, markerfacecolor="none", color=INK, markeredgewidth=1.6)
    if limit is not None:
        axes.axhline(limit, color=LIMIT, linestyle="--", linewidth=1.2)
    if log:
        axes.set_xscale("log")
    axes.set_xticks(xs, [f"{x:.3g}" for x in xs])
    axes.minorticks_off()
    if share:
        axes.set_ylim(0, max(0.05, 1.1 * max(p.high for p in points)))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return _svg(figure, axes, title)


def _svg(figure: Figure, axes: Axes, title: str) -> str:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GREY, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(GREY)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    stream = io.StringIO()
    # Ids must differ between the plots of one page, and be the same for the same figures.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        FigureCanvasSVG(figure)
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace(INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{_plain(title)}" ', 1)
    return text.replace("'DejaVu Sans', 'Bitstream Vera Sans'", "system-ui")


def _plain(text: str) -> str:
    return text.replace("&", "and").replace('"', "'").replace("<", "under ").replace(">", "over ")
