"""What a study asks of its material, whatever the kind of input."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from kdviz.sources import SampleSet
from kdviz.studies.plans import StudyPlan
from kdviz.training import TrainingPlan
from kdviz.units import Grid, Units

_HELD_OUT_SHARE = 0.2  # of the user's own samples


Samples = TypeVar("Samples", bound=SampleSet)


@dataclass(frozen=True)
class Prepared:
    """Samples as networks and measuring take them.

    Attributes
    ----------
    inputs
        ``(B, ...)``: what networks are fed.
    units
        What shares one noise scale.
    foreground
        ``(B, U)``, or pixels of images.
    pictures
        ``(B, H, W, 3)``, uint8, to be stored for viewing; None where units show themselves.
    """

    inputs: Tensor
    units: Units
    foreground: NDArray[np.bool_]
    pictures: NDArray[np.uint8] | None = None


class Material(ABC, Generic[Samples]):
    """Samples of one kind of input, and what is trained on them.

    Attributes
    ----------
    plan
        Of the study.
    plans
        Training plans of the built-in data: ``"teacher"``, ``"baseline"``, ``"head"``, and by layer.
    teacher
        Data file of the built-in teacher.
    """

    plans: Mapping[str, TrainingPlan]
    teacher: str

    def __init__(self, plan: StudyPlan) -> None:
        self.plan = plan

    @property
    @abstractmethod
    def built_in(self) -> bool:
        """Whether these are the samples that come with kdviz, and with them a teacher."""

    @abstractmethod
    def load(self, part: str) -> Samples:
        """Load the samples of ``"train"`` or ``"held-out"``."""

    @abstractmethod
    def prepare(self, samples: Samples) -> Prepared:
        """Bring samples into the form that networks and measuring take."""

    def choose(self, samples: Samples, count: int) -> Samples:
        """Pick the samples to measure: the first ones.

        Raises
        ------
        DataError
            If none can be measured.
        """
        return samples.select(np.arange(min(count, len(samples))))

    @abstractmethod
    def build(self, classes: int, seed: int) -> nn.Module:
        """Make an untrained network of the plan's architecture."""


def describe_samples(samples: SampleSet, prepared: Prepared) -> xr.Dataset:
    """Describe samples for a run: names, classes, units, masks, and pictures where there are."""
    units, mask = prepared.units, prepared.foreground
    ds = xr.Dataset(
        {
            "valid": (("sample", "unit"), units.valid(len(samples))),
            "foreground": (("sample", "unit"), units.reduce_mask(mask) if isinstance(units, Grid) else mask),
        },
        coords={
            "sample": list(samples.sample_ids),
            "unit": np.arange(units.count),
            "label": ("sample", samples.labels),
            "split": ("sample", list(samples.split)),
            **units.coordinates(prepared.inputs.numpy()),
        },
    )
    if prepared.pictures is None:
        return ds
    return ds.assign(thumbnail=(("sample", "y_pixel", "x_pixel", "channel"), prepared.pictures))


def divide(everything: Samples, part: str) -> Samples:
    """Hold out a fifth of the user's own samples, class by class, by nothing but their number."""
    order = np.random.default_rng(0).permutation(len(everything))
    order = order[np.argsort(everything.labels[order], kind="stable")]
    held_out = np.arange(len(order)) % round(1 / _HELD_OUT_SHARE) == 0
    chosen = order[held_out] if part == "held-out" else order[~held_out]
    return everything.select(np.random.default_rng(1).permutation(chosen))
