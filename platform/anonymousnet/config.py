"""The one configuration tree: every setting, its range and its meaning, read from one YAML file.

    config = Config.load("anonymousnet.yaml", overrides=["synthesize.strength=0.8"])

Unknown keys are errors. Each section belongs to the component of the same name. Docstrings below a field are its
description; `anonymousnet config` prints them.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from anonymousnet.config_align import AlignConfig as AlignConfig
from anonymousnet.config_section import Section
from anonymousnet.config_serve import ServeConfig
from anonymousnet.config_serve import TuringConfig as TuringConfig
from anonymousnet.config_train import ScaleConfig as ScaleConfig
from anonymousnet.config_train import TrainConfig as TrainConfig
from anonymousnet.data.attributes import ATTRIBUTES, RegionName
from anonymousnet.data.paths import UserPath, resolve_path
from anonymousnet.errors import ConfigError

STRENGTHS: dict[float, int | None] = {1.0: 0, 0.8: 1, 0.6: 2, 0.4: 4, 0.2: 8, 0.0: None}
"""Strength -> how many cells per side of the pixelated source region the generator sees (0 = none, None = the
whole face)."""


class PredictConfig(Section):
    """Stage I: the attribute classifier."""

    weights: str = "attributes"
    """Name of shipped weights, or a path to a folder holding model.safetensors and config.json."""
    surroundings: str = "surroundings"
    """The same for the network that reads attributes in what surrounds the face."""


class ObfuscateConfig(Section):
    """Stage II: what may be said about the face."""

    epsilon: float | None = Field(10.0, gt=0)
    """Total epsilon one face may spend on its 40 attributes, a photo of n faces n times that; null: `gamma` decides."""
    gamma: float | None = Field(None, ge=0, le=1)
    """Probability of keeping a group's true values; set it only when epsilon is null."""
    split: Literal["equal", "sensitivity"] = "equal"
    """How groups share epsilon: the same epsilon each, or the same gamma each (rarer values then take more)."""
    t: float | None = Field(None, gt=0, le=1)
    """If set, gamma is lowered until every released marginal is expected to lie within t of the population's."""
    keep: tuple[str, ...] = ()
    """Attributes released exactly as predicted. They are then unprotected, and every report says so."""
    follow: tuple[str, ...] = ("Male",)
    """Attributes read in what surrounds the face alone, which a release shows anyway, and released as read there, so
    that the new face fits its photo. They spend no epsilon; those in `keep` or `protect` are left to those."""
    protect: tuple[str, ...] = ()
    """If given, only these spend epsilon; all others (but `keep` and `follow`) are drawn from the population alone."""
    population: UserPath | None = None
    """A population file written by `anonymousnet population`; null: CelebA's, which is shipped."""

    @property
    def followed(self) -> tuple[str, ...]:
        """Attributes that the surroundings decide."""
        return tuple(name for name in self.follow if name not in (*self.keep, *self.protect))

    @field_validator("keep", "follow", "protect")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(names) - set(ATTRIBUTES))
        if unknown:
            raise ValueError(
                f"unknown attributes {', '.join(unknown)}; the 40 names are CelebA's, e.g. {ATTRIBUTES[0]}"
            )
        return names

    @model_validator(mode="after")
    def _one_knob(self) -> Self:
        if (self.epsilon is None) == (self.gamma is None):
            raise ValueError("set exactly one of epsilon and gamma (the other to null)")
        if set(self.keep) & set(self.protect):
            raise ValueError("an attribute cannot be both kept and protected")
        return self


class SynthesizeConfig(Section):
    """Stage III: the generator that never sees the face."""

    region: RegionName = "face"
    """What is painted anew: the face, from eyebrows to chin, or the head, with ears and hair."""
    weights: str | None = None
    """Name of shipped weights, or a path; used at every strength above 0. null: those shipped for the region."""
    code_weights: str | None = None
    """What chooses identity codes (`anonymousnet weights codes`); null: what is shipped for the shipped generators."""
    translation_weights: str = "translator"
    """Weights of the paper's whole-face translation, used at strength 0 only."""
    strength: float = 1.0
    """How little of the source region the generator sees: 1 nothing, 0.8 one mean colour, 0.6, 0.4, 0.2 ever finer
    pixelation, 0 the whole face (the paper's translation). Only 1 carries the pixel guarantee."""

    @property
    def generator(self) -> str:
        """The generator's weights, by name or path."""
        return self.weights or {"face": "generator", "head": "generator-head"}[self.region]

    @property
    def codes(self) -> str | None:
        """What chooses codes for that generator, by name or path; None where every code will do."""
        return self.code_weights or {"generator": "codes", "generator-head": "codes-head"}.get(self.generator)

    @field_validator("strength")
    @classmethod
    def _level(cls, value: float) -> float:
        if value not in STRENGTHS:
            raise ValueError(f"strength is one of {', '.join(map(str, STRENGTHS))}, got {value}")
        return value


class PerturbConfig(Section):
    """Stage IV: the universal adversarial perturbation."""

    weights: str = "universal"
    """Name of a shipped perturbation, or a path."""
    epsilon: float = Field(3 / 255, ge=0, le=0.25)
    """Largest change of any channel of any pixel, as a share of the full range 0 to 1; 0 switches Stage IV off."""


class AuditConfig(Section):
    """Private evidence. It is measured and recorded; nothing is ever decided by it, or the guarantee would be void."""

    weights: str | None = "embedder"
    """The recogniser that says how like its source a released face is; null: not measured."""


