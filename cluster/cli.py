"""`anonymousnet`: the one command. Heavy imports wait until a command needs them, so that --help is quick.

Exit status: 0 done; 1 some photos were quarantined and --strict was given, or a check failed; 2 a mistake the user can
mend, told in one line.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from anonymousnet import __version__
from anonymousnet.cluster.anonymize import anonymize, jobs, verify
from anonymousnet.cluster.evaluate import evaluate
from anonymousnet.cluster.operate import cluster
from anonymousnet.cluster.options import CONFIG, FOLDER, JSON, SET, bar, celeba, plain_errors, show
from anonymousnet.cluster.perturbation import perturbation
from anonymousnet.cluster.population import population
from anonymousnet.cluster.preprocess import preprocess
from anonymousnet.cluster.serve import keys, serve
from anonymousnet.cluster.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="anonymousnet")
def main() -> None:
    """Natural face de-identification with measurable privacy."""


@main.command()
@click.argument("out", type=FOLDER)
@click.option("--photos", type=FOLDER, help="Your own photos [an astronaut and rendered faces].")
@JSON
@plain_errors
def demo(out: Path, photos: Path | None, as_json: bool) -> None:
    """De-identify a few photos into OUT and say where the report is."""
    from anonymousnet.cluster.demo import write_photos
    from anonymousnet.config import Config
    from anonymousnet.pipelines.bulk import anonymize as release

    source = photos or write_photos(out / "photos")
    summary = release(source, out / "released", Config(), out / "private")
    show(asdict(summary), as_json, [
        f"{summary.released} of {summary.photos} photos released, {summary.faces} faces, "
        f"epsilon {summary.epsilon:.2f} per face",
        f"before   {source}",
        f"after    {out / 'released'}",
        f"report   {summary.report}",
    ])  # fmt: skip


@main.command()
@click.option(
    "--guarantee", is_flag=True, help="Test on 50 faces that the release does not depend on the hidden pixels."
)
@click.option("--cluster", "address", help="Examine every machine of the Ray cluster at this address instead.")
@click.option("--bucket", help="With --cluster: a place in S3 that every machine must be able to list.")
@click.option("--endpoint-url", help="S3 server other than AWS's [AWS_ENDPOINT_URL_S3].")
@CONFIG
@SET
@JSON
@plain_errors
def doctor(
    guarantee: bool, address: str | None, bucket: str | None, endpoint_url: str | None, config_file: Path | None,
    overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Say what is there, what is missing, and what to do about it."""
    from anonymousnet import doctor as clinic
    from anonymousnet.config import Config

    config = Config.load(config_file, overrides)
    if guarantee:
        result = clinic.guarantee(config)
        show(asdict(result) | {"holds": result.holds}, as_json, result.lines())
        sys.exit(0 if result.holds else 1)
    if address is None:
        checks = list(clinic.checks(config))
    else:
        from anonymousnet.cluster.clinic import checks as of_cluster

        checks = list(of_cluster(config, address, bucket, endpoint_url))
    width = max(22, *(len(c.name) + 2 for c in checks))
    show({"checks": [asdict(c) for c in checks]}, as_json, [
        f"{c.status:<5}{c.name:<{width}}{c.found}" + (f"  -> {c.remedy}" if c.status != "ok" else "") for c in checks
    ])  # fmt: skip
    sys.exit(1 if any(c.status == "fail" for c in checks) else 0)


@main.command()
@CONFIG
@SET
@plain_errors
def config(config_file: Path | None, overrides: tuple[str, ...]) -> None:
    """Print every setting with its meaning, as a YAML file to start from."""
    from anonymousnet.config import Config

    click.echo(Config.load(config_file, overrides).as_yaml())


@main.group()
def weights() -> None:
    """Network weights."""


@weights.command("list")
@JSON
@plain_errors
def list_weights(as_json: bool) -> None:
    """The shipped weights: architecture, size, hash."""
    from anonymousnet import weights as store

    found = [store.read(name) for name in store.shipped_names()]
    rows = [
        {
            "name": w.name,
            "network": w.network,
            "parameters": sum(t.numel() for t in w.tensors.values()),
            "sha256": w.sha256,
        }
        for w in found
    ]
    show({"weights": rows}, as_json, [
        f"{r['name']:<16}{r['network']:<12}{r['parameters']:>10}  {r['sha256']}" for r in rows
    ])  # fmt: skip


