"""Who a synthetic face is, how it is held, and where its parts lie.

Face units: one is one pixel of a 178 x 178 aligned face; x to the viewer's right, y down, z towards the
viewer, the origin midway between the eyes. The eyes lie near (-19, 0) and (19, 0), the chin near (0, 69).
"Left" is the viewer's, as in iBUG's 68 landmarks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.data.synthetic_brush import hair_colour

EYES_MOUTH_PX: np.ndarray = np.array([[69.5, 91.5], [107.5, 91.5], [72.5, 133.5], [106.4, 133.5]])
"""Where eye centres and mouth corners of aligned CelebA faces lie in the centre crop of 178 x 178 pixels."""

_DEPTH, _ROUND_X, _ROUND_Y = 45.0, 46.0, 110.0


@dataclass(frozen=True, slots=True)
class Traits:
    """What an identity fixes, whatever the photo. Sizes are factors around 1, tones lie in 0 to 1."""

    melanin: float
    ruddy: float
    iris: float
    hair: float
    width: float
    jaw: float
    chin: float
    forehead: float
    eye_gap: float
    eye_size: float
    eye_tilt: float
    brow_height: float
    brow_weight: float
    nose_width: float
    nose_length: float
    lips: float
    mouth: float
    ears: float

    @classmethod
    def of(cls, identity: int) -> Traits:
        """The same traits for the same number, always."""
        u = np.random.default_rng([1, identity]).random(18)
        low = [0, 0, 0, 0, 0.93, 1.82, -4, 42, 0.92, 0.86, -1.2, -2, 0.8, 0.84, 0.92, 0.75, 0.9, 0.8]
        high = [1, 1, 1, 1, 1.07, 2.25, 4, 50, 1.08, 1.14, 1.6, 2, 1.3, 1.18, 1.09, 1.3, 1.1, 1.2]
        return cls(*(a + (b - a) * v for a, b, v in zip(low, high, u.tolist(), strict=True)))


@dataclass(frozen=True, slots=True)
class Pose:
    """How the head is held in one photo; angles in radians."""

    yaw: float
    pitch: float
    roll: float
    smile: float
    """0 to 1."""
    opening: float
    """0 to 1."""
    gaze: float
    """-1 to 1."""

    @classmethod
    def of(cls, seed: int, has: frozenset[str]) -> Pose:
        """A pose drawn from `seed`, whose expression agrees with the attributes `has`."""
        rng = np.random.default_rng([2, seed])
        yaw, pitch, roll = rng.normal(size=3) * (0.16, 0.07, 0.012)
        u = rng.random(3)
        return cls(
            yaw=float(np.clip(yaw, -0.35, 0.35)),
            pitch=float(np.clip(pitch, -0.15, 0.15)),
            roll=float(roll),
            smile=0.65 + 0.35 * float(u[0]) if "Smiling" in has else 0.2 * float(u[0]),
            opening=0.45 + 0.55 * float(u[1]) if "Mouth_Slightly_Open" in has else 0.0,
            gaze=2 * float(u[2]) - 1,
        )


class Head:
    """One head in one pose: places points given in face units into pixels."""

    def __init__(self, traits: Traits, pose: Pose, has: frozenset[str]) -> None:
        self.traits, self.pose, self.has = traits, pose, has
        self.width = 42 * traits.width * (1.13 if "Chubby" in has else 1) * (0.96 if "Oval_Face" in has else 1)
        self.chin = 68 + traits.chin + (3 if "Male" in has else 0) + 5 * pose.opening
        self.unit, self._turn, self._shift = 1.0, np.eye(2), np.zeros(2)
        self.hair = hair_colour(traits.hair, has)
        self._points, self._lifts = self._landmarks()

    def align(self, px: int, jitter: np.ndarray) -> None:
        """Stand where CelebA's aligned faces stand in `px` x `px` pixels, `jitter` (2,) pixels of 178 off."""
        anchors = self.landmarks_5()[[0, 1, 3, 4]]
        wanted = EYES_MOUTH_PX + jitter
        # The least-squares similarity, in complex numbers: wanted = a * anchors + b.
        z, w = anchors @ (1, 1j), wanted @ (1, 1j)
        a = np.vdot(z - z.mean(), w - w.mean()) / np.vdot(z - z.mean(), z - z.mean())
        a *= np.exp(1j * self.pose.roll)
        self.stand(complex(a), complex(w.mean() - a * z.mean()), px / 178)

    def stand(self, a: complex, b: complex, scale: float = 1.0) -> None:
        """Place face point z = x + iy at pixel a z + b of a picture that is then scaled by `scale`.

        Whole numbers are the centres of pixels.
        """
        a, b = a * scale, (b + 0.5 + 0.5j) * scale - 0.5 - 0.5j
        self.unit = abs(a)
        self._turn = np.array([[a.real, -a.imag], [a.imag, a.real]])
        self._shift = np.array([b.real, b.imag])

    def flat(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) face units -> (N, 2) pixels for what does not turn with the head: neck, shoulders."""
        return points @ self._turn.T + self._shift

    def place(self, points: np.ndarray, lift: float | np.ndarray = 0.0) -> np.ndarray:
        """(N, 2) face units, `lift` units above the head's round surface -> (N, 2) pixels."""
        points = np.asarray(points, float)
        x, y = points[:, 0], points[:, 1]
        z = _DEPTH * np.sqrt(np.maximum(0, 1 - (x / _ROUND_X) ** 2 - (y / _ROUND_Y) ** 2)) + lift
        sin, cos = math.sin(self.pose.yaw), math.cos(self.pose.yaw)
        across, depth = x * cos + z * sin, z * cos - x * sin
        up = y * math.cos(self.pose.pitch) - depth * math.sin(self.pose.pitch)
        return self.flat(np.stack([across, up], axis=1))

    def landmarks_68(self) -> np.ndarray:
        """float64 (68, 2) pixels, iBUG order."""
        return self.place(self._points, self._lifts)

    def landmarks_5(self) -> np.ndarray:
        """float64 (5, 2) pixels: left eye, right eye, nose tip, left and right mouth corner."""
        all_68 = self.landmarks_68()
        eyes = all_68[36:48].reshape(2, 6, 2).mean(axis=1)
        return np.concatenate([eyes, all_68[[30, 48, 54]]])

    def _landmarks(self) -> tuple[np.ndarray, np.ndarray]:
        """The 68 points in face units, and how far each stands out of the head."""
        parts = (self._jaw(), self._brows(), self._nose(), self._eyes(), self._mouth())
        lifts = (np.full(17, -6.0), np.full(10, 2.0), _NOSE_LIFT, np.zeros(12), np.full(20, 1.0))
        return np.concatenate(parts), np.concatenate(lifts)

    def _jaw(self) -> np.ndarray:
        power = self.traits.jaw + 0.2 * ("Male" in self.has) + 0.35 * ("Chubby" in self.has)
        power -= 0.3 * ("Oval_Face" in self.has)
        angle = np.linspace(math.pi, 0, 17)
        cos, sin = np.cos(angle), np.sin(angle)
        x = self.width * np.sign(cos) * np.abs(cos) ** (2 / power)
        return np.stack([x, -3 + (self.chin + 3) * np.abs(sin) ** (2 / power)], axis=1)

    def _brows(self) -> np.ndarray:
        t, inner = np.linspace(0, 1, 5), 8.0 * self.traits.eye_gap
        arch = 5.5 if "Arched_Eyebrows" in self.has else 2.2
        height = 10.5 + self.traits.brow_height + arch * np.sin(math.pi * np.clip(t * 1.15 + 0.05, 0, 1))
        height += np.where(t == 0, -1.0, 0)
        left = np.stack([-(inner + 23 * (1 - t)), -height], axis=1)
        return _mirrored(left)

    def _nose(self) -> np.ndarray:
        broad = self.traits.nose_width * (1.4 if "Big_Nose" in self.has else 1)
        broad *= 0.74 if "Pointy_Nose" in self.has else 1
        long = self.traits.nose_length * (1.08 if "Big_Nose" in self.has else 1)
        tip = 2.6 if "Pointy_Nose" in self.has else 0.0
        across = np.array([0, 0, 0, 0, -9.5, -5, 0, 5, 9.5]) * broad * (1 + 0.08 * self.pose.smile)
        down = np.array([0, 7.5, 15, 22.5 + tip, 26, 27.6, 28.6, 27.6, 26]) * long
        return np.stack([across, down], axis=1)

    def _eyes(self) -> np.ndarray:
        t = self.traits
        half, high = 8.4 * t.eye_size, 4.0 * t.eye_size * (0.5 if "Narrow_Eyes" in self.has else 1)
        high *= 1 - 0.28 * self.pose.smile
        x = np.array([-half, -0.4 * half, 0.4 * half, half, 0.4 * half, -0.4 * half])
        y = np.array([0, -high, -high * 0.95, 0.8, high * 0.75, high * 0.7])
        y = y + t.eye_tilt * x / half
        return _mirrored(np.stack([x - 19 * t.eye_gap, y], axis=1), np.array([3, 2, 1, 0, 5, 4]))

    def _mouth(self) -> np.ndarray:
        t, smile, opening = self.traits, self.pose.smile, self.pose.opening
        full = t.lips * (1.45 if "Big_Lips" in self.has else 1) * (0.9 if "Male" in self.has else 1)
        half = 16.2 * t.mouth + 3.2 * smile - 1.5 * opening
        # Where the upper lip ends and the lower begins in the middle of the mouth; closed they meet near 42.
        parted = 1.0 + 7.5 * opening
        top, bottom = 41.2 + 0.4 * smile, 41.6 + parted * (opening > 0) + 1.4 * smile
        corner = 42.6 - 5.0 * smile + 1.2 * opening
        outer_x = half * np.array([-1, -0.62, -0.24, 0, 0.24, 0.62, 1, 0.6, 0.27, 0, -0.27, -0.6])
        rise = full * np.array([0, 3.4, 5.0, 4.3, 5.0, 3.4, 0])
        sag = np.array([0, 0.45, 0.9, 1, 0.9, 0.45, 0])
        upper = corner + (top - corner) * sag - rise
        fall = bottom + full * 6.6 - corner
        lower = corner + fall * np.array([0.62, 0.95, 1.0, 0.95, 0.62])
        inner_x = half * np.array([-0.86, -0.3, 0, 0.3, 0.86, 0.3, 0, -0.3])
        middle = np.array([0.12, 0.9, 1, 0.9, 0.12])
        inner_top = corner + (top - corner) * middle
        inner_bottom = corner + (bottom - corner) * np.array([0.92, 1, 0.92])
        y = np.concatenate([upper, lower, inner_top, inner_bottom])
        return np.stack([np.concatenate([outer_x, inner_x]), y], axis=1)


