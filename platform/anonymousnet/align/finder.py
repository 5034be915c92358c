"""Every face of a photo, each in its own orientation, aligned and painted as large as it is seen.

What `looks` proposes, and is not plainly an upright face, is cut out, brought to one size, and looked at in eight
orientations; the best two are looked at again, turned upright to within a few degrees, by the network in full
precision. Of the two, the face's own orientation is the one whose points the landmark network agrees with best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anonymousnet.align.coverage import LEAST, coverage, open_points, painted_share
from anonymousnet.align.detect import Detection, Detector, decode, padded
from anonymousnet.align.landmarks import STRAY, Landmarker, strayed
from anonymousnet.align.looks import CANDIDATE, TILED, TURNED, Proposer
from anonymousnet.align.region import Region
from anonymousnet.align.warp import TEMPLATE_52, Mask, Matrix, Rgb, similarity
from anonymousnet.align.window import Window
from anonymousnet.config import AlignConfig
from anonymousnet.data.images import Photo
from anonymousnet.device import Runner
from anonymousnet.errors import ProtectionFailed
from anonymousnet.nets.dan import five_from_68, mean_shape

SMALLEST = 16
"""Side in pixels of the smallest face that is looked for."""
Points = NDArray[np.float64]
SAME = 0.3
"""Boxes that share more than this (intersection over union) are looks at one thing."""
PROBABLE = 0.2
"""Score from which on something larger than 32 px may be a face: larger ones score more."""
CONFIRMED = 0.2
"""Score of the second look from which on a face is one, the landmark network agreeing: what a release is looked at
with, so that it would be withheld for nothing that could have been painted."""
AGREEMENT = 0.3
"""What the landmark network's agreement weighs beside the second look's score."""
OUTDONE = 0.1
"""A turned look that scores as much as an upright one, less this, puts the face's orientation in doubt."""
SEEN = 0.2
"""Score from which on something in a release looks like a face. Twice the source's CANDIDATE: with equal scores, what
lies just above at one look and just below at the other would withhold the photo."""
ALONE = 0.5
"""Score from which on something is a face though the landmark network does not agree."""
PLAIN = 0.6
"""Score from which on an upright face that the landmark network agrees with needs no second look."""
TILT = 25.0
"""Degrees by which it may be tilted."""
TURNS = tuple(float(turn) for turn in range(0, 360, 45))
"""Degrees of the first look at what was proposed; of two neighbours one sees a face as tilted by 22 at most."""
COARSE_PX, COARSE_FACE = 64, 27
"""Side of the crops that are looked at in all of TURNS, and of the face in them."""
FINE_PX, FINE_FACE = 128, 52
"""The same for the second, upright look."""
BELIEVED = 60.0
"""Degrees by which five points may correct the orientation that they were seen in."""
BOX = ((0.503, 0.588), (0.488, 0.655))
"""Middle, width and height of the detector's box in the unit square of the crop: medians of 542 aligned faces."""


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face and its alignment."""

    detection: Detection
    matrix_23: Matrix
    """Photo pixels to crop pixels."""


class Finder:
    """Photo in, aligned faces out. Networks are made on first use, never pickled; raises WeightsError then."""

    def __init__(self, config: AlignConfig, runner: Runner) -> None:
        self.config = config
        self.detector, self.proposer = Detector(config), Proposer(config, runner.dtype)
        self.landmarker = Landmarker(config, runner)

    def __call__(self, photo: Photo, region: Region, face_px: int) -> list[Face]:
        """Faces of one photo, left to right; of every one, `region` covers LEAST of the inner box or more."""
        faces: list[Face] = []

        def painted(seen: Detection) -> bool:
            return any(
                _overlap(seen, face.detection) > SAME or coverage(seen, face.matrix_23, region, face_px) >= LEAST
                for face in faces
            )

        for rgb in views(photo):
            upright, weak = self.detector.above(rgb, self.config.detector_threshold, CANDIDATE)
            turned = self._proposals(rgb, (1, 2, 3), CANDIDATE)
            # Faces that leave no doubt first: what lies under their paint needs no look.
            doubtful: list[_Placed] = []
            for seen, placed in zip(upright, self._aligned(rgb, upright, region, face_px), strict=True):
                if self.config.looks == "fast" or (placed.plain and not _outdone(seen, turned)):
                    faces.append(placed.face)
                else:
                    doubtful.append(placed)
            if self.config.looks == "fast":
                continue
            for group in _groups([*(one.face.detection for one in doubtful), *weak, *turned], painted):
                best = self._refined(rgb, group)
                known = next((one for one in doubtful if any(one.face.detection is seen for seen in group)), None)
                if best is not None and known is not None and known.plain and known.face.detection.score > best.score:
                    faces.append(known.face)
                elif best is not None and (best.score >= ALONE or (best.agrees and best.score >= CONFIRMED)):
                    faces.append(Face(best.seen, self._placed(best.seen, best.fine_52, region, face_px)))
                elif known is not None:  # seen upright as ever: painted, whatever it is
                    faces.append(known.face)
        faces.sort(key=lambda face: tuple(face.detection.points_52.mean(0).tolist()))
        return faces

    def unpainted(self, photo: Photo, hidden_HW: Mask) -> list[Detection]:
        """What looks like a face in a photo as released and was not hidden: less than LEAST of its inner box was, and
        where the landmark network knows its features, two or more of them were not."""
        found: list[Detection] = []

        def painted(seen: Detection) -> bool:
            return painted_share(seen, hidden_HW) >= LEAST or any(_overlap(seen, one) > SAME for one in found)

        for rgb in views(photo):
            if self.config.looks == "fast":
                found += [seen for seen in self.detector.above(rgb, SEEN)[0] if not painted(seen)]
                continue
            for group in _groups(self._proposals(rgb, (0, 1, 2, 3), SEEN), painted):
                best = self._refined(rgb, group)
                alike = best is not None and (best.score >= ALONE or (best.agrees and best.score >= SEEN))
                if best is None or not alike or painted(best.seen):
                    continue
                if best.fine_52 is None or open_points(best.fine_52, hidden_HW) > 1:
                    found.append(best.seen)
        return found

    def probe(self) -> None:
        """Raise what the detector's network raises where it does not run."""
        self.detector(np.zeros((64, 64, 3), np.uint8))

    def _proposals(self, rgb: Rgb, quarters: Sequence[int], threshold: float) -> list[Detection]:
        if self.config.looks == "fast":
            return []
        return [*self.proposer.whole(rgb, threshold, quarters), *self.proposer.tiled(rgb, threshold)]

    def _aligned(self, rgb: Rgb, seen: Sequence[Detection], region: Region, face_px: int) -> list[_Placed]:
        """Faces aligned as they were seen, and whether all that looked at them agrees."""
        out = []
        for one, fine in zip(seen, self._agreeing(rgb, seen), strict=True):
            face = Face(one, self._placed(one, fine, region, face_px))
            plain = fine is not None and one.score >= PLAIN and abs(_roll(one.points_52)) <= TILT
            out.append(_Placed(face, plain))
        return out

    def _agreeing(self, rgb: Rgb, seen: Sequence[Detection]) -> list[Points | None]:
        """The landmark network's five points (5, 2) of each face, where they lie within STRAY of the detector's."""
        sound = [i for i, one in enumerate(seen) if _sound(one.points_52)]
        out: list[Points | None] = [None] * len(seen)
        if not sound:
            return out
        coarse = np.stack([seen[i].points_52 for i in sound]).astype(np.float64)
        fine = coarse
        if self.config.landmarks is not None:
            fine = five_from_68(torch.from_numpy(self.landmarker.points(rgb, coarse))).numpy()
        for i, points, apart in zip(sound, fine, strayed(fine, coarse), strict=True):
            out[i] = points if apart < STRAY else None
        return out

    def _placed(self, seen: Detection, fine_52: Points | None, region: Region, face_px: int) -> Matrix:
        """(2, 3) The first alignment whose region covers LEAST of the inner box: by landmarks, by the detector's
        points, by its box."""
        matrices: list[Matrix] = []
        if fine_52 is not None and _sound(fine_52):
            template = TEMPLATE_52 if self.config.landmarks is None else five_from_68(mean_shape()).double().numpy()
            matrices.append(similarity(fine_52[None], face_px, template)[0])
        if _sound(seen.points_52):
            matrices.append(similarity(seen.points_52[None], face_px)[0])
        for matrix in matrices:
            if coverage(seen, matrix, region, face_px) >= LEAST:
                return matrix
        return from_box(seen, face_px)

    def _refined(self, rgb: Rgb, group: Sequence[Detection]) -> _Refined | None:
        """What a group of proposals is, looked at in all orientations at one size; None: nothing like a face."""
        first = group[0]
        side = _side(first)
        middle = _middle(first)
        window = Window(rgb, middle, side * COARSE_PX / COARSE_FACE, COARSE_PX)
        answers = self.proposer.boxes([window.crop(turn) for turn in TURNS], CANDIDATE)
        options = []
        for turn, answer in zip(TURNS, answers, strict=True):
            options += [one for one in window.seen(answer, turn) if _near(one, first)][:1]
        options.sort(key=lambda one: -one.score)
        fine: list[Detection] = []
        for option in options[:2]:
            if option.score < max(SEEN, options[0].score / 2):
                continue
            roll = _roll(option.points_52) if _sound(option.points_52) else option.turn
            # Points that deny the orientation they were seen in are not believed.
            turn = roll if abs(_apart(roll, option.turn)) < BELIEVED else option.turn
            window = Window(rgb, _middle(option), _side(option) * FINE_PX / FINE_FACE, FINE_PX)
            outputs = self.detector.network(padded(window.crop(turn))[None])
            fine += [one for one in window.seen(decode(outputs, CANDIDATE), turn) if _near(one, option)][:1]
        if not any(one.score >= CONFIRMED for one in fine):
            return None
        agreed = self._agreeing(rgb, fine)
        best = max(range(len(fine)), key=lambda i: fine[i].score + (AGREEMENT if agreed[i] is not None else 0))
        return _Refined(fine[best], fine[best].score, agreed[best], agreed[best] is not None)


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    face: Face
    plain: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Refined:
    seen: Detection
    score: float
    fine_52: Points | None
    agrees: bool


