"""What is there, what is missing, and what to do about it: `anonymousnet doctor`.

    for check in checks(Config()):
        print(check.status, check.name, check.found, check.remedy)

Nothing is changed, no network is asked, no secret is shown. Parts are imported where they are examined, so that a
broken one is reported and not died of.
"""

from __future__ import annotations

import configparser
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anonymousnet.config import Config
from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import AnonymousNetError

if TYPE_CHECKING:
    from anonymousnet.guarantee import GuaranteeResult

PACKAGES: dict[str, str] = {
    "ray": 'pip install "ray[train,serve,data]>=2.60,<2.61"',
    "deepspeed": 'DS_BUILD_OPS=0 pip install "deepspeed>=0.19.8,<0.20"',
    "kornia": 'pip install "kornia>=0.9,<0.10"',
    "openvino": 'pip install "openvino>=2026.4"',
    "pillow-heif": 'pip install "pillow-heif>=1.0"',
}
"""Required packages that are looked up by their metadata, never imported, and how to get them."""

OPTIONAL: dict[str, tuple[str, str]] = {
    "dlib": ("the independent recogniser", "pip install 'anonymousnet[judge]'"),
    "face_recognition_models": ("the independent recogniser", "pip install 'anonymousnet[judge]'"),
}
"""Optional modules: what each is for, and how to get it."""

AWS_ROLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Variables by which a cloud hands a container its role."""

GIB = 1 << 30
DISK_WANTED = 2 * GIB
"""Bytes free below which the working folder gets a warning."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's answer."""

    name: str
    status: Literal["ok", "warn", "fail"]
    """warn: something works less well or is left out; fail: photos cannot be released as configured."""
    found: str
    remedy: str = ""
    """What to do; empty where nothing need be done."""


def checks(config: Config) -> Iterator[Check]:
    """Examine this machine for this configuration, one part after the other. Never raises."""
    parts: dict[str, Callable[[Config], Iterator[Check]]] = {
        "python": _python, "torch": _torch, "gpu": _gpu, "packages": _packages, "detector": _detector,
        "weights": _weights, "population": _population, "key file": _key_file, "optional parts": _optional,
        "s3 credentials": _s3, "disk": _disk, "celeba": _celeba,
    }  # fmt: skip
    for name, examine in parts.items():
        try:
            yield from examine(config)
        except AnonymousNetError as error:
            yield _fault(name, error)
        except Exception as error:  # a broken installation can raise anything, and that is the finding
            yield Check(name, "fail", _line(f"{type(error).__name__}: {error}"), "pip install -e . (again)")


def guarantee(config: Config, faces: int = 50, seed: int = 0, celeba: Path | None = None) -> GuaranteeResult:
    """Test the pixel guarantee on `faces` faces; see `anonymousnet.guarantee`, where it is done."""
    from anonymousnet.guarantee import measure

    return measure(config, faces, seed, celeba)


def celeba_folder() -> Path:
    """Where CelebA is looked for: ANONYMOUSNET_CELEBA, or ../shared/celeba."""
    return resolve_path(os.environ.get("ANONYMOUSNET_CELEBA") or "../shared/celeba")


def _fault(name: str, error: AnonymousNetError, remedy: str = "") -> Check:
    """Our errors read 'what was found; what to do'."""
    found, _, advice = _line(str(error)).partition("; ")
    return Check(name, "fail", found, advice or remedy)


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _python(_: Config) -> Iterator[Check]:
    found = f"{platform.python_version()} at {sys.executable}"
    old = sys.version_info < (3, 11)
    yield Check("python", "fail" if old else "ok", found, "install Python 3.11 or later" if old else "")


def _torch(config: Config) -> Iterator[Check]:
    import torch

    from anonymousnet.device import cpu_has_bf16

    yield Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if cpu_has_bf16():
        yield Check("cpu bf16", "ok", "in hardware")
    elif config.precision == "bf16" and not torch.cuda.is_available():
        yield Check("cpu bf16", "warn", "emulated, slower than float32", "set precision to auto")
    else:
        yield Check("cpu bf16", "ok", "not in hardware: networks run in float32, 3 to 7 times slower")


def _gpu(config: Config) -> Iterator[Check]:
    import torch

    from anonymousnet.device import arithmetic

    arithmetic(config.device, config.precision)  # raises where a GPU is asked for and none is there
    if not torch.cuda.is_available():
        yield Check("gpu", "ok", "none: networks run on the CPU")
        return
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    yield Check("gpu", "ok", names + (" (unused: device is cpu)" if config.device == "cpu" else ""))


def _packages(_: Config) -> Iterator[Check]:
    for name, remedy in PACKAGES.items():
        try:
            yield Check(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name, "fail", "not installed", remedy)


