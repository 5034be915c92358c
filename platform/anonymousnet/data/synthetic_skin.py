"""The skin of synthetic faces: light, relief, wrinkles, make-up, beard."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anonymousnet.data.synthetic_brush import Colour, Layer, Soft, curve, ellipse, mix, shade, skin_colour, xy
from anonymousnet.data.synthetic_head import Head

_ROSE: Colour = (205, 75, 85)
_WARM = np.array([0.85, 1.0, 1.12], np.float32)
"""How strongly light and shadow tell on red, green and blue: light goes a little way through skin."""

# Right halves, in face units; the left ones are mirrored.
_FLANK = np.array([(9, -7), (4.5, 2), (5, 14), (9, 21), (12, 25), (12, 19), (8.5, 8), (11, -4)])
_HOLLOW = np.array([(38, 20), (22, 32), (26, 44), (38, 36)])
_BAG = np.array([(-8, 5.5), (-4, 8.5), (2, 9.4), (7, 7.4)])
_NECK = np.array([(34, 40), (19, 50), (18, 82), (30, 92), (44, 88)])
_FOLD = np.array([(52, 104), (60, 150), (56, 220), (66, 330), (72, 330), (64, 220), (70, 150)])
_SCALP = np.array([(44, -8), (40, -30), (26, -56), (0, -62), (0, -90), (50, -40)])
_MUSTACHE = np.array([(0, 32), (4, 31), (13, 34), (20, 43), (10, 39), (0, 37)])
_SKULL = np.array([(1.02, -16), (1, -34), (0.86, -52), (0.52, -66), (0, -71)])
"""x as a share of the head's width."""


