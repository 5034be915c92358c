import time

import numpy as np
import pytest

from anonymousnet.align.detect import Detector
from anonymousnet.config import AlignConfig
from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.data.synthetic import SyntheticFace, render_face, render_page, synthetic_dataset
from anonymousnet.data.synthetic_head import EYES_MOUTH_PX, sample_attributes

HAIR = ["Black_Hair", "Brown_Hair", "Blond_Hair", "Gray_Hair"]
BEARD = ["Goatee", "Mustache", "Sideburns", "5_o_Clock_Shadow"]


def flags(*names: str) -> np.ndarray:
    chosen = np.zeros(40, bool)
    chosen[[INDEX[name] for name in names]] = True
    return chosen


def face(*names: str, seed: int = 3, identity: int = 12) -> SyntheticFace:
    return render_face(seed, identity=identity, attributes=flags(*names))


def change(one: SyntheticFace, other: SyntheticFace) -> np.ndarray:
    """Largest change over the channels of each pixel."""
    return np.abs(one.image.astype(int) - other.image).max(axis=2)


@pytest.fixture(scope="module")
def sampled() -> np.ndarray:
    return np.array([sample_attributes(i, i + 1) for i in range(3000)])


# --- one face ---


def test_same_seed_same_face() -> None:
    one, two = render_face(5), render_face(5)
    assert one.image.tobytes() == two.image.tobytes()
    assert np.array_equal(one.landmarks_68, two.landmarks_68)
    assert np.array_equal(one.attributes, two.attributes)
    assert one.identity == 5
    assert not np.array_equal(one.image, render_face(6).image)


@pytest.mark.parametrize("px", [32, 64, 112, 128, 178, 256])
def test_shapes_types_and_scale(px: int) -> None:
    small, full = render_face(8, px=px), render_face(8)
    assert (small.image.shape, small.image.dtype) == ((px, px, 3), np.uint8)
    assert (small.landmarks_68.shape, small.landmarks_68.dtype) == ((68, 2), np.float32)
    assert (small.landmarks_5.shape, small.landmarks_5.dtype) == ((5, 2), np.float32)
    assert (small.attributes.shape, small.attributes.dtype) == ((40,), np.bool_)
    assert small.landmarks_68 + 0.5 == pytest.approx((full.landmarks_68 + 0.5) * px / 178, abs=1e-3)


def test_faces_sit_where_celebas_do() -> None:
    anchors = np.array([render_face(seed, px=32).landmarks_5[[0, 1, 3, 4]] for seed in range(40)])
    anchors = (anchors + 0.5) * 178 / 32 - 0.5
    assert np.abs(anchors.mean(axis=0) - EYES_MOUTH_PX).max() < 1
    assert np.linalg.norm(anchors - EYES_MOUTH_PX, axis=2).max() < 8


def test_landmarks_are_in_ibug_order() -> None:
    for seed in range(25):
        found = render_face(seed, px=64)
        p = found.landmarks_68
        assert (p > 0).all()
        assert (p < 64).all()
        assert (np.diff(p[:17, 0]) > -0.3).all()  # a turned head's far ear may fall behind
        assert p[:17, 1].argmax() in (7, 8, 9)
        assert (np.diff(p[17:27, 0]) > 0).all()
        assert (np.diff(p[27:31, 1]) > 0).all()
        assert (np.diff(p[31:36, 0]) > 0).all()
        for eye in (p[36:42], p[42:48]):
            assert (np.diff(eye[:4, 0]) > 0).all()
            assert (eye[1:3, 1] < eye[4:6, 1]).all()
        assert (np.diff(p[48:55, 0]) > 0).all()
        assert (np.diff(p[60:65, 0]) > 0).all()
        eyes = p[36:48].reshape(2, 6, 2).mean(axis=1)
        assert found.landmarks_5 == pytest.approx(np.concatenate([eyes, p[[30, 48, 54]]]), abs=1e-3)


def test_pupils_are_dark_and_lie_in_the_eyes() -> None:
    for seed in range(6):
        found = face("Young", seed=seed, identity=4)
        for x, y in found.landmarks_5[:2].round().astype(int):
            eye = found.image[y - 3 : y + 4, x - 5 : x + 6].astype(int).sum(axis=2)
            assert eye.min() < 120
            assert eye.max() > 2.5 * eye.min()


