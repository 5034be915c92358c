"""Photo to aligned faces and back: similarity, crops, the hidden pixels, and the paste.

Coordinates are continuous, x to the right and y downwards: pixel i covers i to i + 1 and has its centre at
i + 0.5, in the photo as in the crop. A matrix (2, 3) takes photo pixels to crop pixels.

What is hidden stays hidden: `crop_context` and `paste` blank the photo first, in its own pixels, and then work on
the blanked copy alone. Whatever stands under `hidden`, they return the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet.align.region import HIDDEN, Region, feather
from anonymousnet.data.blocks import Blocks
from anonymousnet.errors import ProtectionFailed

TEMPLATE_52 = np.array([[69.57, 92.73], [108.28, 91.61], [88.06, 115.88], [72.56, 134.43], [104.89, 133.38]]) / 178
"""Where the five points lie in the unit square of the crop (rows 20 to 198 of a 178x218 aligned image): the mean
of what our detector finds on 600 aligned CelebA faces, so that aligning an aligned face leaves it, on average,
alone."""
_FIRM = [0, 1, 3, 4]  # eyes and mouth corners

PIXELS = Blocks((1, 1))
"""No blocks: of a photo that was never coded."""
FADE = 0.4
"""Over how much of `level` a painted face fades out; what is hidden below the fade is filled from its surroundings."""
WINDOW = 384
"""Side in pixels at which the fill is computed: it is smooth."""
STRIP = 1 << 20
"""Photo pixels worked on at a time: a face as large as a 64-megapixel photo must not need gigabytes."""

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Owners = NDArray[np.int16]
Matrix = NDArray[np.float64]
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole photo pixels, x1 and y1 excluded."""


def similarity(
    points_N52: NDArray[np.floating], face_px: int, template_52: NDArray[np.floating] = TEMPLATE_52
) -> Matrix:
    """(N, 2, 3) float64: the rotation, scale and shift that take each face's points closest to the template.

    Least squares without reflection (Umeyama, PAMI 1991; in the plane it is one complex division), over eyes and
    mouth: the nose swings with the head, and without it aligned faces are left alone better (sideways 1.4 px
    instead of 2.0 at 178 px, scale 0.997 instead of 0.985). Points that are not our detector's, such as a landmark
    network's, need the template of their kind. Raises ProtectionFailed when points coincide or do not lie as a
    face's do, since no crop could then be trusted.
    """
    points = np.asarray(points_N52, np.float64).reshape(-1, 5, 2)
    with np.errstate(all="ignore"):
        w = (template_52[_FIRM] @ (1, 1j)) * face_px
        z = points[:, _FIRM, 0] + 1j * points[:, _FIRM, 1]
        centre, middle = z.mean(1), w.mean()
        z, w = z - centre[:, None], w - middle
        spread = (abs(z) ** 2).sum(1)
        a = (z.conj() * w).sum(1) / spread
        explained = abs(a) ** 2 * spread / (abs(w) ** 2).sum()
        sound = (spread >= 1) & (explained >= 0.5)  # false for NaN too
    for i in np.flatnonzero(~sound):
        raise ProtectionFailed(
            f"face {i}: expected eyes, nose and mouth as a face has them, got {points[i].round(1).tolist()}; "
            "the photo is withheld; leave it out"
        )
    shift = middle - a * centre
    rows = [[a.real, -a.imag, shift.real], [a.imag, a.real, shift.imag]]
    return np.array(rows).transpose(2, 0, 1)


