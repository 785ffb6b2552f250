"""Judge attribution maps by masks: do they find the object, and do they rank units as the entropy does.

Everything follows from stored maps; what needs the network (curves of removal, randomised weights) is in
`kdviz.attribution`.
"""

import itertools
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from kdviz.analysis.inputs import draw_resamples, other_inputs, sample_coords
from kdviz.errors import DegenerateWarning
from kdviz.points import Bools, Floats, divide_counts
from kdviz.schema import build, read_sides, validate

SCORES = ("pointing", "foreground_mass", "auc", "auc_of_size", "entropy_correlation")
"""The scores of `score_attributions`, each larger for a map more on the object (or more like the entropy)."""

_DIMS = ("attribution_method", "epoch", "sample")


def collect_importance(ds: xr.Dataset, *, entropy: xr.Dataset | None = None) -> xr.DataArray:
    """Put attribution maps and, as one more method, the entropy on one footing: larger means more important.

    Parameters
    ----------
    ds
        With ``attribution``, from :func:`kdviz.attribute`: taken as it is, sign kept.
    entropy
        With ``entropy`` of the same samples and units at the epochs of `ds`, from :func:`kdviz.measure` or
        :func:`kdviz.derive_entropy`. A layer keeps what matters to it, so importance falls with entropy: it
        is the mean entropy over the sample's units minus that of the unit. The mean is the same for all
        samples (the calibration), and makes importance positive where a unit is kept better than the average.

    Returns
    -------
    DataArray
        Dims (attribution_method, epoch, sample, unit), float64; ``"entropy"`` last. NaN at padded units.

    Raises
    ------
    SchemaError
        If a dataset breaks the data contract.
    ValueError
        If `entropy` has other samples, units or masks than `ds`, or lacks one of its epochs.
    """
    validate(ds, require=("attribution",))
    maps = ds["attribution"].astype(np.float64)
    if entropy is not None:
        validate(entropy, require=("entropy",))
        if fault := other_inputs(ds, entropy):  # fingerprints would refuse a selection of the same samples
            raise ValueError(f"attributions and entropies do not match: {fault}")
        known = entropy["epoch"].values.tolist()
        if missing := sorted(set(ds["epoch"].values.tolist()) - set(known)):
            raise ValueError(
                f"there are attributions of epochs {missing}; entropies were measured at {known}"
            )
        kept = entropy["entropy"].sel(epoch=ds["epoch"]).astype(np.float64)
        if "valid" in ds:
            kept = kept.where(ds["valid"])
        more = (kept.mean("unit") - kept).expand_dims(attribution_method=["entropy"])
        maps = xr.concat(
            [maps, more.reset_coords(drop=True)], "attribution_method", join="exact", coords="minimal"
        )
    if "valid" in ds:
        maps = maps.where(ds["valid"])
    return maps.transpose(*_DIMS, "unit").rename("importance")


def score_attributions(ds: xr.Dataset, *, entropy: xr.Dataset | None = None) -> xr.Dataset:
    """Score every attribution map against the mask of the object, and against the entropy.

    Parameters
    ----------
    ds
        With ``attribution`` and ``foreground``, from :func:`kdviz.attribute`.
    entropy
        As in `collect_importance`. It is then scored too, as the method ``"entropy"``, and compared with.

    Returns
    -------
    Dataset
        Dims (attribution_method, epoch, sample), float64, NaN where undefined:

        - ``pointing``: whether the most important unit lies on the foreground [1]_; of several, their share;
        - ``foreground_mass``: share of the positive importance that lies on the foreground; undefined for a
          map without positive values;
        - ``auc``: chance that a foreground unit is more important than a background unit, ties counted half
          (Mann-Whitney); 0.5 for a map that knows nothing;
        - ``auc_of_size``: the same of absolute values, for methods whose negative values mark the object too;
          undefined for the entropy, which has no sign;
        - ``entropy_correlation``: Spearman's rank correlation, over units, with *minus* the entropy: 1 for a
          map that ranks units as the entropy does, because low entropy means important; undefined for
          constant maps. Only with `entropy`;

        and ``foreground_share`` (sample): the share of units on the foreground, which is the expected
        pointing and mass of a map that knows nothing. The first three are undefined for samples without
        foreground or without background. Void units do not count.

    Raises
    ------
    SchemaError, ValueError
        As `collect_importance`; also if there is no ``foreground``.

    Warns
    -----
    DegenerateWarning
        If samples have no foreground or no background, or maps have no positive value: how many.

    Notes
    -----
    Pointing and ``auc`` see ranks only; ``foreground_mass`` depends on where a map has its zero. That of the
    entropy is the calibrated mean, a convention, so that its mass is hardly comparable with the others'.

    References
    ----------
    .. [1] Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 2018, section 4.1.
    """
    validate(ds, require=("attribution", "foreground"))
    importance = collect_importance(ds, entropy=entropy)
    on, off = read_sides(ds)
    judged = on | off
    usable = np.asarray(on.any(1) & off.any(1))
    values = importance.values
    positive = np.where(judged, np.maximum(values, 0), 0)
    found = {
        "pointing": _point(values, on, judged),
        "foreground_mass": divide_counts((positive * on).sum(-1), positive.sum(-1), np.nan),
        "auc": _mann_whitney(values, on, off),
        "auc_of_size": _mann_whitney(abs(values), on, off),
    }
    scores = {name: np.where(usable, score, np.nan) for name, score in found.items()}
    if entropy is not None:
        scores["auc_of_size"][-1] = np.nan
        scores["entropy_correlation"] = rank_correlation(values, values[-1:])
    methods = importance[_DIMS[0]].values
    if not (usable.all() and positive.any(-1).all()):
        warnings.warn(
            f"{(~usable).sum()} of {len(usable)} samples have no foreground or no background, and no scores; "
            f"{(~positive.any(-1)).sum()} maps have no positive value, and no foreground_mass",
            DegenerateWarning,
            stacklevel=2,
        )
    scores["foreground_share"] = divide_counts(on.sum(1), judged.sum(1))
    return build(scores, coords={**sample_coords(ds), _DIMS[0]: methods}, attrs=ds.attrs)


