"""What stands beside the released photos, made from the chunks' records in the audit place once all of them stand.

    manifest/part-00000.parquet ...   a row per photo: object, source (a keyed hash), sha256 of the bytes, faces
    release.parquet                   a row per face: the public evidence
    report.html                       the same for people
    manifest.json                     the signed statement, written last

Nothing in it depends on who did the job, how often it was killed, or when: same job, same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.subjects import read_subjects
from anonymousnet.errors import ClusterError, StorageError
from anonymousnet.faces import PublicEvidence
from anonymousnet.pipelines.bulk_plan import REPORT, RESERVED, STATEMENT, TABLE, Job, Survey, address_of, left_out
from anonymousnet.pipelines.bulk_publish import THREADS, put_same, tally
from anonymousnet.pipelines.manifest import MARKER, marker_of, signed, statement_of
from anonymousnet.pipelines.samples import FACE, as_faces
from anonymousnet.pipelines.storage import Storage
from anonymousnet.report.release import SHOWN_FACES, Outcome, ShownFace, release_page

if TYPE_CHECKING:
    from anonymousnet.anonymizer import Anonymizer

log = logging.getLogger(__name__)
PART_ROWS = 4_000
"""Rows of a part: the driver's memory holds so many at once, and of the table about 100 bytes a face."""
PHOTOS = pa.schema([
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
FACES = pa.schema([
    ("photo", pa.string()), ("face", pa.int32()), ("sha256", pa.string()), ("width", pa.int32()),
    ("height", pa.int32()), ("epsilon", pa.float64()), ("photo_epsilon", pa.float64()), ("account", pa.string()),
    ("t", pa.float64()), ("covers", pa.string()), ("unprotected", pa.string()), ("strength", pa.float64()),
    ("region", pa.string()), ("perturbation", pa.float64()), ("weights", pa.string()), ("precision", pa.string()),
    ("looks", pa.string()), ("smallest_face_px", pa.int32()), ("covered", pa.int32()),
    *[(name, pa.bool_()) for name in ATTRIBUTES],
])  # fmt: skip
_CELEBA_LINE = "{}  " + " ".join(["{:>2}"] * 40)


def publish_release(job: Job, surveyed: Survey, anonymizer: Anonymizer) -> tuple[Outcome, int]:
    """Write parts, table, lists, the private lists of what is not in the release, the report and, last, the statement;
    (what became of the photos, lines of the list of subjects that name none).

    Raises ClusterError when a chunk has no record, StorageError.
    """
    books = _Books(job, anonymizer)
    for line in _records(job, surveyed.chunks):
        books.add(line)
    books.close(surveyed)
    counts, population = books.counts, _population(anonymizer)
    privacy = _privacy(anonymizer, job, books.of_faces)
    done = Outcome(
        **{key: counts[key] for key in ("photos", "released", "quarantined", "faces", "left_out", "later_frames")},
        skipped=surveyed.skipped, epsilon=privacy["epsilon_per_face"], photo_epsilon=privacy["mean_epsilon_per_photo"],
        max_photo_epsilon=privacy["max_epsilon_per_photo"], t=privacy["t"], strength=privacy["strength"],
        guarantee=privacy["covers"], reasons=dict(sorted(books.reasons.items())),
    )  # fmt: skip
    shares = {name: books.attributes[name] / counts["faces"] for name in ATTRIBUTES} if counts["faces"] else {}
    shown = sorted(books.shown, key=lambda face: face.photo)  # the source's order is the source's business
    page = release_page(done, shown, job.config, shares, population["marginals"])
    books.put(REPORT, page.encode(), "text/html")
    told = {**{key: counts[key] for key in ("photos", "released", "quarantined", "faces", "left_out", "later_frames")},
            "skipped": surveyed.skipped}  # fmt: skip
    statement = statement_of(job, told, privacy, population, books.files)
    put_same(job.target, STATEMENT, signed(statement, job.key.value), "application/json")
    return done, _tell_unmatched(job, list(books.unmatched))


class _Books:
    """What the records add up to, and the files made of them: memory holds PART_ROWS of each, and the table."""

    def __init__(self, job: Job, anonymizer: Anonymizer) -> None:
        self.job, self.epsilon, self.side = job, anonymizer.epsilon, anonymizer.face_px
        self.files = {MARKER: hashlib.sha256(marker_of(job)).hexdigest()}
        self.unmatched = dict.fromkeys(read_subjects(job.config.release.subjects))
        self.counts, self.reasons = Counter[str](), Counter[str]()
        self.of_faces, self.attributes = Counter[int](), Counter[str]()
        self.shown: list[ShownFace] = []
        self._weights = json.dumps(job.weights, sort_keys=True)
        self._photos: list[dict[str, Any]] = []
        self._faces: list[dict[str, Any]] = []
        self._celeba: list[tuple[str, str, str, str]] = []
        self._parts = 0
        self._table = io.BytesIO()
        self._writer = pq.ParquetWriter(self._table, FACES)
        self._withheld = _Private(job.audit, f"{job.run}/quarantine")
        self._left_out = _Private(job.audit, f"{job.run}/left-out")

    def add(self, line: dict[str, Any]) -> None:
        """One object's record."""
        for name in line["named"]:
            self.unmatched.pop(name, None)
        self.counts.update(tally([line]))
        self.reasons.update(one["kind"] for one in line["withheld"])
        self._withheld.add({"source": line["source"], **one} for one in line["withheld"])
        self._left_out.add({"source": line["source"], **one} for one in line["left_out"])
        for photo in line["photos"]:
            self.of_faces[len(photo["faces"])] += 1
            self._photos.append(_photo_row(line, photo, self.epsilon))
            self._add_faces(line, photo)
            if self.job.layout == "celeba" and photo["faces"]:
                self._celeba.append(_celeba_row(line, photo))
        if len(self._photos) >= PART_ROWS:
            self._part()

    def close(self, surveyed: Survey) -> None:
        """Write what is left, the table, CelebA's lists, and what the source holds beside its photos."""
        if self._photos:
            self._part()
        self._writer.close()
        self.put(TABLE, self._table.getvalue(), "application/vnd.apache.parquet")
        if surveyed.skipped:
            found = left_out(self.job.source, self.job.layout)
            self._left_out.add({"source": name, "reason": reason} for name, reason in found)
        for private in (self._withheld, self._left_out):
            private.close()
        if self.job.layout == "celeba":  # at most CelebA's 202,599 rows
            for name, data in _celeba_lists(self.job, sorted(self._celeba)).items():
                self.put(name, data, "text/plain")

    def put(self, name: str, data: bytes, content_type: str) -> None:
        """A file of the release that the statement vouches for."""
        put_same(self.job.target, name, data, content_type)
        self.files[name] = hashlib.sha256(data).hexdigest()

    def _add_faces(self, line: dict[str, Any], photo: dict[str, Any]) -> None:
        name = "/".join(filter(None, (line["object"], photo["photo"])))
        for i, face in enumerate(photo["faces"]):
            released = dict(zip(ATTRIBUTES, face["attributes"], strict=True))
            self.attributes.update(attribute for attribute, there in released.items() if there)
            self._faces.append({
                "photo": name, "face": i, **{key: photo[key] for key in ("sha256", "width", "height", "account")},
                **photo["public"], **released, "unprotected": ",".join(photo["public"]["unprotected"]),
                "weights": self._weights,
            })  # fmt: skip
            if i < len(photo["pictures"]) and len(self.shown) < SHOWN_FACES:
                public = {**photo["public"], "unprotected": tuple(photo["public"]["unprotected"])}
                evidence = PublicEvidence(
                    released=released, account=photo["account"], weights=self.job.weights, **public
                )
                self.shown.append(ShownFace(name, photo["pictures"][i], self.side, evidence))

    def _part(self) -> None:
        # By released name: the source's order is the source's business.
        rows = sorted(self._photos, key=lambda row: (row["object"], row["photo"]))
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, PHOTOS), sink)
        self.put(f"{RESERVED}/part-{self._parts:05}.parquet", sink.getvalue(), "application/vnd.apache.parquet")
        faces = sorted(self._faces, key=lambda row: (row["photo"], row["face"]))
        self._writer.write_table(pa.Table.from_pylist(faces, FACES))
        self._photos, self._faces, self._parts = [], [], self._parts + 1


