"""dlib's network in PyTorch: a file of dlib's layout is read, any other is named, dlib gives the same vectors."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from anonymousnet.errors import WeightsError
from anonymousnet.nets.dlib_resnet import PX, DlibResNet

INSTALLED = find_spec("dlib") is not None and find_spec("face_recognition_models") is not None


def number(value: int) -> bytes:
    size = max(1, (value.bit_length() + 7) // 8)
    return bytes([size]) + value.to_bytes(size, "little")


def layer(name: bytes, weights: np.ndarray, sizes: bytes = b"") -> bytes:
    header = number(2) + number(weights.size) + 3 * number(1)
    return b"\x01" + bytes([len(name)]) + name + sizes + header + weights.astype("<f4").tobytes()


def file_of(net: DlibResNet, scale: float) -> bytes:
    """The weights as dlib would keep them, every convolution `scale` times too small and mended by its affine layer."""
    text = b""
    for conv in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
        assert conv.bias is not None
        parts = [conv.weight.detach().flatten(), conv.bias.detach()]
        text += layer(b"con_4", torch.cat(parts).numpy() / scale)
        text += layer(b"affine_", np.repeat([scale, 0.0], conv.out_channels)) + b"relu_"
    return text + layer(b"fc_2", net.head.weight.detach().T.numpy(), number(128) + number(net.head.in_features))


def test_dlibs_layout_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = DlibResNet().eval()
    (tmp_path / "net.dat").write_bytes(file_of(net, 4.0))
    read = DlibResNet.read(tmp_path / "net.dat")
    chips = torch.rand(2, 3, PX, PX) * 255
    with torch.inference_mode():
        torch.testing.assert_close(read(chips), net(chips))


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-100], lambda data: data.replace(b"con_4", b"con_9")]
)
def test_another_file_is_named(tmp_path: Path, damage) -> None:
    (tmp_path / "net.dat").write_bytes(damage(file_of(DlibResNet(), 1.0)))
    with pytest.raises(WeightsError, match=r"net\.dat: expected dlib's face recognition network"):
        DlibResNet.read(tmp_path / "net.dat")
    with pytest.raises(WeightsError, match="reinstall"):
        DlibResNet.read(tmp_path / "gone.dat")


@pytest.mark.skipif(not INSTALLED, reason="dlib is an extra")
def test_dlib_gives_the_same_vectors() -> None:
    import dlib

    from anonymousnet.privacy.recognisers import dlib_models

    file = dlib_models() / "dlib_face_recognition_resnet_model_v1.dat"
    chips = np.random.default_rng(0).integers(0, 256, (2, PX, PX, 3), np.uint8)
    theirs = [np.array(dlib.face_recognition_model_v1(str(file)).compute_face_descriptor(chip)) for chip in chips]
    with torch.inference_mode():
        ours = DlibResNet.read(file)(torch.from_numpy(chips).permute(0, 3, 1, 2).float())
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-6)
