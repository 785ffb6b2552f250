"""Student beside baseline (and teacher): every metric, with intervals over samples for each training seed."""

import json
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from kdviz import points
from kdviz.analysis.inputs import (
    ENTROPY_SETTINGS,
    check_match,
    draw_resamples,
    read_distance,
    read_entropy_settings,
    read_settings,
)
from kdviz.analysis.metrics import DISTANCE_METRICS, METRICS, PATH_METRICS
from kdviz.errors import DegenerateWarning, KdvizWarning
from kdviz.schema import build, read_sides


def compare(
    *,
    student: xr.Dataset | Sequence[xr.Dataset],
    baseline: xr.Dataset | Sequence[xr.Dataset],
    teacher: xr.Dataset | Sequence[xr.Dataset] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Compare two networks on every metric of the papers, training seed by training seed.

    The two sides are called student and baseline, as in the papers; they may be any two networks, such as
    students of two methods.

    Intervals are percentile bootstraps over samples. Every resample recomputes the background mean and
    hence the points, in student, baseline and teacher alike, so differences are paired. An interval is
    conditional on the given networks: how much another training run would differ is shown by the values
    along ``seed``, never pooled into it.

    Parameters
    ----------
    student, baseline
        From `find_points` with equal settings; one Dataset, or one per training seed in matching order. One
        baseline also serves several students.
        ``D`` needs ``weight_distance`` (epoch) in both.
    teacher
        Optional; one for all seeds or one per seed.
    resamples, confidence, seed
        Number of bootstrap resamples, coverage between 0 and 1, and seed of the resampling.

    Returns
    -------
    Dataset
        Dims (metric, seed); points are counted at the last epoch of each network. ``seed`` is the students'
        ``training_seed`` where these differ, else the position; coordinates
        ``student_name``, ``baseline_name`` (seed) name the two sides.
        ``student``, ``baseline`` and ``difference`` (student minus baseline), and ``teacher`` where given,
        each with ``_low`` and ``_high``. A sample without points has no ratio (`no_points` of `find_points`);
        student and baseline are averaged over the samples on which both are defined, and ``left_out`` counts
        the others; of fewer than two samples there is no interval. Coordinates ``hypothesis`` and
        ``supporting_sign`` (metric): the sign of the difference that would speak for it.
        NaN where a metric is undefined; attribute ``note`` then says why. Attributes state the settings of
        the entropies and points, sample and seed numbers, the checkpoints and the definition of the weight
        distance.
        ``.to_dataframe()`` gives one row per metric and seed.

    Raises
    ------
    SchemaError
        If a dataset breaks the data contract or has no ``knowledge_point``.
    ValueError
        If numbers of datasets, samples, units, masks, inputs, point settings, entropy settings or the
        definitions of weight distance differ, or an option is out of range.

    Warns
    -----
    KdvizWarning
        If student and baseline have different checkpoints: ``rho`` and ``D`` are then NaN, because the
        union of Eq. (9) grows with the number of checkpoints; or fewer than two after epoch 0, of which they
        say nothing.
    DegenerateWarning
        If there are fewer than two samples: no interval exists.
    """
    students = _as_datasets("student", student)
    baselines = _as_datasets("baseline", baseline, len(students))
    baselines *= len(students) // len(baselines)
    teachers = [] if teacher is None else _as_datasets("teacher", teacher, len(students))
    _check_networks(students, baselines, teachers)
    n_samples = students[0].sizes["sample"]
    drawn = draw_resamples(n_samples, resamples, confidence, seed)
    if n_samples < 2:
        warnings.warn(
            "fewer than 2 samples: there is no interval over samples", DegenerateWarning, stacklevel=2
        )
    pairs = list(zip(students, baselines, strict=True))
    undefined = [_find_undefined(*pair) for pair in pairs]
    seeds = [int(ds.attrs.get("training_seed", i)) for i, ds in enumerate(students)]
    if len(set(seeds)) < len(seeds):
        seeds = list(range(len(students)))
    notes = [
        f"seed {seed}: {why}"
        for seed, reasons in zip(seeds, undefined, strict=True)
        for why in dict.fromkeys(reasons.values())
    ]
    if any("rho" in reasons for reasons in undefined):
        warnings.warn(f"metrics of the learning path are NaN; {'; '.join(notes)}", KdvizWarning, stacklevel=2)

    # The first row is the data themselves.
    weights = np.concatenate([np.ones((1, n_samples), np.int64), drawn])
    sides, left_out = [], []
    for both, why in zip(pairs, undefined, strict=True):
        ours, theirs = (_resample(ds, weights) for ds in both)
        for name in ours:
            unknown = np.isnan(ours[name]) | np.isnan(theirs[name])
            ours[name][unknown] = theirs[name][unknown] = np.nan
        sides.append([_average(one, weights, why) for one in (ours, theirs)])
        counts = {name: int(np.isnan(values[0]).sum()) for name, values in ours.items()}
        left_out.append([counts[name if name in counts else "distance"] for name in METRICS])
    tables = dict(zip(("student", "baseline"), np.stack(sides, axis=2), strict=True))
    tables["difference"] = tables["student"] - tables["baseline"]
    if teachers:
        rows = [_average(_resample(ds, weights), weights, PATH_METRICS) for ds in teachers]
        tables["teacher"] = np.broadcast_to(np.stack(rows, axis=1), tables["student"].shape)

    values: dict[str, np.ndarray] = {"left_out": np.array(left_out).T}
    counted = n_samples - values["left_out"]
    for role, table in tables.items():
        low, high = np.where(counted > 1, _find_limits(table[..., 1:], confidence), np.nan)
        values |= {role: table[..., 0], f"{role}_low": low, f"{role}_high": high}
    result = build(
        values,
        coords={
            "metric": list(METRICS),
            "seed": seeds,
            "student_name": [str(ds.attrs.get("network", "")) for ds in students],
            "baseline_name": [str(ds.attrs.get("network", "")) for ds in baselines],
            "hypothesis": [metric.hypothesis for metric in METRICS.values()],
            "supporting_sign": [metric.supporting_sign for metric in METRICS.values()],
        },
        attrs=read_entropy_settings(students[0])
        | read_settings(students[0])
        | {
            "n_samples": n_samples,
            "n_seeds": len(pairs),
            "epochs": json.dumps([ds["epoch"].values.tolist() for ds in students]),
            "resamples": int(resamples),
            "confidence": float(confidence),
            "interval": "bootstrap over samples, for the networks of each seed alone",
        },
    )
    moved = [ds["weight_distance"].attrs for ds in students if "weight_distance" in ds]
    if definitions := sorted({str(attrs["definition"]) for attrs in moved if "definition" in attrs}):
        result.attrs["weight_distance"] = "; ".join(definitions)
    if notes:
        result.attrs["note"] = "; ".join(notes)
    return result


def _as_datasets(argument: str, value: object, students: int | None = None) -> list[xr.Dataset]:
    datasets = [value] if isinstance(value, xr.Dataset) else value
    if not isinstance(datasets, Sequence) or not all(isinstance(ds, xr.Dataset) for ds in datasets):
        raise TypeError(f"{argument} is {type(value).__name__}; allowed: a Dataset or a list of them")
    if not datasets or len(datasets) not in (1, students or len(datasets)):
        raise ValueError(f"{argument} has {len(datasets)} datasets; allowed: 1, or one for each student")
    return list(datasets)


def _check_networks(
    students: list[xr.Dataset], baselines: list[xr.Dataset], teachers: list[xr.Dataset]
) -> None:
    require = ("knowledge_point",)
    networks = {f"student[{i}]": ds for i, ds in enumerate(students)}
    check_match(
        networks | {f"baseline[{i}]": ds for i, ds in enumerate(baselines)},
        settings=ENTROPY_SETTINGS,
        require=require,
    )
    # A teacher of another architecture has its own entropy weight.
    check_match(
        {"student[0]": students[0]} | {f"teacher[{i}]": ds for i, ds in enumerate(teachers)},
        settings=[name for name in ENTROPY_SETTINGS if name != "weight"],
        require=require,
    )


def _find_undefined(student: xr.Dataset, baseline: xr.Dataset) -> dict[str, str]:
    """Metrics this pair cannot be compared on, each with the reason."""
    ours, theirs = student["epoch"].values, baseline["epoch"].values
    if not np.array_equal(ours, theirs):
        lists = f"student {ours.tolist()}, baseline {theirs.tolist()}"
        return dict.fromkeys(
            PATH_METRICS, f"checkpoints differ ({lists}), and rho and D depend on their list"
        )
    if (ours > 0).sum() < 2:  # where rho is 1, and the peak that checkpoint, whatever was learned
        return dict.fromkeys(PATH_METRICS, "fewer than two checkpoints after epoch 0")
    if "weight_distance" not in student or "weight_distance" not in baseline:
        return dict.fromkeys(DISTANCE_METRICS, "no weight_distance in student, baseline or both")
    definitions = [ds["weight_distance"].attrs.get("definition") for ds in (student, baseline)]
    if definitions[0] != definitions[1]:
        raise ValueError(
            f"weight_distance has definition {definitions[0]!r} in student, {definitions[1]!r} in baseline"
        )
    return {}


def _resample(ds: xr.Dataset, weights: np.ndarray) -> dict[str, np.ndarray]:
    settings = read_settings(ds)
    foreground, background = read_sides(ds)
    return points.resample_samples(
        ds["entropy"].values,
        foreground,
        foreground | background,
        weights,
        threshold=settings["threshold"],
        per_sample=settings["background"] == "sample",
        after_start=ds["epoch"].values > 0,
        distance=read_distance(ds),
        published=settings["no_points"] == "published",
    )


def _average(samples: dict[str, np.ndarray], weights: np.ndarray, undefined: Iterable[str]) -> np.ndarray:
    """Metrics of every resample, ``(metric, R)``; NaN for the `undefined` ones."""
    metrics = points.average_metrics(samples, weights)
    unknown = np.full(len(weights), np.nan)
    return np.stack([unknown if name in undefined else metrics[name] for name in METRICS])


def _find_limits(resampled: np.ndarray, confidence: float) -> np.ndarray:
    """Percentile limits over the last axis, ``(2, metric, seed)``, of the resamples that are defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of none defined, which has no limits
        return np.nanquantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1)