class _Private:
    """Lines on their way into files of PART_ROWS of the audit place."""

    def __init__(self, audit: Storage, name: str) -> None:
        self.audit, self.name, self.number = audit, name, 0
        self.rows: list[dict[str, Any]] = []

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            self.rows.append(row)
            if len(self.rows) >= PART_ROWS:
                self.close()

    def close(self) -> None:
        if self.rows:
            data = "".join(json.dumps(row) + "\n" for row in self.rows).encode()
            self.audit.put(f"{self.name}-{self.number:05}.jsonl", data)
            self.rows, self.number = [], self.number + 1


def _photo_row(line: dict[str, Any], photo: dict[str, Any], epsilon: float) -> dict[str, Any]:
    return {
        "object": line["object"], "object_sha256": line["sha256"], "photo": photo["photo"],
        "source": photo["alias"], "sha256": photo["sha256"], "width": photo["width"],
        "height": photo["height"], "epsilon": epsilon if photo["faces"] else 0.0,
        "photo_epsilon": len(photo["faces"]) * epsilon if photo["faces"] else 0.0,
        "account": photo["account"], "faces": as_faces(photo["faces"]),
    }  # fmt: skip


def _tell_unmatched(job: Job, names: list[str]) -> int:
    """Say how many lines of the list of subjects name no photo; which, the audit place keeps."""
    where = f"{job.run}/unmatched.jsonl"
    if told := read_subjects(job.config.release.subjects).told(names, f"{address_of(job.audit)}/{where}"):
        put_same(job.audit, where, "".join(json.dumps({"photo": name}) + "\n" for name in names).encode())
        log.warning(told)
    return len(names)


def _records(job: Job, chunks: int) -> Iterator[dict[str, Any]]:
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
