"""The main job: a folder in, a folder out; what cannot be protected is withheld, what undoes a release stays apart."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.records import evidence, lines, quarantine, released_files

from anonymousnet import Anonymizer
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.synthetic import render_page
from anonymousnet.errors import ConfigError, NoFaceFound, PrivacyError, StorageError, WeightsError
from anonymousnet.pipelines.bulk import Summary, anonymize
from anonymousnet.privacy.ledger import Ledger


@pytest.fixture(scope="module")
def config(small_weights: list[str]) -> Config:
    return Config.load(None, small_weights)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, page: np.ndarray) -> Path:
    """Ten good photos and one of each kind of bad luck."""
    folder = tmp_path_factory.mktemp("photos")
    picture = Image.fromarray(page)
    for i in range(10):
        place = folder / ("deep/er" if i % 2 else ".") / f"good-{i}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(page, 4 * i, 1)).save(place, quality=92)
    whole = (folder / "good-0.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no picture")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray((page.mean(2) * 257).astype(np.uint16)).save(folder / "sixteen.png")
    clear = picture.convert("RGBA")
    clear.putalpha(200)
    clear.save(folder / "rgba.png")
    picture.save(folder / "moving.gif")
    Image.fromarray(np.full((200, 300, 3), 180, np.uint8)).save(folder / "wall.jpg")
    return folder


@pytest.fixture(scope="module")
def done(photos: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Path, Path]:
    dst = tmp_path_factory.mktemp("out") / "released"
    summary = anonymize(photos, dst, config)
    return summary, dst, dst.with_name("released-private")


def test_every_photo_is_accounted_for(done: tuple[Summary, Path, Path]) -> None:
    summary, dst, _ = done
    assert summary.photos == 18
    assert summary.released + summary.quarantined == summary.photos
    assert len(released_files(dst)) == summary.released


def test_the_ten_good_photos_keep_their_names(done: tuple[Summary, Path, Path]) -> None:
    names = released_files(done[1])
    assert all(f"{'deep/er/' if i % 2 else ''}good-{i}.jpg" in names for i in range(10))


def test_the_bad_ones_are_withheld_with_their_reason(done: tuple[Summary, Path, Path]) -> None:
    assert quarantine(done[2]) == {
        "truncated.jpg": "TruncatedImage", "empty.jpg": "EmptyImage", "text.jpg": "UnreadableImage",
        "wall.jpg": "NoFaceFound",
    }  # fmt: skip
    assert all(entry["reason"] for entry in lines(done[2], "quarantine-*.jsonl"))


def test_odd_formats_are_released_in_a_format_we_write(done: tuple[Summary, Path, Path]) -> None:
    names = released_files(done[1])
    assert {"cmyk.jpg", "sixteen.png", "rgba.png", "moving.gif.png"} <= set(names)
    with Image.open(done[1] / "rgba.png") as image:
        assert image.mode == "RGBA"


def test_every_released_photo_differs_from_its_source(done: tuple[Summary, Path, Path], photos: Path) -> None:
    for name in released_files(done[1]):
        source = photos / name.removesuffix(".png") if name.endswith(".gif.png") else photos / name
        assert source.read_bytes() != (done[1] / name).read_bytes()


def test_the_table_has_a_row_per_face_and_only_public_columns(done: tuple[Summary, Path, Path]) -> None:
    summary, dst, _ = done
    table = pq.read_table(dst / "release.parquet").to_pandas()
    assert len(table) == summary.faces >= 10
    assert set(table.columns) == {
        "photo", "face", "sha256", "width", "height", "epsilon", "photo_epsilon", "account", "t", "covers",
        "unprotected", "strength", "region", "perturbation", "weights", "precision", "looks", "smallest_face_px",
        "covered", *ATTRIBUTES,
    }  # fmt: skip
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in released_files(dst).items()}
    assert dict(zip(table.photo, table.sha256, strict=True)) == hashes


def test_nothing_private_stands_in_the_release(done: tuple[Summary, Path, Path]) -> None:
    for path in done[1].rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for word in (b"probabilit", b"similarity", b"changed", b"quarantine-", b"truncated.jpg", b"wall.jpg"):
                assert word not in data, (path.name, word)


def test_private_evidence_lies_apart_and_is_for_the_owner_alone(done: tuple[Summary, Path, Path]) -> None:
    private = done[2]
    assert private.stat().st_mode & 0o777 == 0o700
    rows = evidence(private)
    assert len(rows) == done[0].faces
    assert set(rows[0]["probabilities"]) == set(ATTRIBUTES)
    assert -1 <= rows[0]["similarity"] <= 1


def test_the_same_photos_key_and_name_give_the_same_bytes(
    done: tuple[Summary, Path, Path], photos: Path, config: Config, tmp_path: Path
) -> None:
    anonymize(photos, tmp_path / "again", config)
    assert released_files(tmp_path / "again") == released_files(done[1])


def test_another_release_name_gives_other_faces(
    done: tuple[Summary, Path, Path], photos: Path, small_weights: list[str], tmp_path: Path
) -> None:
    other = Config.load(None, [*small_weights, "release.name=second"])
    anonymize(photos / "good-0.jpg", tmp_path / "other", other)
    assert released_files(tmp_path / "other")["good-0.jpg"] != released_files(done[1])["good-0.jpg"]


def test_a_photo_alone_comes_out_as_within_its_folder(
    done: tuple[Summary, Path, Path], photos: Path, config: Config, tmp_path: Path
) -> None:
    anonymize(photos / "good-2.jpg", tmp_path / "one", config)
    assert released_files(tmp_path / "one")["good-2.jpg"] == released_files(done[1])["good-2.jpg"]


def test_a_full_disk_leaves_no_half_written_file(
    photos: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        anonymize(photos / "good-0.jpg", tmp_path / "full", config)
    assert not any(p.is_file() for p in (tmp_path / "full").rglob("*"))


def test_users_mistakes_are_named(photos: Path, config: Config, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such photo or folder"):
        anonymize(tmp_path / "nowhere", tmp_path / "out", config)
    with pytest.raises(ConfigError, match="overlap"):
        anonymize(photos, photos / "out", config)
    with pytest.raises(ConfigError, match="nor with private evidence"):
        anonymize(photos, tmp_path / "out", config, audit=tmp_path / "out" / "private")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("x")
    with pytest.raises(ConfigError, match="holds other objects, such as file"):
        anonymize(photos, tmp_path / "used", config)
    (tmp_path / "bare").mkdir()
    with pytest.raises(StorageError, match="no photos in"):
        anonymize(tmp_path / "bare", tmp_path / "out", config)
    with pytest.raises(WeightsError, match="no weights"):
        anonymize(photos, tmp_path / "out", Config.load(None, ["predict.weights=/nowhere"]))
    assert not (tmp_path / "out").exists()


def test_three_lines_of_python(config: Config, page: np.ndarray) -> None:
    anonymizer = Anonymizer.load(config)
    release = anonymizer(page)
    assert release.photo.size == (page.shape[1], page.shape[0])
    public = release.faces[0].evidence.public
    assert 0 < public.epsilon <= 10 + 1e-6
    assert public.strength == 1.0
    assert "Black_Hair" in public.unprotected


def test_pil_images_arrays_and_paths_are_one(config: Config, page: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(page).save(tmp_path / "p.png")
    anonymizer = Anonymizer.load(config)
    results = [
        anonymizer(x).image.rgb for x in (page, Image.fromarray(page), tmp_path / "p.png", str(tmp_path / "p.png"))
    ]
    assert all((r == results[0]).all() for r in results)


def test_outside_the_faces_the_photo_is_untouched(config: Config, page: np.ndarray) -> None:
    anonymizer = Anonymizer.load(config)
    prepared = anonymizer.prepare(page)
    release = anonymizer.finish(prepared, anonymizer.run(prepared.batch))
    changed = (release.image.rgb != page).any(2)
    assert changed[prepared.hidden_HW].mean() > 0.95
    assert changed.mean() < 2 * prepared.hidden_HW.mean()
    assert not changed[:5].any()


def test_one_subject_has_one_code_throughout_a_release(config: Config, page: np.ndarray) -> None:
    anonymizer = Anonymizer.load(config)
    brighter = np.clip(page.astype(int) + 9, 0, 255).astype(np.uint8)
    named = [anonymizer.prepare(p, subject="ann").batch.code_keys for p in (page, brighter)]
    nameless = [anonymizer.prepare(p).batch.code_keys for p in (page, brighter)]
    assert named[0][0] == named[1][0]
    assert nameless[0][0] != nameless[1][0]


def test_transparency_inside_a_face_is_not_released(config: Config, page: np.ndarray) -> None:
    anonymizer = Anonymizer.load(config)
    rgba = np.dstack([page, np.random.default_rng(0).integers(0, 255, page.shape[:2], np.uint8)])
    prepared = anonymizer.prepare(rgba)
    release = anonymizer.finish(prepared, anonymizer.run(prepared.batch))
    assert release.image.alpha is not None
    assert (release.image.alpha[prepared.hidden_HW] == 255).all()


def test_a_photo_without_faces_is_refused(config: Config) -> None:
    with pytest.raises(NoFaceFound, match="leave the photo out"):
        Anonymizer.load(config)(np.full((200, 300, 3), 180, np.uint8))


@pytest.mark.parametrize("strength", [0.8, 0.4, 0.0])
def test_lower_strengths_run_and_lose_the_guarantee(
    small_weights: list[str], page: np.ndarray, strength: float
) -> None:
    config = Config.load(None, [*small_weights, f"synthesize.strength={strength}"])
    public = Anonymizer.load(config)(page).faces[0].evidence.public
    assert public.strength == strength
    assert "epsilon-DP for the pixels" not in public.covers


def test_the_ledger_counts_each_subject_once_per_photo_and_release(
    photos: Path, small_weights: list[str], tmp_path: Path
) -> None:
    with_ledger = [*small_weights, f"release.ledger={tmp_path}/ledger"]
    good = tmp_path / "good"
    good.mkdir()
    for i in (0, 2):
        (good / f"{i}.jpg").write_bytes((photos / f"good-{i}.jpg").read_bytes())
    (tmp_path / "who").write_text("0.jpg ann\n2.jpg ann\n")
    config = Config.load(None, [*with_ledger, f"release.subjects={tmp_path}/who"])
    epsilon = anonymize(good, tmp_path / "a", config).photo_epsilon

    def worst() -> float:
        ledger = Anonymizer.load(config).ledger()
        assert ledger is not None
        with ledger:
            return ledger.worst()

    assert worst() == pytest.approx(2 * epsilon)
    anonymize(good, tmp_path / "b", config)
    assert worst() == pytest.approx(2 * epsilon), "a replay spends nothing"
    second = Config.load(None, [*with_ledger, f"release.subjects={tmp_path}/who", "release.name=second"])
    anonymize(good, tmp_path / "c", second)
    assert worst() == pytest.approx(4 * epsilon)


def test_a_photo_over_budget_is_withheld_before_any_pixel_is_written(
    photos: Path, small_weights: list[str], tmp_path: Path
) -> None:
    settings = [*small_weights, f"release.ledger={tmp_path}/ledger", "release.budget=35"]  # three faces of 10
    for name, released in [("first", 1), ("second", 0)]:
        config = Config.load(None, [*settings, f"release.name={name}"])
        summary = anonymize(photos / "good-0.jpg", tmp_path / name, config)
        assert (summary.released, summary.quarantined) == (released, 1 - released)
    assert summary.reasons == {"BudgetExceeded": 1}
    assert not (tmp_path / "second" / "good-0.jpg").exists()


def test_a_budget_without_a_ledger_and_a_bad_subject_list_are_refused(photos: Path, small_weights: list[str],
                                                                      tmp_path: Path) -> None:  # fmt: skip
    with pytest.raises(ConfigError, match="a budget needs a ledger"):
        Config.load(None, ["release.budget=3"])
    (tmp_path / "who").write_text("only\n")
    config = Config.load(None, [*small_weights, f"release.subjects={tmp_path}/who"])
    with pytest.raises(ConfigError, match="check line 1"):
        anonymize(photos, tmp_path / "x", config)


def test_another_epsilon_draws_from_another_stream(small_weights: list[str], page: np.ndarray) -> None:
    keys = [
        Anonymizer.load(Config.load(None, [*small_weights, f"obfuscate.epsilon={e}"])).prepare(page).batch.draw_keys
        for e in (3, 10)
    ]
    assert keys[0] != keys[1]


def test_a_list_from_a_spreadsheet_bounds_what_one_person_spends(
    small_weights: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a byte order mark, names with blanks and an NFC name for an NFD file; and one photo that nobody names."""
    names = ["first.jpg", "Jane Doe 1.jpg", unicodedata.normalize("NFD", "Zoë.jpg"), "unnamed.jpg"]
    (tmp_path / "in").mkdir()
    for i, name in enumerate(names):
        Image.fromarray(render_page(11 + i, faces=1, width=320)[0]).save(tmp_path / "in" / name)
    listed = ["first.jpg jane", "Jane Doe 1.jpg jane", f"{unicodedata.normalize('NFC', 'Zoë.jpg')} jane", "typed.jpg x"]
    (tmp_path / "who").write_text("\n".join(listed), encoding="utf-8-sig")
    settings = [f"release.ledger={tmp_path}/ledger", "release.budget=10", f"release.subjects={tmp_path}/who"]
    summary = anonymize(tmp_path / "in", tmp_path / "out", Config.load(None, [*small_weights, *settings]))
    assert (summary.released, summary.unmatched) == (1, 1)
    assert summary.reasons == {"BudgetExceeded": 2, "UnnamedSubject": 1}
    assert "1 of 4 lines match no photo, such as 'typed.jpg'" in caplog.text
    (told,) = (tmp_path / "out-private").glob("*/unmatched.jsonl")
    assert lines(tmp_path / "out-private", "unmatched.jsonl") == [{"photo": "typed.jpg"}]
    assert told.stat().st_mode & 0o777 == 0o600
    assert b"typed.jpg" not in b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_paths_are_read_as_they_are_typed(
    photos: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.jpg").write_bytes((photos / "good-0.jpg").read_bytes())
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Path(anonymize("../in", ".", config).private).parent == tmp_path / "empty-private"
    assert (tmp_path / "empty" / "one.jpg").exists()
    summary = anonymize("../in/one.jpg", "~/out", config, "~/deep/audit")
    assert Path(summary.private).parent == tmp_path / "home" / "deep" / "audit"
    audit = tmp_path / "home" / "deep" / "audit"
    assert {path.stat().st_mode & 0o777 for path in (audit, *audit.rglob("*"))} == {0o600, 0o700}
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(PrivacyError, match="chmod 700"):
        anonymize("../in", "../other", config, "../open")
    assert not (tmp_path / "other").exists()


def _ledger(config: Config) -> Ledger:
    found = Anonymizer.load(config).ledger()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def one_face() -> np.ndarray:
    return render_page(11, faces=1, width=320)[0]


def test_epsilon_of_a_photo_is_the_sum_over_its_faces(small_weights: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for faces, seed in ((1, 11), (2, 3), (3, 3)):
        Image.fromarray(render_page(seed, faces=faces, width=240 * faces)[0]).save(tmp_path / "in" / f"{faces}.png")
    summary = anonymize(tmp_path / "in", tmp_path / "out", Config.load(None, small_weights))
    table = pq.read_table(tmp_path / "out" / "release.parquet").to_pandas()
    assert table.groupby("photo").photo_epsilon.first().tolist() == pytest.approx([10, 20, 30])
    assert set(table.epsilon.round(6)) == {10.0}
    assert set(table.account) == {"this photo"}
    found = (summary.epsilon, summary.photo_epsilon, summary.max_photo_epsilon)
    assert found == (pytest.approx(10), pytest.approx(20), pytest.approx(30))
    prepared = Anonymizer.load(Config.load(None, small_weights)).prepare(tmp_path / "in" / "3.png")
    assert len(set(prepared.batch.draw_keys)) == len(set(prepared.batch.code_keys)) == 3


@pytest.mark.parametrize("lines", ["strip.png ann", "strip.png\tann\tann\tann"])
def test_a_strip_of_one_person_spends_all_its_faces(small_weights: list[str], tmp_path: Path, lines: str) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(render_page(3, faces=3, width=640)[0]).save(tmp_path / "in" / "strip.png")
    (tmp_path / "who").write_text(lines + "\n")
    settings = [*small_weights, f"release.ledger={tmp_path}/ledger", f"release.subjects={tmp_path}/who"]
    config = Config.load(None, [*settings, "release.budget=29"])
    assert anonymize(tmp_path / "in", tmp_path / "a", config).reasons == {"BudgetExceeded": 1}
    with _ledger(config) as ledger:
        assert ledger.worst() == 0
    config = Config.load(None, [*settings, "release.budget=31"])
    assert anonymize(tmp_path / "in", tmp_path / "b", config).released == 1
    with _ledger(config) as ledger:
        assert ledger.worst() == pytest.approx(30)


def test_one_person_in_two_photos_beside_others(small_weights: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, seed in (("a.png", 3), ("b.png", 8)):
        Image.fromarray(render_page(seed, faces=2, width=480)[0]).save(tmp_path / "in" / name)
    (tmp_path / "who").write_text("a.png\tann\tberta\nb.png\tcarl\tann\n")
    config = Config.load(None, [*small_weights, f"release.ledger={tmp_path}/ledger", "release.budget=15",
                                f"release.subjects={tmp_path}/who"])  # fmt: skip
    summary = anonymize(tmp_path / "in", tmp_path / "out", config)
    assert (summary.released, summary.reasons) == (1, {"BudgetExceeded": 1})
    with _ledger(config) as ledger:
        assert (ledger.worst(), ledger.total()) == (pytest.approx(10), pytest.approx(20))


def test_copies_that_nobody_named_share_an_account(
    small_weights: list[str], tmp_path: Path, one_face: np.ndarray
) -> None:
    (tmp_path / "in").mkdir()
    for i in range(5):
        copy = one_face.copy()
        copy[0, i, 0] ^= 1
        Image.fromarray(copy).save(tmp_path / "in" / f"{i}.png")
    picture = Image.fromarray(one_face)
    for quality in (95, 75, 50):
        picture.save(tmp_path / "in" / f"{quality}.jpg", quality=quality)
    picture.resize((picture.width // 2, picture.height // 2)).save(tmp_path / "in" / "half.png")
    Image.fromarray(render_page(7, faces=1, width=320)[0]).save(tmp_path / "in" / "other.png")
    config = Config.load(None, [*small_weights, f"release.ledger={tmp_path}/ledger", "release.budget=15"])
    summary = anonymize(tmp_path / "in", tmp_path / "out", config)
    assert (summary.released, summary.reasons) == (2, {"BudgetExceeded": 8})
    assert (tmp_path / "out" / "other.png").exists()
    again = anonymize(tmp_path / "in", tmp_path / "again", config)
    assert again.released == 2, "a replay spends nothing, whoever else shares its account"
    with _ledger(config) as ledger:
        assert (ledger.worst(), ledger.total()) == (pytest.approx(10), pytest.approx(20))


@pytest.mark.parametrize("unprotected", ["obfuscate.keep=[Smiling]", "synthesize.strength=0.8"])
def test_a_ledger_refuses_what_is_unprotected_unless_told(
    small_weights: list[str], tmp_path: Path, one_face: np.ndarray, unprotected: str
) -> None:
    Image.fromarray(one_face).save(tmp_path / "a.png")
    settings = [*small_weights, f"release.ledger={tmp_path}/ledger", unprotected]
    with pytest.raises(ConfigError, match="costs infinitely much.*release.allow_unprotected"):
        Config.load(None, settings)
    with pytest.raises(ConfigError, match="no budget"):
        Config.load(None, [*settings, "release.allow_unprotected=true", "release.budget=1000"])
    config = Config.load(None, [*settings, "release.allow_unprotected=true"])
    assert anonymize(tmp_path / "a.png", tmp_path / "out", config).released == 1
    with _ledger(config) as ledger:
        assert ledger.worst() == math.inf


def test_photos_are_known_by_their_bytes_and_later_frames_are_told(
    page: np.ndarray, config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An animation, a phone's photo under a name without a suffix, and a pipe, which nobody opens."""
    from pillow_heif import from_pillow

    (tmp_path / "in").mkdir()
    first, second = Image.fromarray(page), Image.fromarray(np.roll(page, 4, 1))
    first.save(tmp_path / "in" / "moving.png", save_all=True, append_images=[second])
    from_pillow(second).save(tmp_path / "in" / "phone.heic", quality=95)
    (tmp_path / "in" / "phone.heic").rename(tmp_path / "in" / "IMG_0001")
    os.mkfifo(tmp_path / "in" / "camera.jpg")
    summary = anonymize(tmp_path / "in", tmp_path / "out", config)
    assert (summary.photos, summary.released, summary.later_frames) == (3, 2, 1)
    assert sorted(released_files(tmp_path / "out")) == ["IMG_0001.png", "moving.png"]
    assert not getattr(Image.open(tmp_path / "out" / "moving.png"), "is_animated", False)
    told = lines(tmp_path / "out-private", "records/*.jsonl")
    more = {line["source"]: photo["later_frames"] for line in told for photo in line["photos"]}
    assert more == {"moving.png": True, "IMG_0001": False}
    assert quarantine(tmp_path / "out-private") == {"camera.jpg": "StorageError"}
    assert "1 released photo had further frames or pages" in (tmp_path / "out" / "report.html").read_text()