_NOSE_LIFT = np.array([3.0, 7, 11, 15, 5, 9, 11, 9, 5])


def _mirrored(left: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """A left part and its mirror image; `order` renumbers the mirrored points (default: reversed)."""
    right = left * (-1, 1)
    return np.concatenate([left, right[::-1] if order is None else right[order]])


def sample_attributes(identity: int, seed: int) -> np.ndarray:
    """bool (40,): a plausible set. What a person keeps comes from `identity`, what passes from `seed`."""
    lasting, passing = (np.random.default_rng(key).random(24).tolist() for key in ([3, identity], [4, seed]))
    male, young = lasting[0] < 0.45, lasting[1] < 0.75
    chubby, bald = lasting[2] < 0.12, male and lasting[3] < 0.06
    hair = lasting[4] if young else lasting[4] * 1.9
    beard = passing[0] if male else 1.0
    makeup = not male and passing[1] < 0.5
    lipstick = not male and (makeup or passing[2] < 0.4)
    smiling = passing[3] < 0.48
    hat = passing[4] < 0.06
    no_beard = not (male and beard < 0.4)
    true = {
        "Male": male, "Young": young, "Chubby": chubby, "Bald": bald,
        "Double_Chin": chubby and lasting[5] < 0.6,
        "Black_Hair": not bald and hair < 0.3, "Brown_Hair": not bald and 0.3 <= hair < 0.6,
        "Blond_Hair": not bald and 0.6 <= hair < 0.82, "Gray_Hair": not bald and hair >= 1.1,
        "Receding_Hairline": not bald and lasting[6] < (0.2 if male and not young else 0.04),
        "Straight_Hair": not bald and lasting[7] < 0.25, "Wavy_Hair": not bald and lasting[7] > 0.65,
        "Bangs": not bald and not hat and lasting[8] < 0.15,
        "Big_Nose": lasting[9] < 0.23, "Pointy_Nose": lasting[9] > 0.72, "Big_Lips": lasting[10] < 0.24,
        "Narrow_Eyes": lasting[11] < 0.12, "Oval_Face": not chubby and lasting[12] < 0.3,
        "High_Cheekbones": lasting[13] < 0.4, "Pale_Skin": lasting[14] < 0.06,
        "Bushy_Eyebrows": lasting[15] < (0.25 if male else 0.05),
        "Arched_Eyebrows": lasting[15] > (0.92 if male else 0.55),
        "Attractive": young and lasting[16] < 0.65,
        "Bags_Under_Eyes": passing[5] < (0.15 if young else 0.4),
        "No_Beard": no_beard, "Mustache": not no_beard and passing[6] < 0.4,
        "Goatee": not no_beard and 0.1 < passing[7] < 0.5, "Sideburns": not no_beard and passing[8] < 0.35,
        "5_o_Clock_Shadow": not no_beard and passing[7] > 0.65,
        "Smiling": smiling, "Mouth_Slightly_Open": passing[9] < (0.7 if smiling else 0.25),
        "Heavy_Makeup": makeup, "Wearing_Lipstick": lipstick, "Rosy_Cheeks": makeup and passing[10] < 0.3,
        "Eyeglasses": passing[11] < (0.06 if young else 0.2), "Wearing_Hat": hat,
        "Wearing_Earrings": not male and passing[12] < 0.35,
        "Wearing_Necklace": not male and passing[13] < 0.25,
        "Wearing_Necktie": male and passing[14] < 0.17, "Blurry": passing[15] < 0.05,
    }  # fmt: skip
    attributes = np.zeros(len(ATTRIBUTES), bool)
    for name, value in true.items():
        attributes[INDEX[name]] = value
    return attributes