def test_an_identity_stays_itself() -> None:
    """Among faces with the same attributes, those of one identity look alike where the light falls."""

    def tone(identity: int, seed: int) -> np.ndarray:
        found = face("Young", "Bald", seed=seed, identity=identity)
        brow = found.image[55:72, 75:102].reshape(-1, 3).mean(axis=0)
        return brow / brow.sum()

    tones = np.array([[tone(who, seed) for seed in range(3)] for who in range(6)])
    within = tones.std(axis=1).mean()
    between = tones.mean(axis=1).std(axis=0).mean()
    assert between > 1.5 * within
    assert change(face(seed=1), face(seed=2)).mean() > 5


# --- attributes ---


def test_sampled_attributes_are_plausible(sampled: np.ndarray) -> None:
    def of(name: str) -> np.ndarray:
        return sampled[:, INDEX[name]]

    assert sampled[:, [INDEX[name] for name in HAIR]].sum(axis=1).max() == 1
    assert not (sampled[:, [INDEX[name] for name in HAIR]].any(axis=1) & of("Bald")).any()
    assert not (sampled[:, [INDEX[name] for name in BEARD]].any(axis=1) & of("No_Beard")).any()
    assert not (~of("No_Beard") & ~of("Male")).any()
    assert not (of("Wearing_Lipstick") & of("Male")).any()
    assert not (of("Straight_Hair") & of("Wavy_Hair")).any()
    assert not (of("Bangs") & of("Bald")).any()
    rates = dict(zip(ATTRIBUTES, sampled.mean(axis=0), strict=True))
    assert 0.4 < rates["Male"] < 0.5
    assert 0.43 < rates["Smiling"] < 0.53
    assert all(0.005 < rate < 0.95 for rate in rates.values())


def test_what_lasts_comes_from_the_identity() -> None:
    lasting = ["Male", "Young", "Bald", "Black_Hair", "Big_Nose", "Pale_Skin", "Oval_Face"]
    many = np.array([sample_attributes(77, seed) for seed in range(50)])
    assert (many[:, [INDEX[name] for name in lasting]].std(axis=0) == 0).all()
    assert many[:, INDEX["Smiling"]].std() > 0


@pytest.mark.parametrize("name", [name for name in ATTRIBUTES if name not in ("Attractive", "No_Beard")])
def test_every_attribute_shows(name: str) -> None:
    beardless = () if name in BEARD else ("No_Beard",)
    lone = ("Goatee",) if name in BEARD and name != "Goatee" else ()  # or the beard would be a full one
    without = face("Male", *beardless, *lone) if name != "Male" else face("No_Beard")
    given = face("Male", *beardless, *lone, name)
    assert (change(without, given) > 12).sum() >= 60


