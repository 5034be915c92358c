"""What synthetic people wear: hair, hats, glasses, jewellery, clothes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anonymousnet.data.synthetic_brush import Colour, Layer, Soft, curve, ellipse, mix, shade, xy
from anonymousnet.data.synthetic_head import Head

_METAL: tuple[Colour, Colour] = ((222, 184, 92), (214, 216, 222))
_COLLAR = np.array([(30, 74), (34, 86), (16, 104), (3, 84), (12, 82)])
_SHIRT = np.array([(-3, 84), (-16, 104), (-16, 700), (16, 700), (16, 104), (3, 84)])
_TIE = np.array([(-4, 94), (4, 94), (10, 170), (0, 190), (-10, 170)])
_KNOT = np.array([(-7, 82), (7, 82), (4.5, 95), (-4.5, 95)])
_CHAIN = np.array([(-25, 79), (-14, 85), (0, 87.5), (14, 85), (25, 79)])
_BRIDGE = np.array([(-6.5, 0.5), (0, -2), (6.5, 0.5)])


class Wear:
    """Draws around one head. What `seed` chooses does not depend on the attributes."""

    def __init__(self, head: Head, seed: int) -> None:
        self.head, self.has, self.unit, self.hair = head, head.has, head.unit, head.hair
        u = self.choice = np.random.default_rng([7, seed]).random(16).tolist()
        self.strands = np.random.default_rng([8, seed])
        grey = int(30 + 190 * u[0])
        self.cloth = mix((int(255 * u[1]), int(220 * u[2]), int(255 * u[15])), (grey, grey, grey), 0.6)
        self.metal = _METAL[u[3] < 0.5]
        self.long = "Male" not in self.has and "Bald" not in self.has

    # --- hair ---

    def back_hair(self, layer: Layer) -> None:
        """What falls behind neck and shoulders."""
        if self.long:
            layer.fill(self.head.place(self._edges()[0], -30.0), shade(self.hair, 0.62))

    def front_hair(self, layer: Layer) -> None:
        """Cap, sides and fringe, with strands."""
        if "Bald" in self.has:
            return
        outer, inner = self._edges()
        far, near = self.head.place(outer, -24.0), self.head.place(inner, -4.0)
        layer.fill(np.concatenate([far, near[::-1]]), shade(self.hair, 0.88))
        for share, start, tone in self.strands.random((44, 3)).tolist():
            first = int(start * (len(far) - 16))
            strand = (far * (1 - share) + near * share)[first : first + 16]
            if "Straight_Hair" in self.has:  # combed: an even sheen
                bright = 0.8 + 0.12 * tone + 0.6 * max(0.0, 1 - abs(share - 0.42) / 0.16)
            else:
                bright = 0.66 + 0.56 * tone + 0.16 * (0.25 < share < 0.5)
            layer.line(strand, shade(self.hair, bright), 1.1 * self.unit)
        if "Bangs" in self.has:
            self._fringe(layer)

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Outer and inner edge of the front hair in face units, left to right: equally many points."""
        has, w, rise = self.has, self.head.width, self.head.traits.forehead
        volume = 6 + 5 * self.head.traits.hair + 4 * ("Wavy_Hair" in has)
        side = w + volume
        outer: list[tuple[float, float]]
        inner: list[tuple[float, float]]
        temples, top = rise - 6, rise
        if "Receding_Hairline" in has:
            temples, top = rise + 15, rise + 9
        elif "Bangs" in has:
            temples, top = 26, 19
        if self.long:
            outer = [(side - 2, 124), (side + 5, 92), (side + 5, 60), (side + 3, 30)]
            inner = [(side - 5, 124), (w - 1, 98), (w + 1, 62), (w - 1, 30)]
        else:
            outer = [(w + 0.5, 8), (w + 2, 0), (w + 3, -9)]
            inner = [(w - 2, 8), (w - 4, 0), (w - 5.5, -9)]
        outer += [(side, -22), (side - 1, -44), (side * 0.83, -62 - volume * 0.4)]
        outer += [(side * 0.47, -74 - volume * 0.7)]
        inner += [(w - 6, -22), (w - 9, -min(36, temples)), (w * 0.55, -temples), (w * 0.2, -top)]
        part = 14 * (self.choice[4] - 0.5)
        return (
            self._waved(curve(_arch(outer, (0, -78.5 - volume * 0.85))), 2.2),
            self._waved(curve(_arch(inner, (part, -top - 2 * ("Bangs" not in has)))), 1.0),
        )

    def _waved(self, edge: np.ndarray, depth: float) -> np.ndarray:
        if "Straight_Hair" in self.has:
            return edge
        often, depth = (1.15, depth) if "Wavy_Hair" in self.has else (0.5, 0.5 * depth)
        wave = depth * np.sin(np.arange(len(edge)) * often + 6 * self.choice[5])
        outwards = edge + xy(0, 10)
        far = np.maximum(1, np.hypot(outwards[:, 0], outwards[:, 1]))
        waved: np.ndarray = edge + (wave / far)[:, None] * outwards
        return waved

    def _fringe(self, layer: Layer) -> None:
        w = self.head.width
        for x, (dip, tone) in zip(np.linspace(-0.8 * w, 0.8 * w, 15), self.strands.random((15, 2)), strict=True):
            out = abs(x) / w
            end, top = -17 + 5 * dip + 3 * out**2, -74 + 22 * out**1.5
            lock = [(x * 0.5 - 2, top), (x * 0.5 + 2, top), (x * 0.9 + 4, -42), (x + 4.2, end - 6)]
            lock += [(x + 0.8, end), (x - 4, end - 5), (x * 0.9 - 4, -42)]
            layer.fill(self.head.place(np.array(lock)), shade(self.hair, 0.72 + 0.36 * float(tone)))

    # --- hat, glasses, jewellery ---

    def hat(self, layer: Layer) -> None:
        """A woollen cap, a peaked cap or a brimmed hat."""
        if "Wearing_Hat" not in self.has:
            return
        w, place, colour, kind = self.head.width + 9, self.head.place, self.cloth, self.choice[6]
        dome = np.array([(-1, -22), (-1, -46), (-0.7, -78), (0, -92), (0.7, -78), (1, -46), (1, -22), (0, -29)])
        layer.fill(place(curve(dome * (w, 1), closed=True), -16.0), colour)
        band = np.array([(-1, -22), (0, -30), (1, -22), (1, -38), (0, -46), (-1, -38)])
        layer.fill(place(band * (w, 1), -14.0), shade(colour, 0.75 if kind < 0.4 else 0.6))
        if 0.4 <= kind < 0.7:
            peak = np.array([(-0.72, -29), (0, -22), (0.72, -29), (0.4, -37), (0, -39), (-0.4, -37)])
            layer.fill(place(curve(peak * (w, 1), closed=True), 6.0), shade(colour, 0.5))
        elif kind >= 0.7:
            layer.fill(place(ellipse((0, -31), w * 1.5, 8.5), -6.0), shade(colour, 0.82))

    def lenses(self, picture: Image.Image) -> None:
        """Hardly tinted, now and then dark."""
        glass = Soft(picture.size)
        for rim in self._rims():
            glass.fill(rim, 0.82 if self.choice[9] < 0.1 else 0.14)
        glass.onto(picture, (32, 34, 42), 0.4 * self.unit)

    def frames(self, layer: Layer) -> None:
        """Rims, bridge and the beginnings of the temples."""
        colour = shade((38, 26, 22), 0.5 + self.choice[11]) if self.choice[10] < 0.7 else self.metal
        thick = (1.3 + 1.5 * self.choice[12]) * self.unit
        for side, rim in zip((-1, 1), self._rims(), strict=True):
            layer.line(np.concatenate([rim, rim[:2]]), colour, thick)
            hinge = rim[np.argmax(side * rim[:, 0])]
            ear = self.head.place(np.array([(side * (self.head.width + 1), -2.0)]), -6.0)[0]
            layer.line(np.stack([hinge, ear]), colour, thick)
        bridge = curve(_BRIDGE * (self.head.traits.eye_gap, 1))
        layer.line(self.head.place(bridge, 7.0), colour, thick)

    def _rims(self) -> list[np.ndarray]:
        """Left and right rim in pixels."""
        power, high, x = 2.2 + 3 * self.choice[7], 9.5 + 2.5 * self.choice[8], 19.5 * self.head.traits.eye_gap
        return [self.head.place(ellipse((side * x, 1.8), 14.2, high, power), 4.0) for side in (-1, 1)]

    def earrings(self, layer: Layer) -> None:
        """Studs, drops or hoops."""
        if "Wearing_Earrings" not in self.has:
            return
        kind, size, u = self.choice[13], self.head.traits.ears, self.unit
        for side in (-1, 1):
            lobe = self.head.place(np.array([(side * (self.head.width + 3.5), 5 + 12.5 * size)]), -12.0)[0]
            if kind < 0.34:
                hoop = ellipse(lobe + xy(0, 7 * u), 4.6 * u, 7 * u)
                layer.line(np.concatenate([hoop, hoop[:2]]), self.metal, 1.5 * u)
            elif kind < 0.67:
                drop = np.array([(-1, 0), (1, 0), (3, 10), (0, 14), (-3, 10)])
                layer.fill(lobe + drop * u, self.metal)
            layer.fill(ellipse(lobe + xy(0, u), 2.6 * u, 2.6 * u), shade(self.metal, 1.12))

    # --- neck and clothes ---

    def body(self, layer: Layer, skin: Colour) -> None:
        """Shoulders, neck and neckline."""
        flat, male, yaw = self.head.flat, "Male" in self.has, self.head.pose.yaw
        neck = (29 if male else 22) * self.head.traits.width * (1.1 if "Chubby" in self.has else 1)
        broad = 112 if male else 96
        shoulder = [(neck + 2, 82), (neck + 24, 92), (broad - 14, 103), (broad - 1, 122), (broad + 4, 200)]
        right = curve(np.array([*shoulder, (broad + 8, 700)]))
        layer.fill(flat(np.concatenate([right[::-1] * (-1, 1), right])), self.cloth)
        column = np.array([(neck, 30), (neck - 1, 66), (neck + 1, 80), (neck + 9, 89)])
        lean = np.array([(12 * yaw, 0), (6 * yaw, 0), (0, 0), (0, 0)])  # the neck follows the head
        deep = 100 + 34 * self.choice[14] * (not male)
        neckline = np.array([(12, deep - 3), (0, deep), (-12, deep - 3)])
        throat = np.concatenate([column + lean, neckline, (column * (-1, 1) + lean)[::-1]])
        layer.fill(flat(throat), shade(skin, 0.8))

    def throat(self, layer: Layer) -> None:
        """Collar and tie, necklace."""
        flat, unit, u = self.head.flat, self.unit, self.choice
        if "Wearing_Necktie" in self.has:
            for side in (-1, 1):
                layer.fill(flat(_COLLAR * (side, 1)), (240, 240, 244))
            layer.fill(flat(_SHIRT), (228, 228, 234))
            tie = (int(120 + 100 * u[15]), 24, int(40 + 120 * u[5]))
            layer.fill(flat(_TIE), shade(tie, 0.9))
            layer.fill(flat(_KNOT), tie)
        if "Wearing_Necklace" in self.has:
            for bead in flat(curve(_CHAIN)):
                layer.fill(ellipse(bead, 1.7 * unit, 1.7 * unit), self.metal)
            layer.fill(ellipse(flat(np.array([[0.0, 88.0]]))[0], 3 * unit, 3 * unit), shade(self.metal, 1.15))


def _arch(right: list[tuple[float, float]], peak: tuple[float, float]) -> np.ndarray:
    """A right half from the bottom up, its mirror image, and the top between them, from the lower left on."""
    return np.array([*((-x, y) for x, y in right), peak, *right[::-1]], float)