def _detector(config: Config) -> Iterator[Check]:
    from anonymousnet.align.detect import Detector
    from anonymousnet.nets.centerface_file import SHA256

    Detector(config.align).network  # noqa: B018  reads, verifies and loads the network
    yield Check("detector", "ok", f"centerface.onnx, sha256 {SHA256[:16]}…")


def _weights(config: Config) -> Iterator[Check]:
    """Those the configuration needs, then all others that are shipped; the hash of each is verified."""
    from anonymousnet import weights

    needed = {config.predict.weights: "anonymousnet train attributes"}
    needed[config.predict.surroundings] = "anonymousnet train surroundings"
    # Strength 0 takes the generator's face size, so it reads the generator too.
    needed[config.synthesize.generator] = "anonymousnet train generator"
    if config.synthesize.codes is not None:
        needed[config.synthesize.codes] = "anonymousnet weights codes"
    if config.synthesize.strength == 0:
        needed[config.synthesize.translation_weights] = "anonymousnet train translation"
    if config.perturb.epsilon > 0:
        needed[config.perturb.weights] = "anonymousnet perturbation"
    for name in [*needed, *(other for other in weights.shipped_names() if other not in needed)]:
        shown = f"weights {Path(name).name}"
        try:
            found = weights.read(name)
            yield Check(shown, "ok", f"{found.network}, sha256 {found.sha256[:16]}…")
        except AnonymousNetError as error:
            make = f", or make them: {needed[name]}" if name in needed else ""
            yield _fault(shown, error, f"install anonymousnet again{make}")


def _population(config: Config) -> Iterator[Check]:
    from anonymousnet.privacy.population import Population, celeba_population

    own = config.obfuscate.population
    population = Population.load(own) if own else celeba_population()
    yield Check("population", "ok", f"{population.name}, counted over {population.n:,} rows")


def _key_file(config: Config) -> Iterator[Check]:
    from anonymousnet.privacy.randomness import load_key

    path = resolve_path(config.release.key_file)
    if not path.exists():  # asked first: load_key would make it
        yield Check("key file", "ok", f"{path} is not there yet; the first release makes it")
        return
    load_key(path)
    yield Check("key file", "ok", f"{path}, mode {path.stat().st_mode & 0o777:04o}")


def _optional(_: Config) -> Iterator[Check]:
    for name, (purpose, remedy) in OPTIONAL.items():
        if find_spec(name) is not None:
            yield Check(name, "ok", f"there, for {purpose}")
        else:
            yield Check(name, "warn", f"not installed; needed only for {purpose}", remedy)


def _s3(_: Config) -> Iterator[Check]:
    """Looks at what boto3 would read on this machine; asking boto3 could call the cloud's metadata service."""
    given = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if os.environ.get(name)]
    profile = os.environ.get("AWS_PROFILE") or "default"
    file = resolve_path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    if len(given) == 2:
        yield Check("s3 credentials", "ok", "in the environment")
    elif given:
        yield Check("s3 credentials", "warn", f"{given[0]} is set alone", "set both id and secret, or neither")
    elif any(os.environ.get(name) for name in AWS_ROLES):
        yield Check("s3 credentials", "ok", "a role, given by the environment")
    elif _has_profile(file, profile):
        yield Check("s3 credentials", "ok", f"{file} [{profile}]")
    else:
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write " + str(file)
        yield Check("s3 credentials", "warn", "none; needed only for s3:// addresses", remedy)


def _has_profile(file: Path, profile: str) -> bool:
    # Raw: secrets may hold a %. Errors are not shown: a parser's message quotes the line it failed on.
    parser = configparser.RawConfigParser()
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return False
    return all(parser.has_option(profile, name) for name in ("aws_access_key_id", "aws_secret_access_key"))


def _disk(_: Config) -> Iterator[Check]:
    free = shutil.disk_usage(".").free
    found = f"{free / GIB:.1f} GiB free in {Path.cwd()}"
    if free < DISK_WANTED:
        yield Check("disk", "warn", found, f"free some: {DISK_WANTED // GIB} GiB are wanted")
    else:
        yield Check("disk", "ok", found)


def _celeba(_: Config) -> Iterator[Check]:
    folder = celeba_folder()
    images = folder / "img_align_celeba"
    if images.is_dir():
        yield Check("celeba", "ok", f"{sum(1 for _ in images.iterdir()):,} images in {images}")
    elif any(folder.glob("img_align_celeba*.zip")):
        remedy = "to train, unpack them and set ANONYMOUSNET_CELEBA to that folder"
        yield Check("celeba", "warn", f"packed, in {folder}", remedy)
    else:
        remedy = "to train on real faces, set ANONYMOUSNET_CELEBA to CelebA's folder"
        yield Check("celeba", "warn", f"not in {folder}; synthetic faces are used instead", remedy)
