"""Which networks of a run can stand side by side at a layer, by name."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdviz.arguments import suggest
from kdviz.errors import UnfinishedError
from kdviz.render import NetworkStyle, style_networks
from kdviz.store import Run
from kdviz.widgets.derivation import Derivation

MOST = 6  # side by side
_FEW = 3  # to start with
_KIN = ("network_role", "training_seed", "distillation_method")  # one network's like at another layer


class Lineup:
    """The networks of a run by layer.

    Attributes
    ----------
    modules
        Name in ``named_modules()`` by the name of the layer, the papers' where the run records one.
    styles
        Colour and marker by layer and network; those of a network hold whichever others are shown.
    notes
        Sentence by (layer, network), for each that was asked for and has no finished epoch.
    """

    def __init__(self, run: Run, derivation: Derivation) -> None:
        self._derivation = derivation
        self.notes: dict[tuple[str, str], str] = {}
        names = json.loads(str(run.attrs.get("config", "{}"))).get("layer_names", {})
        labels = {module: label for label, module in names.items()}
        catalogue = run.catalogue()
        found = {module for _, module in catalogue}
        ordered = [*(one for one in names.values() if one in found), *sorted(found - {*names.values()})]
        self.modules = {labels.get(module, module): module for module in ordered}
        self._about: dict[str, dict[str, Mapping[str, Any]]] = {}
        for label, module in self.modules.items():
            here = {name: about for (name, layer), about in catalogue.items() if layer == module}
            self._about[label] = dict(sorted(here.items(), key=_rank))
        self._first = {
            label: _choose_first(about, label, self.modules[label]) for label, about in self._about.items()
        }
        self.styles: dict[str, dict[str, NetworkStyle]] = {}
        for label, about in self._about.items():
            roles = {name: self.role(label, name) for name in dict.fromkeys([*self._first[label], *about])}
            self.styles[label] = style_networks(roles)

    def names(self, layer: str) -> list[str]:
        """List the networks measured at a layer, those that are shown first before the others."""
        return [*self.styles[layer]]

    def role(self, layer: str, network: str) -> str:
        """Return the role of a network, free text."""
        return str(self._about[layer][network].get("network_role", ""))

    def start(self, layer: str) -> list[str]:
        """Choose whom to show first: teacher, first student and its baseline, or the first few there are."""
        first = self._first[layer]
        others = [name for name in self.names(layer) if name not in first]
        return (
            self._take_finished(layer, first) or self._take_finished(layer, others, _FEW) or self._none(layer)
        )

    def check(self, layer: str, names: Sequence[str]) -> list[str]:
        """Return those of a choice that have a finished epoch; the others are passed over with a note.

        Raises
        ------
        ValueError
            If one is not at this layer, or there are none, too many, or one twice.
        UnfinishedError
            If none has a finished epoch.
        """
        for name in names:
            if name not in self._about[layer]:
                raise ValueError(f"networks holds {name!r}; {suggest(name, self.names(layer))}")
        if not 1 <= len({*names}) == len(names) <= MOST:
            raise ValueError(f"networks is {[*names]}; choose 1 to {MOST} networks, each once")
        return self._take_finished(layer, names) or self._none(layer)

    def carry(self, names: Sequence[str], before: str, layer: str) -> list[str]:
        """Find the same networks at another layer, or their like; where one has none, start anew."""
        carried = []
        for name in names:
            kin = [self._about[before][name].get(key) for key in _KIN]
            like = [one for one, about in self._about[layer].items() if [*map(about.get, _KIN)] == kin]
            carried += [name] if name in like else like[:1] or [""]
        if "" in carried or len({*carried}) < len(carried):
            return self.start(layer)
        return self._take_finished(layer, carried) or self.start(layer)

    def epochs(self, layer: str, names: Sequence[str]) -> list[int]:
        """List the epochs of the learners shown; the teachers' where there are no others."""
        found = {name: self._derivation.measured(name, self.modules[layer])["epoch"].values for name in names}
        learning = self.learners(layer, names) or names
        return sorted({int(epoch) for name in learning for epoch in found[name]})

    def learners(self, layer: str, names: Sequence[str]) -> list[str]:
        """List those that are no teacher."""
        return [name for name in names if self.role(layer, name) != "teacher"]

    def _take_finished(self, layer: str, names: Sequence[str], most: int = MOST) -> list[str]:
        taken: list[str] = []
        for name in names:
            if len(taken) == most:
                break
            try:
                self._derivation.measured(name, self.modules[layer])
                taken.append(name)
                self.notes.pop((layer, name), None)
            except UnfinishedError as error:
                self.notes[layer, name] = str(error)
        return taken

    def _none(self, layer: str) -> list[str]:
        raise UnfinishedError(f"{layer}: no epoch of any network is finished yet")


def _rank(named: tuple[str, Mapping[str, Any]]) -> tuple[int, int, str]:
    """Sort repeated measurements after the first ones, then by training seed."""
    name, about = named
    return int(about.get("seed", 0)), int(about.get("training_seed", 0)), name


def _choose_first(about: Mapping[str, Mapping[str, Any]], label: str, module: str) -> list[str]:
    """Choose teacher, first student distilled at this layer, by either of its names, and its baseline."""

    def find(role: str, fits: Callable[[Mapping[str, Any]], bool] = lambda one: True) -> str | None:
        fitting = (name for name, one in about.items() if one.get("network_role") == role and fits(one))
        return next(fitting, None)

    teacher = find("teacher")
    student = find("student", lambda one: one.get("distilled_layer", label) in (label, module))
    seed = about[student].get("training_seed", 0) if student else None
    baseline = find("baseline", lambda one: seed is None or one.get("training_seed", 0) == seed)
    chosen = [name for name in (teacher, student, baseline) if name is not None]
    return chosen if student or baseline else [*dict.fromkeys([*chosen, *about])][:_FEW]