def tabulate_scores(
    scores: xr.Dataset, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Average scores over samples, with percentile bootstrap intervals over samples.

    Parameters
    ----------
    scores
        From `score_attributions`, or any Dataset of variables with dims (attribution_method, ..., sample),
        such as the areas of `kdviz.attribution.remove_units`; the last epoch is taken.
    resamples, confidence, seed
        Number of bootstrap resamples, coverage between 0 and 1, and seed. Every resample is the same for all
        methods, so intervals are comparable; they are conditional on the network.

    Returns
    -------
    DataFrame
        Index ``attribution_method``, ``score``; columns ``mean``, ``low``, ``high`` and ``samples``, the
        number of samples for which the score is defined. NaN where there are none.

    Raises
    ------
    ValueError
        If an option is out of range.
    """
    ds = scores.isel(epoch=-1) if "epoch" in scores.dims else scores
    drawn = draw_resamples(ds.sizes["sample"], resamples, confidence, seed)
    ends = [50 * (1 - confidence), 50 * (1 + confidence)]
    rows = []
    ours = [str(name) for name, score in ds.items() if score.dims == ("attribution_method", "sample")]
    for method, name in itertools.product(ds["attribution_method"].values, ours):
        score = ds[name].sel(attribution_method=method).values
        known = np.isfinite(score)
        size = (drawn * known).sum(1)
        means = (drawn @ np.where(known, score, 0.0))[size > 0] / size[size > 0]
        low, high = np.percentile(means, ends) if len(means) else (np.nan, np.nan)
        mean = score[known].mean() if known.any() else np.nan
        rows.append((str(method), name, mean, low, high, int(known.sum())))
    columns = ["attribution_method", "score", "mean", "low", "high", "samples"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:2])


def rank_correlation(ours: Floats, theirs: Floats) -> Floats:
    """Spearman's correlation along the last axis, NaN left out; NaN where either side is constant."""
    shape = np.broadcast_shapes(ours.shape, theirs.shape)
    sides = [np.broadcast_to(side, shape) for side in (ours, theirs)]
    known = np.isfinite(sides[0]) & np.isfinite(sides[1])
    ranks = [_rank(np.where(known, side, np.nan)) for side in sides]
    left, right = (rank - np.nanmean(rank, axis=-1, keepdims=True) for rank in ranks)
    spread = np.nansum(left**2, axis=-1) * np.nansum(right**2, axis=-1)
    return divide_counts(np.nansum(left * right, axis=-1), np.sqrt(spread), np.nan)


def _point(values: Floats, on: Bools, judged: Bools) -> NDArray[np.float64]:
    largest = judged & (values == np.max(np.where(judged, values, -np.inf), axis=-1, keepdims=True))
    return (largest & on).sum(-1) / np.maximum(largest.sum(-1), 1)


def _mann_whitney(values: Floats, on: Bools, off: Bools) -> Floats:
    ranks = _rank(np.where(on | off, values, np.nan))
    n_on, n_off = on.sum(-1), off.sum(-1)
    wins = np.where(on, ranks, 0).sum(-1) - n_on * (n_on + 1) / 2
    return divide_counts(wins, n_on * n_off, np.nan)


def _rank(values: Floats) -> NDArray[np.float64]:
    """Rank from 1 along the last axis, ties sharing the mean of their ranks; NaN stays NaN."""
    rows = pd.DataFrame(values.reshape(-1, values.shape[-1]))  # SciPy's takes long to import
    return rows.rank(axis=1).to_numpy(np.float64).reshape(values.shape)


def join_scores(
    tables: Mapping[str, pd.DataFrame], score: str = "auc"
) -> tuple[pd.DataFrame, dict[str, tuple[str, str]]]:
    """Put one score of the maps of several networks side by side.

    Parameters
    ----------
    tables
        ``{network: table}``, tables as from `tabulate_scores`.
    score
        Which of their scores.

    Returns
    -------
    table
        Index ``map``; for every network the columns ``network``, ``network low`` and ``network high``.
    ends
        ``{network: names of its columns of ends}``, as `kdviz.render.show_table` takes them.
    """
    found = {name: table.xs(score, level="score") for name, table in tables.items()}
    ends = {name: (f"{name} low", f"{name} high") for name in found}
    columns = {name: one["mean"] for name, one in found.items()}
    for name, one in found.items():
        columns |= dict(zip(ends[name], (one["low"], one["high"]), strict=True))
    return pd.DataFrame(columns).rename_axis("map"), ends
