"""What would spoil the answers that a run gives, in sentences, worst first."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from kdviz.analysis.judging import FEW_SAMPLES, list_settings
from kdviz.analysis.networks import list_networks
from kdviz.analysis.pairs import NetworkPair
from kdviz.analysis.transfer import doubt_teacher
from kdviz.arguments import name_some
from kdviz.schema import Vocabulary
from kdviz.store import Run
from kdviz.wording import say_number

_MET = 0.9  # share of samples calibrated, below which doubts begin
_FEW_POINTS = 1.0  # a sample
_FEW_CHECKPOINTS = 5  # after epoch 0
_SAME = 0.95  # share of samples that one class is given to, from which on answers do not depend on them
_SATURATED = 0.95  # accuracy from which on no teacher can be much better


def list_doubts(
    run: Run,
    pairs: Mapping[str, NetworkPair],
    accuracies: pd.DataFrame,
    shared: Mapping[str, xr.Dataset],
    words: Vocabulary,
) -> Iterator[str]:
    """Say what would spoil the answers of a run.

    Parameters
    ----------
    run, pairs
        As `give_verdict` takes them.
    accuracies
        From `tabulate_accuracy`.
    shared
        Properties by name, from `read_transfer`.
    words
        What samples, units and foreground are called.
    """
    yield from _doubt_measuring(run, words)
    yield from _doubt_networks(accuracies)
    yield from _doubt_teachers(shared, accuracies, pairs)
    yield from _doubt_answers(shared, words)
    yield from _doubt_pairs(pairs)
    yield from _doubt_samples(run, words)
    yield from _doubt_checkpoints(pairs)
    yield from _doubt_points(pairs, words)


def _doubt_measuring(run: Run, words: Vocabulary) -> Iterator[str]:
    if not run.networks:
        yield "nothing is measured yet; `kdviz measure` and `kdviz.measure_checkpoints` add networks"
        return
    table, gaps = run.summary(), run.gaps()
    begun = table[table["done"] < 1]
    if gaps:
        yield gaps
    elif len(begun):
        names = [f"{row['network']} at {row['layer']} ({row['done']:.0%})" for _, row in begun.iterrows()]
        yield f"not measured whole, and left out here: {name_some(names, 3)}"
    units, idle = run.samples["valid"].values.sum(1), dict[str, list[str]]()
    for name, network in list_networks(run, finished=True).items():
        for label, layer in network.layers.items() if not network.repeat_of else ():
            counts = run.variable(name, layer, "zero_gain")
            share = 0.0 if counts is None else float((counts.values[-1] / units).mean())
            if share > words.idle:
                idle.setdefault(label, []).append(f"{name} ({share:.0%})")
    for layer, found in idle.items():
        yield (
            f"{words.unit}s that do not move the layer {layer} at all, after the last epoch: "
            f"{name_some(found, 3)}; max pooling looks past them, the layer is dead, or the network has "
            "collapsed"
        )


def _doubt_networks(accuracies: pd.DataFrame) -> Iterator[str]:
    known = accuracies[accuracies["accuracy"].notna()]
    poor = known[_is_hardly_better(known["accuracy"], known["chance"])]
    if len(poor):
        told = [f"{name} ({row['accuracy']:.2f})" for name, row in poor.iterrows()]
        yield (
            f"accuracy hardly better than chance ({poor['chance'].iloc[0]:.2f}): {name_some(told, 4)}; "
            "what such networks keep says little of distillation"
        )
    unknown = accuracies.index[accuracies["accuracy"].isna()]
    if len(unknown):
        which = name_some(unknown, 4) if len(known) else "all networks"
        yield (
            f"accuracy not recorded: {which}; whether they learned anything is not known here "
            "(`kdviz transfer`, or `kdviz.store.describe(run, accuracy=...)`, tells it)"
        )


def _doubt_teachers(
    shared: Mapping[str, xr.Dataset], accuracies: pd.DataFrame, pairs: Mapping[str, NetworkPair]
) -> Iterator[str]:
    """Doubt teachers that may be guessing, or are hardly better than the mean baseline where they could be.

    By size, not by an interval: runs do not tell over how many samples accuracies are.
    """
    if "confidence" in shared and (doubt := doubt_teacher(shared["confidence"])):
        yield doubt
    weak = []
    for pair in pairs.values():
        names = {
            role: [str(ds.attrs.get("network")) for ds in networks.values()]
            for role, networks in pair.by_role.items()
        }
        alone = accuracies["accuracy"].reindex(names["baseline"]).mean()
        for name, row in accuracies.reindex(names["teacher"]).iterrows():
            own, poor = row["accuracy"], _is_hardly_better(row["accuracy"], row["chance"])  # told already
            if alone < _SATURATED and _is_hardly_better(own, alone) and not poor:
                weak.append(f"{name} ({own:.2f}) beside {alone:.2f}")
    if weak:
        yield (
            f"teacher hardly better than networks without one: {name_some(dict.fromkeys(weak), 3)}; there is "
            "little to copy that students would not learn alone"
        )


def _doubt_answers(shared: Mapping[str, xr.Dataset], words: Vocabulary) -> Iterator[str]:
    """Doubt networks that give one class to nearly all samples, which are of several."""
    ds = shared.get("confidence")
    if ds is None or np.bincount(ds["label"]).max() >= _SAME * ds.sizes["sample"]:
        return
    most = {
        str(one["network"].values): np.bincount(one).max() / len(one) for one in ds["predicted"].astype(int)
    }
    if constant := [f"{name} ({share:.0%})" for name, share in most.items() if share >= _SAME]:
        yield (
            f"one class for nearly all {words.sample}s that were asked about: {name_some(constant, 4)}; "
            "that an answer stays, or is the teacher's, says nothing there"
        )


def _is_hardly_better(accuracy: Any, level: Any) -> Any:
    """Whether an accuracy, or each, is less than a tenth of the way from a level to 1; not if unknown."""
    return accuracy < 0.9 * level + 0.1


def _doubt_samples(run: Run, words: Vocabulary) -> Iterator[str]:
    count = run.samples.sizes["sample"]
    if run.networks and count < FEW_SAMPLES:
        yield f"only {count} {words.sample}{'s' if count > 1 else ''} measured"


def _doubt_pairs(pairs: Mapping[str, NetworkPair]) -> Iterator[str]:
    """Say where student and baseline are not alike but for the teacher."""
    said = []
    for label, pair in pairs.items():
        for seed in sorted(pair.students.keys() & pair.baselines.keys()):
            ours, theirs = pair.students[seed], pair.baselines[seed]
            ends = [int(ds["epoch"].values[-1]) for ds in (ours, theirs)]
            kinds = [str(ds.attrs.get("architecture", "")) for ds in (ours, theirs)]
            where = f"at {label.split(' at ')[-1]}, seed {seed}"
            if ends[0] != ends[1]:
                said.append(f"student at epoch {ends[0]}, baseline at epoch {ends[1]} ({where})")
            if all(kinds) and kinds[0] != kinds[1]:
                said.append(f"student {kinds[0]}, baseline {kinds[1]} ({where})")
            for name, (own, other) in list_settings(ours, theirs).items():
                said.append(f"entropies of {name} {own} and {other}, not compared ({where})")
    if said:
        yield f"student and baseline differ in more than the teacher: {name_some(dict.fromkeys(said), 3)}"


def _doubt_checkpoints(pairs: Mapping[str, NetworkPair]) -> Iterator[str]:
    """Say where points may come and go unseen between few checkpoints, of which H2 and H3 are told."""
    few = dict[str, list[str]]()
    for pair in pairs.values():
        for networks in (pair.students, pair.baselines):
            for ds in networks.values():
                epochs = ds["epoch"].values.tolist()
                if 1 < sum(epoch > 0 for epoch in epochs) < _FEW_CHECKPOINTS:
                    few.setdefault(name_some(epochs), []).append(str(ds.attrs.get("network", "a network")))
    if few:
        told = [f"{name_some(dict.fromkeys(names), 3)} (epochs {epochs})" for epochs, names in few.items()]
        yield (
            f"few checkpoints, between which points may come and go unseen: {'; '.join(told)}; H2 and H3 "
            "rest on them"
        )


def _doubt_points(pairs: Mapping[str, NetworkPair], words: Vocabulary) -> Iterator[str]:
    unmet, few = [], []  # a baseline is beside students of several methods, and told once
    for label, pair in pairs.items():
        for role in ("student", "baseline"):
            for seed, ds in pair.by_role[role].items():
                name = f"{ds.attrs.get('network', f'{role} of seed {seed}')} at {label.split(' at ')[-1]}"
                met, found = float(ds["converged"].mean()), ds["knowledge_point"].isel(epoch=-1)
                if met < _MET:
                    unmet.append(f"{name} ({1 - met:.0%})")
                if (count := float(found.sum("unit").mean())) < _FEW_POINTS:
                    few.append(f"{name} ({say_number(count)})")
    if unmet:
        yield (
            f"{words.sample}s whose mean entropy could not be calibrated: "
            f"{name_some(dict.fromkeys(unmet), 3)}; their entropies are not comparable (a smaller one may be "
            "met: `kdviz rerun 02_explore -p calibration=0.2 -p run_path=RUN`, or the app's control)"
        )
    if few:
        yield (
            f"less than one knowledge point per {words.sample}: {name_some(dict.fromkeys(few), 3)}; "
            "a smaller threshold finds more (`kdviz report RUN --threshold 0.1`, or the app's control)"
        )
