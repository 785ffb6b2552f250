"""Derive entropies from stored gains: any solver, weight or calibration, without the network."""

import warnings
from typing import get_args

import numpy as np
import xarray as xr

from kdviz.arguments import one_of
from kdviz.entropy import Solver, UnitGain, entropy_of, gain_ratio, solve
from kdviz.errors import ConvergenceWarning
from kdviz.schema import annotate, choose_words, validate

_NEEDED = ("gain", "gain_error", "feature_variance")


def derive_entropy(
    ds: xr.Dataset,
    *,
    solver: Solver = "descent",
    weight: float | None = None,
    calibration: float | None = 0.386,
    feature_loss: float | None = None,
    unit_gain: UnitGain = "mean",
) -> xr.Dataset:
    """Solve Eq. (4) of Zhang et al., TPAMI 2022, in closed form from measured gains.

    Parameters
    ----------
    ds
        A measured dataset: ``gain``, ``gain_error`` (epoch, sample, unit), ``feature_variance`` (epoch,
        sample), optionally ``valid`` (sample, unit), and the attribute ``base_noise``. A leading ``layer``
        stays.
    solver
        ``"descent"``: the authors' truncated descent, for which the papers' threshold of 0.2 nat was
        chosen. ``"optimum"``: the minimiser, whose entropies spread about three times as far, so that a
        threshold means something else.
    weight
        Entropy weight in the mean form of the authors' code: 7, and 6 for ResNets. The default is that of
        :func:`kdviz.measure`, 7 and for clouds 4, whatever the measurement used: a network measured at 6
        moves to 7 without a warning, which ``extrapolated`` shows. Give ``weight=ds.attrs["weight"]`` to keep
        it, as `kdviz.analysis.pair_networks` does.
    calibration
        Mean of ``log(sigma / base_noise)`` in nat at which to calibrate (0.386 is the authors' -2.8 nat at
        0.01). None keeps the weight: 80 steps of descent, or the plain minimiser.
    feature_loss
        Calibrate on this predicted feature loss over feature variance instead, such as 1.5. It keeps the
        differences between layers, which a common mean entropy erases.
    unit_gain
        Of units of different sizes, such as words of one piece and of three. ``"mean"``: every piece is a
        unit of the published objective, and those of one word share their noise. ``"sum"``: every word is
        one, so that it counts as kept for its number of pieces alone. No difference where sizes are equal.

    Returns
    -------
    Dataset
        `ds` with ``entropy``, ``noise_scale``, ``entropy_error`` and ``converged`` of this solution. The
        attributes of ``entropy`` hold the settings, and ``extrapolated`` = 1 if they, or the units, are not
        those at which ``linearity`` and ``feature_loss`` were measured.

    Raises
    ------
    SchemaError
        If `ds` breaks the data contract or lacks a variable.
    ValueError
        If `ds` has no attribute ``base_noise``, or a setting is out of range.

    Warns
    -----
    ConvergenceWarning
        If a calibration cannot be met for some samples; see ``converged``.
    """
    validate(ds, require=_NEEDED)
    if "base_noise" not in ds.attrs:
        raise ValueError("ds has no attribute 'base_noise'; use a dataset from kdviz.measure or a stored run")
    one_of("unit_gain", unit_gain, get_args(UnitGain))
    weight = choose_words(ds).weight if weight is None else weight
    base_noise = float(ds.attrs["base_noise"])
    shape = ds["gain"].shape
    valid = np.broadcast_to(ds["valid"].values if "valid" in ds else True, shape)
    variance = ds["feature_variance"].values
    size = ds["unit_size"].values if "unit_size" in ds and unit_gain == "mean" else 1.0
    ratio, error = (
        gain_ratio(ds[name].values, variance, valid, base_noise, size) for name in ("gain", "gain_error")
    )
    solution = solve(
        ratio,
        solver=solver,
        weight=weight,
        calibration=calibration,
        feature_loss=feature_loss,
        ratio_error=error,
        size=size,
    )
    converged = solution.converged & (variance > 0)
    if not converged.all():
        warnings.warn(
            f"the calibration was not met for {int((~converged).sum())} of {converged.size} sample epochs "
            "(a dead feature, or gains that no noise can balance); see `converged`",
            ConvergenceWarning,
            stacklevel=2,
        )
    settings: dict[str, str | float | int] = {"solver": solver, "weight": float(weight)}
    if feature_loss is not None:
        settings["feature_loss"] = float(feature_loss)
    elif calibration is not None:
        settings["calibration"] = float(calibration)
    if "unit_size" in ds:
        settings["unit_gain"] = unit_gain
    measured = {name: ds.attrs.get(name) for name in ("solver", "weight", "calibration", "unit_gain")}
    as_measured = settings == {name: value for name, value in measured.items() if value is not None}
    settings["extrapolated"] = int(not as_measured or "coarsened" in ds.attrs)
    scale = solution.noise_ratio * base_noise
    dims = ds["gain"].dims
    derived = ds.assign(
        entropy=(dims, entropy_of(scale).astype(np.float32), settings),
        noise_scale=(dims, scale.astype(np.float32)),
        entropy_error=(dims, solution.log_error.astype(np.float32)),
        converged=(dims[:-1], converged),
    )
    return annotate(derived)
