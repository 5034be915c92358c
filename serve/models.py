"""What the API takes and gives, as OpenAPI describes it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anonymousnet.faces import Account
from anonymousnet.serve.asked import Query


class Settings(BaseModel):
    """What one photo is de-identified under; what is left out is the server's own setting."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    epsilon: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Most that the release may tell about each face, in nats; of n faces together n times that."""
    strength: float | None = Field(None, ge=0, le=1)
    """How little of the face the generator sees; 1: nothing."""
    perturbation: float | None = Field(None, ge=0, le=1)
    """Largest change of any pixel by the universal perturbation, as a share of the full range."""
    keep: list[str] = Field([], max_length=40)
    """Attributes released as they are, unprotected."""
    protect: list[str] = Field([], max_length=40)
    """If given, only these spend epsilon; the others are drawn from the population alone."""
    release: str | None = Field(None, min_length=1, max_length=150)
    """The release this photo belongs to: the same photo, release and settings give the same bytes, and spend once."""
    subject: str | None = Field(None, min_length=1, max_length=150)
    """Whose photo it is: one subject gets one new identity throughout a release, and the epsilons of all faces and
    photos add up. Several, with tabs between them, are those of the faces, left to right."""

    def wanted(self) -> Query:
        return Query(self.epsilon, self.strength, self.perturbation, tuple(self.keep), tuple(self.protect),
                      self.release, self.subject)  # fmt: skip


class Nothing(BaseModel):
    """No parameters."""

    model_config = ConfigDict(extra="forbid")


class Subject(BaseModel):
    """Whose budget is asked for."""

    model_config = ConfigDict(extra="forbid")

    subject: str | None = Field(None, min_length=1, max_length=150)


class Face(BaseModel):
    """Public evidence of one released face."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    released: dict[str, bool]
    """The 40 attributes as they were released."""
    epsilon: float | None
    """Of this face."""
    photo_epsilon: float | None
    """Of all faces of the photo together."""
    account: Account
    """Whose epsilon it is."""
    t: float
    covers: str
    """What the epsilon covers, and what it does not."""
    unprotected: list[str]
    strength: float
    region: str
    """What was painted anew: face or head."""
    perturbation: float
    weights: dict[str, str]
    precision: str


class Released(BaseModel):
    """A released photo and its public evidence, left to right."""

    photo: str
    """Base64."""
    media_type: str
    width: int
    height: int
    faces: list[Face]
    release: str


class Read(BaseModel):
    """One face's attributes as Stage I reads them."""

    probabilities: dict[str, float]
    attributes: dict[str, bool]
    """What Stage I takes for true: each attribute has a threshold of its own."""


class Attributes(BaseModel):
    """For the person whose photo it is: stored nowhere."""

    faces: list[Read]


class Spent(BaseModel):
    spent: float
    budget: float | None
    left: float | None


class Budget(BaseModel):
    """Epsilon spent, and what is left, over all releases."""

    subject: Spent | None
    key: Spent | None


PLACE = r"^s3://[a-z0-9.-]{3,63}(/[A-Za-z0-9_.=+@/-]{0,500})?$"


class BulkSettings(BaseModel):
    """A bulk job: every photo of `source` into `target`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    source: str = Field(pattern=PLACE)
    """s3://bucket/prefix"""
    target: str = Field(pattern=PLACE)
    """s3://bucket/prefix, empty or of the same job"""
    settings: Settings = Settings()
    """As for one photo; without `subject`."""


class Job(BaseModel):
    """A bulk job's state: counts, no names."""

    id: str
    state: Literal["pending", "running", "stopped", "succeeded", "failed"]
    progress: dict[str, float] | None = None
    summary: dict[str, Any] | None = None


class Version(BaseModel):
    version: str
    weights: dict[str, str]
    """SHA-256 of what is in use."""
    detector: str


class Status(BaseModel):
    status: Literal["live", "ready"]


class ProblemDetails(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str | None = None
    remedy: str
    request_id: str | None = None