def owners(
    shape_hw: tuple[int, int], matrices: Matrix, face_px: int, region: Region, blocks: Blocks = PIXELS
) -> Owners:
    """(H, W) int16: whose a hidden pixel is, 1 to F; 0 where nothing is hidden.

    Hidden is every block of the file that any part of a face's grown region (`HIDDEN`) touches, and one pixel more:
    each pixel of a coded block depends on all of them, and decoders smooth colours over its border. A block that
    several faces touch belongs to the one in whose region it lies deepest, so that no other face is read with it.
    """
    (width, height), (x0, y0) = blocks.size, blocks.first
    rows, columns = (
        -(-(side - low) // step) for side, low, step in zip(shape_hw, (y0, x0), (height, width), strict=True)
    )
    owner, depth = np.zeros((rows, columns), np.int16), np.full((rows, columns), np.inf, np.float32)
    for i, matrix in enumerate(matrices):
        for (left, top, right, bottom), level in _levels(shape_hw, matrix, face_px, region, HIDDEN):
            least = _least(_least(level, top - y0, height, 0), left - x0, width, 1)
            area = _slices(((left - x0) // width, (top - y0) // height, (right - 1 - x0) // width + 1,
                            (bottom - 1 - y0) // height + 1))  # fmt: skip
            deepest = (least <= HIDDEN) & (least < depth[area])
            owner[area][deepest], depth[area][deepest] = i + 1, least[deepest]
    if blocks == PIXELS:
        return owner
    pixels = owner.repeat(height, 0).repeat(width, 1)[-y0 : shape_hw[0] - y0, -x0 : shape_hw[1] - x0]
    return _one_more(pixels)


def _least(values: NDArray[np.float64], start: int, step: int, axis: int) -> NDArray[np.float64]:
    """Minima over runs of `step` along an axis whose first entry stands at `start`, runs beginning at multiples."""
    firsts = np.arange(-start % step, values.shape[axis], step)
    if start % step:
        firsts = np.concatenate([[0], firsts])
    return np.minimum.reduceat(values, firsts, axis)


def _one_more(owner: Owners) -> Owners:
    """Every hidden area with the pixels around it."""
    for axis in (0, 1):
        for away in (1, -1):
            moved = np.roll(owner, away, axis)
            edge = [slice(None)] * 2
            edge[axis] = slice(0, 1) if away == 1 else slice(-1, None)
            moved[tuple(edge)] = 0
            owner = np.where(owner > 0, owner, moved)
    return owner


def crop_faces(rgb: Rgb, matrices: Matrix, face_px: int, owner: Owners | None = None) -> Tensor:
    """(N, 3, face_px, face_px) float32 in [-1, 1]: the faces as they are; beyond the photo its edge repeats.

    With `owner`, each face is read without the pixels that belong to another one: they are filled as in a context.
    """
    if owner is None or len(matrices) < 2:
        return _crop(rgb, None, matrices, face_px)
    others = (((owner > 0) & (owner != i + 1)) for i in range(len(matrices)))
    return torch.cat([_crop(rgb, mask, matrices[i : i + 1], face_px) for i, mask in enumerate(others)])


def crop_context(rgb: Rgb, hidden: Mask, matrices: Matrix, face_px: int, region: Region) -> tuple[Tensor, Tensor]:
    """What the generator may see: context (N, 3, face_px, face_px) in [-1, 1], region (N, 1, face_px, face_px).

    The context is exactly 0 in the region and never depends on a hidden pixel. Hidden pixels outside the region
    (a neighbour's face, the rim of a coarse pixel) are filled smoothly from what is visible around them.
    """
    mask = region.masks(face_px)[0].expand(len(matrices), 1, face_px, face_px)
    return _crop(rgb, hidden, matrices, face_px) * (1 - mask), mask.clone()


def paste(
    rgb: Rgb, hidden: Mask, faces_N3HW: Tensor, matrices: Matrix, region: Region, order: Sequence[int] | None = None
) -> Rgb:
    """A copy of the photo with the painted faces (float32 in [-1, 1]) in place of what is hidden.

    Hidden pixels are filled smoothly from what is visible around them, then faces are painted over in `order`
    (default: as they come), later over earlier: with weight 1 on all of their region, fading out over `FADE` beyond
    it. Beyond the fade the photo's visible bytes are untouched. Raises ProtectionFailed if a face is not finite, or a
    hidden pixel lies near none of these faces.
    """
    if len(faces_N3HW) != len(matrices) or not bool(torch.isfinite(faces_N3HW).all()):
        raise ProtectionFailed(f"expected {len(matrices)} painted faces of finite values, got {len(faces_N3HW)}")
    out, bare, face_px = np.where(hidden[..., None], np.uint8(0), rgb), hidden.copy(), faces_N3HW.shape[-1]
    faces = range(len(matrices)) if order is None else order
    for i in faces:
        box = _around(rgb.shape[:2], matrices[i], face_px, region)
        area = bare[_slices(box)]
        out[_slices(box)][area] = _smooth(rgb, hidden, box)[area]
        area[:] = False
    if left := int(bare.sum()):
        raise ProtectionFailed(
            f"expected every hidden pixel to lie near a painted face, {left} do not; "
            "pass the matrices and the region that they were hidden with"
        )
    for i in faces:
        face = (faces_N3HW[i : i + 1].float().clamp(-1, 1) + 1) * 127.5
        for box, excess in _levels(rgb.shape[:2], matrices[i], face_px, region, 1.0 + FADE):
            weight = np.where(excess <= 1 + 1e-9, 1, feather(excess, FADE))[..., None]
            area = out[_slices(box)]
            mixed = weight * _project(face, matrices[i], box) + (1 - weight) * area
            area[:] = np.where(weight > 0, np.rint(mixed), area)
    return out


def _around(shape_hw: tuple[int, int], matrix: Matrix, face_px: int, region: Region) -> Box:
    """All that a face may hide, blocks of up to 32 pixels included."""
    half = np.array(region.radii) * HIDDEN
    corners = (np.array(region.centre) + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])) * face_px
    inverse = _inverse(matrix)
    return _bounds(corners @ inverse[:, :2].T + inverse[:, 2], shape_hw, margin=36)


def _smooth(rgb: Rgb, hidden: Mask, box: Box) -> Rgb:
    """The photo in `box`, made from visible pixels alone: a blur that grows with the distance from them."""
    x0, y0, x1, y1 = box
    step = -(-max(x1 - x0, y1 - y0, 1) // WINDOW)
    margin = 8 * step
    low_x, low_y = max(0, x0 - margin), max(0, y0 - margin)
    window = (slice(low_y, y1 + margin), slice(low_x, x1 + margin))
    seen = (~hidden[window]).astype(np.uint8)[..., None]
    count = _blocks(seen, step)
    mean = _blocks(rgb[window] * seen, step) / np.maximum(count, 1)
    image, known = (
        torch.from_numpy(a.astype(np.float32).transpose(2, 0, 1)[None]) for a in (mean, (count > 0).astype(np.uint8))
    )
    filled = F.interpolate(_fill(image, known), scale_factor=step, mode="bilinear") if step > 1 else _fill(image, known)
    part = filled[0, :, y0 - low_y : y1 - low_y, x0 - low_x : x1 - low_x]
    return np.asarray(part.permute(1, 2, 0).round().clamp(0, 255).byte().numpy())


def _levels(
    shape_hw: tuple[int, int], matrix: Matrix, face_px: int, region: Region, reach: float
) -> Iterator[tuple[Box, NDArray[np.float64]]]:
    """Strips of the photo around one face: (box, a lower bound of the region's level anywhere in each pixel).

    `level` is a norm that a step of length d changes by at most d / min(radii), so its value at a pixel's centre
    less that of half the diagonal bounds the whole pixel. The strips hold every pixel bounded by `reach`.
    """
    inverse = _inverse(matrix)
    grow = 0.5 * 2**0.5 * abs(complex(*matrix[:, 0])) / face_px / min(region.radii)
    half = np.array(region.radii) * (reach + grow)
    corners = (np.array(region.centre) + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])) * face_px
    x0, y0, x1, y1 = _bounds(corners @ inverse[:, :2].T + inverse[:, 2], shape_hw)
    rows = max(1, STRIP // max(1, x1 - x0))
    for top in range(y0, y1 if x0 < x1 else y0, rows):
        box = (x0, top, x1, min(top + rows, y1))
        xy = _centres(box) @ matrix[:, :2].T + matrix[:, 2]
        yield box, region.level(xy[..., 0] / face_px, xy[..., 1] / face_px) - grow


def _crop(rgb: Rgb, hidden: Mask | None, matrices: Matrix, face_px: int) -> Tensor:
    """`crop_faces`, of visible pixels only where `hidden` is given."""
    from kornia.geometry.transform import warp_affine  # half a second that --help need not wait for

    crops = [torch.empty(0, 3, face_px, face_px)]
    for matrix in matrices:
        inverse = _inverse(matrix)
        # A large photo is averaged over whole blocks first; what remains is a step of less than 2 pixels, taken
        # in two halves: no detail fine enough to alias is left.
        block = max(1, int(np.hypot(*inverse[:, 0])))
        patch, x0, y0 = _patch(rgb, hidden, inverse, face_px, block)
        # kornia's pixels lie at whole numbers, ours at + 0.5. Put together in float64, cast last: float32 would lose
        # the place of a face far from a large photo's corner.
        doubled = _scale(2, -0.5) @ np.vstack([matrix, [0, 0, 1]]) @ _scale(block, (x0, y0)) @ _scale(1, 0.5)
        onto = torch.from_numpy(doubled[None, :2].astype(np.float32))
        size = (2 * face_px, 2 * face_px)
        warped = warp_affine(patch, onto, size, "bicubic", "border", align_corners=True)
        crops.append(F.avg_pool2d(warped, 2).clamp(0, 255) / 127.5 - 1)
    return torch.cat(crops)


def _patch(rgb: Rgb, hidden: Mask | None, inverse: Matrix, face_px: int, block: int) -> tuple[Tensor, int, int]:
    """The photo around one crop, averaged over blocks of pixels: (1, 3, h, w) in 0 to 255, its x0, its y0."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * face_px
    shape = rgb.shape[:2]
    x0, y0, x1, y1 = _bounds(corners @ inverse[:, :2].T + inverse[:, 2], shape, margin=3 * block)
    x0, y0 = min(x0, shape[1] - 1), min(y0, shape[0] - 1)  # a crop beyond the photo sees its nearest edge
    window = (slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1)))
    seen = np.ones(rgb[window].shape[:2], np.uint8) if hidden is None else (~hidden[window]).astype(np.uint8)
    count = _blocks(seen[..., None], block)
    mean = _blocks(rgb[window] * seen[..., None], block) / np.maximum(count, 1)
    patch = torch.from_numpy(mean.astype(np.float32).transpose(2, 0, 1)[None])
    return _fill(patch, torch.from_numpy((count > 0).astype(np.float32).transpose(2, 0, 1)[None])), x0, y0


def _blocks(image: NDArray[np.uint8], block: int) -> NDArray[np.int64]:
    """Sums over block x block pixels of (H, W, C), the edge repeated up to a whole block."""
    if block == 1:
        return image.astype(np.int64)
    h, w, channels = image.shape
    padded = np.pad(image, ((0, -h % block), (0, -w % block), (0, 0)), "edge")
    blocks = padded.reshape(-(-h // block), block, -(-w // block), block, channels)
    return np.asarray(blocks.sum((1, 3), dtype=np.int64))


def _fill(image_13HW: Tensor, seen_11HW: Tensor) -> Tensor:
    """Unseen pixels take the mean of the smallest surroundings that hold a seen one, smoothly (push-pull)."""
    if bool(seen_11HW.all()) or not bool(seen_11HW.any()):
        return image_13HW
    size = image_13HW.shape[-2:]
    weight = F.avg_pool2d(seen_11HW, 2, ceil_mode=True)
    coarse = F.avg_pool2d(image_13HW * seen_11HW, 2, ceil_mode=True) / weight.clamp(min=1e-6)
    coarse = _fill(coarse, (weight > 0).float())
    return torch.where(seen_11HW > 0, image_13HW, F.interpolate(coarse, size=size, mode="bilinear"))


def _project(face_13HW: Tensor, matrix: Matrix, box: Box) -> NDArray[np.float32]:
    """A painted face as the photo's pixels in `box` see it: (h, w, 3), in the face's own units."""
    x0, y0, x1, y1 = box
    # A face smaller in the photo than in the crop is averaged, over one point or more per crop pixel.
    n = max(1, int(np.ceil(np.hypot(*matrix[:, 0]))))
    points = _centres((0, 0, n * (x1 - x0), n * (y1 - y0))) / n + (x0, y0)
    sampled = _sample(face_13HW, points @ matrix[:, :2].T + matrix[:, 2])
    pixels = F.avg_pool2d(sampled, n) if n > 1 else sampled
    return pixels.clamp(0, 255)[0].permute(1, 2, 0).numpy()  # bicubic overshoots


def _sample(image_13HW: Tensor, points: NDArray[np.float64]) -> Tensor:
    """(1, 3, h, w): the image at (h, w, 2) points in its pixels, bicubic, its edge repeated beyond it."""
    size = np.array([image_13HW.shape[-1], image_13HW.shape[-2]])
    grid = torch.from_numpy((points * (2 / size) - 1).astype(np.float32)[None])
    return F.grid_sample(image_13HW, grid, "bicubic", "border", align_corners=False)


def _scale(factor: float, shift: float | tuple[int, int]) -> Matrix:
    """(3, 3): x -> factor x + shift, in both directions."""
    out = np.diag([factor, factor, 1.0])
    out[:2, 2] = shift
    return out


def _inverse(matrix: Matrix) -> Matrix:
    """The (2, 3) matrix from crop pixels to photo pixels."""
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]


def _bounds(corners: NDArray[np.float64], shape_hw: Sequence[int], margin: int = 1) -> Box:
    """Whole pixels around some points, `margin` more on each side, cut to the photo (empty if outside it)."""
    limit = np.array([shape_hw[1], shape_hw[0]])
    low = np.clip(np.floor(corners.min(0)) - margin, 0, limit).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + margin, low, limit).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _centres(box: Box) -> NDArray[np.float64]:
    """(h, w, 2): x, y of the centres of the pixels in a box."""
    x0, y0, x1, y1 = box
    x, y = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
    return np.stack([x, y], -1)


def _slices(box: Box) -> tuple[slice, slice]:
    x0, y0, x1, y1 = box
    return slice(y0, y1), slice(x0, x1)
