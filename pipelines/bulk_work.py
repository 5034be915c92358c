"""A bulk job's work, on Ray Data: list and get (tasks) -> the four stages (actors) -> spend, put, record (tasks).

A chunk counts as done once its record stands in the audit place. Until then it may be done again, by anybody: every
write says "only if there is nothing yet", and whatever is there already must be the very same bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, TaskPoolStrategy, read_datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from anonymousnet.data.subjects import Subjects
from anonymousnet.errors import AnonymousNetError, ConfigError, NoFaceFound, StorageError
from anonymousnet.pipelines.bulk_plan import Job, Photo, Segment, Work, chunks_of
from anonymousnet.pipelines.bulk_publish import THREADS, TRIES, publish, reason_of
from anonymousnet.pipelines.samples import LARGEST, Item, Released, check_kept, kind_of, unpack
from anonymousnet.pipelines.storage import Entry, Fetched, Storage


class Listing(Datasource):
    """The chunks that are not done yet, with their objects' bytes; a row each.

    What is done is looked up here, once. When a machine is lost Ray reads a segment again and takes the rows it lacks
    by their place: were those left out that have been done since, others would stand there, and some chunk nowhere.
    """

    def __init__(self, job: Job, segments: tuple[Segment, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job, self.parts = job, [(segment, done_in(job, segment)) for segment in segments]

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known beforehand."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task a segment."""
        nothing = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(read, self.job, *part), nothing) for part in self.parts]


