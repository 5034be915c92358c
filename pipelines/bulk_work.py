"""A job's work, whoever does it: list and get -> the four stages -> (bulk_publish) spend, put, record.

A chunk counts as done once its record stands in the audit place. Until then it may be done again, by anybody: every
write says "only if there is nothing yet", and whatever is there already must be the very same bytes.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anonymousnet.data.subjects import Subjects
from anonymousnet.errors import AnonymousNetError, ConfigError, NoFaceFound, StorageError
from anonymousnet.faults import check_machine
from anonymousnet.pipelines.bulk_hands import Hands
from anonymousnet.pipelines.bulk_plan import Job, Photo, Segment, Work, chunks_of
from anonymousnet.pipelines.bulk_publish import THREADS, reason_of
from anonymousnet.pipelines.samples import LARGEST, Item, Released, check_kept, kind_of, unpack
from anonymousnet.pipelines.storage import Entry, Fetched, Storage
from anonymousnet.report.release import SHOWN_FACES

if TYPE_CHECKING:
    from anonymousnet.anonymizer import Anonymizer

Got = list[tuple[Entry, Fetched | str]]
"""A chunk's objects: bytes, or why there are none."""
_RECORD = re.compile(r"\d{8}\.jsonl")


def done_in(job: Job, segment: Segment) -> NDArray[np.bool_]:
    """Which of the segment's chunks have a record."""
    below, done = f"{job.run}/records/", np.zeros(segment.chunks, bool)
    before = f"{segment.first - 1:08}.jsonl" if segment.first else ""
    for entry in job.audit.scan(before, below):
        if not _RECORD.fullmatch(entry.name):
            continue  # what others leave there
        number = int(entry.name[:8]) - segment.first
        if number >= segment.chunks:
            break
        done[number] = True
    return done


def read(job: Job, segment: Segment, done: NDArray[np.bool_]) -> Iterator[tuple[int, Got]]:
    """Number and objects of the chunks that were not `done`, one after the other."""
    if done.all():
        return
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk in chunks_of(job.source, job.layout, segment):
            if not done[chunk.number - segment.first]:
                got = pool.map(partial(_get, job.source), chunk.entries)
                yield chunk.number, list(zip(chunk.entries, got, strict=True))


