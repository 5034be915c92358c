"""Face recognisers that attackers may use, behind one small protocol.

`ours` is the shipped embedder, `dlib` an independent network (the extra `judge`), `onnx:PATH` any other. A recogniser
is handed faces aligned as ours are and answers with unit vectors; it never aligns anything itself, so that a released
face that would mislead a landmark network gains nothing by that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet import weights
from anonymousnet.align.warp import similarity
from anonymousnet.config import Config
from anonymousnet.data.paths import resolve_path
from anonymousnet.device import Runner, autocast
from anonymousnet.errors import ConfigError, WeightsError
from anonymousnet.nets.dlib_resnet import PX, DlibResNet
from anonymousnet.nets.embedder import Embedder
from anonymousnet.nets.onnx_network import OnnxNetwork
from anonymousnet.training.embedder import embed

Faces = NDArray[np.uint8]
Vectors = NDArray[np.float32]

ARCFACE_52 = np.array([[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]])
"""Where recognisers of the ArcFace family expect the five points, in pixels of 112 (Deng et al., CVPR 2019)."""
DLIB_SIDE = 356
"""Crops are enlarged to this before dlib cuts its 150 px chip: its landmarks are whole pixels."""
DLIB_BATCH = 32
DLIB_POINTS = ((232, 184), (200, 188), (124, 184), (154, 188), (176, 246))
"""Mean of dlib's five landmarks on aligned CelebA crops, in pixels of DLIB_SIDE. On clean faces they do as well as
landmarks found face by face (TAR at FAR 1e-3 0.85 against 0.86), and a released face cannot mislead them."""


class Recogniser(Protocol):
    """Anything that turns faces into vectors whose cosine says how alike two people are."""

    name: str

    def embed(self, faces_N3HW: Faces) -> Vectors:
        """Unit vectors (N, D) of uint8 aligned crops (N, 3, H, W)."""


class Ours:
    """The shipped embedder."""

    name = "ours"

    def __init__(self, net: Embedder, runner: Runner) -> None:
        self.net, self.runner = runner.place(net), runner

    @classmethod
    def load(cls, config: Config, runner: Runner) -> Ours:
        """The embedder that `audit.weights` names. Raises ConfigError where it names none, WeightsError."""
        if config.audit.weights is None:
            raise ConfigError("recogniser ours: audit.weights is null; set it to the embedder's weights")
        return cls(weights.build(weights.read(config.audit.weights), Embedder), runner)

    def embed(self, faces_N3HW: Faces) -> Vectors:
        """Mean over the face and its mirror image."""
        with torch.inference_mode(), autocast(self.runner.device, self.runner.dtype):
            return embed(self.net, resized(faces_N3HW, self.net.config.px))


class Dlib:
    """dlib's ResNet (King, 2017), trained on other people's data than ours: the judge outside every loss."""

    name = "dlib"

    def __init__(self) -> None:
        """Raises ConfigError where the extra is not installed."""
        folder = dlib_models()
        import dlib

        self._dlib = dlib
        self._net = DlibResNet.read(folder / "dlib_face_recognition_resnet_model_v1.dat")
        self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        points = [dlib.point(x, y) for x, y in DLIB_POINTS]
        box = dlib.rectangle(87, 133, 269, 315)
        self._where = dlib.full_object_detection(box, points)

    def embed(self, faces_N3HW: Faces) -> Vectors:
        """dlib's own 150 px chip around fixed landmarks, through dlib's network in PyTorch."""
        found = np.empty((len(faces_N3HW), 128), np.float32)
        for start in range(0, len(faces_N3HW), DLIB_BATCH):
            chips = np.stack([self._chip(face) for face in faces_N3HW[start : start + DLIB_BATCH]])
            batch = torch.from_numpy(chips).permute(0, 3, 1, 2).float()  # stays channels last in memory
            with torch.inference_mode():
                found[start : start + DLIB_BATCH] = self._net(batch).numpy()
        return _unit(found)

    def _chip(self, face_3HW: Faces) -> Faces:
        large = np.ascontiguousarray(resized(face_3HW[None], DLIB_SIDE)[0].transpose(1, 2, 0))
        return np.asarray(self._dlib.get_face_chip(large, self._where, PX, 0.25))


class Onnx:
    """A recogniser from an ONNX file: RGB in [-1, 1], N3HW in, vectors out.

    A network of 112x112 pixels is handed faces in ArcFace's alignment, any other the whole crop, resized.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where the file is missing, is no ONNX network, or does not take one RGB image."""
        if not path.is_file():
            raise ConfigError(f"recogniser onnx:{path}: expected a file, found none; check the path")
        try:
            self._network = OnnxNetwork(path)
        except RuntimeError as error:
            raise ConfigError(f"recogniser onnx:{path} does not load: {str(error).splitlines()[0]}") from error
        self.name = f"onnx:{path.name}"
        shapes = self._network.shapes
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
            raise ConfigError(f"recogniser onnx:{path}: expected an input (N, 3, H, W), got {shapes}")
        self._px = shapes[0][3] if shapes[0][3] > 0 else 112
        self._batch = shapes[0][0] if shapes[0][0] > 0 else 32

    def embed(self, faces_N3HW: Faces) -> Vectors:
        """In batches of the size the file declares; a short last one is padded."""
        found = []
        for start in range(0, len(faces_N3HW), self._batch):
            chunk = self._aligned(faces_N3HW[start : start + self._batch])
            padded = np.concatenate([chunk, np.zeros_like(chunk[:1]).repeat(self._batch - len(chunk), 0)])
            found.append(self._network(padded)[0][: len(chunk)])
        return _unit(np.concatenate(found).reshape(len(faces_N3HW), -1).astype(np.float32))

    def _aligned(self, faces: Faces) -> NDArray[np.float32]:
        if self._px != 112:
            return (resized(faces, self._px) / np.float32(127.5) - 1).astype(np.float32)
        side = faces.shape[-1]
        # From ArcFace's pixels to the crop's: the direction in which grid_sample asks.
        matrix = similarity(ARCFACE_52[None], side)[0]
        xy = np.stack(np.meshgrid(np.arange(112) + 0.5, np.arange(112) + 0.5), -1) @ matrix[:, :2].T + matrix[:, 2]
        grid = torch.from_numpy((xy * 2 / side - 1).astype(np.float32)).expand(len(faces), -1, -1, -1)
        sampled = F.grid_sample(unit_range(faces), grid, "bilinear", "border", align_corners=False)
        return np.asarray(sampled.numpy(), np.float32)


