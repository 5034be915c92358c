"""FaceBatch, the one value that flows through the stages, and Evidence, what was measured on the way.

Shapes are written as suffixes: B faces, 3 channels, H = W = `face_px` pixels, 40 attributes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.errors import StageError

Account = Literal["subject", "near-duplicates of this photo", "this photo"]
"""Whom epsilon is charged to: a named person, over all photos; without a name, a photo and its near-duplicates; without
a ledger nothing adds up, and the epsilon is that of one photo."""


@dataclass(frozen=True, slots=True)
class PublicEvidence:
    """What may stand beside a released face. Nothing here depends on the hidden region but through Stage II."""

    released: dict[str, bool]
    """The 40 attributes as Stage II released them."""
    epsilon: float
    """Epsilon spent by this face on its attributes (infinite if nothing was protected)."""
    photo_epsilon: float
    """Epsilon spent by all faces of the photo together: what may be told of any two photos that differ in them."""
    account: Account
    """Whose epsilon it is, where a ledger counts: what this account spends in all photos adds up."""
    t: float
    """Largest expected distance (total variation) of a released marginal from the population."""
    covers: str
    """What the epsilon covers and what it does not, in words."""
    unprotected: tuple[str, ...]
    """Attributes kept as they are, or shown by what lies outside the painted region."""
    strength: float
    """How little of the source region the generator saw; only 1 carries the pixel guarantee."""
    region: str
    """What was painted anew: face or head."""
    perturbation: float
    """L-infinity bound of the universal perturbation, as a share of the range 0 to 1."""
    weights: dict[str, str]
    """SHA-256 of the weights of every network that took part."""
    precision: str
    """Arithmetic the networks ran in; another one gives other bytes."""


@dataclass(frozen=True, slots=True)
class PrivateEvidence:
    """What undoes a release: for the audit folder only, never beside a released photo."""

    probabilities: dict[str, float]
    """Stage I's estimate for each attribute, 0 to 1."""
    changed: tuple[str, ...]
    """Attributes whose released value differs from the predicted one."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything measured for one face."""

    public: PublicEvidence
    private: PrivateEvidence


@dataclass(frozen=True, slots=True)
class FaceBatch:
    """B aligned faces on their way through the four stages.

    `source` exists for Stage I alone, which drops it: no later stage can see the face. `context` is all that the
    generator ever sees of the photo.
    """

    context_B3HW: Tensor
    """float32 in [-1, 1]: the aligned crop with the region blanked (0), or as visible as `strength` allows."""
    region_B1HW: Tensor
    """float32, 1 inside the region that is painted anew, 0 outside."""
    draw_keys: tuple[bytes, ...]
    """B secrets that Stage II draws from: HMAC(key, release, photo)."""
    code_keys: tuple[bytes, ...]
    """B secrets that the identity codes come from: HMAC(key, release, subject); never from the hidden pixels."""
    strength: float = 1.0
    """How little of the source region `context` shows."""
    source_B3HW: Tensor | None = None
    """float32 in [-1, 1]: the aligned crop as it is. PRIVATE; None after Stage I."""
    probabilities_B40: Tensor | None = None
    """float32 in [0, 1] from Stage I. PRIVATE."""
    read_B40: Tensor | None = None
    """bool from Stage I: what it takes for true. PRIVATE."""
    shown_B40: Tensor | None = None
    """bool from Stage I: what it takes for true by the context alone."""
    released_B40: Tensor | None = None
    """bool from Stage II."""
    faces_B3HW: Tensor | None = None
    """float32 in [-1, 1] from Stages III and IV: the faces to release."""
    public: dict[str, Any] = field(default_factory=dict)
    """Evidence common to the batch that stages add: epsilon, t, covers, perturbation, ..."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage."""

    def __len__(self) -> int:
        return len(self.context_B3HW)

    def __reduce__(self) -> tuple[Any, ...]:
        """Tensors travel as arrays: torch's own pickling is six times slower, which every stage of a service pays."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return _restored, ({k: _packed(v) if isinstance(v, Tensor) else v for k, v in values.items()},)

    def with_(self, **changes: Any) -> FaceBatch:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def check(self) -> FaceBatch:
        """Raise StageError unless every tensor has its shape, type and range; return self."""
        b, side = len(self), self.context_B3HW.shape[-1]
        images = {"context": self.context_B3HW, "source": self.source_B3HW, "faces": self.faces_B3HW}
        for name, image in images.items():
            if image is not None:
                _check(name, image, (b, 3, side, side), -1.0, 1.0)
        _check("region", self.region_B1HW, (b, 1, side, side), 0.0, 1.0)
        if self.probabilities_B40 is not None:
            _check("probabilities", self.probabilities_B40, (b, len(ATTRIBUTES)), 0.0, 1.0)
        for name, answers in {"read": self.read_B40, "shown": self.shown_B40, "released": self.released_B40}.items():
            if answers is not None and (answers.shape != (b, len(ATTRIBUTES)) or answers.dtype != torch.bool):
                raise StageError(
                    f"{name}: expected bool of shape {(b, len(ATTRIBUTES))}, got {answers.dtype} "
                    f"of shape {tuple(answers.shape)}"
                )
        if not len(self.draw_keys) == len(self.code_keys) == b:
            raise StageError(f"keys: expected {b} of each, got {len(self.draw_keys)} and {len(self.code_keys)}")
        return self


class _Packed(NamedTuple):
    values: NDArray[Any]
    shape: tuple[int, ...]


def _packed(tensor: Tensor) -> _Packed:
    """A tensor that is one value, expanded, travels as that value."""
    # A dimension of one element keeps the stride it had.
    alike = tensor.numel() > 0 and not any(s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1)
    return _Packed((tensor.as_strided((1,), (1,)) if alike else tensor).numpy(), tuple(tensor.shape))


def _restored(values: dict[str, Any]) -> FaceBatch:
    # An array that was unpickled in place is read-only, and torch wants none of those.
    def tensor(packed: _Packed) -> Tensor:
        return torch.from_numpy(packed.values.copy()).expand(packed.shape)

    restored: dict[str, Any] = {k: tensor(v) if isinstance(v, _Packed) else v for k, v in values.items()}
    return FaceBatch(**restored)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], low: float, high: float) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
        raise StageError(
            f"{name}: expected float32 of shape {shape}, got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    if tensor.numel():
        lowest, highest = (float(v) for v in torch.aminmax(tensor))
        # Written so that NaN fails too.
        if not (lowest >= low - 1e-4 and highest <= high + 1e-4):
            raise StageError(f"{name}: expected values in [{low:g}, {high:g}], got [{lowest:g}, {highest:g}]")