def test_beard_without_a_name_is_drawn() -> None:
    changed = change(face("Male", "No_Beard"), face("Male"))
    assert changed[140:165, 70:105].mean() > 12
    assert changed[:100].max() == 0


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("Eyeglasses", (75, 112), (40, 140)),
        ("Bushy_Eyebrows", (66, 92), (45, 135)),
        ("Bags_Under_Eyes", (88, 110), (50, 128)),
        ("Rosy_Cheeks", (94, 136), (38, 142)),
        ("Wearing_Lipstick", (120, 150), (60, 118)),
        ("Mustache", (108, 146), (55, 122)),
        ("Goatee", (122, 178), (55, 122)),
        ("Wearing_Hat", (0, 84), (0, 178)),
        ("Bangs", (0, 90), (30, 150)),
        ("Wearing_Earrings", (84, 140), (20, 158)),
        ("Wearing_Necktie", (155, 178), (40, 140)),
        ("Wearing_Necklace", (155, 178), (50, 130)),
        ("Receding_Hairline", (0, 70), (25, 155)),
    ],
)
def test_attributes_change_only_their_own_place(name: str, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    beard = name in BEARD
    one = face("Male", *(("Sideburns",) if beard else ("No_Beard",)))
    two = face("Male", *(("Sideburns",) if beard else ("No_Beard",)), name)
    changed = change(one, two)
    inside = changed[slice(*rows), slice(*columns)].copy()
    assert (inside > 12).sum() >= 60
    changed[slice(*rows), slice(*columns)] = 0
    assert (changed > 8).sum() == 0


def test_hair_has_its_colour_and_pale_skin_is_light() -> None:
    top = {name: face("Male", "No_Beard", name).image[12:30, 70:105].mean(axis=(0, 1)) for name in HAIR}
    brightness = {name: colour.mean() for name, colour in top.items()}
    assert brightness["Black_Hair"] < brightness["Brown_Hair"] < brightness["Blond_Hair"]
    assert np.ptp(top["Gray_Hair"]) < 25
    assert top["Blond_Hair"][0] - top["Blond_Hair"][2] > 50
    assert top["Brown_Hair"][0] > top["Brown_Hair"][2] + 10
    cheek = np.s_[100:120, 75:84]
    assert face("Pale_Skin").image[cheek].mean() > face().image[cheek].mean() + 15


def test_expressions_move_the_landmarks() -> None:
    calm, smiling, agape = (face(*names).landmarks_68 for names in ((), ("Smiling",), ("Mouth_Slightly_Open",)))

    def lift(p: np.ndarray) -> float:
        return float(p[62, 1] - p[[48, 54], 1].mean())

    def parting(p: np.ndarray) -> float:
        return float(p[66, 1] - p[62, 1])

    assert lift(smiling) > lift(calm) + 1.5
    assert parting(agape) > parting(calm) + 2
    narrow = face("Narrow_Eyes").landmarks_68
    assert np.ptp(narrow[36:42, 1]) < 0.75 * np.ptp(calm[36:42, 1])


def test_blurry_is_blurred() -> None:
    def detail(found: SyntheticFace) -> float:
        grey = found.image[70:150, 50:128].astype(float).mean(axis=2)
        return float(np.abs(np.diff(grey, axis=1)).mean())

    assert detail(face("Blurry")) < 0.7 * detail(face())


# --- pages and data sets ---


@pytest.mark.parametrize("faces", [1, 3, 6, 11])
def test_page(faces: int) -> None:
    page, landmarks = render_page(2, faces=faces, width=480)
    assert (page.dtype, page.shape[1], page.shape[2]) == (np.uint8, 480, 3)
    assert len(landmarks) == faces
    eyes = np.array([found[:2] for found in landmarks])
    gaps = np.linalg.norm(eyes[:, 0] - eyes[:, 1], axis=1)
    assert (gaps > 10).all()
    if faces > 3:
        assert gaps.max() > 1.15 * gaps.min()
        assert np.abs(eyes[:, 0, 1] - eyes[:, 1, 1]).max() > 1
    for found in landmarks:
        assert (found > 0).all()
        assert (found < (480, page.shape[0])).all()
    middles = np.array([found.mean(axis=0) for found in landmarks])
    apart = np.linalg.norm(middles[:, None] - middles[None], axis=2) + 1e6 * np.eye(faces)
    assert (apart > 2.2 * np.maximum(gaps[:, None], gaps[None])).all()


def test_the_detector_finds_them_where_they_are() -> None:
    detector = Detector(AlignConfig())
    canvas = np.full((352, 704, 3), 110, np.uint8)
    canvas[80:258, 90:268], canvas[80:258, 440:618] = render_face(31).image, render_face(32).image
    truth = [
        render_face(31).landmarks_5 + np.array([90, 80]),
        render_face(32).landmarks_5 + np.array([440, 80]),
    ]
    page, on_page = render_page(3)
    for photo, wanted in ((canvas, truth), (page, on_page)):
        found = [detection.points_52 for detection in detector(photo)]
        assert len(found) == len(wanted)
        for five in wanted:
            miss = min(float(np.linalg.norm(other - five, axis=1).mean()) for other in found)
            assert miss < 0.2 * np.linalg.norm(five[0] - five[1])


def test_page_is_deterministic() -> None:
    assert np.array_equal(render_page(4, 2, 200)[0], render_page(4, 2, 200)[0])
    assert not np.array_equal(render_page(4, 2, 200)[0], render_page(5, 2, 200)[0])


def test_dataset() -> None:
    images, attributes, identities, landmarks = synthetic_dataset(12, 48, 5, seed=1)
    assert (images.shape, images.dtype) == ((12, 48, 48, 3), np.uint8)
    assert (attributes.shape, attributes.dtype) == ((12, 40), np.bool_)
    assert (landmarks.shape, landmarks.dtype) == ((12, 68, 2), np.float32)
    assert identities.dtype == np.int64
    assert sorted(set(identities.tolist())) == [0, 1, 2, 3, 4]
    males = attributes[:, INDEX["Male"]]
    assert all(len(set(males[identities == who])) == 1 for who in range(5))
    again = synthetic_dataset(12, 48, 5, seed=1)
    assert np.array_equal(images, again[0])
    assert not np.array_equal(images, synthetic_dataset(12, 48, 5, seed=2)[0])
    assert len({image.tobytes() for image in images}) == 12


def test_rendering_is_fast() -> None:
    render_face(0)
    started = time.process_time()
    for seed in range(10):
        render_face(seed)
    assert (time.process_time() - started) / 10 < 0.05  # measured: 14 ms with the cores shared fourfold
