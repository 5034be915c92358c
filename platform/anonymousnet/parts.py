"""What the stages are made of, each part read once: requests that differ in their settings share the networks.

    parts = Parts(config)
    parts.stage("synthesize", config)            # the same Stage for the same settings, whoever asks
    parts.refresh()                              # takes up newer published versions, if there are any

The settings of one photo are a copy of the configuration with another `obfuscate`, `synthesize.strength` or
`perturb.epsilon`; all else stays as it was when the parts were read.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

from torch import Tensor

from anonymousnet import weights
from anonymousnet.config import Config, ObfuscateConfig
from anonymousnet.device import Runner
from anonymousnet.errors import AnonymousNetError, WeightsError
from anonymousnet.nets.classifier import Classifier, Surroundings
from anonymousnet.nets.codes import Codes
from anonymousnet.nets.generator import Generator
from anonymousnet.nets.translator import Translator
from anonymousnet.privacy.mechanism import Mechanism
from anonymousnet.privacy.population import Population, celeba_population
from anonymousnet.stage import Stage
from anonymousnet.stages.obfuscate import Obfuscate
from anonymousnet.stages.perturb import Perturb
from anonymousnet.stages.predict import Predict
from anonymousnet.stages.synthesize import Synthesize, Translate
from anonymousnet.weights.versions import newest

S = TypeVar("S", bound=Stage)
STAGES = ("predict", "obfuscate", "synthesize", "perturb")
"""Stages I to IV, in their order."""
KEPT = 64
"""Stages that are held for reuse; a mechanism takes a fifth of a second to solve, and a few megabytes."""
log = logging.getLogger(__name__)


class Parts:
    """The networks, the population and the perturbation of one configuration. Use it from any thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.runner = Runner(config.device, config.precision, config.batch)
        self._made: OrderedDict[tuple[Hashable, ...], Stage] = OrderedDict()
        self._lock = threading.RLock()
        self._generator, self._universal = newest(config.synthesize.generator), newest(config.perturb.weights)

    @functools.cached_property
    def population(self) -> Population:
        """What Stage II draws from."""
        named = self.config.obfuscate.population
        return Population.load(named) if named else celeba_population()

    @functools.cached_property
    def face_px(self) -> int:
        """Side of the faces that the generator paints."""
        return self._painter(self._generator)[0].config.px

    @functools.cached_property
    def readers(self) -> dict[str, str]:
        """Hashes of Stage I's weights: what Stage II's randomness depends on."""
        named = self.config.predict
        return {
            "attributes": weights.read(named.weights).sha256, "surroundings": weights.read(named.surroundings).sha256
        }  # fmt: skip

    def stage(self, name: str, config: Config) -> Stage | None:
        """One of the four stages under these settings; None where the perturbation is switched off.

        Raises WeightsError, ConfigError.
        """
        if name == "predict":
            return self._kept((name,), self._predict)
        if name == "obfuscate":
            return self._obfuscate(config.obfuscate)
        if name == "synthesize":
            if config.synthesize.strength == 0:
                return self._kept((name, "whole face"), self._translate)
            return self._kept((name,), self._synthesize)
        epsilon = config.perturb.epsilon
        return self._kept((name, epsilon), lambda: self._perturb(epsilon)) if epsilon > 0 else None

    def mechanism(self, asked: ObfuscateConfig) -> Mechanism:
        """Stage II's mechanism under these settings."""
        return self._obfuscate(asked).mechanism

    def stages(self, config: Config) -> tuple[Stage, ...]:
        """All that are switched on."""
        return tuple(stage for name in STAGES if (stage := self.stage(name, config)))

    def refresh(self) -> bool:
        """Take up newer versions of the perturbation and the generator; whether there was one.

        Both only follow what Stage II released, so no privacy rests on which version it is. What cannot be used is
        logged, and the version at hand goes on.
        """
        try:
            generator, universal = newest(self.config.synthesize.generator), newest(self.config.perturb.weights)
            if (generator, universal) == (self._generator, self._universal):
                return False
            if universal != self._universal:
                _read_universal(universal)
            if generator != self._generator:
                painter, sha256 = self._painter(generator)
                if painter.config.px != self.face_px:
                    raise WeightsError(
                        f"{generator} paints {painter.config.px} px, the service {self.face_px}; start it anew"
                    )
                self._choice(sha256)
        except AnonymousNetError as error:
            log.warning("newer weights are not taken up: %s", error)
            return False
        with self._lock:
            self._generator, self._universal = generator, universal
            for made in [key for key in self._made if key[0] in ("synthesize", "perturb")]:
                del self._made[made]
        return True

    def _kept(self, key: tuple[Hashable, ...], make: Callable[[], S]) -> S:
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
                if len(self._made) > KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]  # type: ignore[return-value]  # a key names a kind

    def _predict(self) -> Predict:
        face, around = weights.read(self.config.predict.weights), weights.read(self.config.predict.surroundings)
        stage = Predict(weights.build(face, Classifier), weights.build(around, Surroundings), self.runner)
        return stage.made_of(attributes=face.sha256, surroundings=around.sha256)

    def _obfuscate(self, asked: ObfuscateConfig) -> Obfuscate:
        return self._kept(("obfuscate", asked), lambda: Obfuscate(Mechanism.solve(self.population, asked)))

    def _synthesize(self) -> Synthesize:
        generator, sha256 = self._painter(self._generator)
        chosen = self._choice(sha256)
        if chosen is None:
            return Synthesize(generator, self.runner).made_of(generator=sha256)
        choice, codes = chosen
        return Synthesize(generator, self.runner, choice).made_of(generator=sha256, codes=codes)

    def _choice(self, generator: str) -> tuple[Codes, str] | None:
        """What chooses codes for the generator of this hash, and its own hash.

        Raises WeightsError where it was made for another one.
        """
        name = self.config.synthesize.codes
        if name is None:
            return None
        read = weights.read(name)
        choice = weights.build(read, Codes)
        if choice.config.generator != generator:
            raise WeightsError(
                f"weights {name}: expected codes for generator {generator[:16]}…, got {choice.config.generator[:16]}…; "
                "make others by `anonymousnet weights codes`, and name them in synthesize.code_weights"
            )
        return choice, read.sha256

    def _painter(self, name: str) -> tuple[Generator, str]:
        """The generator called `name`, and its hash. Raises WeightsError where it paints another region."""
        read, wanted = weights.read(name), self.config.synthesize.region
        generator = weights.build(read, Generator)
        if generator.config.region != wanted:
            raise WeightsError(
                f"weights {name} paint the {generator.config.region}, synthesize.region is {wanted}; "
                f"set synthesize.region={generator.config.region}, or synthesize.weights to others"
            )
        return generator, read.sha256

    def _translate(self) -> Translate:
        read = weights.read(self.config.synthesize.translation_weights)
        return Translate(weights.build(read, Translator), self.runner).made_of(translator=read.sha256)

    def _perturb(self, epsilon: float) -> Perturb:
        v, sha256 = _read_universal(self._universal)
        return Perturb(v, epsilon).made_of(universal=sha256)


def _read_universal(name: str) -> tuple[Tensor, str]:
    read = weights.read(name)
    return weights.tensor(read, "v"), read.sha256
