"""The networks of a run by name, and which of them belong together: by layer, method and training seed."""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import xarray as xr

from kdviz.store import Run

# Two measurements with these and the distilled layer in common are of one network.
# Not its fingerprint: a repeat may hold fewer checkpoints, and then has another.
_IDENTITY = ("network_role", "distillation_method", "architecture", "training_seed")


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
        How, at which layer (by its label, if among `layers`) and from which network it was distilled.
    layers
        ``{label: name in named_modules()}`` of the layers it was measured at, labels as from `name_layers`.
    seed
        Training seed; 0 where not recorded.
    architecture
        Its architecture.
    repeat_of
        Name of the network that this is the same as, measured with a smaller measurement seed.
    joined_from
        Name of the run that :func:`kdviz.store.join` took it from.
    """

    name: str
    role: str
    method: str
    distilled_layer: str
    layers: Mapping[str, str]
    seed: int
    architecture: str
    teacher: str
    repeat_of: str
    joined_from: str = ""


def list_networks(run: Run, *, finished: bool = False) -> dict[str, Network]:
    """List the networks of a run by name, whatever their roles, in natural order.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`.
    finished
        Leave out layers that are not measured whole, and networks without any other.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    papers = read_config(run).get("layer_names", {})
    labels = {module: label for label, module in papers.items()}
    labels |= {module: label for label, modules in name_layers(run).items() for module in modules}
    layers: dict[str, dict[str, str]] = {}
    about: dict[str, dict[str, Any]] = {}
    open_ones: set[tuple[str, str]] = set()
    if finished:
        table = run.summary()
        open_ones = set(table.loc[table["done"] < 1, ["network", "layer"]].itertuples(index=False, name=None))
    for (name, layer), attrs in run.catalogue().items():
        if (name, layer) in open_ones:
            continue
        own = layers.setdefault(name, {})
        own[layer if labels[layer] in own else labels[layer]] = layer
        about.setdefault(name, dict(attrs))
    listed = {  # so that no repeat takes the place of a network that is missing
        group.split("/")[1]: one["repeat_of"] for group, one in run.contents.items() if "repeat_of" in one
    }
    networks, originals = {}, dict[tuple[str, ...], str]()
    for name in sorted(about, key=lambda name: int(about[name].get("seed", 0))):
        attrs = about[name]
        recorded = str(attrs.get("distilled_layer", ""))
        distilled = labels.get(papers.get(recorded, recorded), recorded)
        identity = (distilled, *(str(attrs.get(part)) for part in _IDENTITY))
        original = originals.setdefault(identity, listed.get(name) or name)
        repeats = original not in about or int(attrs.get("seed", 0)) > int(about[original].get("seed", 0))
        networks[name] = Network(
            name=name,
            role=str(attrs.get("network_role", "")),
            method=str(attrs.get("distillation_method", "")),
            distilled_layer=distilled,
            layers=layers[name],
            seed=int(attrs.get("training_seed", 0)),
            architecture=str(attrs.get("architecture", "")),
            teacher=str(attrs.get("teacher", "")),
            repeat_of=original if repeats else "",
            joined_from=str(attrs.get("joined_from", "")),
        )
    return {name: networks[name] for name in about}


class Group(NamedTuple):
    """Networks to compare at one layer, named by its label: ``{part: {training seed: network}}``."""

    layer: str
    networks: dict[str, dict[int, Network]]


def group_networks(run: Run, *, finished: bool = False) -> dict[str, Group]:
    """Sort teachers, students and baselines of a run into what is compared, see `pair_networks`."""
    networks = list_networks(run, finished=finished)
    found: dict[str, tuple[list[Network], dict[str, list[Network]]]] = {}
    for label in name_layers(run):
        here = [network for network in networks.values() if label in network.layers]
        if any(network.role in ("teacher", "student", "baseline") for network in here):
            found[label] = here, _sort_students(here, label)
    several = any(len(series) > 1 for _, series in found.values())  # told apart wherever there are some
    return {
        f"{title} at {label}" if several and title else label: _group(label, students, here)
        for label, (here, series) in found.items()
        for title, students in series.items()
    }


def name_layers(run: Run) -> dict[str, tuple[str, ...]]:
    """Name the measured layers of a run: ``{label: names in named_modules()}``.

    Labels are those told to :func:`kdviz.store.describe`, then the papers' where the run records them, in its
    order; further layers keep their own names. Networks of other architectures may have other modules under
    one label, each network one: ``list_networks(run)[name].layers[label]``.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    measured = dict.fromkeys(layer for _, layer in run.catalogue())
    told = run.layer_names
    papers = {label: (layer,) for label, layer in read_config(run).get("layer_names", {}).items()}
    if not told.items() <= papers.items():  # else the order is the papers'
        known = {*itertools.chain(*told.values())}
        papers = told | {
            label: one for label, one in papers.items() if label not in told and not known & {*one}
        }
    named = {label: tuple(one for one in layers if one in measured) for label, layers in papers.items()}
    known = {*itertools.chain(*named.values())}
    further = {layer: (layer,) for layer in measured if layer not in known}
    return {label: layers for label, layers in named.items() if layers} | further


def read_config(run: Run) -> dict[str, Any]:
    """Return what the study that made a run recorded: names of layers and classes, the threshold."""
    return json.loads(str(run.attrs.get("config", "{}")))


def _sort_students(networks: Iterable[Network], label: str) -> dict[str, list[Network]]:
    """Sort into series of one method, of which each holds one student a seed; one empty series for none."""
    series: dict[str, list[Network]] = {}
    for one in networks:
        elsewhere = one.distilled_layer in one.layers and one.distilled_layer != label
        if one.role != "student" or one.repeat_of or elsewhere:
            continue
        own_name = re.sub(rf"[-_.]?s(eed)?{one.seed}$", "", one.name) or "student"
        for title in (one.method or own_name, own_name, one.name):
            if all(one.seed != other.seed for other in series.setdefault(title, [])):
                series[title].append(one)
                break
    return series or {"": []}


def _group(label: str, students: list[Network], networks: list[Network]) -> Group:
    def by_seed(chosen: Iterable[Network]) -> dict[int, Network]:
        return {one.seed: one for one in sorted(chosen, key=lambda one: one.seed)}

    def like_students(one: Network) -> tuple[bool, bool, bool]:
        first = students[0]
        own = one.joined_from == first.joined_from
        return one.name == first.teacher, own, one.architecture == first.architecture

    # Sorting is stable, and of one seed the last one stays.
    others = [one for one in reversed(networks) if not one.repeat_of]
    others = sorted(others, key=like_students) if students else others
    names = {"students": by_seed(students)}
    for role in ("baseline", "teacher"):
        names[f"{role}s"] = by_seed(one for one in others if one.role == role)
    for role in ("student", "baseline"):
        known = [one.name for one in names[f"{role}s"].values()]
        repeats = (one for one in reversed(networks) if one.repeat_of in known)
        names[f"{role}_repeats"] = by_seed(repeats)
    return Group(label, names)


def read_room(run: Run, room: str) -> dict[str, xr.Dataset]:
    """Load the results of a run whose names begin with `room` and a slash, ``{rest of the name: Dataset}``.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    start = f"{room}/"
    return {name.removeprefix(start): run.result(name) for name in run.results if name.startswith(start)}


def name_kind(network: str) -> str:
    """Return a network's name without its training seed, as ``-s0``, ``-seed0`` or ``-0`` at its end."""
    return re.sub(r"[-_.](s(eed)?\d+|\d)$", "", network) or network
