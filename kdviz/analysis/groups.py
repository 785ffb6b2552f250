"""Which networks of a run belong together: by layer, role and training seed."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdviz.store import Run

_IDENTITY = ("network_role", "training_seed", "distilled_layer")  # of a network, whoever measures it


@dataclass(frozen=True)
class LayerNetworks:
    """Names of the networks measured at one layer.

    Attributes
    ----------
    layer
        Name in ``named_modules()``.
    teachers, students, baselines
        ``{training seed: network}``, in the order of seeds.
    student_repeats, baseline_repeats
        The same networks measured with another, larger measurement seed.
    """

    layer: str
    teachers: Mapping[int, str] = field(default_factory=dict)
    students: Mapping[int, str] = field(default_factory=dict)
    baselines: Mapping[int, str] = field(default_factory=dict)
    student_repeats: Mapping[int, str] = field(default_factory=dict)
    baseline_repeats: Mapping[int, str] = field(default_factory=dict)


def group_networks(run: Run) -> dict[str, LayerNetworks]:
    """Sort the networks of a run by layer, role and training seed.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`.

    Returns
    -------
    dict
        By layer, under the papers' name of it (``"fc1"``) where the run records one, in the order of those
        names. A student counts at the layer it was distilled at, by either name; if that is not recorded, at
        every layer it was measured at. Of several measurements of one network, the one with the smallest
        measurement seed counts; the other is its repeat.

    Raises
    ------
    StoreError
        If the run is damaged.
    ValueError
        If two networks claim one place, or a student was not measured at the layer it was distilled at.
    """
    names = json.loads(str(run.attrs.get("config", "{}"))).get("layer_names", {})
    label_of = {module: label for label, module in names.items()}
    attrs = run.catalogue()
    for (network, _), about in attrs.items():
        if about.get("network_role") == "student" and "distilled_layer" in about:
            layers = [layer for name, layer in attrs if name == network]
            about["distilled_layer"] = _find_module(network, str(about["distilled_layer"]), layers, names)
    measured: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for (_, layer), about in attrs.items():
        measured[layer, *map(about.get, _IDENTITY)].append(int(about.get("seed", 0)))
    found: dict[str, dict[str, dict[int, str]]] = {}
    for (network, layer), about in attrs.items():
        role = str(about.get("network_role", ""))
        if role == "student" and about.get("distilled_layer", layer) != layer:
            continue
        original = min(measured[layer, *map(about.get, _IDENTITY)])
        place = role if int(about.get("seed", 0)) == original else f"{role}_repeat"
        seeds = found.setdefault(layer, {}).setdefault(place, {})
        seed = int(about.get("training_seed", 0))
        if seed in seeds:
            raise ValueError(
                f"{network} is a second {place.replace('_', ' ')} of training seed {seed} at layer "
                f"{layer!r}; give each network of one role its own, as in "
                'measure_checkpoints(..., details={"training_seed": 1}), or put them into another run'
            )
        seeds[seed] = network
    order = [*names.values(), *sorted(set(found) - set(names.values()))]
    return {
        label_of.get(layer, layer): LayerNetworks(
            layer=layer,
            teachers=_by_seed(found[layer], "teacher"),
            students=_by_seed(found[layer], "student"),
            baselines=_by_seed(found[layer], "baseline"),
            student_repeats=_by_seed(found[layer], "student_repeat"),
            baseline_repeats=_by_seed(found[layer], "baseline_repeat"),
        )
        for layer in order
        if layer in found
    }


def _find_module(network: str, layer: str, measured: Sequence[str], names: Mapping[str, str]) -> str:
    """Give the measured layer that a student was distilled at, recorded by either of its names."""
    module = layer if layer in measured else names.get(layer, layer)
    if module not in measured:
        raise ValueError(
            f"{network} has distilled_layer {layer!r}, but was measured at {', '.join(measured)} only; "
            "measure it at that layer, or give the layer's name among these"
        )
    return module


def _by_seed(places: Mapping[str, Mapping[int, str]], place: str) -> dict[int, str]:
    return dict(sorted(places.get(place, {}).items()))
