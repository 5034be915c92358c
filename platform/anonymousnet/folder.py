"""A photo or a folder of photos, de-identified into another folder; what undoes it goes to a private one.

DST holds the released photos under their relative names, `release.parquet` (a row per face, public evidence only) and
`report.html`. The private folder holds `quarantine.jsonl` (photos withheld, and why) and `evidence.jsonl`.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anonymousnet.anonymizer import Anonymizer, PhotoLike, Release
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.images import encode_photo, find_photos
from anonymousnet.data.paths import beside, resolve_path
from anonymousnet.data.store import private_folder, write_atomic
from anonymousnet.data.subjects import Subjects, read_subjects
from anonymousnet.errors import AnonymousNetError, ConfigError, LedgerError, StorageError, UnnamedSubject
from anonymousnet.privacy.ledger import Ledger
from anonymousnet.protect import protect
from anonymousnet.report.release import SHOWN_FACES, ShownFace, release_page

log = logging.getLogger(__name__)
Progress = Callable[[Iterable[Path], int], Iterable[Path]]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a job did. Every photo is either released or quarantined."""

    photos: int
    released: int
    quarantined: int
    faces: int
    seconds: float
    photos_per_second: float
    epsilon: float
    """Mean over released faces of the epsilon spent on a face's attributes."""
    photo_epsilon: float
    """Mean over released photos of the epsilon of a photo, the sum over its faces."""
    max_photo_epsilon: float
    """The largest of them."""
    t: float
    """Largest expected distance of a released marginal from the population."""
    strength: float
    guarantee: str
    report: str
    private: str
    reasons: dict[str, int] = field(default_factory=dict)
    """Kinds of quarantine and how often each came; which photo and why is in the private folder."""
    unmatched: int = 0
    """Lines of `release.subjects` that name no photo; the private folder has them."""


@dataclass(slots=True)
class _Job:
    root: Path
    dst: Path
    anonymizer: Anonymizer
    config: Config
    rows: list[dict[str, Any]] = field(default_factory=list)
    private: list[dict[str, Any]] = field(default_factory=list)
    withheld: list[dict[str, str]] = field(default_factory=list)
    shown: list[ShownFace] = field(default_factory=list)
    subjects: Subjects = field(default_factory=lambda: read_subjects(None))
    unmatched: list[str] = field(default_factory=list)
    ledger: Ledger | None = None
    released: int = 0
    taken: set[Path] = field(default_factory=set)


def anonymize_folder(
    src: str | Path,
    dst: str | Path,
    config: Config,
    audit: str | Path | None = None,
    progress: Progress = lambda photos, _: photos,
) -> Summary:
    """De-identify `src` (a photo or a folder, recursively) into `dst`.

    Raises StorageError when src is missing or a disk refuses, ConfigError when the folders overlap or dst is not empty.
    One bad photo never ends the job: it is quarantined with its reason.
    """
    src, dst = resolve_path(src), resolve_path(dst)
    audit = beside(dst, "-private") if audit is None else resolve_path(audit)
    photos = _photos(src)
    _check_folders(src, dst, audit)
    started = time.monotonic()
    anonymizer, subjects = Anonymizer.load(config), read_subjects(config.release.subjects)
    job = _Job(
        src if src.is_dir() else src.parent, dst, anonymizer, config, subjects=subjects, ledger=anonymizer.ledger()
    )
    private_folder(audit)
    job.unmatched = _unmatched(job, photos, audit)
    for chunk in _chunks(progress(photos, len(photos)), config.batch):
        _release_chunk(job, chunk)
    if job.ledger:
        job.ledger.close()
    return _close(job, audit, len(photos), time.monotonic() - started)


def _photos(src: Path) -> list[Path]:
    if src.is_dir():
        photos = find_photos(src)
        if not photos:
            raise StorageError(f"no photos under {src}; expected files such as .jpg, .png or .webp")
        return photos
    if src.is_file():
        return [src]
    raise StorageError(f"no such photo or folder: {src}; check the path")


def _check_folders(src: Path, dst: Path, audit: Path) -> None:
    source, target, private = src.resolve(), dst.resolve(), audit.resolve()
    if source.is_dir() and (target.is_relative_to(source) or private.is_relative_to(source)):
        raise ConfigError(f"{dst} and {audit} must lie outside {src}, or a second run would take releases for photos")
    if private.is_relative_to(target) or target.is_relative_to(private):
        raise ConfigError(
            f"private evidence must not stand beside the release: {audit} and {dst} overlap; choose another --audit"
        )
    for folder in (dst, audit):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                f"{folder} is not an empty folder; a release never mixes with other files: choose a new one"
            )


def _subject(job: _Job, photo: Path) -> str | None:
    """Whose photo it is: by its relative name, or else by its file name. Raises UnnamedSubject under a budget."""
    return job.subjects.of(str(photo.relative_to(job.root)), photo.name, budget=job.config.release.budget)


def _unmatched(job: _Job, photos: Iterable[Path], audit: Path) -> list[str]:
    """Names in the list of subjects that are no photo's, told now: most often they are mistyped."""
    named = {job.subjects.find(str(photo.relative_to(job.root)), photo.name) for photo in photos}
    unmatched = [name for name in job.subjects if name not in named]
    if told := job.subjects.told(unmatched, f"{audit}/unmatched.jsonl"):
        write_atomic(audit / "unmatched.jsonl", _lines({"photo": name} for name in unmatched), private=True)
        log.warning(told)
    return unmatched