def _get(place: Storage, entry: Entry) -> Fetched | str:
    """An object's bytes, or why there are none. Raises StorageError when the storage itself is out of reach."""
    if entry.fault:
        return entry.fault
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
    """Decode, detect, align, the four stages, encode. A process makes one and keeps it."""

    def __init__(self, job: Job, subjects: Subjects, driver: str, anonymizer: Anonymizer | None = None) -> None:
        """`driver`: who watches over this process. `anonymizer`: if the job's is at hand."""
        from anonymousnet.anonymizer import Anonymizer  # torch, which readers and writers need not wait for

        self.job, self.subjects, self.driver = job, subjects, driver
        self.anonymizer = anonymizer or Anonymizer.load(job.config, job.key.value)
        have = (self.anonymizer.weights, self.anonymizer.runner.form)
        if have != (job.weights, job.form):
            raise ConfigError(
                f"a worker has other weights or arithmetic than the job: expected {job.weights}, {job.form}, got "
                f"{have[0]}, {have[1]}; install the same weights on all machines and set device and precision"
            )

    def __call__(self, number: int, objects: Got) -> list[Work]:
        """A chunk's objects, protected. Raises MachineError, ConfigError, WeightsError: they are no photo's fault."""
        with Hands(self.job, self.driver, number) as hands:
            work = [self._open(entry, got, hands) for entry, got in objects]
            for one in work:
                one.items = [item for item in one.items if self._may_work(one, item, hands)]
            results = self._results(work, hands)
            for one in work:
                one.photos += [self._photo(number, one, item, next(results)) for item in one.items]
                one.items = []
        return work

    def _results(self, work: list[Work], hands: Hands) -> Iterator[Any]:
        """What `protect` says of each photo, in order."""
        from anonymousnet.protect import protect

        photos = ((one, item) for one in work for item in one.items)
        if not hands.careful:
            yield from protect(self.anonymizer, ((item.data, self._subject(one, item)) for one, item in photos))
        for one, item in photos:  # somebody died over one of them: one at a time, to know over which
            hands.take(_label(one.entry, item))
            yield from protect(self.anonymizer, [(item.data, self._subject(one, item))])

    def _open(self, entry: Entry, got: Fetched | str, hands: Hands) -> Work:
        """An object taken apart; whole objects that cannot be used are one withheld photo."""
        kind = kind_of(entry.name) or "photo"  # by its first bytes, else it would not be here
        if hands.careful:
            hands.take(_label(entry))
        try:
            if isinstance(got, str):
                raise StorageError(got)
            hands.check(_label(entry))
            self.job.released_name(entry.name, ".jpg")  # before the work, not after it
            items = unpack(kind, got.data, self.job.config.bulk)
            return Work(entry, kind, Fetched(b"", "", got.encryption) if kind == "photo" else got, [], items)
        except Exception as error:  # readers of archives raise nearly anything: one of them is one withheld object
            check_machine(error)
            return Work(entry, kind, None, [Photo("", withheld=reason_of(error))])

    def _subject(self, work: Work, item: Item) -> str | None:
        """Whose photo it is: by its member's or row's name, its object's, or its object's last part."""
        inside = [name for one in (item.name, item.sample) for name in (f"{work.entry.name}/{one}", one)]
        names = (*inside, work.entry.name, work.entry.name.rsplit("/", 1)[-1])
        if (name := self.subjects.find(*names)) is not None:
            work.named.append(name)
        return self.subjects.of(*names, budget=self.job.config.release.budget)

    def _may_work(self, work: Work, item: Item, hands: Hands) -> bool:
        """Whether a photo can be released at all; if not it is withheld, before it is worked on."""
        try:
            hands.check(_label(work.entry, item))
            self._subject(work, item)
            if self.job.config.bulk.names == "kept" and work.kind == "webdataset":
                check_kept(item.name.removeprefix("./"))
        except AnonymousNetError as error:
            work.photos.append(Photo(item.name, withheld=reason_of(error)))
            return False
        return True

    def _photo(self, number: int, work: Work, item: Item, done: Any) -> Photo:
        from anonymousnet.anonymizer import Release
        from anonymousnet.data.images import load_photo
        from anonymousnet.encode import encode_release

        settings, faces = self.job.config, []
        try:
            if isinstance(done, NoFaceFound) and settings.bulk.faceless == "copy":
                image = load_photo(item.data, settings.align.max_pixels)
                bare, finder = np.zeros(image.rgb.shape[:2], np.bool_), self.anonymizer.finder
                data, suffix, copied = encode_release(Release(image, ()), bare, finder, settings)
                image, photo = copied.image, Photo(item.name, later_frames=image.later_frames)
            elif isinstance(done, Exception):
                raise done
            else:
                image, faces = done.release.image, _faces(done)
                data, suffix = done.data, done.suffix
                photo = Photo(
                    item.name, spends=self.anonymizer.spends(done.prepared), evidence=_evidence(done),
                    account=done.prepared.account, public=_public(done),
                    pictures=_pictures(done) if number < SHOWN_FACES else [],
                    later_frames=done.prepared.image.later_frames,
                )  # fmt: skip
            if work.kind == "photo":
                self.job.released_name(work.entry.name, suffix)
        except Exception as error:  # encoders fed odd sizes raise nearly anything: withheld, and the job goes on
            check_machine(error)
            return Photo(item.name, withheld=reason_of(error))
        height, width = image.rgb.shape[:2]
        photo.released = Released(data, suffix, width, height, tuple(faces))
        return photo


def _label(entry: Entry, item: Item | None = None) -> str:
    """What a worker has in hand: an object, or one of its photos."""
    return entry.name if item is None else f"{entry.name}/{item.name}"


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
    (a, b), (c, d) = linear
    return np.array([[d, -b], [-c, a]]) / (a * d - b * c)


def _public(done: Any) -> dict[str, Any]:
    """The public evidence that a photo's faces share; weights are the job's."""
    public = asdict(done.release.faces[0].evidence.public)
    return {key: value for key, value in public.items() if key not in ("released", "account", "weights")}


def _pictures(done: Any) -> list[str]:
    """A JPEG of each of the first faces of a photo, in base64."""
    pictures = []
    for face in done.release.faces[:SHOWN_FACES]:
        buffer = io.BytesIO()
        Image.fromarray(face.pixels).save(buffer, "JPEG", quality=92, subsampling=0)
        pictures.append(base64.b64encode(buffer.getvalue()).decode())
    return pictures


def _evidence(done: Any) -> list[dict[str, Any]]:
    """PRIVATE."""
    return [
        {**asdict(face.evidence.private), "similarity": done.likeness[i] if done.likeness else None}
        for i, face in enumerate(done.release.faces)
    ]