def load(spec: str, config: Config, runner: Runner) -> Recogniser:
    """The recogniser a user named: ours, dlib or onnx:PATH. Raises ConfigError, WeightsError."""
    if spec == "ours":
        return Ours.load(config, runner)
    if spec == "dlib":
        return Dlib()
    kind, _, path = spec.partition(":")
    if kind == "onnx" and path:
        return Onnx(resolve_path(path))
    raise ConfigError(f"no recogniser '{spec}'; expected ours, dlib or onnx:PATH")


def installed(config: Config) -> tuple[str, ...]:
    """The recognisers there are without naming a file: those used where the user names none."""
    found = []
    with contextlib.suppress(WeightsError):
        if config.audit.weights is not None:
            weights.folder_of(config.audit.weights)
            found.append("ours")
    with contextlib.suppress(ConfigError):
        dlib_models()
        found.append("dlib")
    return tuple(found)


def resized(faces_N3HW: Faces, px: int) -> Faces:
    """uint8 faces at px x px; untouched where they have that size."""
    if faces_N3HW.shape[-1] == px:
        return faces_N3HW
    shrunk = px < faces_N3HW.shape[-1]
    scaled = F.interpolate(torch.from_numpy(faces_N3HW).float(), size=(px, px), mode="bilinear", antialias=shrunk)
    return np.asarray(scaled.round().clamp(0, 255).byte().numpy())


def unit_range(faces_N3HW: Faces) -> Tensor:
    """uint8 faces as float32 in [-1, 1]."""
    return torch.from_numpy(faces_N3HW).float().div_(127.5).sub_(1)


def embeddings(recognisers: Sequence[Recogniser], faces_N3HW: Faces) -> dict[str, Vectors]:
    """Recogniser's name -> unit vectors of the faces."""
    return {recogniser.name: recogniser.embed(faces_N3HW) for recogniser in recognisers}


def dlib_models() -> Path:
    """Folder of dlib's networks. `face_recognition_models` is found, not imported: it wants pkg_resources."""
    spec: Any = find_spec("face_recognition_models")
    if spec is None or find_spec("dlib") is None:
        raise ConfigError(
            "recogniser dlib: expected dlib-bin and face_recognition_models, found neither or one of them; "
            "pip install 'anonymousnet[judge]'"
        )
    return Path(spec.submodule_search_locations[0]) / "models"


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)
