"""A network without its batch norms is the same network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from anonymousnet.nets.classifier import Classifier, ClassifierConfig
from anonymousnet.nets.dan import DAN, DANConfig
from anonymousnet.nets.embedder import Embedder, EmbedderConfig
from anonymousnet.nets.fold import folded

NETS: dict[str, Callable[[], nn.Module]] = {
    "classifier": lambda: Classifier(ClassifierConfig(px=64, width=8)),
    "embedder": lambda: Embedder(EmbedderConfig(px=64, width=8, dimensions=32)),
    "dan": lambda: DAN(DANConfig(px=64, width=8)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_folded_network_answers_the_same(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name]().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):  # as training leaves them, and not as they begin
            module.running_mean = torch.randn(module.num_features) * 0.3
            module.running_var = torch.rand(module.num_features) + 0.5
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    faces = torch.rand(3, 3, 64, 64) * 2 - 1
    small = folded(net)
    assert not [m for m in small.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        expected, got = net(faces), small(faces)
    if name == "dan":
        expected, got = expected[-1], got[-1]
    assert not torch.equal(expected, torch.zeros_like(expected))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