def _chunks(photos: Iterable[Path], size: int) -> Iterator[list[Path]]:
    chunk: list[Path] = []
    for photo in photos:
        chunk.append(photo)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _release_chunk(job: _Job, photos: list[Path]) -> None:
    asked: list[tuple[PhotoLike, str | None]] = []
    for photo in list(photos):
        try:
            asked.append((photo, _subject(job, photo)))
        except UnnamedSubject as error:
            photos.remove(photo)
            _withhold(job, photo, error)
    for photo, done in zip(photos, protect(job.anonymizer, asked), strict=True):
        if isinstance(done, Exception):
            _withhold(job, photo, done)
            continue
        try:
            if job.ledger:  # spend first, then release: a crash in between has spent too much, never too little
                job.ledger.spend_many(job.anonymizer.spends(done.prepared))
        except LedgerError:
            raise  # without its ledger the whole job stops
        except AnonymousNetError as error:
            _withhold(job, photo, error)
            continue
        _write(job, photo, done.release, done.likeness)


def _withhold(job: _Job, photo: Path, error: BaseException) -> None:
    """Quarantine: the photo is not released; name and reason go to the private folder."""
    name = str(photo.relative_to(job.root))
    job.withheld.append({"photo": name, "kind": type(error).__name__, "reason": str(error)})


def _write(job: _Job, photo: Path, release: Release, likeness: list[float] | None) -> None:
    data, suffix = encode_photo(release.image, job.config.release.format, job.config.release.quality)
    relative = photo.relative_to(job.root)
    # The suffix says what the bytes are; where it changes, the old one stays in the name, so that no two collide.
    same = relative.suffix.lower() in _SAME_SUFFIX.get(suffix, (suffix,))
    name = relative if same else relative.with_name(relative.name + suffix)
    while name in job.taken:
        name = name.with_name(f"{name.stem}-2{name.suffix}")
    job.taken.add(name)
    write_atomic(job.dst / name, data)
    job.released += 1
    digest = hashlib.sha256(data).hexdigest()
    # A file name need not be UTF-8; a table's text must.
    shown_name = str(name).encode("utf-8", "replace").decode()
    height, width = release.image.rgb.shape[:2]
    for i, face in enumerate(release.faces):
        public = asdict(face.evidence.public)
        row = {"photo": shown_name, "face": i, "sha256": digest, "width": width, "height": height}
        job.rows.append(row | public)
        job.private.append({"photo": shown_name, "source": str(relative), "face": i, **asdict(face.evidence.private),
                            "similarity": likeness[i] if likeness else None})  # fmt: skip
        if len(job.shown) < SHOWN_FACES:
            job.shown.append(ShownFace(shown_name, face.pixels, face.evidence.public))


_SAME_SUFFIX = {".jpg": (".jpg", ".jpeg", ".jpe", ".jfif")}


def _close(job: _Job, audit: Path, photos: int, seconds: float) -> Summary:
    epsilons = [row["epsilon"] for row in job.rows]
    of_photos = [row["photo_epsilon"] for row in job.rows if row["face"] == 0]
    reasons: dict[str, int] = {}
    for entry in job.withheld:
        reasons[entry["kind"]] = reasons.get(entry["kind"], 0) + 1
    summary = Summary(
        photos=photos,
        released=job.released,
        quarantined=len(job.withheld),
        faces=len(job.rows),
        seconds=round(seconds, 3),
        photos_per_second=round(photos / seconds, 3),
        epsilon=sum(epsilons) / len(epsilons) if epsilons else 0.0,
        photo_epsilon=sum(of_photos) / len(of_photos) if of_photos else 0.0,
        max_photo_epsilon=max(of_photos, default=0.0),
        t=max((row["t"] for row in job.rows), default=0.0),
        strength=job.config.synthesize.strength,
        guarantee=job.rows[0]["covers"] if job.rows else "nothing was released",
        report=str(job.dst / "report.html"),
        private=str(audit),
        reasons=reasons,
        unmatched=len(job.unmatched),
    )
    write_atomic(audit / "quarantine.jsonl", _lines(job.withheld), private=True)
    write_atomic(audit / "evidence.jsonl", _lines(job.private), private=True)
    write_atomic(job.dst / "release.parquet", _parquet(job.rows))
    people = dict(zip(ATTRIBUTES, job.anonymizer.mechanism.population.marginals_40.tolist(), strict=True))
    page = release_page(summary, job.shown, job.config, _released_shares(job.rows), people)
    write_atomic(job.dst / "report.html", page.encode())
    return summary


def _released_shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Attribute -> share of released faces that have it, 0 to 1; empty without faces."""
    count = len(rows)
    return {name: sum(row["released"][name] for row in rows) / count for name in ATTRIBUTES} if count else {}


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    """A row per face: where, the 40 released attributes as columns, and the rest of the public evidence."""
    flat = [
        {**{k: v for k, v in row.items() if k not in ("released", "weights", "unprotected")}, **row["released"],
         "unprotected": ",".join(row["unprotected"]), "weights": json.dumps(row["weights"], sort_keys=True)}
        for row in rows
    ]  # fmt: skip
    schema = pa.schema([
        ("photo", pa.string()), ("face", pa.int32()), ("sha256", pa.string()), ("width", pa.int32()),
        ("height", pa.int32()), ("epsilon", pa.float64()), ("photo_epsilon", pa.float64()), ("account", pa.string()),
        ("t", pa.float64()), ("covers", pa.string()),
        ("unprotected", pa.string()), ("strength", pa.float64()), ("region", pa.string()),
        ("perturbation", pa.float64()), ("weights", pa.string()), ("precision", pa.string()),
        *[(name, pa.bool_()) for name in ATTRIBUTES],
    ])  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(flat, schema), sink)
    return sink.getvalue()
