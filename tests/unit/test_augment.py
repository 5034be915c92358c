"""What augmentation does to a face, and what it leaves alone."""

from __future__ import annotations

import torch

from anonymousnet.training.augment import shift


def test_a_shift_moves_whole_pixels_and_makes_up_none() -> None:
    torch.manual_seed(0)
    faces = torch.rand(16, 3, 12, 12)
    found = set()
    for face, moved in zip(faces, shift(faces, 2), strict=True):
        inside = moved[:, 2:-2, 2:-2]
        steps = [(y, x) for y in range(5) for x in range(5)]
        where = [(y, x) for y, x in steps if torch.equal(inside, face[:, y : 8 + y, x : 8 + x])]
        assert len(where) == 1
        found.update(where)
        assert set(moved.unique().tolist()) <= set(face.unique().tolist())
    assert len(found) > 5
