"""What decides the numbers of a measurement, apart from network and inputs."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from kdviz.arguments import positive_number, whole_number
from kdviz.entropy import NOISE_RATIO_LIMITS
from kdviz.networks.features import Feature
from kdviz.units import Units

BLOCK = 16  # samples written at once; part of what a stored run is, so not a setting

ESTIMATOR = "probes and drift"
"""How gains are estimated; another name for every change of what is measured, so that no run mixes two.

It names the engine as a whole: where ``"path"`` alone is asked for, the drift is left to the path."""

Method = Literal["auto", "gain", "path"]


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers, apart from network and inputs; stored with every result.

    The names are those of :func:`kdviz.measure`; `micro_batch` is the number of samples in one pass, and
    `relative` says whether noise is in units of the root mean square of what comes out at `entry`.
    """

    method: Method
    probes: int
    draws: int
    base_noise: float
    weight: float
    calibration: float
    seed: int
    micro_batch: int
    feature: Feature
    entry: str | None = None
    relative: bool = False

    @classmethod
    def for_units(
        cls,
        units: Units,
        *,
        method: Method | None = None,
        probes: int = 64,
        draws: int | None = None,
        base_noise: float | None = None,
        weight: float = 7.0,
        calibration: float = 0.386,
        seed: int = 0,
        max_batch: int | None = None,
        feature: Feature | None = None,
        entry: str | None = None,
    ) -> "Settings":
        """Complete the arguments of :func:`kdviz.measure` with the presets of `units`."""
        batch = BLOCK if max_batch is None else whole_number("max_batch", max_batch, 1)
        return cls(
            method=units.method if method is None else method,
            probes=probes,
            draws=units.draws if draws is None else draws,
            base_noise=units.base_noise if base_noise is None else base_noise,
            weight=weight,
            calibration=calibration,
            seed=seed,
            micro_batch=min(batch, BLOCK),
            feature=units.feature if feature is None else feature,
            entry=entry,
            relative=entry is not None and base_noise is None,
        )

    def __post_init__(self) -> None:
        """Refuse values that make no measurement."""
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {self.method!r}")
        for name, least in (("probes", 2), ("draws", 2), ("micro_batch", 1)):
            whole_number(name, getattr(self, name), least)
        if isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer)):
            raise ValueError(f"seed must be an integer, got {self.seed!r}")
        for name in ("base_noise", "weight", "calibration"):
            positive_number(name, getattr(self, name))
        highest = np.log(NOISE_RATIO_LIMITS[1])
        if self.calibration > highest:
            raise ValueError(
                f"calibration must be at most {highest:.3f}, the log of the largest noise ratio; "
                f"got {self.calibration!r}"
            )

    def as_attrs(self, units: Units) -> dict[str, Any]:
        """Return the settings as arguments of :func:`kdviz.schema.make_attrs`."""
        values = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in vars(self).items()
        }
        feature = self.feature
        if not isinstance(feature, str):
            feature = getattr(feature, "__qualname__", repr(feature))
        noise_space = "relative embedding" if self.relative else "embedding"
        config = {name: values[name] for name in ("method", "probes", "draws", "micro_batch")}
        return {
            "feature": feature,
            "modality": units.modality,
            "unit_kind": units.describe(),
            "noise_space": units.noise_space if self.entry is None else noise_space,
            "solver": "descent",
            "config": config | {"estimator": ESTIMATOR} | ({"entry": self.entry} if self.entry else {}),
            **{name: values[name] for name in ("base_noise", "weight", "calibration", "seed")},
        }
