"""What a release says of itself: Parquet parts, a row per released photo, and one signed statement over all of it.

    manifest/part-00000.parquet ...   object, photo, source (a keyed hash), sha256 of the released bytes, faces
    manifest.json                     {"statement": {...}, "signature": hex, "public_key": hex}, Ed25519

Nothing in it depends on who did the job, how often it was killed, or when: same job, same bytes. Its parts are made
from the chunks' records in the audit place, which also hold what must not stand here.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from anonymousnet import __version__
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.subjects import read_subjects
from anonymousnet.errors import ClusterError, DataError, StorageError
from anonymousnet.pipelines.bulk_plan import RESERVED, Job, Survey, address_of
from anonymousnet.pipelines.bulk_publish import THREADS, put_same, tally
from anonymousnet.pipelines.samples import FACE, as_faces
from anonymousnet.pipelines.session import software
from anonymousnet.privacy.randomness import derive

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from anonymousnet.anonymizer import Anonymizer

log = logging.getLogger(__name__)
FORMAT = 2
"""Version of the manifest; raise it with every change of its meaning."""
STATEMENT = f"{RESERVED}.json"
MARKER = f"{RESERVED}/job.json"
PART_ROWS = 4_000
"""Rows of a part: the driver's memory holds so many at once."""
ROWS = pa.schema([
    pa.field("object", pa.string(), nullable=False),         # relative to the release
    pa.field("object_sha256", pa.string(), nullable=False),  # of the object's bytes
    pa.field("photo", pa.string(), nullable=False),          # member or row within the object; empty: it is the photo
    pa.field("source", pa.string(), nullable=False),         # keyed hash of the source's name
    pa.field("sha256", pa.string(), nullable=False),         # of the released photo's bytes
    pa.field("width", pa.int32(), nullable=False),           # pixels
    pa.field("height", pa.int32(), nullable=False),
    pa.field("epsilon", pa.float64(), nullable=False),       # spent on each of its faces; 0 without faces
    pa.field("photo_epsilon", pa.float64(), nullable=False), # on all of them together
    pa.field("account", pa.string(), nullable=False),        # whose epsilon it is; empty without faces
    pa.field("faces", pa.list_(FACE), nullable=False),       # none: no face was found, and it was copied on request
])  # fmt: skip
_CELEBA_LINE = "{}  " + " ".join(["{:>2}"] * 40)


def publish_manifest(job: Job, surveyed: Survey, anonymizer: Anonymizer) -> dict[str, Any]:
    """Write parts, lists, the private list of what was withheld and, last, the statement; what it says.

    Raises ClusterError when a chunk has no record, StorageError.
    """
    files = {MARKER: hashlib.sha256(marker_of(job)).hexdigest()}
    parts, counts, reasons, of_faces = _Parts(job, files), Counter[str](), Counter[str](), Counter[int]()
    unmatched = dict.fromkeys(read_subjects(job.config.release.subjects))
    for line in records(job, surveyed.chunks):
        for name in line["named"]:
            unmatched.pop(name, None)
        counts.update(tally([line]))
        reasons.update(one["kind"] for one in line["withheld"])
        of_faces.update(len(photo["faces"]) for photo in line["photos"])
        parts.add(line, anonymizer.epsilon)
    parts.close()
    statement = {
        "format": FORMAT,
        "job": job.id,
        "release": job.config.release.name,
        "code": software(),
        "version": __version__,
        "weights": job.weights,
        "precision": job.form,
        "configuration": public_configuration(job),
        "population": _population(anonymizer),
        "counts": {**{key: counts[key] for key in ("photos", "released", "quarantined", "faces", "left_out")},
                   "skipped": surveyed.skipped},
        "privacy": _privacy(anonymizer, job, of_faces),
        "files": dict(sorted(files.items())),
    }  # fmt: skip
    put_same(job.target, STATEMENT, signed(statement, job.key.value), "application/json")
    return {**statement, "reasons": dict(sorted(reasons.items())), "unmatched": _tell_unmatched(job, list(unmatched))}


def _tell_unmatched(job: Job, names: list[str]) -> int:
    """Say how many lines of the list of subjects name no photo; which, the audit place keeps."""
    where = f"{job.run}/unmatched.jsonl"
    if told := read_subjects(job.config.release.subjects).told(names, f"{address_of(job.audit)}/{where}"):
        put_same(job.audit, where, "".join(json.dumps({"photo": name}) + "\n" for name in names).encode())
        log.warning(told)
    return len(names)


