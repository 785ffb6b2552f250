"""Which networks of a run can stand side by side at a layer, by name."""

import itertools
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter

from kdviz.analysis.networks import Network, list_networks, name_layers
from kdviz.arguments import one_of
from kdviz.errors import UnfinishedError
from kdviz.render.style import NetworkStyle, style_networks
from kdviz.store import Run
from kdviz.widgets.derivation import Derivation

MOST = 6  # side by side
_FEW = 3  # to start with
_kin = attrgetter("role", "seed", "method")  # of a network and of its like at another layer


class Lineup:
    """The networks of a run by layer.

    Attributes
    ----------
    layers
        Names of the layers, see :func:`kdviz.analysis.name_layers`.
    styles
        Colour and marker of every network, the same at all layers and whichever others are shown.
    notes
        Sentence by (layer, network), for each that was asked for and has no finished epoch.
    """

    def __init__(self, run: Run, derivation: Derivation) -> None:
        self._derivation = derivation
        self.notes: dict[tuple[str, str], str] = {}
        self._networks = list_networks(run)
        self.layers = [*name_layers(run)]
        self._first: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        for label in self.layers:
            here = [one for one in self._networks.values() if label in one.layers]
            here.sort(key=lambda one: (bool(one.repeat_of), one.seed, one.name))
            self._first[label] = _choose_first(here, label)
            self._names[label] = [*dict.fromkeys([*self._first[label], *(one.name for one in here)])]
        self.styles = _style(self._names, self._networks)

    def names(self, layer: str) -> list[str]:
        """List the networks measured at a layer, those that are shown first before the others."""
        return self._names[layer]

    def module(self, network: str, layer: str) -> str:
        """Return the name in ``named_modules()`` of what a network was measured at under a layer's name."""
        return self._networks[network].layers[layer]

    def role(self, network: str) -> str:
        """Return the role of a network, free text."""
        return self._networks[network].role

    def start(self, layer: str) -> list[str]:
        """Choose whom to show first: teacher, first student and its baseline, or the first few there are."""
        for names in (self._first[layer], self.names(layer)):
            if finished := self._find_finished(layer, names):
                return finished[:_FEW]
        raise _unfinished(layer)

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
            one_of("networks", name, self.names(layer))
        if not 1 <= len({*names}) == len(names) <= MOST:
            raise ValueError(f"networks is {[*names]}; choose 1 to {MOST} networks, each once")
        finished = self._find_finished(layer, names)
        if not finished:
            raise _unfinished(layer)
        return finished

    def carry(self, names: Sequence[str], layer: str) -> list[str]:
        """Find the same networks at another layer, or their like; where one has none, start anew."""
        carried: list[str] = []
        for name in names:
            like = [
                one for one in self.names(layer) if _kin(self._networks[one]) == _kin(self._networks[name])
            ]
            carried += [name] if name in self.names(layer) else like[:1]
        whole = len({*carried}) == len(names)
        return (whole and self._find_finished(layer, carried)) or self.start(layer)

    def epochs(self, layer: str, names: Sequence[str]) -> list[int]:
        """List the epochs of the learners shown; the teachers' where there are no others."""
        found = {
            name: self._derivation.measured(name, self.module(name, layer))["epoch"].values for name in names
        }
        return sorted({int(epoch) for name in self.learners(names) or names for epoch in found[name]})

    def learners(self, names: Sequence[str]) -> list[str]:
        """List those that are no teacher."""
        return [name for name in names if self.role(name) != "teacher"]

    def _find_finished(self, layer: str, names: Sequence[str]) -> list[str]:
        finished: list[str] = []
        for name in names:
            try:
                self._derivation.measured(name, self.module(name, layer))
                finished.append(name)
                self.notes.pop((layer, name), None)
            except UnfinishedError as error:
                self.notes[layer, name] = str(error)
        return finished


def _unfinished(layer: str) -> UnfinishedError:
    return UnfinishedError(f"{layer}: no epoch of any network is finished yet")


def _style(names: Mapping[str, Sequence[str]], networks: Mapping[str, Network]) -> dict[str, NetworkStyle]:
    """Give networks that meet at some layer looks of their own; those that never meet may share one."""
    turns: dict[str, tuple[str, int]] = {}  # as which of its role's networks one counts
    for here in names.values():
        for name in here:
            role = networks[name].role
            met = itertools.chain.from_iterable(others for others in names.values() if name in others)
            taken = {turns[other] for other in met if other in turns}
            free = ((role, turn) for turn in itertools.count())
            turns.setdefault(name, next(one for one in free if one not in taken))
    every = sorted(dict.fromkeys(turns.values()), key=itemgetter(1))
    looks = dict(
        zip(every, style_networks({f"{role} {turn}": role for role, turn in every}).values(), strict=True)
    )
    return {name: looks[turn] for name, turn in turns.items()}


def _choose_first(here: Sequence[Network], layer: str) -> list[str]:
    """Choose teacher, first student distilled at this layer, and its baseline; or the first few."""
    teachers, students, baselines = (
        [one for one in here if one.role == role] for role in ("teacher", "student", "baseline")
    )
    students = [one for one in students if one.distilled_layer in ("", layer)]
    baselines = [one for one in baselines if not students or one.seed == students[0].seed]
    others = [] if students or baselines else here
    chosen = [*teachers[:1], *students[:1], *baselines[:1], *others]
    return [*dict.fromkeys(one.name for one in chosen)][:_FEW]
