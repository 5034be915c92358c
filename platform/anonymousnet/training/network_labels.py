"""Label CelebA's aligned images with the shipped network's 68 landmarks.

    python -m anonymousnet.training.network_labels CELEBA [CELEBA/landmarks_68_network.npz]

What the painter is trained with: it is told such landmarks as lines. Some minutes for 30,000 images on one core.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anonymousnet import weights
from anonymousnet.data.celeba import ALIGNED, CROP, HEIGHT, CelebA
from anonymousnet.device import Runner
from anonymousnet.errors import AnonymousNetError, DataError
from anonymousnet.nets.dan import DAN
from anonymousnet.nets.fold import folded
from anonymousnet.training.labels import NETWORK_LANDMARKS

CHUNK = 512
"""Images in memory at once."""


def label(
    folder: Path, out: Path, progress: Callable[[Iterable[int]], Iterable[int]] = lambda rows: rows
) -> dict[str, NDArray[Any]]:
    """Label every aligned image of `folder`; returns, and writes to `out`, one row per image.

    name             str, relative to `folder`
    landmarks_N682   float32, iBUG order, continuous pixels of the 178x218 image

    Raises StorageError, DataError when there is none, WeightsError.
    """
    celeba = CelebA.open(folder)
    if not len(celeba):
        raise DataError(f"expected images in {folder}/{ALIGNED}, found none; check the path and CelebA's lists")
    net = folded(weights.build(weights.read("landmarks"), DAN))
    runner, px = Runner(batch=64, steady=False), net.config.px
    net = runner.place(net)
    found = []
    for start in progress(range(0, len(celeba), CHUNK)):
        faces = celeba.take(np.arange(start, min(start + CHUNK, len(celeba)))).faces(px)
        images = torch.from_numpy(faces).float().div_(127.5).sub_(1)
        found.append(runner(lambda x: net(x)[-1], images).numpy())
    points = np.concatenate(found) * (CROP / px) + [0, (HEIGHT - CROP) // 2]
    table: dict[str, Any] = {
        "name": np.array([f"{ALIGNED}/{name}" for name in celeba.names]),
        "landmarks_N682": np.float32(points),
    }
    temporary = out.with_name(out.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **table)
    os.replace(temporary, out)
    return table


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description="Label CelebA's aligned images with the shipped network's landmarks.")
    parser.add_argument("celeba", type=Path, help="folder with img_align_celeba and CelebA's lists")
    parser.add_argument("out", type=Path, nargs="?", help=f"the .npz file to write [CELEBA/{NETWORK_LANDMARKS}]")
    arguments = parser.parse_args(argv)
    out = arguments.out or arguments.celeba / NETWORK_LANDMARKS
    try:
        table = label(arguments.celeba, out, tqdm)
    except AnonymousNetError as error:
        parser.exit(2, f"error: {error}\n")
    print(f"{len(table['name'])} images, {out}")


if __name__ == "__main__":
    main()
