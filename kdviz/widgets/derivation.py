"""Datasets that follow from a run's gains, kept while they are in use."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import xarray as xr

from kdviz.analysis import coarsen_grid, count_points, derive_entropy, find_points, measure_learning
from kdviz.store import Run


@dataclass(frozen=True)
class EntropySettings:
    """How entropies follow from gains; the arguments of `derive_entropy` and of `coarsen_grid`."""

    solver: Any  # one of the names that `derive_entropy` knows; it checks
    weight: float
    calibration: float | None
    feature_loss: float | None
    coarsening: int


@dataclass(frozen=True)
class PointSettings:
    """How points follow from entropies; the arguments of `find_points`."""

    threshold: float
    background: Any  # one of the names that `find_points` knows


@dataclass(frozen=True)
class Derived:
    """What one network holds under some settings.

    Attributes
    ----------
    ds
        From `find_points`; from `derive_entropy` where there is no foreground or no background.
    counts
        From `count_points`; None where there are no points.
    learning
        From `measure_learning`; None where there are no points or no epoch after 0.
    notes
        Warnings that came up.
    """

    ds: xr.Dataset
    counts: xr.Dataset | None = None
    learning: xr.Dataset | None = None
    notes: tuple[str, ...] = ()


class Derivation:
    """Derives on demand; asking again for the same costs nothing.

    A dataset takes a few MB. What is kept is enough for three networks and a step back in the settings.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.measured = lru_cache(maxsize=12)(self._measure)
        self._merged = lru_cache(maxsize=6)(self._merge)
        self.entropies = lru_cache(maxsize=6)(self._derive)
        self.points = lru_cache(maxsize=12)(self._find)

    def _measure(self, network: str, layer: str) -> xr.Dataset:
        return self._run.dataset(network, layer, partial=True)

    def _merge(self, network: str, layer: str, coarsening: int) -> xr.Dataset:
        measured = self.measured(network, layer)
        return measured if coarsening == 1 else coarsen_grid(measured, coarsening)

    def _derive(self, network: str, layer: str, settings: EntropySettings) -> Derived:
        with _noting() as notes:
            ds = derive_entropy(
                self._merged(network, layer, settings.coarsening),
                solver=settings.solver,
                weight=settings.weight,
                calibration=settings.calibration,
                feature_loss=settings.feature_loss,
            )
        return Derived(ds, notes=tuple(notes))

    def _find(self, network: str, layer: str, entropies: EntropySettings, points: PointSettings) -> Derived:
        derived = self.entropies(network, layer, entropies)
        if not has_background(derived.ds):
            return derived
        with _noting() as notes:
            ds = find_points(derived.ds, threshold=points.threshold, background=points.background)
            learning = measure_learning(ds) if (ds["epoch"].values > 0).any() else None
        return Derived(ds, count_points(ds), learning, (*derived.notes, *notes))


def has_background(samples: xr.Dataset) -> bool:
    """Whether points can be told from a background: there are masks, and some unit lies outside of them."""
    return "foreground" in samples and bool((samples["valid"] & ~samples["foreground"]).any())


@contextmanager
def _noting() -> Iterator[list[str]]:
    """Collect warnings instead of showing them where nobody looks."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += dict.fromkeys(str(one.message) for one in caught)
