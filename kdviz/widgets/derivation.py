"""Datasets that follow from a run's gains, kept while they are in use."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import xarray as xr
from numpy.typing import NDArray

from kdviz.analysis import Settings, count_points, measure_learning
from kdviz.arguments import name_some
from kdviz.schema import read_sides
from kdviz.store import Run

_OF_POINTS = ("background_entropy", "sample_background_entropy", "knowledge_point", "uncertain")


@dataclass(frozen=True)
class Derived:
    """What one network holds under some settings.

    Attributes
    ----------
    ds
        With knowledge points; with entropies alone where there is no foreground or no background.
    counts
        From `count_points`; None where there are no points. NaN for a sample whose own background points are
        told from, if it has none; then it counts in no mean.
    learning
        From `measure_learning`; None where there are no points or no epoch after 0; NaN as in `counts`.
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
        with noting() as notes:
            ds = settings.derive(self.measured(network, module))
        return Derived(ds, notes=tuple(notes))

    def _find(self, network: str, module: str, settings: Settings) -> Derived:
        derived = self.entropies(network, module, settings)
        if not has_background(derived.ds):
            return derived
        every = derived.ds["sample"].values
        judged = read_sides(derived.ds)[1].any(axis=1) | (settings.background == "checkpoint")
        with noting() as notes:
            ds = settings.find(derived.ds if judged.all() else derived.ds.isel(sample=judged))
            learning = measure_learning(ds) if (ds["epoch"].values > 0).any() else None
        counts = count_points(ds)
        if not judged.all():
            some = name_some(every[~judged])
            notes.append(f"Without a background of their own, and so without points and in no mean: {some}.")
            wide = _spread(ds[[name for name in _OF_POINTS if name in ds]], every)
            ds, counts = derived.ds.assign(wide.data_vars), _spread(counts, every)
            learning = None if learning is None else _spread(learning, every)
        return Derived(ds, counts, learning, (*derived.notes, *notes))


def _spread(ds: xr.Dataset, samples: NDArray) -> xr.Dataset:
    """Make room for more samples: NaN, and masks of False."""
    masks = {name: False for name, array in ds.data_vars.items() if array.dtype == bool}
    return ds.reindex(sample=samples, fill_value=masks)


def has_background(samples: xr.Dataset) -> bool:
    """Whether points can be told from a background: there are masks, and some unit lies outside of them."""
    return bool(read_sides(samples)[1].any())


@contextmanager
def noting() -> Iterator[list[str]]:
    """Collect warnings instead of showing them where nobody looks."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += dict.fromkeys(str(one.message) for one in caught)