@weights.command("verify")
@click.argument("names", nargs=-1)
@JSON
@plain_errors
def verify_weights(names: tuple[str, ...], as_json: bool) -> None:
    """Check the hashes of shipped weights, or of a user's own given by path."""
    from anonymousnet import weights as store

    found = [store.read(name) for name in names or store.shipped_names()]
    show({"verified": {w.name: w.sha256 for w in found}}, as_json, [f"ok  {w.name:<16}{w.sha256}" for w in found])


@weights.command("score")
@click.argument("name")
@click.option("--data", type=FOLDER, help="CelebA's folder [ANONYMOUSNET_CELEBA].")
@click.option(
    "--partition", type=click.Choice(["train", "validation", "test", "wild"]), default="test", show_default=True
)
@CONFIG
@SET
@JSON
@plain_errors
def score_weights(
    name: str, data: Path | None, partition: Any, config_file: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Score a classifier, embedder, generator or landmarks on CelebA, beside what chance or a constant answer is.

    NAME `detector` scores the search for faces: the share left open by size, turn, light, blur and covered part.
    """
    from anonymousnet.config import Config
    from anonymousnet.training.scoring import score_weights as score

    config = Config.load(config_file, overrides)
    found = score(name, celeba(data), partition, config, lambda rows: bar("batch")(rows, None))
    table = [
        "  ".join([f"{row[next(iter(row))]:<32}", *(f"{k} {v:.3f}" for k, v in row.items() if not isinstance(v, str))])
        for row in [*found.rows, *found.subgroups]
    ]
    headline = "  ".join(f"{key} {value:.4f}" for key, value in found.means.items())
    show(asdict(found), as_json, [*table, f"{name} on {found.faces} {partition} faces: {headline}"])


@weights.command("calibrate")
@click.argument("folder", type=FOLDER)
@click.option("--data", type=FOLDER, help="CelebA's folder [ANONYMOUSNET_CELEBA].")
@CONFIG
@SET
@JSON
@plain_errors
def calibrate_weights(
    folder: Path, data: Path | None, config_file: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Give a classifier a temperature and a threshold per attribute, fitted on CelebA's validation partition."""
    from anonymousnet.config import Config
    from anonymousnet.training.calibration import calibrate_weights as calibrate

    done = calibrate(folder, celeba(data), Config.load(config_file, overrides))
    show(asdict(done), as_json, [
        *("  ".join([f"{name:<7}", *(f"{key} {value:.4f}" for key, value in means.items())])
          for name, means in (("before", done.before), ("after", done.after))),
        f"weights {done.sha256}  on {done.faces} validation faces",
    ])  # fmt: skip


@weights.command("discriminant")
@click.argument("classifier")
@click.argument("out", type=FOLDER)
@click.option("--data", type=FOLDER, help="CelebA's folder [ANONYMOUSNET_CELEBA].")
@CONFIG
@SET
@JSON
@plain_errors
def make_embedder(
    classifier: str, out: Path, data: Path | None, config_file: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Make an embedder of a classifier, in closed form: its features, and what tells people apart among them."""
    from anonymousnet.config import Config
    from anonymousnet.training.discriminant import make_embedder as make

    config = Config.load(config_file, overrides)
    made = make(classifier, out, celeba(data), config, lambda rows: bar("batch")(rows, None))
    show(asdict(made), as_json, [
        *(f"  {name:<24}{value:.4f}" for name, value in made.scores.items()),
        f"weights {made.sha256}  from {made.faces} faces of {made.people} people",
    ])  # fmt: skip


@weights.command("codes")
@click.argument("generator")
@click.argument("out", type=FOLDER)
@click.option("--data", type=FOLDER, help="CelebA's folder [ANONYMOUSNET_CELEBA].")
@CONFIG
@SET
@JSON
@plain_errors
def make_codes(
    generator: str, out: Path, data: Path | None, config_file: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Make what chooses identity codes for a generator: of many, the one that promises a whole face."""
    from anonymousnet.config import Config
    from anonymousnet.training.codes import make_codes as make

    config = Config.load(config_file, overrides)
    made = make(generator, out, celeba(data), config, lambda rows: bar("batch")(rows, None))
    show(asdict(made), as_json, [
        *(f"  {name:<24}{value:.4f}" for name, value in made.scores.items()),
        f"weights {made.sha256}  from {made.labels} labels and {made.paintings} paintings",
    ])  # fmt: skip


main.add_command(anonymize)
main.add_command(cluster)
main.add_command(evaluate)
main.add_command(jobs)
main.add_command(keys)
main.add_command(perturbation)
main.add_command(population)
main.add_command(preprocess)
main.add_command(serve)
main.add_command(train)
main.add_command(verify)

if __name__ == "__main__":
    main()
