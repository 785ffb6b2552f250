"""From a stored run to comparable networks: which student belongs to which baseline and teacher."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from kdviz.analysis.comparison import compare
from kdviz.analysis.knowledge import count_points
from kdviz.analysis.learning import measure_learning
from kdviz.analysis.networks import LayerNetworks, group_networks
from kdviz.analysis.settings import Settings, apply_settings
from kdviz.errors import KdvizWarning
from kdviz.schema import METHODS
from kdviz.store import Run

_ROLES = ("students", "baselines", "teachers", "student_repeats", "baseline_repeats")


@dataclass(frozen=True)
class NetworkPair(LayerNetworks[xr.Dataset]):
    """Students of one method measured at one layer, their baselines and teachers, with knowledge points."""

    @property
    def teacher(self) -> xr.Dataset | None:
        """The first of the teachers; None if there is none."""
        return next(iter(self.teachers.values()), None)

    @property
    def by_role(self) -> dict[str, Mapping[int, xr.Dataset]]:
        """``{role: {training seed: Dataset}}`` of teachers, students and baselines."""
        return {"teacher": self.teachers, "student": self.students, "baseline": self.baselines}

    def compare(self) -> xr.Dataset:
        """Compare the seeds that have both a student and a baseline, see :func:`kdviz.compare`."""
        return self._comparison.copy(deep=True)

    @cached_property
    def _comparison(self) -> xr.Dataset:  # the resampling is slow, and table and caption both need it
        seeds = [seed for seed in self.students if seed in self.baselines]
        if not seeds:
            raise ValueError(f"no training seed has both a student and a baseline at layer {self.layer!r}")
        return compare(
            student=[self.students[seed] for seed in seeds],
            baseline=[self.baselines[seed] for seed in seeds],
            teacher=self.teacher,
        ).assign_coords(seed=seeds)


def pair_networks(
    run: Run, settings: Settings | None = None, *, layers: Sequence[str] | None = None
) -> dict[str, NetworkPair]:
    """Find the knowledge points of all networks of a run, and sort the networks by layer and role.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`.
    settings
        How points follow from the measured gains; by default those of the papers, at the weight of the
        measurement and the threshold of the run.
    layers
        Names as in the result; by default all.

    Returns
    -------
    dict
        By layer, and by method where a layer has several, as in `group_networks`.

    Raises
    ------
    StoreError, SchemaError
        If the run is damaged or unfinished.
    ValueError
        If a layer is unknown.

    Warns
    -----
    KdvizWarning
        If student and baseline of a pair have different measurement seeds: their noise is not common, and
        its error no longer cancels in the difference.
    """
    chosen = (Settings() if settings is None else settings).of_run(run)
    groups = group_networks(run)
    if unknown := [layer for layer in layers or () if layer not in groups]:
        raise ValueError(f"layers holds {unknown}; the run has {', '.join(groups)}")
    pairs = {}
    for label, group in groups.items():
        if layers is not None and label not in layers:
            continue

        found = {
            role: {
                seed: apply_settings(run.dataset(network, group.layer), chosen)
                for seed, network in getattr(group, role).items()
            }
            for role in _ROLES
        }
        pair = NetworkPair(layer=group.layer, method=group.method, **found)
        _check_common_noise(pair)
        pairs[label] = pair
    return pairs


def compare_layers(pairs: Mapping[str, NetworkPair]) -> pd.DataFrame:
    """Put the comparisons of all layers into one table: a row for each layer, metric and training seed.

    How its numbers came about is the text of `describe_comparison`, to show below it.
    """
    tables = [
        comparison.to_dataframe().reset_index().assign(layer=label)
        for label, comparison in _compare_all(pairs).items()
    ]
    return pd.concat(tables, ignore_index=True)


def describe_comparison(pairs: Mapping[str, NetworkPair]) -> str:
    """Say in one paragraph how the numbers of `compare_layers` came about: the caption of that table.

    States numbers of samples, training seeds, checkpoints, solver, entropy weight, calibration, threshold,
    kind of interval and definition of the weight distance; what differs between layers stands with the
    layer's name, the samples without any point, and what is undefined with its reason.
    """
    comparisons = _compare_all(pairs)

    def say(topic: str, describe: Callable[[xr.Dataset], str]) -> str:
        facts = {label: describe(comparison) for label, comparison in comparisons.items()}
        same = len(set(facts.values())) == 1
        told = facts[next(iter(facts))] if same else ", ".join(f"{text} ({at})" for at, text in facts.items())
        return f"{topic}: {told}."

    topics: dict[str, Callable[[xr.Dataset], str]] = {
        "Samples": lambda ds: str(ds.attrs["n_samples"]),
        "Training seeds": lambda ds: _list(ds["seed"].values.tolist()),
        "Checkpoints": _describe_checkpoints,
        "Entropies": lambda ds: _describe_entropies(ds.attrs),
        "Threshold": lambda ds: (
            f"{ds.attrs['threshold']:g} nat below the mean background entropy of the {ds.attrs['background']}"
        ),
        "Intervals": lambda ds: (
            f"{100 * ds.attrs['confidence']:g} %, {ds.attrs['resamples']} resamples, {ds.attrs['interval']}"
        ),
        "Weight distance": lambda ds: ds.attrs.get("weight_distance", "definition not recorded"),
    }
    sentences = [say(topic, describe) for topic, describe in topics.items()]
    if without := [text for at, ds in comparisons.items() for text in _count_without_points(at, ds)]:
        sentences.append(f"Without any point at the counted epoch, fg_ratio 0: {', '.join(without)}.")
    if notes := [f"{ds.attrs['note']} ({at})" for at, ds in comparisons.items() if "note" in ds.attrs]:
        sentences.append(f"Undefined: {'; '.join(notes)}.")
    return " ".join(sentences)


def tally_hypotheses(table: pd.DataFrame) -> pd.DataFrame:
    """Count how often the student lies on the side of the papers' hypothesis, over layers and seeds.

    Parameters
    ----------
    table
        From `compare_layers`.

    Returns
    -------
    DataFrame
        Index ``hypothesis``, ``metric``, in the order of `METRICS`; ``student ahead``: how many differences
        have the supporting sign, ``comparisons``: how many there are. An undefined difference is no
        comparison, and no difference at all is not ahead.
    """
    ahead = np.sign(table["difference"]) == table["supporting_sign"]
    groups = [table["hypothesis"], table["metric"]]
    return pd.DataFrame(
        {
            "student ahead": ahead.groupby(groups, sort=False).sum(),
            "comparisons": table["difference"].groupby(groups, sort=False).count(),
        }
    )


def tabulate_counts(ds: xr.Dataset, counts: xr.Dataset | None = None) -> pd.DataFrame:
    """Count knowledge points by epoch: means over samples with the range of uncertain units.

    Parameters
    ----------
    ds
        From :func:`kdviz.find_points`.
    counts
        Of `ds`, from :func:`kdviz.count_points`, where they are known already.

    Returns
    -------
    DataFrame
        Index ``epoch``; ``role``, and ``n_fg``, ``n_bg``, ``fg_ratio`` each also with ``_low`` and ``_high``.
    """
    counts = count_points(ds) if counts is None else counts
    means = {name: name.replace("_mean", "") for name in map(str, counts.data_vars) if "_mean" in name}
    return (
        counts[list(means)]
        .to_dataframe()[list(means)]
        .rename(columns=means)
        .assign(role=str(ds.attrs.get("network_role", "")))
    )


def describe_measurement(pairs: Mapping[str, NetworkPair]) -> pd.DataFrame:
    """Say for each network how it fared in its last epoch, and how it was measured.

    Returns
    -------
    DataFrame
        ``layer``, ``role``, ``seed``; ``n_fg``, ``n_bg``, ``uncertain``: units per sample in the last epoch;
        over all epochs, ``path``: the share of samples measured by sampled descent, and ``met``: the share
        whose calibration was met; ``accuracy`` on held-out samples, NaN where not recorded.
    """
    rows = []
    for label, pair in pairs.items():
        for role, networks in pair.by_role.items():
            for seed, ds in networks.items():
                last = tabulate_counts(ds).iloc[-1]
                row = {"layer": label, "role": role, "seed": seed, "n_fg": last["n_fg"], "n_bg": last["n_bg"]}
                row["uncertain"] = float(ds["uncertain"].isel(epoch=-1).sum("unit").mean())
                row["path"] = float((ds["method"] == METHODS.index("path")).mean())
                row["met"] = float(ds["converged"].mean())
                row["accuracy"] = float(ds.attrs.get("accuracy", "nan"))
                rows.append(row)
    return pd.DataFrame(rows)


def measure_noise_floor(pairs: Mapping[str, NetworkPair]) -> pd.DataFrame:
    """Show how far the counts move when nothing but the measurement seed changes.

    Returns
    -------
    DataFrame
        A row for each layer, role and training seed: ``n_fg`` of the final checkpoint with either
        measurement seed, the same for ``n_bg``, and ``overlap``: the mean share of foreground points that
        both agree on (intersection over union).
    """
    rows = []
    for label, pair in pairs.items():
        for role, repeats in (("student", pair.student_repeats), ("baseline", pair.baseline_repeats)):
            for seed, ds in pair.by_role[role].items():
                if seed not in repeats:
                    continue
                once, again = (tabulate_counts(one).iloc[-1] for one in (ds, repeats[seed]))
                row: dict[str, Any] = {"layer": label, "role": role, "seed": seed}
                for name in ("n_fg", "n_bg"):
                    row |= {name: once[name], f"{name} again": again[name]}
                row["overlap"] = float(measure_learning(ds, repeat=repeats[seed])["rho_floor"])
                rows.append(row)
    return pd.DataFrame(rows)


def _check_common_noise(pair: NetworkPair) -> None:
    for seed in sorted(pair.students.keys() & pair.baselines.keys()):
        sides = [networks[seed].attrs for networks in (pair.students, pair.baselines)]
        ours, theirs = (int(attrs.get("seed", 0)) for attrs in sides)
        if ours != theirs:
            student, baseline = (attrs["network"] for attrs in sides)
            warnings.warn(
                f"at layer {pair.layer!r} {student} was measured with seed {ours} and {baseline} with "
                f"{theirs}: their noise is not common, so that its error does not cancel in the difference",
                KdvizWarning,
                stacklevel=3,
            )


def _compare_all(pairs: Mapping[str, NetworkPair]) -> dict[str, xr.Dataset]:
    found = {label: pair.compare() for label, pair in pairs.items() if pair.students and pair.baselines}
    if not found:
        raise ValueError("the run has no layer with both a student and a baseline")
    return found


def _count_without_points(label: str, comparison: xr.Dataset) -> Iterator[str]:
    for role in ("student", "baseline"):
        numbers = json.loads(comparison.attrs[f"{role}_without_points"])
        for seed, number in zip(comparison["seed"].values.tolist(), numbers, strict=True):
            if number:
                total = comparison.attrs["n_samples"]
                yield f"{number} of {total} samples of the {role} ({label}, seed {seed})"


def _describe_checkpoints(comparison: xr.Dataset) -> str:
    """Epochs of the students; those of a baseline that has others are in the note."""
    lists = json.loads(comparison.attrs["epochs"])
    by_seed = dict(zip(comparison["seed"].values.tolist(), map(_list, lists), strict=True))
    if len(set(by_seed.values())) == 1:
        epochs = _list(lists[0])
    else:
        epochs = ", ".join(f"{epochs} (seed {seed})" for seed, epochs in by_seed.items())
    start = "in" if comparison.attrs["include_start"] else "not in"
    return f"epochs {epochs}; points counted at the {comparison.attrs['counted_at']}, epoch 0 is {start} rho"


def _describe_entropies(attrs: Mapping[Any, Any]) -> str:
    said = f"solver {attrs.get('solver', 'not recorded')}"
    if "weight" in attrs:
        said += f", weight {attrs['weight']:g}"
    if "feature_loss" in attrs:
        return f"{said}, calibrated to a feature loss of {attrs['feature_loss']:g} feature variances"
    if "calibration" in attrs:
        return f"{said}, calibration {attrs['calibration']:g} nat above the base noise"
    return f"{said}, not calibrated"


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values))