class _Parts:
    """Rows on their way into files of PART_ROWS, public and private ones; memory holds one file of each."""

    def __init__(self, job: Job, files: dict[str, str]) -> None:
        self.job, self.files = job, files
        self.rows: list[dict[str, Any]] = []
        self.withheld: list[dict[str, Any]] = []
        self.celeba: list[tuple[str, str, str, str]] = []
        self.numbers = [0, 0]

    def add(self, line: dict[str, Any], epsilon: float) -> None:
        for photo in line["photos"]:
            self.rows.append({
                "object": line["object"], "object_sha256": line["sha256"], "photo": photo["photo"],
                "source": photo["alias"], "sha256": photo["sha256"], "width": photo["width"],
                "height": photo["height"], "epsilon": epsilon if photo["faces"] else 0.0,
                "photo_epsilon": len(photo["faces"]) * epsilon if photo["faces"] else 0.0,
                "account": photo["account"], "faces": as_faces(photo["faces"]),
            })  # fmt: skip
            if self.job.layout == "celeba" and photo["faces"]:
                self.celeba.append(_celeba_row(line, photo))
        self.withheld += [{"source": line["source"], **one} for one in line["withheld"]]
        if len(self.rows) >= PART_ROWS:
            self._public()
        if len(self.withheld) >= PART_ROWS:
            self._private()

    def close(self) -> None:
        if self.rows:
            self._public()
        if self.withheld:
            self._private()
        if self.job.layout == "celeba":  # at most CelebA's 202,599 rows
            for name, data in _celeba_lists(self.job, sorted(self.celeba)).items():
                put_same(self.job.target, name, data, "text/plain")
                self.files[name] = hashlib.sha256(data).hexdigest()

    def _public(self) -> None:
        # By released name: the source's order is the source's business.
        table = pa.Table.from_pylist(sorted(self.rows, key=lambda row: (row["object"], row["photo"])), ROWS)
        sink, name = io.BytesIO(), f"{RESERVED}/part-{self.numbers[0]:05}.parquet"
        pq.write_table(table, sink)
        put_same(self.job.target, name, sink.getvalue(), "application/vnd.apache.parquet")
        self.files[name] = hashlib.sha256(sink.getvalue()).hexdigest()
        self.rows, self.numbers[0] = [], self.numbers[0] + 1

    def _private(self) -> None:
        data = "".join(json.dumps(row) + "\n" for row in self.withheld).encode()
        put_same(self.job.audit, f"{self.job.run}/quarantine-{self.numbers[1]:05}.jsonl", data)
        self.withheld, self.numbers[1] = [], self.numbers[1] + 1


def records(job: Job, chunks: int) -> Iterator[dict[str, Any]]:
    """The record of every object, in the source's order; a few chunks at a time."""

    def read(chunk: int) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in job.audit.fetch(job.record(chunk)).data.splitlines()]
        except FileNotFoundError as error:
            raise ClusterError(f"chunk {chunk} of {chunks} has no record; run the same command again") from error
        except (ValueError, OSError) as error:
            raise StorageError(f"record {job.record(chunk)} is damaged ({error}); delete it and run again") from error

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, chunks, 8 * THREADS):
            for lines in pool.map(read, range(start, min(start + 8 * THREADS, chunks))):
                yield from lines


def marker_of(job: Job) -> bytes:
    """The release's first object: whose place this is."""
    return json.dumps({"job": job.id, "made_by": "anonymousnet anonymize"}).encode()


def public_configuration(job: Job) -> dict[str, Any]:
    """Settings that shaped the release; of paths only the last part, since folders name people."""
    private = {"key_file", "ledger", "subjects", "budget"}
    tree = job.config.model_dump(
        mode="json",
        exclude={**dict.fromkeys(("train", "scale", "serve", "seed", "audit", "batch"), True), "release": private},
    )
    return {key: _bare(value) for key, value in tree.items()}


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(leaf) for key, leaf in value.items()}
    return value.rsplit("/", 1)[-1] if isinstance(value, str) else value


def _population(anonymizer: Anonymizer) -> dict[str, Any]:
    population = anonymizer.mechanism.population
    marginals = dict(zip(ATTRIBUTES, population.marginals_40.tolist(), strict=True))
    return {"sha256": hashlib.sha256(population.text().encode()).hexdigest(), "marginals": marginals}


