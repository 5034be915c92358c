"""Paints one synthetic person from back to front."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anonymousnet.data.synthetic_brush import Layer, Soft, curve, ellipse, iris_colour, mix, shade, xy
from anonymousnet.data.synthetic_head import Head
from anonymousnet.data.synthetic_skin import Skin, apart
from anonymousnet.data.synthetic_wear import Wear


def paint_person(head: Head, seed: int, size: tuple[int, int], fine: int = 3) -> Image.Image:
    """RGBA of `size` (width, height): the person on nothing.

    `head` stands where it was told to; `seed` chooses light and clothes; edges are drawn `fine` times finer.
    """
    skin, wear = Skin(head, seed, size), Wear(head, seed)
    back = Layer(size, fine)
    wear.back_hair(back)
    wear.body(back, skin.colour)
    picture = skin.shaded_body(back.picture())
    if {"Wearing_Necktie", "Wearing_Necklace"} & head.has:
        throat = Layer(size, fine)
        wear.throat(throat)
        picture = Image.alpha_composite(picture, throat.picture())
    bare = Layer(size, fine)
    skin.bare_head(bare)
    picture = Image.alpha_composite(picture, skin.modelled(bare.picture()))
    front = Layer(size, fine)
    _draw_brows(front, head, skin)
    _draw_eye(front, head, skin, 0)
    _draw_eye(front, head, skin, 1)
    _draw_mouth(front, head, skin)
    wear.front_hair(front)
    wear.earrings(front)
    wear.hat(front)
    picture, alpha = apart(Image.alpha_composite(picture, skin.lit(front.picture())))
    _gloss(picture, head, skin)
    if "Eyeglasses" in head.has:
        wear.lenses(picture)
        frames = Layer(size, fine)
        wear.frames(frames)
        rims = frames.picture()
        picture.paste(rims, mask=rims)
    picture.putalpha(alpha)
    return picture


def _draw_brows(layer: Layer, head: Head, skin: Skin) -> None:
    thick = 1.2 * head.traits.brow_weight * head.unit * (2.1 if "Bushy_Eyebrows" in head.has else 1)
    thick *= 1.25 if "Male" in head.has else 0.95
    colour = mix(shade(head.hair, 0.62), skin.colour, 0.12)
    taper = np.outer((0.3, 0.8, 1.0, 1.1, 1.0), (0.0, thick))
    for brow, half in ((skin.points[17:22], taper), (skin.points[22:27], taper[::-1])):
        layer.fill(np.concatenate([curve(brow - half), curve(brow + half)[::-1]]), colour)


def _draw_eye(layer: Layer, head: Head, skin: Skin, side: int) -> None:
    """`side` 0 is the viewer's left."""
    unit, eye = head.unit, skin.points[36 + 6 * side : 42 + 6 * side]
    upper, lower = curve(eye[:4]), curve(np.concatenate([eye[3:], eye[:1]]))[::-1]
    layer.fill(np.concatenate([upper, lower[::-1]]), mix((244, 240, 236), skin.colour, 0.12))
    centre = eye.mean(axis=0) + xy(1.6 * head.pose.gaze, -0.5) * unit
    iris, radius = iris_colour(head.traits.iris**1.6), 4.1 * unit * head.traits.eye_size
    glint = centre + xy(1.2 if skin.light[0] > 0 else -1.2, -1.3) * unit
    for middle, size, colour in (
        (centre, radius, shade(iris, 0.55)),
        (centre, radius * 0.82, iris),
        (centre, radius * 0.45, (14, 10, 10)),
        (glint, 0.8 * unit, (255, 255, 255)),
    ):
        disc = ellipse(middle, size, size)
        top = np.interp(disc[:, 0], upper[:, 0], upper[:, 1])
        bottom = np.interp(disc[:, 0], lower[:, 0], lower[:, 1])
        disc[:, 1] = np.clip(disc[:, 1], top, bottom)  # the lids cover the rest
        layer.fill(disc, colour)
    outer = (eye[0], -1) if side == 0 else (eye[3], 1)
    _draw_lashes(layer, head, skin, upper, lower, outer)


def _draw_lashes(
    layer: Layer, head: Head, skin: Skin, upper: np.ndarray, lower: np.ndarray, outer: tuple[np.ndarray, int]
) -> None:
    """`upper` and `lower` lid; `outer`: the outer corner, and which way is out."""
    unit, painted, female = head.unit, "Heavy_Makeup" in head.has, "Male" not in head.has
    lash = mix((24, 16, 14), skin.colour, 0 if painted else 0.12)
    layer.line(upper, lash, (1.9 if painted else 1.4 if female else 0.9) * unit)
    layer.line(lower, mix(skin.shadow, lash, 0.7 if painted else 0.2), (0.9 if painted else 0.5) * unit)
    layer.line(upper - xy(0, 2.6 * unit), skin.shadow, 0.7 * unit)
    if painted or female:
        corner, way = outer
        wing = np.array([(0, 0.4), (3.2 * way, -2.4), (1.0 * way, -0.9)]) * unit
        layer.fill(corner + wing * (1.3 if painted else 0.8), lash)


def _draw_mouth(layer: Layer, head: Head, skin: Skin) -> None:
    mouth, unit, has = skin.points[48:68], head.unit, head.has
    colour = mix(shade(skin.colour, 0.86), (176, 74, 78), 0.28 if "Male" in has else 0.45)
    if "Wearing_Lipstick" in has:
        colour = mix((190, 24, 52), skin.colour, 0.12)
    elif "Heavy_Makeup" in has:
        colour = mix(colour, (196, 70, 90), 0.5)
    inner_top = curve(mouth[12:17])
    inner_low = curve(np.concatenate([mouth[16:], mouth[12:13]]))[::-1]
    outer_low = curve(np.concatenate([mouth[6:12], mouth[:1]]))
    layer.fill(np.concatenate([inner_top, inner_low[::-1]]), (58, 18, 20))
    if head.pose.opening > 0:
        edge = inner_top + (inner_low - inner_top) * (0.3 + 0.5 * head.pose.smile)
        layer.fill(np.concatenate([inner_top, edge[::-1]]), (240, 234, 224))
    layer.fill(np.concatenate([outer_low, inner_low]), colour)
    layer.fill(np.concatenate([curve(mouth[:7]), inner_top[::-1]]), shade(colour, 0.82))
    if head.pose.opening == 0:
        layer.line(np.concatenate([mouth[:1], inner_top, mouth[6:7]]), shade(colour, 0.42), 1.0 * unit)
    for corner in (mouth[0], mouth[6]):
        layer.fill(ellipse(corner, 1.3 * unit, 0.9 * unit), shade(skin.shadow, 0.8))


def _gloss(picture: Image.Image, head: Head, skin: Skin) -> None:
    """Light on the lower lip."""
    lip = ellipse((skin.points[57] + skin.points[66]) / 2, 5.5 * head.unit, 1.3 * head.unit)
    strength = 0.55 if "Wearing_Lipstick" in head.has else 0.32
    Soft(picture.size).fill(lip, strength).onto(picture, (255, 225, 220), 0.9 * head.unit)
