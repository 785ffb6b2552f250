"""From a stored run to comparable networks: which student belongs to which baseline and teacher."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import xarray as xr

from kdviz.analysis.comparison import compare
from kdviz.analysis.entropies import derive_entropy
from kdviz.analysis.knowledge import Baseline, count_points, find_points
from kdviz.analysis.learning import measure_learning
from kdviz.entropy import Solver
from kdviz.schema import METHODS
from kdviz.store import Run


@dataclass(frozen=True)
class NetworkPair:
    """Students distilled and measured at one layer, their baselines, and the teacher.

    Attributes
    ----------
    layer
        Name in ``named_modules()``.
    students, baselines
        ``{training seed: Dataset}`` with knowledge points, in the order of seeds.
    teacher
        With knowledge points; None if the run has none.
    student_repeats, baseline_repeats
        The same networks measured with another measurement seed.
    """

    layer: str
    students: Mapping[int, xr.Dataset]
    baselines: Mapping[int, xr.Dataset]
    teacher: xr.Dataset | None = None
    student_repeats: Mapping[int, xr.Dataset] = field(default_factory=dict)
    baseline_repeats: Mapping[int, xr.Dataset] = field(default_factory=dict)

    def compare(self) -> xr.Dataset:
        """Compare the seeds that have both a student and a baseline, see :func:`kdviz.compare`."""
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
    *,
    threshold: float = 0.2,
    solver: Solver = "descent",
    target: float | None = 0.386,
    feature_loss: float | None = None,
    baseline: Baseline = "checkpoint",
) -> dict[str, NetworkPair]:
    """Find the knowledge points of all networks of a run, and sort the networks by layer and role.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`.
    threshold, baseline
        As in :func:`kdviz.find_points`.
    solver, target, feature_loss
        As in :func:`kdviz.derive_entropy`; the entropy weight is that of the measurement.

    Returns
    -------
    dict
        By layer, under the papers' name of it (``"fc1"``) where the run records one. A student counts at
        the layer it was distilled at; if that is not recorded, at every layer it was measured at.

    Raises
    ------
    StoreError, SchemaError
        If the run is damaged or unfinished.
    ValueError
        If a setting is out of range, or two networks claim one place.
    """
    names = json.loads(str(run.attrs.get("config", "{}"))).get("layer_names", {})
    label_of = {module: label for label, module in names.items()}
    groups = [(network, layer) for network in run.networks for layer in run.layers(network)]
    attrs = {group: run.group_attrs(*group) for group in groups}
    first_seed = min((int(a.get("seed", 0)) for a in attrs.values()), default=0)
    found: dict[str, dict[str, dict[int, xr.Dataset]]] = {}
    for (network, layer), about in attrs.items():
        role = str(about.get("network_role", ""))
        if role == "student" and about.get("distilled_layer", layer) != layer:
            continue
        place = role if int(about.get("seed", 0)) == first_seed else f"{role}_repeat"
        seeds = found.setdefault(layer, {}).setdefault(place, {})
        seed = int(about.get("training_seed", 0))
        if seed in seeds:
            raise ValueError(
                f"{network} is a second {role} of training seed {seed} at layer {layer!r}; give networks "
                "of one role another training_seed, or put them into another run"
            )
        entropies = derive_entropy(
            run.dataset(network, layer),
            solver=solver,
            weight=float(about["weight"]),
            target=target,
            feature_loss=feature_loss,
        )
        seeds[seed] = find_points(entropies, threshold=threshold, baseline=baseline)
    order = [*names.values(), *sorted(set(found) - set(names.values()))]
    return {
        label_of.get(layer, layer): NetworkPair(
            layer=layer,
            students=_by_seed(found[layer], "student"),
            baselines=_by_seed(found[layer], "baseline"),
            teacher=next(iter(_by_seed(found[layer], "teacher").values()), None),
            student_repeats=_by_seed(found[layer], "student_repeat"),
            baseline_repeats=_by_seed(found[layer], "baseline_repeat"),
        )
        for layer in order
        if layer in found
    }


def compare_layers(pairs: Mapping[str, NetworkPair]) -> pd.DataFrame:
    """Put the comparisons of all layers into one table: a row for each layer, metric and training seed."""
    tables = [
        pair.compare().to_dataframe().reset_index().assign(layer=label)
        for label, pair in pairs.items()
        if pair.students and pair.baselines
    ]
    if not tables:
        raise ValueError("the run has no layer with both a student and a baseline")
    return pd.concat(tables, ignore_index=True)


def tabulate_counts(ds: xr.Dataset) -> pd.DataFrame:
    """Count knowledge points by epoch: means over samples with the range of uncertain units.

    Returns
    -------
    DataFrame
        Index ``epoch``; ``role``, and ``n_fg``, ``n_bg``, ``fg_ratio`` each also with ``_low`` and ``_high``.
    """
    counts = count_points(ds)
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
        teachers = (
            {} if pair.teacher is None else {int(pair.teacher.attrs.get("training_seed", 0)): pair.teacher}
        )
        for role, networks in (
            ("teacher", teachers),
            ("student", pair.students),
            ("baseline", pair.baselines),
        ):
            for seed, ds in networks.items():
                last = tabulate_counts(ds).iloc[-1]
                rows.append(
                    {
                        "layer": label,
                        "role": role,
                        "seed": seed,
                        "n_fg": last["n_fg"],
                        "n_bg": last["n_bg"],
                        "uncertain": float(ds["uncertain"].isel(epoch=-1).sum("unit").mean()),
                        "path": float((ds["method"] == METHODS.index("path")).mean()),
                        "met": float(ds["converged"].mean()),
                        "accuracy": float(ds.attrs.get("accuracy", "nan")),
                    }
                )
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
        for role, networks, repeats in (
            ("student", pair.students, pair.student_repeats),
            ("baseline", pair.baselines, pair.baseline_repeats),
        ):
            for seed in (seed for seed in networks if seed in repeats):
                once = tabulate_counts(networks[seed]).iloc[-1]
                again = tabulate_counts(repeats[seed]).iloc[-1]
                floor = measure_learning(networks[seed], repeat=repeats[seed])["rho_floor"]
                rows.append(
                    {
                        "layer": label,
                        "role": role,
                        "seed": seed,
                        "n_fg": once["n_fg"],
                        "n_fg again": again["n_fg"],
                        "n_bg": once["n_bg"],
                        "n_bg again": again["n_bg"],
                        "overlap": float(floor.mean()),
                    }
                )
    return pd.DataFrame(rows)


def _by_seed(places: Mapping[str, Mapping[int, xr.Dataset]], place: str) -> dict[int, xr.Dataset]:
    return dict(sorted(places.get(place, {}).items()))