class Skin:
    """The skin of one head, in `size` (width, height) pixels."""

    def __init__(self, head: Head, seed: int, size: tuple[int, int]) -> None:
        self.head, self.has, self.size, self.unit = head, head.has, size, head.unit
        self.colour = skin_colour(head.traits.melanin, head.traits.ruddy, "Pale_Skin" in head.has)
        self.shadow = shade(mix(self.colour, (120, 40, 30), 0.18), 0.55)
        self.glow = mix(shade(self.colour, 1.22), (255, 240, 225), 0.22)
        self.points = head.landmarks_68()
        self._grain = np.random.default_rng([6, seed])
        u = np.random.default_rng([5, seed]).random(3)
        towards = np.array([1.1 * (u[0] - 0.5), 0.6 * u[1] - 0.55, 1.0])  # mostly from above and in front
        self.light = towards / np.linalg.norm(towards)
        self._field = self._light_field(np.float32(0.3 + 0.3 * u[2]))

    def lit(self, picture: Image.Image) -> Image.Image:
        """RGBA `picture` under the light."""
        left, top, right, bottom = box = picture.getbbox() or (0, 0, 1, 1)
        rgba = np.array(picture.crop(box))
        bright = rgba[..., :3] * self._field[top:bottom, left:right]
        rgba[..., :3] = np.minimum(bright, 255, out=bright)
        picture.paste(Image.fromarray(rgba), box)
        return picture

    def bare_head(self, layer: Layer) -> None:
        """Ears and the whole skull, in flat colour."""
        place, w, size = self.head.place, self.head.width, self.head.traits.ears
        for side in (-1, 1):
            outer = ellipse((side * (w + 1.5), 5), 5.5 * size, 12 * size, 2.4)
            layer.fill(place(outer, -14.0), shade(self.colour, 0.88))
            inner = ellipse((side * (w + 2), 4), 2.5 * size, 7 * size)
            layer.fill(place(inner, -14.0), shade(self.colour, 0.7))
        if "Double_Chin" in self.has:
            layer.fill(place(ellipse((0, self.head.chin - 4), 0.62 * w, 14.5), -12.0), shade(self.colour, 0.9))
        skull = _SKULL * (w, 1)
        over = np.concatenate([skull, skull[-2::-1] * (-1, 1)])
        layer.fill(curve(np.concatenate([self.points[:17], self.head.place(over, -20.0)]), closed=True), self.colour)

    def modelled(self, picture: Image.Image) -> Image.Image:
        """Light, relief and colour on the flat RGBA head."""
        skin, alpha = apart(self.lit(picture))
        self._relief(skin)
        self._creases(skin)
        self._colouring(skin)
        self._beard(skin)
        skin.putalpha(alpha)
        return skin

    def shaded_body(self, picture: Image.Image) -> Image.Image:
        """The chin's shadow on the neck, the neck's roundness, folds of the clothes."""
        picture, alpha = apart(picture)
        head, x = self.head, self.light[0]
        dark = Soft(self.size).fill(head.flat(ellipse((10 * head.pose.yaw - 5 * x, head.chin + 2), 34, 12)), 0.75)
        for side in (-1, 1):
            dark.fill(head.flat(_NECK * (side, 1)), 0.75 if side * x < 0 else 0.5)
            dark.fill(head.flat(_FOLD * (side, 1)), 0.3)
        dark.onto(picture, shade(self.shadow, 0.6), 5 * self.unit)
        picture.putalpha(alpha)
        return picture

    def _light_field(self, hard: np.float32) -> np.ndarray:
        """float32 (H, W, 3): how much light a rounded head of matt skin sends back, around 1."""
        origin, east = self.head.flat(np.array([[0.0, 0.0], [1.0, 0.0]]))
        cos, sin = ((east - origin) / self.unit**2).astype(np.float32)
        x = np.arange(self.size[0], dtype=np.float32)[None] - np.float32(origin[0])
        y = np.arange(self.size[1], dtype=np.float32)[:, None] - np.float32(origin[1])
        u = (x * cos + y * sin) / np.float32(self.head.width + 5)
        v = (y * cos - x * sin + 2) / np.float32(82)
        depth = np.sqrt(np.maximum(np.float32(0.04), 1 - u * u - v * v))
        light = self.light.astype(np.float32)
        lambert = np.maximum(0, u * light[0] + v * light[1] + depth * light[2])
        field: np.ndarray = 1 + (np.float32(1.18) * hard * lambert - hard)[..., None] * _WARM
        return field

    def _relief(self, skin: Image.Image) -> None:
        """Broad shadows and lights that make sockets, nose, cheeks and chin stand out."""
        place, unit, chin, nose = self.head.place, self.unit, self.head.chin, self.points[27:36]
        cheeks, pointed = "High_Cheekbones" in self.has, "Pointy_Nose" in self.has
        dark, bright = Soft(self.size), Soft(self.size)
        for side in (-1, 1):
            dark.fill(place(ellipse((side * 19 * self.head.traits.eye_gap, -3.5), 11.5, 6.5)), 0.42)
            dark.fill(place(_FLANK * (side, 1), 3.0), 0.5 if side * self.light[0] < 0 else 0.24)
            dark.fill(place(_HOLLOW * (side, 1)), 0.42 if cheeks else 0.1)
            bright.fill(place(ellipse((side * 25, 16), 9, 6)), 0.75 if cheeks else 0.36)
        dark.fill(place(ellipse((0, 53.5 + 5 * self.head.pose.opening), 11, 2.6)), 0.45)
        dark.fill(place(ellipse((0, 31.5), 9, 3)), 0.5)
        if "Double_Chin" in self.has:
            rises = ((-28, 12), (-15, 4), (0, 1), (15, 4), (28, 12))
            dark.line(place(curve(np.array([(x, chin - rise) for x, rise in rises])), -4.0), 1.0, 4 * unit)
        dark.onto(skin, self.shadow, 2.6 * unit)
        bright.fill(place(ellipse((0, -30), 24, 9)), 0.4)
        bright.fill(place(ellipse((0, chin - 8), 7, 4)), 0.4)
        half = xy(1.4 * unit, 0)
        bright.fill(np.concatenate([nose[:3] - half, nose[2::-1] + half]), 0.75)
        ball = 2.2 if pointed else 5.5 if "Big_Nose" in self.has else 4
        bright.fill(ellipse(nose[3] - xy(0, unit * (not pointed)), ball * unit, 0.75 * ball * unit), 0.8)
        bright.onto(skin, self.glow, 2.4 * unit)

    def _creases(self, skin: Image.Image) -> None:
        """Nostrils and wings of the nose, bags, wrinkles: narrow and dark."""
        place, unit, nose, smile = self.head.place, self.unit, self.points[27:36], self.head.pose.smile
        fine, lines, old = Soft(self.size), Soft(self.size), "Young" not in self.has
        for side, wing, base in ((-1, nose[4], nose[5]), (1, nose[8], nose[7])):
            nostril = base * 0.8 + wing * 0.2 - xy(0, 0.6 * unit)
            size = abs(wing[0] - base[0]) / 4.5
            fine.fill(ellipse(nostril, 3 * size, 1.5 * size), 1.0)
            outside = np.array([(side * 0.6, -4.5), (side * 1.6, -1.5), (0, 0)]) * size + wing
            fine.line(outside, 0.75, 1.3 * unit)
            fold = np.array([(12, 25), (17, 31), (20.5 + 2 * smile, 38)]) * (side, 1)
            lines.line(place(fold), min(0.9, 0.12 + 0.4 * smile + 0.45 * old), 1.6 * unit)
            eye = xy(side * 19 * self.head.traits.eye_gap, 0)
            if "Bags_Under_Eyes" in self.has:
                lines.line(place(_BAG * (side, 1) + eye), 1.0, 2.4 * unit)
            for rise in (-2.5, 0.5, 3.5) if old else ():
                foot = np.array([(side * 12, rise * 0.5), (side * 17, rise * 1.5)]) + eye
                lines.line(place(foot), 0.8, 1.1 * unit)
        for y in (-23, -30, -37) if old else ():
            lines.line(place(curve(np.array([(-19, y + 1.5), (0, y), (19, y + 1.5)]))), 0.42, 1.2 * unit)
        lines.onto(skin, self.shadow, 0.8 * unit)
        fine.onto(skin, shade(self.shadow, 0.5), 0.7 * unit)

    def _colouring(self, skin: Image.Image) -> None:
        """Cheeks, eye shadow, a shaven scalp."""
        place, unit, painted = self.head.place, self.unit, "Heavy_Makeup" in self.has
        cheeks = 0.62 if "Rosy_Cheeks" in self.has else 0.34 if painted else 0.12
        blush, lids, scalp = Soft(self.size), Soft(self.size), Soft(self.size)
        for side in (-1, 1):
            blush.fill(place(ellipse((side * 27, 22), 10, 8)), cheeks)
            if painted:
                lids.fill(place(ellipse((side * 19 * self.head.traits.eye_gap + side, -5), 10.5, 4.6)), 0.8)
            if "Bald" in self.has:
                scalp.fill(place(_SCALP * (side, 1), -20.0), 0.22)
        blush.onto(skin, mix(_ROSE, self.colour, 0.25), 4 * unit)
        lids.onto(skin, mix((84, 60, 92), self.colour, 0.15), 1.6 * unit)
        scalp.onto(skin, (70, 62, 58), 3 * unit)

    def _beard(self, skin: Image.Image) -> None:
        """What grew, and what a razor left; a beard without a nearer name covers chin and cheeks."""
        named = {"Goatee", "Mustache", "Sideburns", "5_o_Clock_Shadow"} & self.has
        full = "Male" in self.has and "No_Beard" not in self.has and not named
        if not named and not full:
            return
        place, chin, w = self.head.place, self.head.chin, self.head.width
        shaved, grown, jaw = Soft(self.size), Soft(self.size), self.points[2:15]
        if "5_o_Clock_Shadow" in self.has:
            cheek = place(np.array([(26, 34), (14, 31), (0, 31), (-14, 31), (-26, 34)]))
            shaved.fill(np.concatenate([jaw, cheek]), 0.5)
        if full:
            cheek = place(np.array([(w - 7, 24), (24, 40), (12, 31), (-12, 31), (-24, 40), (7 - w, 24)]))
            grown.fill(np.concatenate([jaw, cheek]), 0.9)
        if "Goatee" in self.has:
            half = np.array([(0, 51), (16, 45), (17, 57), (11, chin - 1), (0, chin + 1)])
            grown.fill(place(curve(_both(half), closed=True)), 0.92)
        if "Mustache" in self.has:
            grown.fill(place(curve(_both(_MUSTACHE), closed=True), 2.0), 0.95)
        if "Sideburns" in self.has:
            strip = np.array([(w - 1, -18), (w - 9, -16), (w - 9, 14), (w - 6, 32), (w - 2, 24), (w + 1, 0)])
            for side in (-1, 1):
                grown.fill(place(strip * (side, 1), -6.0), 0.95)
        texture = Image.fromarray(self._grain.integers(150, 256, self.size[::-1], dtype=np.uint8))
        tone = mix(shade(self.head.hair, 0.75), (40, 36, 36), 0.4)
        shaved.onto(skin, mix(tone, (60, 66, 74), 0.5), 2.6 * self.unit, texture)
        grown.onto(skin, tone, 1.3 * self.unit, texture)


def apart(picture: Image.Image) -> tuple[Image.Image, Image.Image]:
    """RGBA as RGB and alpha, so that what is painted on keeps the outline."""
    return picture.convert("RGB"), picture.getchannel("A")


def _both(half: np.ndarray) -> np.ndarray:
    """A right half that begins and ends on the middle line -> the whole closed outline."""
    return np.concatenate([half, half[-2:0:-1] * (-1, 1)])