def _privacy(anonymizer: Anonymizer, job: Job, of_faces: Counter[int]) -> dict[str, Any]:
    """The public evidence that all faces share. `of_faces`: number of faces -> released photos that have so many."""
    from anonymousnet.privacy.mechanism import covers

    mechanism, strength, region = anonymizer.mechanism, job.config.synthesize.strength, anonymizer.region
    epsilon, spread = anonymizer.epsilon, {faces: photos for faces, photos in of_faces.items() if faces}
    mean = sum(faces * photos for faces, photos in spread.items()) / max(sum(spread.values()), 1)
    return {
        "epsilon_per_face": epsilon, "mean_epsilon_per_photo": mean * epsilon if spread else 0.0,
        "max_epsilon_per_photo": max(spread) * epsilon if spread else 0.0, "t": mechanism.t, "strength": strength,
        "region": region.name, "perturbation": job.config.perturb.epsilon,
        "covers": covers(mechanism, strength, region, True, job.config.align.epsilon),
    }  # fmt: skip


def _celeba_row(line: dict[str, Any], photo: dict[str, Any]) -> tuple[str, str, str, str]:
    """(released name, attributes, landmarks, source name) of the face nearest to where CelebA's alignment puts it."""
    import numpy as np

    from anonymousnet.align.warp import TEMPLATE_52
    from anonymousnet.data.celeba import CROP

    there = (TEMPLATE_52 * CROP + (0, (218 - CROP) // 2)).ravel()
    face = min(photo["faces"], key=lambda face: float(np.abs(np.array(face["landmarks"]) - there).sum()))
    name = line["object"].rsplit("/", 1)[-1]
    attributes = _CELEBA_LINE.format(name, *(1 if value else -1 for value in face["attributes"]))
    points = " ".join([name, *(str(round(value)) for value in face["landmarks"])])
    return name, attributes, points, line["source"].rsplit("/", 1)[-1]


def _celeba_lists(job: Job, rows: list[tuple[str, str, str, str]]) -> dict[str, bytes]:
    """CelebA's lists for the released faces. Identities are left out: who it is, is what a release must not say."""
    from anonymousnet.data.celeba import read_pairs
    from anonymousnet.pipelines.source import LISTS, fetch_list

    with TemporaryDirectory() as temporary:
        path = fetch_list(job.source, LISTS[1], Path(temporary))
        partition = read_pairs(path) if path else {}
    points = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
    lists = {
        LISTS[0]: [str(len(rows)), " ".join(ATTRIBUTES), *(row[1] for row in rows)],
        "list_landmarks_align_celeba.txt": [str(len(rows)), points, *(row[2] for row in rows)],
        LISTS[1]: [f"{row[0]} {partition[row[3]]}" for row in rows if row[3] in partition],
    }
    return {name: ("\n".join(lines) + "\n").encode() for name, lines in lists.items()}


def signing_key(secret: bytes) -> Ed25519PrivateKey:
    """The release key's own signing key; it tells nothing of the release key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(derive(secret, "sign"))


def signer_of(secret: bytes) -> str:
    """The public key, in hex: what a publisher tells those who verify."""
    return signing_key(secret).public_key().public_bytes_raw().hex()


def signed(statement: dict[str, Any], secret: bytes) -> bytes:
    """manifest.json: the statement with its signature, always the same for the same statement."""
    whole = {
        "statement": statement, "signature": signing_key(secret).sign(_canonical(statement)).hex(),
        "public_key": signer_of(secret),
    }  # fmt: skip
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()


def opened(data: bytes) -> tuple[dict[str, Any], str]:
    """(statement, signer's public key) of a manifest.json. Raises DataError unless its signature is sound."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        whole = json.loads(data)
        statement, public = whole["statement"], whole["public_key"]
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(whole["signature"]), _canonical(statement))
    except InvalidSignature as error:
        raise DataError(
            f"{STATEMENT}: its signature is wrong, it was changed after it was signed; trust none of it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{STATEMENT}: expected a signed statement, found something else; trust none of it") from error
    if statement.get("format") != FORMAT:
        raise DataError(f"{STATEMENT}: expected format {FORMAT}, got {statement.get('format')}; upgrade anonymousnet")
    return statement, public


def _canonical(statement: dict[str, Any]) -> bytes:
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
