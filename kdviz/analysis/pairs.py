"""From a stored run to comparable networks: which student belongs to which baseline and teacher."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
import xarray as xr

from kdviz import points
from kdviz.analysis.accuracies import pick_last
from kdviz.analysis.comparison import compare
from kdviz.analysis.inputs import ENTROPY_SETTINGS, check_match, read_points
from kdviz.analysis.networks import Group, group_networks, name_layers
from kdviz.analysis.progress import tabulate_counts
from kdviz.analysis.settings import Settings, apply_settings
from kdviz.arguments import suggest
from kdviz.schema import METHODS, read_sides
from kdviz.store import Run


@dataclass(frozen=True)
class NetworkPair:
    """Students of one method measured at one layer, their baselines and teachers, with knowledge points.

    Attributes
    ----------
    layer
        Its label, see `name_layers`.
    students, baselines, teachers
        ``{training seed: Dataset}``, in the order of seeds.
    student_repeats, baseline_repeats
        The same networks measured with another, larger measurement seed.
    """

    layer: str
    students: Mapping[int, xr.Dataset]
    baselines: Mapping[int, xr.Dataset]
    teachers: Mapping[int, xr.Dataset] = field(default_factory=dict)
    student_repeats: Mapping[int, xr.Dataset] = field(default_factory=dict)
    baseline_repeats: Mapping[int, xr.Dataset] = field(default_factory=dict)

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
    run: Run,
    settings: Settings | None = None,
    *,
    layers: Sequence[str] | None = None,
    finished: bool = False,
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
        Names as in the result, or names of layers, each for all that the result holds at that layer; by
        default all.
    finished
        Leave out what is not measured whole, instead of raising.

    Returns
    -------
    dict
        By layer, under the papers' name of it (``"fc1"``) where the run records one, in the order of those
        names. Where students of several methods were measured at a layer, each method is a pair,
        ``"kl at fc1"``; students whose method is not recorded, and further ones of one method and seed, make
        pairs under their own names, without the seed. A student counts at the layer it was distilled at; if
        that is not recorded or was not measured, at every layer it was measured at. Of several teachers or
        baselines of one seed, those that share the students' teacher or architecture come first.

    Raises
    ------
    StoreError, SchemaError
        If the run is damaged or, unless `finished`, unfinished.
    ValueError
        If a layer is unknown.
    """
    chosen = (Settings() if settings is None else settings).of_run(run)
    groups = group_networks(run, finished=finished)
    asked = [groups] if layers is None else [_find_labels(run, groups, one) for one in layers]
    pairs = {}
    for label in itertools.chain(*asked):
        layer, networks = groups[label]
        found = {
            part: {
                seed: apply_settings(run.dataset(one.name, one.layers[layer]), chosen)
                for seed, one in by_seed.items()
            }
            for part, by_seed in networks.items()
        }
        pairs[label] = NetworkPair(layer, **found)
    return pairs


def _find_labels(run: Run, groups: Mapping[str, Group], layer: str) -> list[str]:
    if layer in groups:
        return [layer]
    modules = name_layers(run)
    found = [label for label, group in groups.items() if layer in (group.layer, *modules[group.layer])]
    if not found:
        known = [*(group.layer for group in groups.values()), *groups]
        raise ValueError(f"no networks to compare at layer {layer!r}; {suggest(layer, dict.fromkeys(known))}")
    return found


def compare_layers(pairs: Mapping[str, NetworkPair]) -> pd.DataFrame:
    """Put the comparisons of all layers into one table: a row for each layer, metric and training seed.

    How its numbers came about is the text of `describe_comparison`, to show below it.
    """
    tables = [
        ds.to_dataframe().reset_index().assign(layer=label) for label, ds in _compare_all(pairs).items()
    ]
    return pd.concat(tables, ignore_index=True)


def compare_settings(run: Run, settings: Mapping[str, Settings], *, layer: str) -> pd.DataFrame:
    """Compare student and baseline at one layer under several settings, as Table III of the papers does [1]_.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`.
    settings
        ``{label: Settings}``.
    layer
        A layer with student and baseline, or one label of it, as in `pair_networks`.

    Returns
    -------
    DataFrame
        As from `compare_layers`, with the column ``setting`` in the order of `settings`.

    Raises
    ------
    ValueError
        If there are no settings, or the layer has no pair.

    References
    ----------
    .. [1] Zhang, Cheng, Chen, Rao, "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, Table III.
    """
    if not settings:
        raise ValueError("settings is empty; name at least one")
    tables = [
        compare_layers(pair_networks(run, chosen, layers=[layer])).assign(setting=label)
        for label, chosen in settings.items()
    ]
    return pd.concat(tables, ignore_index=True)


def describe_comparison(pairs: Mapping[str, NetworkPair]) -> str:
    """Say in one paragraph how the numbers of `compare_layers` came about: the caption of that table.

    States numbers of samples, training seeds, checkpoints, the settings of the entropies, threshold, kind of
    interval and definition of the weight distance, the samples left out of ratios because they are without
    points, and what is undefined with its reason. What differs between layers stands with the layer's name.
    """
    facts = {label: _describe(ds) for label, ds in _compare_all(pairs).items()}
    sentences = []
    for topic in next(iter(facts.values())):
        told = {label: fact[topic] for label, fact in facts.items() if fact[topic]}
        same = len(told) == len(facts) and len(set(told.values())) == 1
        text = next(iter(told.values())) if same else ", ".join(f"{told[at]} ({at})" for at in told)
        if text:
            sentences.append(f"{topic}: {text}.")
    return " ".join(sentences)