def stream(job: Job, segments: tuple[Segment, ...], workers: int, gpus: float, subjects: Subjects, books: Any) -> Any:
    """The pipeline: a Ray data set whose rows are tallies of finished chunks."""
    pool = ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=2)
    few = TaskPoolStrategy(size=-(-workers // 2))  # they wait for the network; more would only cost memory
    return (
        read_datasource(Listing(job, segments), override_num_blocks=len(segments), compute=few, num_cpus=0.25)
        .map(
            Protect, fn_constructor_args=(job, subjects), compute=pool, num_cpus=1, num_gpus=gpus or None,
            max_restarts=-1, max_task_retries=TRIES,
        )
        .map(publish, fn_args=(job, books), compute=few, num_cpus=0.25)
    )  # fmt: skip


def done_in(job: Job, segment: Segment) -> NDArray[np.bool_]:
    """Which of the segment's chunks have a record."""
    below, done = f"{job.run}/records/", np.zeros(segment.chunks, bool)
    before = f"{segment.first - 1:08}.jsonl" if segment.first else ""
    for entry in job.audit.scan(before, below):
        number = int(entry.name[:8]) - segment.first
        if number >= segment.chunks:
            break
        done[number] = True
    return done


def read(job: Job, segment: Segment, done: NDArray[np.bool_]) -> Iterator[pa.Table]:
    """Blocks of one row: a chunk's number and its objects; of the chunks that were not `done`."""
    if done.all():
        return
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk in chunks_of(job.source, job.layout, segment):
            if not done[chunk.number - segment.first]:
                got = list(pool.map(partial(_get, job.source), chunk.entries))
                yield pa.table({
                    "number": [chunk.number],
                    "objects": pa.array([pickle.dumps(list(zip(chunk.entries, got, strict=True)))], pa.large_binary()),
                })  # fmt: skip


def _get(place: Storage, entry: Entry) -> Fetched | str:
    """An object's bytes, or why there are none. Raises StorageError when the storage itself is out of reach."""
    if entry.size > LARGEST:
        return f"{entry.size >> 20} MiB, the limit is {LARGEST >> 20}; split it"
    try:
        return place.fetch(entry.name, entry.version)
    except FileNotFoundError:
        return "gone, or changed, since it was listed; leave the source alone while a job runs"
    except OSError as error:
        return f"cannot read it: {error.strerror}"
    except StorageError as error:
        if "no permission" in str(error):
            return str(error)
        raise


class Protect:
    """The actor: decode, detect, align, the four stages, encode."""

    def __init__(self, job: Job, subjects: Subjects) -> None:
        from anonymousnet.anonymizer import Anonymizer  # torch, which readers and writers need not wait for

        self.job, self.subjects = job, subjects
        self.anonymizer = Anonymizer.load(job.config, job.key.value)
        have = (self.anonymizer.weights, self.anonymizer.runner.form)
        if have != (job.weights, job.form):
            raise ConfigError(
                f"a worker has other weights or arithmetic than the job: expected {job.weights}, {job.form}, got "
                f"{have[0]}, {have[1]}; install the same weights on all machines and set device and precision"
            )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A chunk's objects, protected."""
        from anonymousnet.protect import protect

        work = [self._open(entry, got) for entry, got in pickle.loads(row["objects"])]
        for one in work:
            one.items = [item for item in one.items if self._may_work(one, item)]
        asked = ((item.data, self._subject(one, item)) for one in work for item in one.items)
        results = protect(self.anonymizer, asked)
        for one in work:
            one.photos += [self._photo(item, next(results)) for item in one.items]
            one.items = []
        return {"number": int(row["number"]), "objects": pickle.dumps(work)}

    def _open(self, entry: Entry, got: Fetched | str) -> Work:
        """An object taken apart; whole objects that cannot be used are one withheld photo."""
        kind = str(kind_of(entry.name))
        try:
            if isinstance(got, str):
                raise StorageError(got)
            self.job.released_name(entry.name, ".jpg")  # before the work, not after it
            items = unpack(kind, got.data, self.job.config.bulk)
            return Work(entry, kind, Fetched(b"", "", got.encryption) if kind == "photo" else got, [], items)
        except Exception as error:  # readers of archives raise nearly anything: one of them is one withheld object
            return Work(entry, kind, None, [Photo("", withheld=reason_of(error))])

    def _subject(self, work: Work, item: Item) -> str | None:
        """Whose photo it is: by its member's or row's name, its object's, or its object's last part."""
        inside = [name for one in (item.name, item.sample) for name in (f"{work.entry.name}/{one}", one)]
        names = (*inside, work.entry.name, work.entry.name.rsplit("/", 1)[-1])
        if (name := self.subjects.find(*names)) is not None:
            work.named.append(name)
        return self.subjects.of(*names, budget=self.job.config.release.budget)

    def _may_work(self, work: Work, item: Item) -> bool:
        """Whether a photo can be released at all; if not it is withheld, before it is worked on."""
        try:
            self._subject(work, item)
            if self.job.config.bulk.names == "kept" and work.kind == "webdataset":
                check_kept(item.name.removeprefix("./"))
        except AnonymousNetError as error:
            work.photos.append(Photo(item.name, withheld=reason_of(error)))
            return False
        return True

    def _photo(self, item: Item, done: Any) -> Photo:
        from anonymousnet.data.images import encode_photo, load_photo

        settings, faces = self.job.config, []
        try:
            if isinstance(done, NoFaceFound) and settings.bulk.faceless == "copy":
                image = load_photo(item.data, settings.align.max_pixels)
                photo = Photo(item.name)
            elif isinstance(done, Exception):
                raise done
            else:
                image, faces = done.release.image, _faces(done)
                photo = Photo(item.name, spends=self.anonymizer.spends(done.prepared), evidence=_evidence(done),
                              account=done.prepared.account)  # fmt: skip
            data, suffix = encode_photo(image, settings.release.format, settings.release.quality)
        except Exception as error:  # encoders fed odd sizes raise nearly anything: withheld, and the job goes on
            return Photo(item.name, withheld=reason_of(error))
        height, width = image.rgb.shape[:2]
        photo.released = Released(data, suffix, width, height, tuple(faces))
        return photo


def _faces(done: Any) -> list[dict[str, Any]]:
    """What is public of each face: attributes as released; landmarks from the alignment alone, not the detector's."""
    from anonymousnet.align.warp import TEMPLATE_52

    matrices, side = done.prepared.matrices_F23, done.prepared.batch.context_B3HW.shape[-1]
    points = [(TEMPLATE_52 * side - m[:, 2]) @ _inverted(m[:, :2]).T for m in matrices]
    return [
        {"attributes": list(face.evidence.public.released.values()), "landmarks": where.round(3).ravel().tolist()}
        for face, where in zip(done.release.faces, points, strict=True)
    ]


def _inverted(linear: Any) -> Any:
    """The inverse of a 2x2 matrix, by exactly rounded operations: the same on every machine."""
    import numpy as np

    (a, b), (c, d) = linear
    return np.array([[d, -b], [-c, a]]) / (a * d - b * c)


def _evidence(done: Any) -> list[dict[str, Any]]:
    """PRIVATE."""
    return [
        {**asdict(face.evidence.private), "similarity": done.likeness[i] if done.likeness else None}
        for i, face in enumerate(done.release.faces)
    ]
