"""What decides the numbers of a measurement, apart from network and inputs."""

from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict, Unpack, get_args

import numpy as np

from kdviz.arguments import one_of, positive_number, whole_number
from kdviz.entropy import UnitGain
from kdviz.measuring.features import name_feature
from kdviz.networks.features import Feature
from kdviz.schema import BLOCK, VOCABULARIES
from kdviz.units import Units

ESTIMATOR = "probes and pairs"
"""How gains are estimated; another name for every change of what is measured, so that no run mixes two.

It names the engine as a whole: where ``"path"`` alone is asked for, the drift is left to the path."""

PROBES_PER_PAIR = 4  # as many backward passes for the pairs as for the probes
FEWEST_PAIRS = 4  # however few the probes: a noisy check sends samples to the costly path for nothing

Method = Literal["auto", "gain", "path"]


class Options(TypedDict, total=False):
    """Arguments of :func:`kdviz.measure` that decide numbers; None leaves one that may be to the units."""

    method: Method | None
    probes: int
    draws: int | None
    base_noise: float | None
    weight: float | None
    calibration: float
    unit_gain: UnitGain
    seed: int
    feature: Feature | None
    entry: str | None


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers, apart from network and inputs; stored with every result.

    The names are those of :func:`kdviz.measure`; `micro_batch` is the number of samples in one pass, and
    `relative` says whether noise is in units of the root mean square of what comes out at `entry`.
    """

    method: Method
    draws: int
    base_noise: float
    feature: Feature
    probes: int = 40
    weight: float = 7.0
    calibration: float = 0.386
    unit_gain: UnitGain = "mean"
    seed: int = 0
    micro_batch: int = BLOCK
    entry: str | None = None
    relative: bool = False

    @classmethod
    def for_units(cls, units: Units, *, max_batch: int | None = None, **options: Unpack[Options]) -> Self:
        """Complete the arguments of :func:`kdviz.measure` with the presets of `units`."""
        batch = BLOCK if max_batch is None else whole_number("max_batch", max_batch, 1)
        for name in options:
            one_of("option of a measurement", name, Options.__annotations__)
        presets = {name: getattr(units, name) for name in ("method", "draws", "base_noise", "feature")}
        presets["weight"] = VOCABULARIES[units.modality].weight
        given = {name: value for name, value in options.items() if value is not None or name not in presets}
        relative = given.get("entry") is not None and "base_noise" not in given
        settings: dict[str, Any] = presets | given
        return cls(**settings, micro_batch=min(batch, BLOCK), relative=relative)

    def __post_init__(self) -> None:
        """Refuse values that make no measurement."""
        one_of("method", self.method, get_args(Method))
        one_of("unit_gain", self.unit_gain, get_args(UnitGain))
        for name, least in (("probes", 2), ("draws", 2), ("micro_batch", 1), ("seed", 0)):
            whole_number(name, getattr(self, name), least)
        for name in ("base_noise", "weight", "calibration"):
            positive_number(name, getattr(self, name))

    @property
    def pairs(self) -> int:
        """Antithetic pairs of noise that find the drift and check the gains."""
        return max(FEWEST_PAIRS, self.probes // PROBES_PER_PAIR)

    @property
    def points(self) -> int:
        """Noise points among which probes are shared out."""
        return max(2, self.draws // 2)

    def as_attrs(self, units: Units, main: str | None = None) -> dict[str, Any]:
        """Return the arguments of :func:`kdviz.schema.make_attrs`; `main` of several inputs takes noise."""
        values = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in vars(self).items()
        }
        config = {name: values[name] for name in ("method", "probes", "draws", "micro_batch")}
        noise_space = units.noise_space
        if self.entry is not None:
            config["entry"] = self.entry
            noise_space = "relative embedding" if self.relative else "embedding"
        elif main is not None:
            config["input"] = main
            noise_space = "embedding" if units.needs_entry else noise_space
        return {
            "feature": name_feature(self.feature),
            "modality": units.modality,
            "unit_kind": units.describe(),
            "noise_space": noise_space,
            "solver": "descent",
            "config": config | {"estimator": ESTIMATOR},
            **{name: values[name] for name in ("base_noise", "weight", "calibration", "seed")},
        }
