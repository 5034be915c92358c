"""`anonymousnet evaluate`: attack a release with its originals at hand."""

from __future__ import annotations

from pathlib import Path

import click

from anonymousnet.cluster.options import CONFIG, FOLDER, JSON, SET, bar, plain_errors, show


@click.command()
@click.argument("release", type=FOLDER)
@click.option("--originals", type=FOLDER, required=True, help="Folder the release was made from.")
@click.option("--identities", type=FOLDER, required=True, help="Lines of `name number`, as CelebA's identity list.")
@click.option("--out", type=FOLDER, help="Private folder for the answer [RELEASE-evaluation].")
@click.option("--recogniser", "recognisers", multiple=True, help="ours, dlib or onnx:PATH; repeatable [all installed].")
@CONFIG
@SET
@JSON
@plain_errors
def evaluate(
    release: Path, originals: Path, identities: Path, out: Path | None, recognisers: tuple[str, ...],
    config_file: Path | None, overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Attack RELEASE with the originals at hand: is it private now, how private, can it be more private?"""
    from anonymousnet.config import Config
    from anonymousnet.evaluation import evaluate as attack
    from anonymousnet.evaluation import plain
    from anonymousnet.report.evaluation import ANSWERS, summary_lines

    config = Config.load(config_file, overrides)
    result = attack(release, originals, identities, config, out, recognisers, bar("jobs"))
    show(plain(result), as_json, [
        f"Is it private now? {ANSWERS[result.verdict.answer]}.",
        *summary_lines(result),
        f"report   {result.report}",
        f"figures  {result.json}",
    ])  # fmt: skip
