"""Find and count knowledge points."""

import warnings
from typing import Literal, get_args

import numpy as np
import xarray as xr

from kdviz import points
from kdviz.analysis.inputs import describe_points, read_points, read_settings, sample_coords
from kdviz.arguments import finite_number, name_some, one_of
from kdviz.errors import DegenerateWarning, KdvizWarning
from kdviz.schema import annotate, build, choose_words, read_sides, validate

Background = Literal["checkpoint", "sample"]
NoPoints = Literal["undefined", "published"]


def find_points(
    ds: xr.Dataset,
    *,
    threshold: float | None = None,
    background: Background = "checkpoint",
    no_points: NoPoints = "undefined",
) -> xr.Dataset:
    """Mark the units whose information the layer keeps better than that of an average background unit.

    A unit is a knowledge point if the mean background entropy exceeds its own entropy by more than
    `threshold` [1]_. The comparison is strict and done in the precision of the stored entropies, so an
    entropy on the threshold is no point. Padded and void units never are.

    Parameters
    ----------
    ds
        With ``entropy`` (epoch, sample, unit) and ``foreground`` (sample, unit); optionally ``valid`` and
        ``void`` (sample, unit) and ``entropy_error`` (epoch, sample, unit). A leading ``layer`` stays: points
        of every layer are told from its own background.
    threshold
        Margin ``b`` in nat, 0 or more. By default 0.2, the papers' value for images, or 0.5, theirs for
        PointNet, where units are points of clouds; both belong to ``solver="descent"``.
    background
        ``"checkpoint"``: one background mean per checkpoint, the mean over samples of the per-sample means,
        as in the published code. ``"sample"``: every sample against its own background.
    no_points
        What the ratios of a sample without any point are in everything that is counted from the result:
        ``"undefined"``, NaN and left out of means, or as in the ``"published"`` code: ``fg_ratio`` and
        ``rho`` are 0, and the peak is the first checkpoint.

    Returns
    -------
    Dataset
        `ds` with ``background_entropy`` (epoch) in nat; ``knowledge_point`` (epoch, sample, unit), whose
        attributes hold the arguments; and ``uncertain`` (epoch, sample, unit): within two standard errors of
        the threshold. Where ``entropy_error`` is absent or NaN nothing is uncertain;
        attribute ``known_error`` of ``uncertain`` is the share of their entries whose error is known. With
        ``background="sample"`` also ``sample_background_entropy`` (epoch, sample).

    Raises
    ------
    SchemaError
        If `ds` breaks the data contract or lacks a variable.
    ValueError
        If an argument is not allowed, no sample has background units, or, with
        ``background="sample"``, some sample has none.

    Warns
    -----
    DegenerateWarning
        If some samples have no background units: they are left out of the background mean.
    KdvizWarning
        If `ds` has knowledge points already, which are replaced.

    References
    ----------
    .. [1] Zhang, Cheng, Chen, Rao, "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, section 3.2.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> ds = xr.Dataset(
    ...     {
    ...         "entropy": (("epoch", "sample", "unit"), np.array([[[-3.5, -2.5, -2.75, -2.25]]])),
    ...         "foreground": (("sample", "unit"), np.array([[True, True, False, False]])),
    ...     },
    ...     coords={"epoch": [1], "sample": ["bird"], "unit": [0, 1, 2, 3]},
    ... )
    >>> found = find_points(ds)
    >>> found.background_entropy.item(), found.knowledge_point.values.ravel().tolist()
    (-2.5, [True, False, True, False])
    """
    validate(ds, require=("entropy", "foreground"))
    threshold = choose_words(ds).threshold if threshold is None else threshold
    threshold = finite_number("threshold", threshold, 0.0)
    one_of("background", background, get_args(Background))
    one_of("no_points", no_points, get_args(NoPoints))
    entropy = ds["entropy"].values
    foreground, outside = read_sides(ds)
    judged = foreground | outside
    names = ds["sample"].values
    empty = np.asarray(~outside.any(axis=1))
    if empty.all():
        raise ValueError("no sample has background units to compare with: foreground covers every unit")
    if empty.any():
        some = f"{empty.sum()} of {len(empty)} samples have no background units: {name_some(names[empty])}"
        if background == "sample":
            raise ValueError(f"{some}; leave them out, or use background='checkpoint'")
        warnings.warn(f"{some}; they are left out of the background mean", DegenerateWarning, stacklevel=2)
    if "knowledge_point" in ds:
        warnings.warn("find_points replaces the knowledge points of this dataset", KdvizWarning, stacklevel=2)

    per_sample = points.average_units(entropy, outside)
    mean = points.average_background(per_sample)
    cutoff = points.entropy_cutoff(per_sample if background == "sample" else mean, threshold, entropy.dtype)
    uncertain, known_error = np.zeros(entropy.shape, dtype=bool), 0.0
    if "entropy_error" in ds:
        error = ds["entropy_error"].values
        uncertain = points.find_uncertain(entropy, error, judged, cutoff)
        known_error = float((~np.isnan(error) & judged).sum() / np.broadcast_to(judged, error.shape).sum())

    settings = {"threshold": threshold, "background": background, "no_points": no_points}
    dims = ds["entropy"].dims
    found = ds.assign(
        background_entropy=(dims[:-2], mean.astype(entropy.dtype)),
        knowledge_point=(dims, points.find_points(entropy, judged, cutoff), settings),
        uncertain=(dims, uncertain, {"known_error": known_error}),
    ).drop_vars("sample_background_entropy", errors="ignore")
    if background == "sample":
        found["sample_background_entropy"] = (dims[:-1], per_sample.astype(entropy.dtype))
    return annotate(found)


