"""Datasets that follow from a run's gains, kept while they are in use."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import xarray as xr

from kdviz.analysis import Settings, count_points, measure_learning
from kdviz.schema import read_sides
from kdviz.store import Run


@dataclass(frozen=True)
class Derived:
    """What one network holds under some settings.

    Attributes
    ----------
    ds
        With knowledge points; with entropies alone where there is no foreground or no background.
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
    """Derives on demand, by network, module and settings; asking again for the same costs nothing.

    A dataset takes a few MB. What is kept is enough for six networks and a step back in the settings.
    """

    def __init__(self, run: Run) -> None:
        self.measured = lru_cache(maxsize=24)(partial(run.dataset, partial=True))
        self._entropies = lru_cache(maxsize=12)(self._derive)
        self.points = lru_cache(maxsize=24)(self._find)

    def entropies(self, network: str, module: str, settings: Settings) -> Derived:
        """Derive entropies alone; threshold and background make no difference."""
        return self._entropies(network, module, replace(settings, threshold=None, background="checkpoint"))

    def _derive(self, network: str, module: str, settings: Settings) -> Derived:
        with _noting() as notes:
            ds = settings.derive(self.measured(network, module))
        return Derived(ds, notes=tuple(notes))

    def _find(self, network: str, module: str, settings: Settings) -> Derived:
        derived = self.entropies(network, module, settings)
        if not has_background(derived.ds):
            return derived
        with _noting() as notes:
            ds = settings.find(derived.ds)
            learning = measure_learning(ds) if (ds["epoch"].values > 0).any() else None
        return Derived(ds, count_points(ds), learning, (*derived.notes, *notes))


def has_background(samples: xr.Dataset) -> bool:
    """Whether points can be told from a background: there are masks, and some unit lies outside of them."""
    return bool(read_sides(samples)[1].any())


@contextmanager
def _noting() -> Iterator[list[str]]:
    """Collect warnings instead of showing them where nobody looks."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += dict.fromkeys(str(one.message) for one in caught)
