"""One photo in, its aligned faces out, as rows of the data set: no Ray, so that any loop can do the same work."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anonymousnet.align import warp
from anonymousnet.align.detect import Detection, Detector
from anonymousnet.align.landmarks import Landmarker
from anonymousnet.config import AlignConfig
from anonymousnet.data.celeba import CROP
from anonymousnet.data.images import Photo, encode_photo, load_photo
from anonymousnet.device import Runner
from anonymousnet.errors import AnonymousNetError, DataError, NoFaceFound, StorageError, WeightsError
from anonymousnet.pipelines.source import Labels

Row = dict[str, Any]


class Aligner:
    """One photo's bytes in, its faces as rows of the data set out."""

    def __init__(self, config: AlignConfig, face_px: int, layout: str) -> None:
        self.config, self.face_px, self.layout = config, face_px, layout
        self.detector = Detector(config)
        self.landmarker = Landmarker(config, Runner("cpu"))

    def __call__(self, data: bytes, labels: Labels, i: int) -> list[Row]:
        """Rows of photo `i` of `labels`. Raises ImageError, NoFaceFound, ProtectionFailed; DataError without labels."""
        if not labels.listed[i]:
            raise DataError("no row in list_attr_celeba.txt; add one, or remove the photo")
        rgb = load_photo(data, self.config.max_pixels).rgb
        faces = self.detector(rgb)
        if not faces:
            raise NoFaceFound(f"no face scores above {self.config.detector_threshold}; leave the photo out")
        if self.layout == "celeba":
            faces = [_labelled(faces)]
        matrices, found = self.landmarker.align(rgb, faces, self.face_px)
        crops = warp.crop_faces(rgb, matrices, self.face_px)
        pixels = ((crops + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        shared = {
            "name": _text(labels.names[i]),
            "attributes": None if labels.attributes is None else labels.attributes[i].tolist(),
            "identity": int(labels.identities[i]),
        }
        return [
            {
                **shared, "face": k, **self._measured(crop, matrix, face),
                "landmarks": _landmarks(
                    face, matrix, None if labels.landmarks is None else labels.landmarks[i],
                    None if found is None else found[k],
                ),
            }
            for k, (crop, matrix, face) in enumerate(zip(pixels, matrices, faces, strict=True))
        ]  # fmt: skip

    def shard(self, photos: list[bytes | str], labels: Labels) -> tuple[list[Row], list[dict[str, str]]]:
        """(rows, errors) of many photos: bytes, or why they could not be read. A bad photo is an error."""
        rows: list[Row] = []
        errors: list[dict[str, str]] = []
        for i, data in enumerate(photos):
            try:
                if isinstance(data, str):
                    raise StorageError(data)
                rows += self(data, labels, i)
            except WeightsError:
                raise  # not the photo's fault
            except (AnonymousNetError, ArithmeticError, ValueError, RuntimeError) as error:
                errors.append({"name": _text(labels.names[i]), "kind": type(error).__name__, "reason": str(error)})
        return rows, errors

    def _measured(self, crop: NDArray[np.uint8], matrix: warp.Matrix, face: Detection) -> Row:
        """Image, points and quality."""
        return {
            "image": encode_photo(Photo(crop, None, "JPEG"), "jpeg", 95)[0],
            "points": _project(face.points_52, matrix).ravel().tolist(),
            "score": face.score,
            "sharpness": _sharpness(crop),
            "size": self.face_px / float(np.hypot(*matrix[:, 0])),
        }


def _landmarks(
    face: Detection, matrix: warp.Matrix, label_682: NDArray[np.floating] | None, found_682: NDArray[np.floating] | None
) -> list[float] | None:
    """68 points in pixels of the crop: the source's label if it has one; without any labels, the network's answer.

    Where others are labelled, a face without a label is one the teacher was not sure of: nothing is made up for it.
    """
    points = found_682 if label_682 is None else label_682
    if points is None or not _inside(points, face.box):  # NaN, or the label of another face in the photo
        return None
    return _project(points, matrix).ravel().tolist()


def _labelled(faces: list[Detection]) -> Detection:
    """The face that CelebA's labels speak of: the one nearest to where its own alignment puts it."""
    there = warp.TEMPLATE_52 * CROP + (0, (218 - CROP) // 2)
    return min(faces, key=lambda face: float(np.abs(face.points_52 - there).sum()))


def _text(name: str) -> str:
    """A file name need not be UTF-8; a table's text must."""
    return name.encode("utf-8", "replace").decode()


def _project(points: NDArray[np.floating], matrix: warp.Matrix) -> NDArray[np.float64]:
    """Points (N, 2) of the photo in pixels of the crop."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def _inside(points: NDArray[np.floating], box: NDArray[np.floating]) -> bool:
    """Whether the middle of the points lies in the box; false for NaN."""
    middle = points.mean(0)
    return bool((middle > box[:2]).all() and (middle < box[2:]).all())


def _sharpness(crop: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the grey crop."""
    grey = crop.astype(np.float64).mean(2)
    middle = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle).var())
