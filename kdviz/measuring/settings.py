"""What decides the numbers of a measurement, apart from network and inputs."""

from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from kdviz.entropy import NOISE_RATIO_LIMITS
from kdviz.units import Units

ESTIMATOR = "probes and drift"
"""How gains are estimated; another name for every change of what is measured, so that no run mixes two.

It names the engine as a whole: where ``"path"`` alone is asked for, the drift is left to the path."""

Method = Literal["auto", "gain", "path"]


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers, apart from network and inputs; stored with every result.

    The names are those of :func:`kdviz.measure`; `micro_batch` is the number of samples in one pass.
    """

    method: Method
    probes: int
    draws: int
    base_noise: float
    weight: float
    calibration: float
    seed: int
    micro_batch: int

    def __post_init__(self) -> None:
        """Refuse values that make no measurement."""
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {self.method!r}")
        for name, least in (("probes", 2), ("draws", 2), ("micro_batch", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                label = "max_batch" if name == "micro_batch" else name
                raise ValueError(f"{label} must be an integer of {least} or more, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer)):
            raise ValueError(f"seed must be an integer, got {self.seed!r}")
        for name in ("base_noise", "weight", "calibration"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < np.inf:
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        highest = np.log(NOISE_RATIO_LIMITS[1])
        if self.calibration > highest:
            raise ValueError(
                f"calibration must be at most {highest:.3f}, the log of the largest noise ratio; "
                f"got {self.calibration!r}"
            )

    def as_config(self) -> dict[str, Any]:
        """Give the settings as JSON can hold them."""
        values = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in asdict(self).items()
        }
        return values | {"estimator": ESTIMATOR}


def name_noise_space(units: Units, entry: str | None, relative: bool) -> str:
    """Name what noise is added to, for the attribute; `relative` is noise in units of a root mean square."""
    if entry is None:
        return units.noise_space
    return "relative embedding" if relative else "embedding"
