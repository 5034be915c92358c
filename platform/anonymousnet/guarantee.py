"""The pixel guarantee, tested: what is released does not depend on the hidden pixels but through Stage II.

For every face the photo is saved as a camera saves it (JPEG, colours at half the resolution) and released once. Then
what lies in the hidden region is replaced before the file is saved, by another photo and by noise, and all after
Stage II is done again from that file, at the same place and with the same released attributes: the released file must
have the same bytes. The identity code is derived anew, and the surroundings are read anew, so the test also holds that
both come from the visible part. To see that the test can fail at all, context, attributes and code are changed in turn:
the painted face must change with each.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anonymousnet.align.region import HIDDEN, Region
from anonymousnet.align.warp import FADE, owners
from anonymousnet.anonymizer import Anonymizer, Prepared
from anonymousnet.config import Config
from anonymousnet.data.attributes import INDEX
from anonymousnet.data.celeba import CelebA
from anonymousnet.data.images import encode_photo, load_photo
from anonymousnet.data.synthetic import render_face
from anonymousnet.doctor import celeba_folder
from anonymousnet.errors import ConfigError, DataError, NoFaceFound
from anonymousnet.faces import FaceBatch
from anonymousnet.privacy.randomness import derive

FLIPPED = ("Smiling", "Mouth_Slightly_Open", "Male", "Heavy_Makeup", "Bushy_Eyebrows", "Eyeglasses")
"""Attributes inside the painted region that are flipped to see that the face answers to them."""
SYNTHETIC_PX = 256
KEY = bytes(range(32))
"""Nothing of this test is kept, so its key is no secret, and the user's is not touched."""
QUALITY = 85
"""JPEG quality of the cameras' files: coarse enough that a hidden face shows in the blocks across the region's edge."""


@dataclass(frozen=True, slots=True)
class GuaranteeResult:
    """How many of `faces` photos behaved as they must."""

    faces: int
    """Photos tested, each with all faces in it (CelebA's hold one)."""
    source: str
    """Where the photos came from, in words."""
    identical_other: int
    """Same bytes with another photo's pixels under the region."""
    identical_noise: int
    """Same bytes with noise under the region."""
    differ_context: int
    """Another painted face where a block of the visible crop differs."""
    differ_attributes: int
    """Another painted face where released attributes differ."""
    differ_code: int
    """Another painted face where the identity code differs."""

    @property
    def holds(self) -> bool:
        """Whether every photo behaved as it must."""
        same = self.identical_other == self.identical_noise == self.faces
        return same and self.differ_context == self.differ_attributes == self.differ_code == self.faces > 0

    def lines(self) -> list[str]:
        """The result for a terminal."""
        n = self.faces
        return [
            f"Tested on {n} faces: {self.source}.",
            f"  same bytes with another photo's pixels in the region      {self.identical_other} of {n}",
            f"  same bytes with noise in the region                       {self.identical_noise} of {n}",
            f"  another face where the visible part differs               {self.differ_context} of {n}",
            f"  another face where released attributes differ             {self.differ_attributes} of {n}",
            f"  another face where the identity code differs              {self.differ_code} of {n}",
            "The guarantee holds." if self.holds else "THE GUARANTEE DOES NOT HOLD: do not release; report this.",
        ]


def measure(config: Config, faces: int = 50, seed: int = 0, celeba: Path | None = None) -> GuaranteeResult:
    """Test `faces` of CelebA's test images, in random order, or synthetic faces where CelebA is not there.

    Raises ConfigError where `synthesize.strength` is not 1, WeightsError, and what reading CelebA raises.
    """
    if config.synthesize.strength != 1:
        raise ConfigError(
            f"the guarantee holds only at synthesize.strength 1, got {config.synthesize.strength:g}: below 1 the "
            "generator is shown some of the hidden pixels; set synthesize.strength to 1"
        )
    folder = celeba if celeba is not None else celeba_folder()
    anonymizer = Anonymizer.load(config, KEY)
    if celeba is not None or folder.is_dir():
        return examine(anonymizer, celeba_photos(folder, seed), faces, f"CelebA's test images in {folder}")
    source = f"synthetic, for there is no CelebA in {folder}"
    drawn = (render_face(seed * 100_003 + i, SYNTHETIC_PX).image for i in range(2 * faces))
    return examine(anonymizer, drawn, faces, source)


def examine(
    anonymizer: Anonymizer, photos: Iterable[bytes | NDArray[np.uint8]], faces: int, source: str
) -> GuaranteeResult:
    """Test the first `faces` photos that have a face; the photo before each lends its pixels.

    Raises DataError when no photo, or only one, has a face.
    """
    verdicts: list[tuple[bool, ...]] = []
    lender: NDArray[np.uint8] | None = None
    for photo in photos:
        if len(verdicts) == faces:
            break
        try:
            camera = load_photo(photo, anonymizer.config.align.max_pixels).rgb
            prepared = anonymizer.prepare(_saved(camera))
        except NoFaceFound:
            continue
        if lender is not None:
            verdicts.append(_verdict(anonymizer, prepared, camera, lender, len(verdicts)))
        lender = camera
    if not verdicts:
        raise DataError(f"expected two photos with a face or more, got fewer ({source}); give another folder")
    return GuaranteeResult(len(verdicts), source, *(sum(column) for column in zip(*verdicts, strict=True)))


