"""The four stages in one process: a photo in, a photo and its evidence out.

    anonymizer = Anonymizer.load()
    release = anonymizer("photo.jpg")            # a path, bytes, a PIL image or an array
    release.photo.save("released.png"); release.faces[0].evidence.public.epsilon

`prepare` -> `run` -> `finish` are the parts of it, for callers that fill batches from many photos.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from anonymousnet import weights
from anonymousnet.align.coverage import LEAST, painted_share
from anonymousnet.align.finder import Finder, smallest_face_px
from anonymousnet.align.place import Grid, left_to_right
from anonymousnet.align.region import REGIONS
from anonymousnet.align.warp import crop_context, crop_faces, owners, paste
from anonymousnet.config import STRENGTHS, Config
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.images import Photo, load_photo
from anonymousnet.data.subjects import BETWEEN
from anonymousnet.device import Runner
from anonymousnet.encode import encode_release
from anonymousnet.errors import NoFaceFound, ProtectionFailed, UnpaintedFace
from anonymousnet.faces import Account, Evidence, FaceBatch, PrivateEvidence, PublicEvidence
from anonymousnet.nets.embedder import Embedder
from anonymousnet.parts import Parts
from anonymousnet.privacy import accounts
from anonymousnet.privacy.ledger import Ledger, Spend
from anonymousnet.privacy.mechanism import Mechanism, covers
from anonymousnet.privacy.randomness import check_key, derive, load_key
from anonymousnet.stage import Stage

READERS = ("attributes", "surroundings")
"""Networks of Stage I: randomness is derived for what they read."""
PREDICTED = frozenset({"WEBP", "AVIF", "HEIF", "JPEG2000"})
"""Formats that code what lies outside hidden blocks from what lies in them (ADR 20)."""
PhotoLike = str | Path | bytes | Image.Image | NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class ReleasedFace:
    """One face of a released photo."""

    evidence: Evidence
    pixels: NDArray[np.uint8]
    """(face_px, face_px, 3): the aligned face as released, before it went back into the photo."""


@dataclass(frozen=True, slots=True)
class Release:
    """A released photo and what was measured for each of its faces, left to right."""

    image: Photo
    faces: tuple[ReleasedFace, ...]

    @property
    def photo(self) -> Image.Image:
        """The released photo, upright, without metadata."""
        rgb = Image.fromarray(self.image.rgb)
        if self.image.alpha is not None:
            rgb.putalpha(Image.fromarray(self.image.alpha))
        return rgb


@dataclass(frozen=True, slots=True)
class Prepared:
    """A photo whose faces are found, aligned and hidden, ready for the stages. PRIVATE: it holds the source."""

    image: Photo
    hidden_HW: NDArray[np.bool_]
    matrices_F23: NDArray[np.float64]
    batch: FaceBatch
    accounts: tuple[bytes, ...]
    """For each face, what its epsilon is charged to, the same in every release; names nobody."""
    account: Account
    """The same in words, for the evidence."""
    sketch: bytes | None = None
    """What near-duplicates of this photo have in common outside its faces; None where accounts are known by name, or
    nobody counts."""


class Anonymizer:
    """Holds the detector, the networks and the key. Make it with `load`."""

    def __init__(self, config: Config, key: bytes, stages: Sequence[Stage], runner: Runner, used: dict[str, str],
                 mechanism: Mechanism, face_px: int) -> None:  # fmt: skip
        self.config, self.stages, self.runner = config, tuple(stages), runner
        self.weights, self.mechanism, self.face_px = used, mechanism, face_px
        self.region = REGIONS[config.synthesize.region]
        self.finder = Finder(config.align, runner)
        self._judge: Embedder | None = None
        self._key = key

    @classmethod
    def load(cls, config: Config | None = None, key: bytes | None = None) -> Anonymizer:
        """Read and verify all weights. `key`: 32 secret bytes; by default those of `release.key_file`.

        Raises WeightsError, ConfigError, PrivacyError for a key of another length.
        """
        config = config or Config()
        parts = Parts(config)
        secret = check_key(key) if key is not None else load_key(config.release.key_file)
        return cls.of(parts, secret, parts.stages(config))

    @classmethod
    def of(cls, parts: Parts, key: bytes, stages: Sequence[Stage] = ()) -> Anonymizer:
        """With `stages`; or with none, to `prepare` and `finish` photos whose stages run elsewhere."""
        config, used = parts.config, dict(parts.readers)
        for stage in stages:
            used |= stage.weights
        if config.align.landmarks is not None:
            used["landmarks"] = weights.read(config.align.landmarks).sha256
        return cls(config, key, stages, parts.runner, used, parts.mechanism(config.obfuscate), parts.face_px)

    def under(self, config: Config, mechanism: Mechanism) -> Anonymizer:
        """The same under other settings of Stage II, strength and release, but for the stages: run those elsewhere."""
        other = copy.copy(self)
        other.config, other.mechanism, other.stages = config, mechanism, ()
        return other

    def __call__(self, photo: PhotoLike, subject: str | None = None) -> Release:
        """De-identify every face of one photo.

        `subject` names whose photo it is: one subject gets one new identity throughout a release, and pays for all
        faces in it. Several names with a tab between them name the faces, left to right. Without it the identity is
        derived from the photo outside its faces, and near-duplicates of the photo pay together.

        Raises ImageError when the photo cannot be read, NoFaceFound, ProtectionFailed.
        """
        prepared = self.prepare(photo, subject)
        return self.encode(prepared, self.finish(prepared, self.run(prepared.batch)))[2]

    def encode(self, prepared: Prepared, release: Release) -> tuple[bytes, str, Release]:
        """(bytes, suffix, what they show): the release as it may be let out. Raises UnpaintedFace."""
        return encode_release(release, prepared.hidden_HW, self.finder, self.config)

    def prepare(self, photo: PhotoLike, subject: str | None = None) -> Prepared:
        """Decode, detect, align, and hide the faces."""
        image = load_photo(photo, self.config.align.max_pixels)
        found = self.finder(image, self.region, self.face_px)
        if not found:
            raise NoFaceFound("no face was found, so nothing could be protected; leave the photo out")
        prepared = self.hide(image, self._placed(image, np.stack([face.matrix_23 for face in found])), subject)
        # Crops do not lie where their faces do: what the finder held at the alignment must hold at the place.
        if any(painted_share(face.detection, prepared.hidden_HW) < LEAST for face in found):
            raise UnpaintedFace(
                f"expected {LEAST:.0%} or more of every face to be hidden, found less; the photo is withheld: "
                "leave it out"
            )
        return prepared

    def _placed(self, image: Photo, matrices_F23: NDArray[np.float64]) -> NDArray[np.float64]:
        """The faces' alignments on the grid, left to right: an order that depends on their places alone."""
        digest = _digest(image.rgb)
        # No release is in the key: many releases of one photo must not tell more of its place than one.
        keys = [derive(self._key, "place", self.region.name, digest, str(i)) for i in range(len(matrices_F23))]
        grid = Grid(image.rgb.shape[:2], self.face_px, self.region)
        return left_to_right(grid.draw(matrices_F23, keys, self.config.align.epsilon))

    def hide(self, image: Photo, matrices_F23: NDArray[np.float64], subject: str | None = None) -> Prepared:
        """Crop faces and contexts of a photo whose faces' places are known, and derive the keys of its randomness."""
        rgb, faces = image.rgb, [str(i) for i in range(len(matrices_F23))]
        owner = owners(rgb.shape[:2], matrices_F23, self.face_px, self.region, image.blocks)
        covered = owner > 0
        blanked = np.where(covered[..., None], np.uint8(0), rgb)
        outside = _digest(blanked)
        names = accounts.names(subject, len(faces))
        labels = [outside] * len(faces) if names is None else [name.encode() for name in names]
        # Two faces of one label get two identities; where every face has its name, one name is one identity.
        each = ["0"] * len(faces) if subject is not None and BETWEEN in subject else faces
        subjects = tuple(derive(self._key, "subject", *one) for one in zip(labels, each, strict=True))
        # All that changes what is read, or what is drawn for it: two answers from one randomness do not compose.
        # Settings of alignment change what is read by where they place the crop.
        readers = [self.weights[name] for name in READERS]
        draw: tuple[str | bytes, ...] = (
            "draw", self.config.release.name, self.region.name, self.mechanism.fingerprint, *readers,
            self.runner.form, str(self.face_px), matrices_F23.tobytes(), _digest(rgb),
        )  # fmt: skip
        source = crop_faces(rgb, matrices_F23, self.face_px, owner)
        context, region = crop_context(rgb, covered, matrices_F23, self.face_px, self.region)
        strength = self.config.synthesize.strength
        cells = STRENGTHS[strength]
        if cells != 0:
            context = source if cells is None else self.region.pixelated(source, cells)
        batch = FaceBatch(
            context_B3HW=context,
            region_B1HW=region,
            draw_keys=tuple(derive(self._key, *draw, i) for i in faces),
            code_keys=tuple(derive(self._key, "code", self.config.release.name, who) for who in subjects),
            strength=strength,
            source_B3HW=source,
        )
        charged = tuple(derive(self._key, "account", label) for label in labels)
        if self.config.release.ledger is None:
            return Prepared(image, covered, matrices_F23, batch, charged, "this photo")
        if names is not None:
            return Prepared(image, covered, matrices_F23, batch, charged, "subject")
        sketch = accounts.sketch(blanked, covered)
        return Prepared(image, covered, matrices_F23, batch, charged, "near-duplicates of this photo", sketch)

    def ledger(self) -> Ledger | None:
        """The ledger that the configuration names, open, or None."""
        release = self.config.release
        return None if release.ledger is None else Ledger.of(release, self._key)

    @property
    def epsilon(self) -> float:
        """Epsilon of one face: of its attributes, and of where its crop is placed."""
        return self.mechanism.epsilon + self.config.align.epsilon

    @property
    def charges(self) -> dict[str, float]:
        """What one face is charged: group -> epsilon. Infinite for what is let out unprotected."""
        charges = dict(self.mechanism.epsilons)
        if self.config.align.epsilon > 0:
            charges["alignment"] = self.config.align.epsilon
        if self.mechanism.unprotected or self.config.synthesize.strength < 1:
            charges["unprotected"] = math.inf
        return charges

    def spends(self, prepared: Prepared) -> list[Spend]:
        """What releasing this photo costs, face by face: to be recorded before the photo is let out."""
        charges, name = self.charges, self.config.release.name
        pairs = zip(prepared.accounts, prepared.batch.draw_keys, strict=True)
        return [Spend(account, photo, name, charges, sketch=prepared.sketch) for account, photo in pairs]

    def run(self, batch: FaceBatch) -> FaceBatch:
        """Stages I to IV."""
        for stage in self.stages:
            batch = stage(batch)
        return batch

    def finish(self, prepared: Prepared, done: FaceBatch) -> Release:
        """Paste the released faces into their photo and write the evidence down."""
        if done.faces_B3HW is None or len(done) != len(prepared.batch):
            raise ProtectionFailed(
                f"expected {len(prepared.batch)} released faces, got {len(done)}; the photo is withheld"
            )
        if any(done.public["weights"].get(name, self.weights[name]) != self.weights[name] for name in READERS):
            # The randomness was derived for one reading of the face, and must not serve for another one.
            raise ProtectionFailed("Stage I ran with other weights than its randomness was derived for; try again")
        image = prepared.image
        rgb = paste(image.rgb, prepared.hidden_HW, done.faces_B3HW, prepared.matrices_F23, self.region)
        pixels = ((done.faces_B3HW + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        smallest = smallest_face_px(image.rgb.shape, self.config.align)
        faces = tuple(ReleasedFace(self._evidence(done, i, prepared, smallest), pixels[i]) for i in range(len(done)))
        # Transparency inside the region is the source's too: it is released as opaque.
        alpha = None if image.alpha is None else np.where(prepared.hidden_HW, np.uint8(255), image.alpha)
        return Release(Photo(rgb, alpha, image.format), faces)

    def likeness(self, prepared: Prepared, done: FaceBatch) -> list[float] | None:
        """Cosine of each released face to its source under the audit's recogniser: PRIVATE evidence, never acted upon.

        None where no recogniser is configured. Raises WeightsError.
        """
        if self.config.audit.weights is None:
            return None
        if self._judge is None:
            self._judge = self.runner.place(weights.build(weights.read(self.config.audit.weights), Embedder))
        source, painted, px = prepared.batch.source_B3HW, done.faces_B3HW, self._judge.config.px
        assert source is not None
        assert painted is not None
        weight = self.region.masks(self.face_px)[1]
        both = torch.cat([source, painted * weight + source * (1 - weight)])
        if px != self.face_px:
            both = F.interpolate(both, size=(px, px), mode="bilinear", antialias=True)
        vectors = self.runner(self._judge, both)
        cosines: list[float] = (vectors[: len(source)] * vectors[len(source) :]).sum(1).tolist()
        return cosines

    def _evidence(self, done: FaceBatch, i: int, prepared: Prepared, smallest_face_px: int) -> Evidence:
        assert done.released_B40 is not None
        assert done.probabilities_B40 is not None
        assert done.read_B40 is not None
        released, probabilities = done.released_B40[i].tolist(), done.probabilities_B40[i].tolist()
        outside = self.region.outside if done.strength > 0 else frozenset[str]()
        epsilon = float(done.public["epsilon"]) + self.config.align.epsilon
        covered = covers(self.mechanism, done.strength, self.region, True, self.config.align.epsilon)
        if prepared.image.format in PREDICTED:
            covered += (
                f" The source was a {prepared.image.format} file, whose coding spreads traces of hidden pixels beyond "
                "what is hidden: photos that were alike outside when they were taken need not be so as files."
            )
        public = PublicEvidence(
            released=dict(zip(ATTRIBUTES, released, strict=True)),
            epsilon=epsilon,
            photo_epsilon=len(done) * epsilon,
            account=prepared.account,
            t=float(done.public["t"]),
            covers=covered,
            unprotected=tuple(sorted(outside | set(done.public["unprotected"]))),
            strength=done.strength,
            region=self.region.name,
            perturbation=float(done.public.get("perturbation", 0.0)),
            weights=self.weights | done.public["weights"],
            precision="+".join(done.public["precision"]),
            looks=self.config.align.looks,
            smallest_face_px=smallest_face_px,
        )
        read = done.read_B40[i].tolist()
        changed = tuple(name for name, was, now in zip(ATTRIBUTES, read, released, strict=True) if was != now)
        return Evidence(public, PrivateEvidence(dict(zip(ATTRIBUTES, probabilities, strict=True)), changed))


def _digest(rgb: NDArray[np.uint8]) -> bytes:
    """Of a photo's pixels and shape."""
    digest = hashlib.sha256(repr(rgb.shape).encode())
    digest.update(np.ascontiguousarray(rgb).data)  # a large photo is not copied
    return digest.digest()