def smallest_face_px(shape: tuple[int, ...], config: AlignConfig) -> int:
    """Side in pixels of the smallest face, whichever way it is turned, that is looked for in a photo of this shape
    (H, W, ...). Upright ones are found from SMALLEST on."""
    longest = max(shape[:2]) / config.detector_side
    if config.looks == "fast":
        return math.ceil(SMALLEST * max(1.0, longest))
    return math.ceil(SMALLEST if longest > TILED else SMALLEST / TURNED)


def views(photo: Photo) -> list[Rgb]:
    """What a viewer sees of a photo: its colours, and where it is not opaque, also over white and over black."""
    if photo.alpha is None or bool((photo.alpha == 255).all()):
        return [photo.rgb]
    alpha = photo.alpha[..., None].astype(np.uint16)
    black = ((photo.rgb * alpha + 127) // 255).astype(np.uint8)
    return [black + (255 - photo.alpha)[..., None], black, photo.rgb]


def from_box(seen: Detection, face_px: int) -> Matrix:
    """(2, 3) The alignment of a face of which only the detector's box is believed."""
    x0, y0, x1, y1 = (float(v) for v in seen.box)
    # Of the two sides, the one that makes the face larger.
    scale = min(BOX[1][0] / max(x1 - x0, 1e-3), BOX[1][1] / max(y1 - y0, 1e-3)) * face_px
    c, s = math.cos(math.radians(seen.turn)) * scale, math.sin(math.radians(seen.turn)) * scale
    linear = np.array([[c, s], [-s, c]])
    shift = np.array(BOX[0]) * face_px - linear @ ((x0 + x1) / 2, (y0 + y1) / 2)
    return np.concatenate([linear, shift[:, None]], 1)


def _groups(proposed: Sequence[Detection], painted: Callable[[Detection], bool]) -> Iterator[list[Detection]]:
    """Proposals of one and the same thing, best first; `painted` is asked when a group's turn comes."""
    left = sorted(proposed, key=lambda seen: -seen.score)
    while left:
        best = left[0]
        group = [seen for seen in left if seen is best or _overlap(best, seen) > SAME]
        left = [seen for seen in left if not any(seen is one for one in group)]
        likely = best.score >= (CANDIDATE if _side(best) < 2 * SMALLEST else PROBABLE)
        if likely and _side(best) >= SMALLEST * 0.6 and not painted(best):
            yield group


def _outdone(seen: Detection, others: Sequence[Detection]) -> bool:
    """Whether another look saw the same thing better."""
    return any(other.score > seen.score - OUTDONE and _overlap(seen, other) > SAME for other in others)


def _overlap(a: Detection, b: Detection) -> float:
    """Intersection over union of two boxes, as if neither was turned."""
    low, high = np.maximum(a.box[:2], b.box[:2]), np.minimum(a.box[2:], b.box[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    areas = [float(np.prod(one.box[2:] - one.box[:2])) for one in (a, b)]
    return shared / max(sum(areas) - shared, 1e-9)


def _near(seen: Detection, first: Detection) -> bool:
    """Whether it is about where and as large as the first: the same thing, seen anew."""
    apart = float(np.linalg.norm(_middle(seen) - _middle(first)))
    return apart < 0.5 * _side(first) and 0.4 < _side(seen) / _side(first) < 2.5


def _middle(seen: Detection) -> NDArray[np.float64]:
    return np.asarray((seen.box[:2] + seen.box[2:]) / 2, np.float64)


def _side(seen: Detection) -> float:
    """The longer side of its box."""
    return float((seen.box[2:] - seen.box[:2]).max())


def _roll(points_52: NDArray[np.floating]) -> float:
    """Degrees clockwise, -180 to 180, by which five points are turned."""
    firm = [0, 1, 3, 4]
    z = points_52[firm].astype(np.float64) @ (1, 1j)
    w = TEMPLATE_52[firm] @ (1, 1j)
    z, w = z - z.mean(), w - w.mean()
    return math.degrees(float(np.angle((w.conj() * z).sum())))


def _apart(a: float, b: float) -> float:
    """Degrees from b to a, -180 to 180."""
    return (a - b + 180) % 360 - 180


def _sound(points_52: NDArray[np.floating]) -> bool:
    """Whether five points lie as a face's do (`similarity` would take them)."""
    try:
        similarity(points_52[None], 128)
    except ProtectionFailed:
        return False
    return True
