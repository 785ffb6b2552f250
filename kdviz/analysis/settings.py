"""How points follow from gains: one frozen description of every choice, and its application."""

from dataclasses import dataclass, replace
from typing import get_args

import xarray as xr

from kdviz.analysis.coarsening import coarsen_grid
from kdviz.analysis.entropies import derive_entropy
from kdviz.analysis.knowledge import Background, NoPoints, find_points
from kdviz.analysis.networks import read_config
from kdviz.arguments import finite_number, one_of, positive_number, whole_number
from kdviz.entropy import Solver, UnitGain
from kdviz.schema import choose_words
from kdviz.store import Run


@dataclass(frozen=True)
class Settings:
    """Everything that decides which units are knowledge points, once the gains are measured.

    Attributes
    ----------
    solver, calibration, feature_loss
        As in :func:`kdviz.derive_entropy`.
    weight, unit_gain
        Also as there; None for that of the measurement.
    threshold
        As in :func:`kdviz.find_points`; None for that of the run or, where it records none, of the kind of
        samples: 0.2 nat, of clouds 0.5.
    background, no_points
        As in :func:`kdviz.find_points`.
    coarsening
        As `factor` in `coarsen_grid`.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    solver: Solver = "descent"
    weight: float | None = None
    calibration: float | None = 0.386
    feature_loss: float | None = None
    unit_gain: UnitGain | None = None
    threshold: float | None = None
    background: Background = "checkpoint"
    no_points: NoPoints = "undefined"
    coarsening: int = 1

    def __post_init__(self) -> None:
        """Refuse values that no derivation takes."""
        one_of("solver", self.solver, get_args(Solver))
        one_of("unit_gain", self.unit_gain, (None, *get_args(UnitGain)))
        one_of("background", self.background, get_args(Background))
        one_of("no_points", self.no_points, get_args(NoPoints))
        whole_number("coarsening", self.coarsening, 1)
        for name in ("weight", "feature_loss"):
            if (value := getattr(self, name)) is not None:
                positive_number(name, value)
        if self.calibration is not None:
            finite_number("calibration", self.calibration)
        if self.threshold is not None:
            finite_number("threshold", self.threshold, 0.0)

    def of_run(self, run: Run) -> "Settings":
        """Return these settings with the threshold of `run`, or of its samples, where none was chosen."""
        if self.threshold is not None:
            return self
        usual = choose_words(run.samples).threshold
        return replace(self, threshold=float(read_config(run).get("threshold", usual)))

    def derive(self, ds: xr.Dataset) -> xr.Dataset:
        """Coarsen the grid and derive entropies: the first half of `apply_settings`; needs no foreground."""
        weight = ds.attrs.get("weight") if self.weight is None else self.weight
        if weight is None:
            raise ValueError("ds has no attribute 'weight'; pass Settings(weight=...)")
        return derive_entropy(
            coarsen_grid(ds, self.coarsening) if self.coarsening > 1 else ds,
            solver=self.solver,
            weight=float(weight),
            calibration=self.calibration,
            feature_loss=self.feature_loss,
            unit_gain=self.unit_gain or ds.attrs.get("unit_gain", "mean"),
        )

    def find(self, ds: xr.Dataset) -> xr.Dataset:
        """Find knowledge points in what `derive` returned: the second half of `apply_settings`."""
        return find_points(ds, threshold=self.threshold, background=self.background, no_points=self.no_points)


def apply_settings(ds: xr.Dataset, settings: Settings) -> xr.Dataset:
    """Coarsen the grid, derive entropies and find knowledge points, as `settings` say.

    Parameters
    ----------
    ds
        A measured dataset of one layer with ``foreground``; its attribute ``weight`` is the entropy weight
        where `settings` have none.
    settings
        Without a threshold, that of the kind of samples; `Settings.of_run` takes that of a run.

    Returns
    -------
    Dataset
        As from :func:`kdviz.find_points`.

    Raises
    ------
    SchemaError, ValueError
        As `coarsen_grid`, :func:`kdviz.derive_entropy` and :func:`kdviz.find_points`.
    """
    return settings.find(settings.derive(ds))