def describe_measurement(
    pairs: Mapping[str, NetworkPair], others: Mapping[str, Mapping[str, xr.Dataset]] | None = None
) -> pd.DataFrame:
    """Say for each network how it fared in its last epoch, and how it was measured.

    Parameters
    ----------
    pairs
        From `pair_networks`.
    others
        Networks of further roles, with knowledge points: ``{layer: {name: Dataset}}``; listed last, with
        their names as roles.

    Returns
    -------
    DataFrame
        ``layer``, ``role``, ``seed``; ``n_fg``, ``n_bg``, ``uncertain``: units per sample in the last epoch;
        over all epochs, ``path``: the share of samples measured by sampled descent, and ``met``: the share
        whose calibration was met; ``accuracy`` after the last, NaN where not recorded; ``learning_rate`` of
        the first epoch of training, a column where some network has it.
    """
    rows = [
        _describe_one(label, role, seed, ds)
        for label, pair in pairs.items()
        for role, networks in pair.by_role.items()
        for seed, ds in networks.items()
    ]
    rows += [
        _describe_one(label, name, int(ds.attrs.get("training_seed", 0)), ds)
        for label, networks in (others or {}).items()
        for name, ds in networks.items()
    ]
    return pd.DataFrame(rows)


def _describe_one(label: str, role: str, seed: int, ds: xr.Dataset) -> dict[str, Any]:
    last = tabulate_counts(ds).iloc[-1]
    return {
        "layer": label,
        "role": role,
        "seed": seed,
        "n_fg": last["n_fg"],
        "n_bg": last["n_bg"],
        "uncertain": float(ds["uncertain"].isel(epoch=-1).sum("unit").mean()),
        "path": float((ds["method"] == METHODS.index("path")).mean()),
        "met": float(ds["converged"].mean()),
        "accuracy": pick_last(ds.get("accuracy"), ds.attrs),
        **({"learning_rate": float(rate)} if (rate := ds.attrs.get("learning_rate")) else {}),
    }


def measure_noise_floor(pairs: Mapping[str, NetworkPair]) -> pd.DataFrame:
    """Show how far the counts move when nothing but the measurement seed changes.

    Returns
    -------
    DataFrame
        A row for each layer, role and training seed: ``n_fg`` of the final checkpoint with either
        measurement seed, the same for ``n_bg``, and ``overlap``: the share of foreground points that both
        agree on (intersection over union), a mean over the samples where either has one; ``without`` counts
        the other samples.
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
                both = {f"{role} at {label}": ds, "repeat": repeats[seed]}
                check_match(both, settings=ENTROPY_SETTINGS, require=("knowledge_point",))
                found = [read_points(one)[0][-1] & read_sides(one)[0] for one in both.values()]
                overlap = pd.Series(points.overlap_points(*found))  # whose mean leaves out NaN
                rows.append(row | {"overlap": overlap.mean(), "without": int(overlap.isna().sum())})
    return pd.DataFrame(rows)


def _compare_all(pairs: Mapping[str, NetworkPair]) -> dict[str, xr.Dataset]:
    found = {label: pair.compare() for label, pair in pairs.items() if pair.students and pair.baselines}
    if not found:
        raise ValueError("the run has no layer with both a student and a baseline")
    return found


def _describe(comparison: xr.Dataset) -> dict[str, str]:
    about = comparison.attrs
    seeds = comparison["seed"].values.tolist()
    epochs = [", ".join(map(str, one)) for one in json.loads(about["epochs"])]
    if len(set(epochs)) > 1:
        epochs = [f"{one} (seed {seed})" for one, seed in zip(epochs, seeds, strict=True)]
    counts = {name: comparison["left_out"].sel(metric=name).values for name in ("fg_ratio", "rho", "d_mean")}
    left_out = ", ".join(f"{' / '.join(map(str, n))} from {name}" for name, n in counts.items() if n.any())
    if about["no_points"] == "published":
        left_out = "none; their fg_ratio and rho are 0, their peak is the first checkpoint"
    settings = {name: about[name] for name in ENTROPY_SETTINGS if name in about}
    background = f"the mean entropy of the background of the {about['background']}"
    return {
        "Samples": str(about["n_samples"]),
        "Training seeds": ", ".join(map(str, seeds)),
        "Checkpoints": f"epochs {', '.join(dict.fromkeys(epochs))}; points counted at the last epoch",
        "Entropies": ", ".join(f"{name} {value}" for name, value in settings.items()),
        "Threshold": f"{about['threshold']:g} nat below {background}",
        "Intervals": f"{100 * about['confidence']:g} %, {about['resamples']} resamples, {about['interval']}",
        "Weight distance": about.get("weight_distance", "definition not recorded"),
        "Samples without points left out (by seed)": left_out,
        "Undefined": about.get("note", ""),
    }
