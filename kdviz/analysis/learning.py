"""How fast, how simultaneously and with how few detours knowledge points were learned."""

import json
import warnings

import numpy as np
import xarray as xr

from kdviz import points
from kdviz.analysis.inputs import (
    ENTROPY_SETTINGS,
    check_match,
    check_one_layer,
    describe_points,
    name_some,
    read_distance,
    read_masks,
    read_points,
)
from kdviz.analysis.metrics import DISTANCE_METRICS
from kdviz.errors import DegenerateWarning
from kdviz.schema import build, validate


def measure_learning(
    ds: xr.Dataset,
    *,
    weight_distance: xr.DataArray | None = None,
    repeat: xr.Dataset | None = None,
    include_start: bool = True,
) -> xr.Dataset:
    """Measure how fast, how simultaneously and with how few detours foreground points were learned [1]_.

    For every sample, the peak is the first checkpoint after epoch 0 with the most foreground points;
    ``distance`` is the weight movement up to there (Eq. 8). ``rho`` is the share of all foreground points
    ever met that the last checkpoint keeps (Eq. 9). Both depend on the list of checkpoints: compare
    networks on equal lists only.

    Parameters
    ----------
    ds
        From `find_points`: reads ``knowledge_point``, ``uncertain``, ``foreground``, ``valid`` and, unless
        given separately, ``weight_distance``.
    weight_distance
        Cumulated weight movement (epoch), divided by the norm of the initial weights; must cover every
        epoch of `ds`.
    repeat
        The same network and inputs measured with a second measurement seed, from `find_points` with equal
        settings; the last epoch is enough. Gives the noise floor of ``rho``.
    include_start
        Whether epoch 0 counts towards the union of Eq. (9). The papers' formula starts at checkpoint 1;
        their code includes 0, which is the default.

    Returns
    -------
    Dataset
        Per sample: ``peak_epoch``; ``distance``; ``n_union``, the points ever met; ``rho`` with ``rho_low``
        and ``rho_high``, its range over every way of deciding the uncertain units. Over samples:
        ``d_mean``; ``d_var``, the population variance, which is what the papers print as D_std; ``d_std``,
        its root; ``rho_mean``, ``rho_mean_low``, ``rho_mean_high``. ``dropped`` (epoch, sample, unit):
        foreground points met before and not held at this epoch; at the last epoch the tried-and-dropped set
        of the papers. Without any ``weight_distance`` the distance and D variables are left out and
        attribute ``note`` says so.

        With `repeat`: ``rho_floor``, the mean over samples of the intersection over union of the two final
        foreground sets; ``rho_repeat``, the `rho_mean` of the repetition; and ``n_fg_repeat``, its final
        foreground count.

    Raises
    ------
    SchemaError
        If `ds` or `repeat` breaks the data contract or has no ``knowledge_point``.
    ValueError
        If `ds` has several layers, there is no checkpoint after epoch 0, `weight_distance` lacks an epoch,
        is not finite or decreases, or `repeat` does not match `ds`.

    Warns
    -----
    DegenerateWarning
        If some samples never had a foreground point: their ``rho`` counts as 0 and their peak is the first
        checkpoint, as in the published code.

    Notes
    -----
    ``rho_floor`` tells how much of ``1 - rho`` measurement noise alone can explain. A network that does not
    move at all, whose two checkpoints are measured with independent noise, keeps all points only by luck:
    its expected ``rho`` is ``(1 + rho_floor) / 2``, and with more checkpoints the union grows and it falls,
    towards or below ``rho_floor``. Noise that is common to all checkpoints, as kdviz measures, removes most
    of this; the floor is then pessimistic.

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
    if weight_distance is None:
        weight_distance = ds.get("weight_distance")
    distance = None if weight_distance is None else read_distance(weight_distance, epochs)
    if repeat is not None:
        _check_repeat(ds, repeat)

    foreground, _ = read_masks(ds)
    found, uncertain = (mask & foreground for mask in read_points(ds))
    in_union = after_start | include_start
    met = points.accumulate_points(found & in_union[:, None, None])
    n_union = met[-1].sum(axis=-1)
    if (never := n_union == 0).any():
        warnings.warn(
            f"{never.sum()} of {len(never)} samples never had a foreground knowledge point "
            f"({name_some(ds['sample'].values[never])}); their rho counts as 0",
            DegenerateWarning,
            stacklevel=2,
        )
    peak = np.flatnonzero(after_start)[points.find_peak(found[after_start].sum(axis=-1))]
    rho = points.measure_detours(found[in_union])
    low, high = points.bound_detours(found[in_union], uncertain[in_union])

    learning = {"peak_epoch": epochs[peak], "n_union": n_union, "dropped": met & ~found}
    attrs = describe_points(ds)
    attrs |= {"epochs": json.dumps(epochs.tolist()), "include_start": int(include_start)}
    if distance is None:
        attrs["note"] = f"no weight_distance: distance, {', '.join(DISTANCE_METRICS)} are left out"
    else:
        travelled = distance[peak]
        # Population variance: what the papers print as D_std.
        moments = (travelled.mean(), travelled.var(), travelled.std())
        learning |= {"distance": travelled, **dict(zip(DISTANCE_METRICS, moments, strict=True))}
    for end, values in {"": rho, "_low": low, "_high": high}.items():
        learning |= {f"rho{end}": values, f"rho_mean{end}": values.mean()}
    if repeat is not None:
        again = read_points(repeat)[0] & foreground
        learning["rho_floor"] = points.overlap_points(found[-1], again[-1]).mean()
        if repeat["epoch"].equals(ds["epoch"]):
            learning["rho_repeat"] = points.measure_detours(again[in_union]).mean()
        learning["n_fg_repeat"] = again[-1].sum(axis=-1).mean()
    return build(learning, coords={str(name): ds[name] for name in ds.coords}, attrs=attrs)


def _check_repeat(ds: xr.Dataset, repeat: xr.Dataset) -> None:
    pair = {"ds": ds, "repeat": repeat}
    check_match(pair, settings=ENTROPY_SETTINGS, attrs=("layer", "noise_space"), require=("knowledge_point",))
    ours, theirs = (one["epoch"].values.tolist() for one in (ds, repeat))
    if ours[-1] != theirs[-1]:
        raise ValueError(f"repeat ends at epoch {theirs[-1]}, ds at {ours[-1]}; allowed: the same last epoch")
    if "seed" in ds.attrs and ds.attrs["seed"] == repeat.attrs.get("seed"):
        raise ValueError(
            f"repeat has the measurement seed of ds, {ds.attrs['seed']}; measure it with another"
        )