def count_points(ds: xr.Dataset) -> xr.Dataset:
    """Count knowledge points on foreground and background, Eqs. (5) to (7) of Zhang et al., TPAMI 2022.

    Parameters
    ----------
    ds
        From `find_points`: reads ``knowledge_point``, ``uncertain``, ``foreground`` and ``valid``. A leading
        ``layer`` stays.

    Returns
    -------
    Dataset
        Per (epoch, sample): ``n_fg``, ``n_bg``, ``fg_ratio`` (NaN for a sample without any point, or 0
        as `no_points` of `find_points` says) and ``n_uncertain``, the valid units too close to the threshold
        to call. Per epoch: ``n_fg_mean``, ``n_bg_mean`` and ``fg_ratio_mean``, means over samples (for the
        ratio: the mean of the ratios that are defined, not the ratio of means), and ``n_without_points``, the
        samples without any. Each count and ratio also as
        ``_low`` and ``_high``: its range over every way of deciding the uncertain units.

    Raises
    ------
    SchemaError
        If `ds` breaks the data contract or has no ``knowledge_point``.
    """
    validate(ds, require=("knowledge_point", "foreground"))
    found, uncertain = read_points(ds)
    foreground, background = read_sides(ds)
    choices = {"": found, "_low": found & ~uncertain, "_high": found | uncertain}
    n_fg = {end: (mask & foreground).sum(axis=-1) for end, mask in choices.items()}
    n_bg = {end: (mask & background).sum(axis=-1) for end, mask in choices.items()}
    without = n_fg[""] + n_bg[""] == 0
    # Undefined, a range is over the ways of deciding that leave a point: all on one side or all on the other.
    published = read_settings(ds)["no_points"] == "published"
    ends = {"": ("", 0.0), "_low": ("_high", 0.0 if published else 1.0), "_high": ("_low", 0.0)}
    ratio = {
        end: points.divide_counts(n_fg[end], n_fg[end] + n_bg[other], empty)
        for end, (other, empty) in ends.items()
    }
    if not published:
        ratio = {end: np.where(without, np.nan, values) for end, values in ratio.items()}

    counts: dict[str, np.ndarray] = {}
    for name, values in (("n_fg", n_fg), ("n_bg", n_bg), ("fg_ratio", ratio)):
        counts |= {f"{name}{end}": array for end, array in values.items()}
        counts |= {f"{name}_mean{end}": points.average_defined(array) for end, array in values.items()}
    counts["n_without_points"] = without.sum(axis=-1)
    counts["n_uncertain"] = uncertain.sum(axis=-1)
    return build(counts, coords=sample_coords(ds), attrs=describe_points(ds))