def celeba_photos(folder: Path, seed: int) -> Iterator[bytes]:
    """Files of CelebA's test images in random order, from its own layout or from zips of it.

    Raises StorageError, DataError when it is neither.
    """
    rng = np.random.default_rng(seed)
    archives = sorted(folder.glob("img_align_celeba*.zip"))
    if (folder / "img_align_celeba").is_dir() or not archives:
        part = CelebA.open(folder).part("test")
        for row in rng.permutation(len(part)):
            yield part.path(int(row)).read_bytes()
        return
    try:
        with zipfile.ZipFile(folder / "labels.zip") as labels:
            lines = labels.read("list_eval_partition.txt").decode().splitlines()
        test = {name for name, _, part in (line.partition(" ") for line in lines) if part.strip() == "2"}
        there = [
            (path, name) for path in archives for name in zipfile.ZipFile(path).namelist() if Path(name).name in test
        ]
        for i in rng.permutation(len(there)):
            path, name = there[int(i)]
            with zipfile.ZipFile(path) as archive:
                yield archive.read(name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"CelebA's zips in {folder} do not read ({error}); unpack them") from error


def _saved(camera: NDArray[np.uint8]) -> bytes:
    """A file as cameras write them: its blocks hold 16 x 16 pixels."""
    out = io.BytesIO()
    Image.fromarray(camera).save(out, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return out.getvalue()


def _verdict(
    anonymizer: Anonymizer, prepared: Prepared, camera: NDArray[np.uint8], lender: NDArray[np.uint8], seed: int
) -> tuple[bool, bool, bool, bool, bool]:
    """(other, noise, context, attributes, code): whether one photo behaved as it must."""
    rgb, places = camera, prepared.matrices_F23
    covered = owners(rgb.shape[:2], places, anonymizer.face_px, anonymizer.region) > 0
    done = anonymizer.run(prepared.batch)
    rng = np.random.default_rng(seed)
    size = (rgb.shape[1], rgb.shape[0])
    other = np.asarray(Image.fromarray(lender).resize(size, Image.Resampling.BICUBIC))
    noise = rng.integers(0, 256, rgb.shape, np.uint8)
    first = _outcome(anonymizer, prepared, done)

    def again(photo: NDArray[np.uint8], **changes: object) -> tuple[str, NDArray[np.uint8]]:
        """A file of `photo` at this place and with these attributes: all after Stage II, and the surroundings, anew."""
        altered = anonymizer.hide(load_photo(_saved(photo), photo.size), places)
        seen = {
            "probabilities_B40": done.probabilities_B40, "read_B40": done.read_B40, "released_B40": done.released_B40,
            "public": done.public, "shown_B40": anonymizer.stages[0](altered.batch).shown_B40,
        }  # fmt: skip
        batch = altered.batch.with_(source_B3HW=None, **seen | changes)
        for stage in anonymizer.stages[2:]:
            batch = stage(batch)
        return _outcome(anonymizer, altered, batch)

    def same(photo: NDArray[np.uint8]) -> bool:
        return again(np.where(covered[..., None], photo, rgb))[0] == first[0]

    def differs(photo: NDArray[np.uint8], **changes: object) -> bool:
        # The painted pixels are compared: the file would differ by the altered block alone.
        return not np.array_equal(again(photo, **changes)[1], first[1])

    assert done.released_B40 is not None
    flipped = done.released_B40.clone()
    columns = [INDEX[name] for name in FLIPPED]
    flipped[:, columns] = ~flipped[:, columns]
    codes = tuple(derive(KEY, "another code", key) for key in done.code_keys)
    return (
        same(other),
        same(noise),
        differs(_with_block(rgb, prepared, anonymizer.face_px, anonymizer.region), code_keys=done.code_keys),
        differs(rgb, released_B40=flipped),
        differs(rgb, code_keys=codes),
    )


def _outcome(anonymizer: Anonymizer, prepared: Prepared, done: FaceBatch) -> tuple[str, NDArray[np.uint8]]:
    """(SHA-256 of the released file, the public evidence and what the surroundings show, the painted pixels)."""
    release = anonymizer.finish(prepared, done)
    settings = anonymizer.config.release
    data, _ = encode_photo(release.image, settings.format, settings.quality)
    public = [asdict(face.evidence.public) for face in release.faces]
    assert done.shown_B40 is not None
    digest = hashlib.sha256(data + repr((public, done.shown_B40.tolist())).encode()).hexdigest()
    inside = anonymizer.region.masks(anonymizer.face_px)[0][0].numpy() > 0
    return digest, np.stack([face.pixels[inside] for face in release.faces])


def _with_block(rgb: NDArray[np.uint8], prepared: Prepared, face_px: int, region: Region) -> NDArray[np.uint8]:
    """The photo with a visible block of the first face's crop inverted: outside of what is hidden and of the fade.

    In the crop's coordinates the block is the top left eighth, or another corner where the photo ends before it.
    """
    y, x = np.mgrid[: rgb.shape[0], : rgb.shape[1]] + 0.5
    a, b = prepared.matrices_F23[0]
    u, v = ((row[0] * x + row[1] * y + row[2]) / face_px for row in (a, b))
    visible = (region.level(u, v) > max(HIDDEN, 1 + FADE)) & ~prepared.hidden_HW
    for left, top in ((0, 0), (0.84, 0), (0, 0.84), (0.84, 0.84)):
        block = visible & (abs(u - left - 0.08) < 0.08) & (abs(v - top - 0.08) < 0.08)
        if block.any():
            return np.where(block[..., None], rgb ^ np.uint8(128), rgb)
    return rgb
