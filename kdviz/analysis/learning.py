"""How fast, how simultaneously and with how few detours knowledge points were learned."""

import json

import numpy as np
import xarray as xr

from kdviz import points
from kdviz.analysis.inputs import check_one_layer, describe_points, read_distance, read_points, read_settings
from kdviz.analysis.metrics import DISTANCE_METRICS
from kdviz.schema import build, read_sides, validate


def measure_learning(ds: xr.Dataset) -> xr.Dataset:
    """Measure how fast, how simultaneously and with how few detours foreground points were learned [1]_.

    For every sample, the peak is the first checkpoint after epoch 0 with the most foreground points;
    ``distance`` is the weight movement up to there (Eq. 8). ``rho`` is the share of all foreground points
    ever met that the last checkpoint keeps (Eq. 9); as in the papers' code, epoch 0 is among the
    checkpoints. Both depend on the list of checkpoints: compare networks on equal lists only. A sample that
    never had a point has neither: NaN, left out of the means, unless `no_points` of `find_points` says
    otherwise.

    Parameters
    ----------
    ds
        From `find_points`: reads ``knowledge_point``, ``uncertain``, ``foreground``, ``valid`` and, if there,
        ``weight_distance`` (epoch), the cumulated movement of the weights.

    Returns
    -------
    Dataset
        Per sample: ``peak_epoch``; ``distance``; ``n_union``, the points ever met; ``rho`` with ``rho_low``
        and ``rho_high``, its range over every way of deciding the uncertain units. Over samples:
        ``n_without_union``, those that never had a point, and ``n_without_peak``, those that had none after
        epoch 0; ``d_mean``; ``d_var``, the population variance, which is what the papers print as D_std;
        ``d_std``, its root; ``rho_mean``, ``rho_mean_low``, ``rho_mean_high``. ``dropped`` (epoch, sample,
        unit):
        foreground points met before and not held at this epoch; at the last epoch the tried-and-dropped set
        of the papers. Without ``weight_distance`` the distance and D variables are left out and attribute
        ``note`` says so.

    Raises
    ------
    SchemaError
        If `ds` breaks the data contract or has no ``knowledge_point``.
    ValueError
        If `ds` has several layers, there is no checkpoint after epoch 0, or ``weight_distance`` decreases.

    References
    ----------
    .. [1] Zhang, Cheng, Chen, Rao, "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, Eqs. (8) and (9).
    """
    validate(ds, require=("knowledge_point", "foreground"))
    check_one_layer(ds)
    epochs = ds["epoch"].values
    after_start = epochs > 0
    if not after_start.any():
        raise ValueError(
            f"epochs are {epochs.tolist()}; learning needs at least one checkpoint after epoch 0"
        )
    distance = read_distance(ds)
    foreground, _ = read_sides(ds)
    found, uncertain = (mask & foreground for mask in read_points(ds))
    met = np.logical_or.accumulate(found, axis=0)
    n_union = met[-1].sum(axis=-1)
    never = n_union == 0
    counts = found[after_start].sum(axis=-1)
    peak = np.flatnonzero(after_start)[counts.argmax(axis=0)]
    no_peak = counts.max(axis=0) == 0
    low, high = points.bound_detours(found, uncertain)
    rho = {"": points.measure_detours(found), "_low": low, "_high": high}
    published = read_settings(ds)["no_points"] == "published"
    if published:
        certain = (found & ~uncertain).any(axis=(0, -1))  # the others may be without a point
        rho = {"": np.nan_to_num(rho[""]), "_low": np.where(certain, low, 0.0), "_high": np.nan_to_num(high)}
    else:
        rho = {end: np.where(never, np.nan, values) for end, values in rho.items()}
    undefined = no_peak & (not published)

    learning = {
        "peak_epoch": np.where(undefined, np.nan, epochs[peak]),
        "n_union": n_union,
        "n_without_union": never.sum(),
        "n_without_peak": no_peak.sum(),
        "dropped": met & ~found,
    }
    attrs = describe_points(ds) | {"epochs": json.dumps(epochs.tolist())}
    if distance is None:
        attrs["note"] = f"no weight_distance: distance, {', '.join(DISTANCE_METRICS)} are left out"
    else:
        travelled = np.where(undefined, np.nan, distance[peak])
        # Population variance: what the papers print as D_std.
        mean = points.average_defined(travelled)
        variance = points.average_defined((travelled - mean) ** 2)
        moments = (mean, variance, np.sqrt(variance))
        learning |= {"distance": travelled, **dict(zip(DISTANCE_METRICS, moments, strict=True))}
    for end, values in rho.items():
        learning |= {f"rho{end}": values, f"rho_mean{end}": points.average_defined(values)}
    return build(learning, coords={str(name): ds[name] for name in ds.coords}, attrs=attrs)
