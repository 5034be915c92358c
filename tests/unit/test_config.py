"""One tree, one file, one validation; mistakes are told in a user's words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from anonymousnet.config import STRENGTHS, Config, Section, TrainConfig
from anonymousnet.errors import ConfigError


def every_section(section: Section) -> list[Section]:
    inner = [getattr(section, name) for name in type(section).model_fields]
    return [section, *(s for value in inner if isinstance(value, Section) for s in every_section(value))]


def test_defaults_are_valid_and_carry_the_guarantee() -> None:
    assert Config.load().synthesize.strength == 1.0


def test_every_field_has_a_docstring() -> None:
    missing = [
        f"{type(section).__name__}.{name}"
        for section in every_section(Config())
        for name, info in type(section).model_fields.items()
        if not info.description and not isinstance(getattr(section, name), Section)
    ]
    assert not missing


def test_file_and_overrides_meet_and_the_override_wins(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("obfuscate: {epsilon: 3}\nsynthesize: {strength: 0.4}\n")
    config = Config.load(file, ["synthesize.strength=0.8"])
    assert (config.obfuscate.epsilon, config.synthesize.strength) == (3, 0.8)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["synthesize.strenght=1"], "unknown setting 'synthesize.strenght'"),
        (["synthesize.strength=0.5"], "strength is one of"),
        (["obfuscate.epsilon=-1"], "obfuscate.epsilon"),
        (["obfuscate.keep=[Moustache]"], "unknown attributes Moustache"),
        (["obfuscate.gamma=0.5"], "exactly one of epsilon and gamma"),
        (["obfuscate.epsilon=null"], "exactly one of epsilon and gamma"),
        (["batch"], "--set expects section.key=value"),
        (["seed=3", "seed.x=1"], "is a value, not a section"),
        (["perturb.epsilon=2"], "perturb.epsilon"),
        (["release.name="], "release.name"),
    ],
)
def test_mistakes_are_named(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(None, overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_missing_or_no_yaml_or_no_tree(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read config"):
        Config.load(tmp_path / "none.yaml")
    for text, words in [("a: [1", "not YAML"), ("- 1", "expected sections")]:
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=words):
            Config.load(tmp_path / "bad.yaml")


def test_printed_yaml_reads_back_to_the_same_tree(tmp_path: Path) -> None:
    config = Config.load(None, ["obfuscate.keep=[Smiling]", "synthesize.strength=0.2"])
    (tmp_path / "c.yaml").write_text(config.as_yaml())
    assert Config.load(tmp_path / "c.yaml") == config
    assert yaml.safe_load(config.as_yaml())["synthesize"]["strength"] == 0.2


def test_strengths_show_ever_more() -> None:
    cells = [float("inf") if c is None else c for _, c in sorted(STRENGTHS.items(), reverse=True)]
    assert cells == sorted(cells)
    assert cells[0] == 0


def test_a_task_s_defaults_yield_to_what_the_user_set() -> None:
    settings = TrainConfig(steps=7, checkpoint_every=3).over({"steps": 100, "batch": 32, "lr": 0.1})
    assert (settings.steps, settings.batch, settings.checkpoint_every) == (7, 32, 3)


def test_the_tree_cannot_be_changed_after_reading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]
