"""Settings of the service: where it listens, what it allows, how far each part of it grows."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from anonymousnet.config_section import Section
from anonymousnet.data.paths import UserPath


class ReplicasConfig(Section):
    """How one deployment grows."""

    min: int = Field(1, ge=0)
    """Replicas that are always there; 0: none while nobody asks, and the first request waits for one to start."""
    max: int = Field(2, ge=1)
    """Replicas under load, at most."""
    cpus: float = Field(1, ge=0)
    """CPUs that Ray sets aside for each replica."""
    gpus: float = Field(0, ge=0)
    """GPUs, or shares of one, that each replica holds."""
    target: float = Field(4, gt=0)
    """Requests under way per replica that autoscaling aims at."""
    ongoing: int = Field(32, ge=1)
    """Requests a replica takes at once; those beyond it wait at the caller."""
    queued: int = Field(64, ge=1)
    """Requests that may wait at each caller; those beyond it are refused at once (503 with Retry-After)."""
    batch: int = Field(16, ge=1)
    """Photos whose faces go through a stage in one pass, at most; 1: each at once, for the quick stages."""
    wait_s: float = Field(0, ge=0)
    """How long a pass waits for more; 0: it takes what has gathered while the last one ran."""
    upscale_s: float = Field(5, ge=0)
    """How long the load must last before replicas are added."""
    downscale_s: float = Field(60, ge=0)
    """How long it must be gone before replicas are taken away."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is at most max, got {self.min} and {self.max}")
        return self


class TuringConfig(Section):
    """The visual Turing test at /turing: people tell released faces from untouched ones."""

    folder: UserPath | None = None
    """Folder with `released/` and `untouched/` photos, and `identities.txt` (lines of `photo number`) if it is known
    who they show; raters see all of them. null: no test."""
    trials: int = Field(20, ge=1, le=200)
    """Questions of one test."""
    minutes: float = Field(60, gt=0)
    """How long a rater may take for one test; later answers are refused."""
    answers: UserPath = Path("~/.anonymousnet/turing.sqlite")
    """SQLite file, on a local disk and outside `folder`, that keeps the answers."""


class ServeConfig(Section):
    """The service: `anonymousnet serve`."""

    host: str = "127.0.0.1"
    """Address to listen on. Any other than loopback needs `keys`."""
    port: int = Field(8000, ge=1, le=65535)
    """TCP port to listen on."""
    haproxy: bool = False
    """HAProxy instead of Ray's own proxy: faster, but its metrics, and replicas, listen on all interfaces of their
    machine, so only with trust_network."""
    trust_network: bool = False
    """Start although more than host and port listens beyond this machine: a firewall or a pod's network stands before
    it."""
    fused: bool = False
    """All stages in one replica, for small machines; else one deployment for each stage."""
    keys: UserPath | None = None
    """API keys, written by `anonymousnet keys`; null: whoever reaches the port may use it."""
    deadline_s: float = Field(30, gt=0)
    """Seconds after which a request is given up, and no longer worked on."""
    max_bytes: int = Field(20 * 2**20, ge=1)
    """Largest body of a request."""
    max_pixels: int = Field(25_000_000, ge=1)
    """Photos that decode to more pixels than this are refused."""
    max_faces: int = Field(64, ge=1)
    """Photos with more faces than this are refused."""
    min_epsilon: float = Field(0.1, gt=0)
    """Least epsilon a request may ask for."""
    max_epsilon: float = Field(20, gt=0)
    """Largest epsilon of a face, whatever settings it comes of. A key's own, which may be less, holds for all faces of
    a photo together."""
    min_strength: float = Field(0.2, ge=0, le=1)
    """Least strength a request may ask for; a key may raise it. 1 wherever nothing may be kept (see keepable)."""
    max_perturbation: float = Field(10 / 255, ge=0, le=0.25)
    """Largest perturbation a request may ask for."""
    keepable: tuple[str, ...] = ()
    """Attributes that a request may keep, unprotected; none where there is a ledger, unless release.allow_unprotected
    is set, nor with a key that has a max_epsilon or a budget."""
    buckets: tuple[str, ...] = ()
    """Buckets, or prefixes such as s3://photos/public, that bulk jobs may read and write; none: no bulk jobs."""
    audit: str | None = None
    """Private place of bulk jobs' evidence, such as s3://private: each job gets a folder there."""
    watch_s: float = Field(5, gt=0)
    """How often replicas look for a newer version, where `perturb.weights` or `synthesize.weights` is a folder that
    versions are published in."""
    turing: TuringConfig = TuringConfig()
    """The visual Turing test."""
    ingress: ReplicasConfig = ReplicasConfig(max=1, cpus=0.5, target=64, ongoing=512, queued=512)
    """HTTP: keys, policy, bodies."""
    align: ReplicasConfig = ReplicasConfig(target=2, ongoing=16)
    """Decode, detect and align; paste and encode."""
    predict: ReplicasConfig = ReplicasConfig()
    """Stage I."""
    obfuscate: ReplicasConfig = ReplicasConfig(max=1, cpus=0.1, target=16, batch=1)
    """Stage II."""
    synthesize: ReplicasConfig = ReplicasConfig()
    """Stage III."""
    perturb: ReplicasConfig = ReplicasConfig(max=1, cpus=0.1, target=16, batch=1)
    """Stage IV."""
    fused_replicas: ReplicasConfig = ReplicasConfig()
    """Alignment and all stages together, where `fused` is set."""

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the port."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @field_validator("buckets")
    @classmethod
    def _places(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [place for place in places if not place.startswith("s3://") or len(place) < 8]:
            raise ValueError(f"expected places such as s3://photos/public, got {', '.join(wrong)}")
        return places

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.min_epsilon > self.max_epsilon:
            raise ValueError(f"min_epsilon is at most max_epsilon, got {self.min_epsilon:g} and {self.max_epsilon:g}")
        if self.keys is None and not self.on_loopback:
            raise ValueError(
                f"host {self.host} is open to others and there are no API keys; make one with `anonymousnet keys new "
                "NAME --keys FILE` and set serve.keys to that file, or listen on 127.0.0.1"
            )
        if self.haproxy and (self.keys is None or not self.trust_network):
            raise ValueError(
                "with haproxy more than host and port listens on all interfaces; set serve.keys, and trust_network "
                "(--trust-network) where a firewall stands before this machine"
            )
        if self.buckets and self.audit is None:
            raise ValueError("bulk jobs need a private place for their evidence; set serve.audit")
        return self
