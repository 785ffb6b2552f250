"""The networks of a run by name, and which of them belong together: by layer, method and training seed."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kdviz.store import Run

T = TypeVar("T")

# Two measurements with all of these in common are of one network.
# Not its fingerprint: a repeat may hold fewer checkpoints, and then has another.
_IDENTITY = ("network_role", "distillation_method", "distilled_layer", "architecture", "training_seed")


@dataclass(frozen=True)
class Network:
    """What a run says of one network; empty where it says nothing.

    Attributes
    ----------
    name
        Its name in the run.
    role
        Its part in the study: ``"teacher"``, ``"student"``, ``"baseline"`` or any other word.
    method, distilled_layer, teacher
        How, at which layer (as named in `layers`, if among them) and from which network it was distilled.
    layers
        Names in ``named_modules()`` of the layers it was measured at.
    seed
        Training seed; 0 where not recorded.
    architecture
        Its architecture.
    repeat_of
        Name of the network that this is the same as, measured with a smaller measurement seed.
    """

    name: str
    role: str
    method: str
    distilled_layer: str
    layers: tuple[str, ...]
    seed: int
    architecture: str
    teacher: str
    repeat_of: str


@dataclass(frozen=True)
class LayerNetworks(Generic[T]):
    """Networks to compare at one layer, by name or as datasets: students of one method, and their others.

    Attributes
    ----------
    layer, method
        Name in ``named_modules()``, and the students' distillation method; empty where not recorded.
    students, baselines, teachers
        ``{training seed: network}``, in the order of seeds.
    student_repeats, baseline_repeats
        The same networks measured with another, larger measurement seed.
    """

    layer: str
    students: Mapping[int, T] = field(default_factory=dict)
    baselines: Mapping[int, T] = field(default_factory=dict)
    teachers: Mapping[int, T] = field(default_factory=dict)
    student_repeats: Mapping[int, T] = field(default_factory=dict)
    baseline_repeats: Mapping[int, T] = field(default_factory=dict)
    method: str = ""


def list_networks(run: Run) -> dict[str, Network]:
    """List the networks of a run by name, whatever their roles, in natural order.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    names = name_layers(run)
    layers: dict[str, list[str]] = {}
    about: dict[str, dict[str, Any]] = {}
    for (name, layer), attrs in run.catalogue().items():
        layers.setdefault(name, []).append(layer)
        about.setdefault(name, dict(attrs))
    originals: dict[tuple[object, ...], str] = {}
    for name in sorted(about, key=lambda name: int(about[name].get("seed", 0))):
        recorded = str(about[name].get("distilled_layer", ""))
        about[name]["distilled_layer"] = (
            recorded if recorded in layers[name] else names.get(recorded, recorded)
        )
        originals.setdefault(tuple(map(about[name].get, _IDENTITY)), name)

    def find_original(attrs: Mapping[str, Any]) -> str:
        name = originals[tuple(map(attrs.get, _IDENTITY))]
        return name if int(attrs.get("seed", 0)) > int(about[name].get("seed", 0)) else ""

    return {
        name: Network(
            name=name,
            role=str(attrs.get("network_role", "")),
            method=str(attrs.get("distillation_method", "")),
            distilled_layer=attrs["distilled_layer"],
            layers=tuple(layers[name]),
            seed=int(attrs.get("training_seed", 0)),
            architecture=str(attrs.get("architecture", "")),
            teacher=str(attrs.get("teacher", "")),
            repeat_of=find_original(attrs),
        )
        for name, attrs in about.items()
    }


def group_networks(run: Run) -> dict[str, LayerNetworks[str]]:
    """Sort teachers, students and baselines of a run into what is compared, layer by layer.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`.

    Returns
    -------
    dict
        By layer, under the papers' name of it (``"fc1"``) where the run records one, in the order of those
        names. Where students of several methods were measured at a layer, each method is a group,
        ``"kl at fc1"``; further students of one method and seed make groups under their own names, without
        the seed. A student counts at the layer it was distilled at; if that is not recorded or was not
        measured, at every layer it was measured at. Of several teachers or baselines of one seed, those that
        share the students' teacher or architecture come first.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    names = name_layers(run)
    label_of = {module: label for label, module in names.items()}
    networks = list_networks(run)
    measured = {layer for network in networks.values() for layer in network.layers}
    groups = {}
    for layer in [*names.values(), *sorted(measured - set(names.values()))]:
        here = [network for network in networks.values() if layer in network.layers]
        if not any(network.role in ("teacher", "student", "baseline") for network in here):
            continue
        series = _sort_students(here, layer)
        for title, students in series.items():
            label = label_of.get(layer, layer)
            groups[label if len(series) == 1 else f"{title} at {label}"] = _group(layer, students, here)
    return groups


def name_layers(run: Run) -> dict[str, str]:
    """Names of layers in ``named_modules()`` by the papers' names, as far as the run records them."""
    return json.loads(str(run.attrs.get("config", "{}"))).get("layer_names", {})


def _sort_students(networks: Iterable[Network], layer: str) -> dict[str, list[Network]]:
    """Sort into series of one method, of which each holds one student a seed; one empty series for none."""
    series: dict[str, list[Network]] = {}
    for one in networks:
        elsewhere = one.distilled_layer in one.layers and one.distilled_layer != layer
        if one.role != "student" or one.repeat_of or elsewhere:
            continue
        for title in (one.method or "student", re.sub(rf"[-_.]?s(eed)?{one.seed}$", "", one.name), one.name):
            if all(one.seed != other.seed for other in series.setdefault(title, [])):
                series[title].append(one)
                break
    return series or {"": []}


def _group(layer: str, students: list[Network], networks: list[Network]) -> LayerNetworks[str]:
    like = students[0] if students else None

    def pick(role: str) -> dict[int, str]:
        found: dict[int, str] = {}
        for one in sorted(
            (one for one in networks if one.role == role and not one.repeat_of),
            key=lambda one: (
                like is not None and (one.name != like.teacher, one.architecture != like.architecture)
            ),
        ):
            found.setdefault(one.seed, one.name)
        return dict(sorted(found.items()))

    def repeats(chosen: Mapping[int, str]) -> dict[int, str]:
        by_original = {one.repeat_of: one.name for one in reversed(networks) if one.repeat_of}
        return {seed: by_original[name] for seed, name in chosen.items() if name in by_original}

    chosen = {one.seed: one.name for one in sorted(students, key=lambda one: one.seed)}
    baselines = pick("baseline")
    return LayerNetworks(
        layer=layer,
        method=like.method if like is not None else "",
        teachers=pick("teacher"),
        students=chosen,
        baselines=baselines,
        student_repeats=repeats(chosen),
        baseline_repeats=repeats(baselines),
    )