class ReleaseConfig(Section):
    """What leaves the house, and under which name."""

    name: str = Field("default", min_length=1, max_length=200)
    """The unit of the ledger: one run over one data set. Same photo, key and name: same bytes."""
    key_file: UserPath = Path("~/.anonymousnet/key")
    """32 secret bytes that all randomness is derived from; made on first use, mode 0600."""
    ledger: UserPath | None = None
    """SQLite file that records what every subject has spent, over all releases; null: nothing is recorded."""
    budget: float | None = Field(None, gt=0)
    """Most epsilon one subject may spend over all releases in the ledger, all faces in all photos together; photos that
    exceed it are withheld."""
    allow_unprotected: bool = False
    """Whether the ledger writes kept attributes and strengths below 1 down, as infinite epsilon; else they are refused
    where there is a ledger. A budget never allows them."""
    subjects: UserPath | None = None
    """Lines of `photo subject`, or CSV: whose photo it is. All faces in it are charged to that subject, whose epsilons
    add up, and who gets one new identity throughout a release. Several subjects with tabs between them are those of the
    faces, left to right. Under a budget unnamed photos are withheld. null: a photo and its near-duplicates are one
    subject."""
    format: Literal["same", "jpeg", "png"] = "same"
    """File format of released photos; `same` keeps the source's (formats we do not write become PNG)."""
    quality: int = Field(95, ge=1, le=100)
    """JPEG and WebP quality."""

    @model_validator(mode="after")
    def _budget_needs_a_ledger(self) -> Self:
        if self.budget is not None and self.ledger is None:
            raise ValueError("a budget needs a ledger to count in; set release.ledger to a file")
        if self.budget is not None and self.allow_unprotected:
            raise ValueError("what is unprotected costs infinitely much, which no budget has; set budget to null")
        return self


class BulkConfig(Section):
    """`anonymousnet anonymize`: what becomes of names, of photos without faces, and of what stands beside photos."""

    names: Literal["kept", "hashed"] = "kept"
    """How released objects are called: by the source's names, or by keyed hashes of them (names may tell of people)."""
    faceless: Literal["withhold", "copy"] = "withhold"
    """Photos in which no face is found: withheld, or released as they are (but for metadata) and recorded as such."""
    members: Literal["drop", "copy"] = "drop"
    """What stands beside archived photos: dropped, or text and numbers copied, pictures protected, all else dropped."""
    image_column: str | None = None
    """Column of Parquet files that the rows are about; null: the first one with pictures, usual names first."""


class Config(Section):
    """The whole tree."""

    seed: int = Field(0, ge=0)
    """Seed of training and of synthetic data. De-identification never uses it: its randomness comes from the key."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; auto takes the GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the networks; auto takes bf16 where the hardware has it. The two do not give the same bytes."""
    batch: int = Field(16, ge=1)
    """Faces per pass through the stages."""
    align: AlignConfig = AlignConfig()
    predict: PredictConfig = PredictConfig()
    obfuscate: ObfuscateConfig = ObfuscateConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    perturb: PerturbConfig = PerturbConfig()
    audit: AuditConfig = AuditConfig()
    release: ReleaseConfig = ReleaseConfig()
    bulk: BulkConfig = BulkConfig()
    train: TrainConfig = TrainConfig()
    scale: ScaleConfig = ScaleConfig()
    serve: ServeConfig = ServeConfig()

    @property
    def unprotected(self) -> tuple[str, ...]:
        """Settings that let something out unprotected, by name."""
        kept, whole = bool(self.obfuscate.keep), self.synthesize.strength < 1
        return (("obfuscate.keep",) if kept else ()) + (("synthesize.strength",) if whole else ())

    @model_validator(mode="after")
    def _ledgers_count_what_is_protected(self) -> Self:
        if self.unprotected and self.release.ledger is not None and not self.release.allow_unprotected:
            raise ValueError(
                f"{' and '.join(self.unprotected)} let something out unprotected: it costs infinitely much, and "
                "the ledger refuses; keep no attribute and set synthesize.strength to 1, or set "
                "release.allow_unprotected to true"
            )
        return self

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: tuple[str, ...] | list[str] = ()) -> Config:
        """Read one YAML file (or none: the defaults) and apply `section.key=value` overrides, then validate once.

        Raises ConfigError naming the key, what was found, and what is allowed.
        """
        tree: Any = {}
        if path is not None:
            try:
                tree = yaml.safe_load(resolve_path(path).read_text()) or {}
            except OSError as error:
                raise ConfigError(f"cannot read config {path}: {error.strerror}; check the path") from error
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise ConfigError(f"config {path} is not YAML: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"config {path}: expected sections such as 'synthesize:', got {type(tree).__name__}")
        for item in overrides:
            _override(tree, item)
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(_explain(error)) from error

    def as_yaml(self) -> str:
        """The whole tree as YAML, each setting under its description."""
        return "\n".join(_yaml_lines(self, ""))


def _yaml_lines(section: Section, indent: str) -> list[str]:
    lines: list[str] = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            lines += ["", f"{indent}{name}:", *_yaml_lines(value, indent + "  ")]
            continue
        lines += textwrap.wrap(
            info.description or "", 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        plain = section.model_dump(mode="json")[name]
        lines.append(f"{indent}{name}: {json.dumps(plain)}")
    return lines


def _override(tree: dict[str, Any], item: str) -> None:
    """Set `a.b=value` in `tree`; the value is read as YAML, so numbers, null and lists work."""
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set expects section.key=value, got '{item}'; e.g. --set synthesize.strength=0.8")
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {item}: '{section}' is a value, not a section")
    try:
        tree[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {item}: '{text}' is not a YAML value") from error


def _explain(error: ValidationError) -> str:
    """One line per problem, in a user's words."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "config"
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting '{where}'; `anonymousnet config` lists all of them")
        else:
            lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}, got {problem['input']!r}")
    return "; ".join(lines)
