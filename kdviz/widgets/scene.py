"""What a selection shows of a run: arrays and tables. Draws nothing, knows no widget.

Symbols: ``E`` epochs of a network, ``U`` units of the shown sample, without those that only pad it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdviz.analysis import group_networks, tabulate_counts
from kdviz.errors import StoreError, UnfinishedError
from kdviz.render import Panel, Trace
from kdviz.render.canvases import Canvas, choose_kind
from kdviz.render.looks import ENTROPY, Bools, Floats, NetworkView
from kdviz.store import Run
from kdviz.widgets.derivation import (
    Derivation,
    Derived,
    EntropySettings,
    PointSettings,
    has_background,
)

ORDERS = ("as stored", "most changed", "student apart from baseline")
_ATTRIBUTION = "attribution"  # results of this group hold maps by network
_MAPS_FOR_LIMITS = 1000  # of every network: enough for quantiles of units


@dataclass(frozen=True)
class Place:
    """Which networks, and under which settings: all of a selection but epoch, sample and looks."""

    layer: str
    seed: int
    entropies: EntropySettings
    points: PointSettings


@dataclass(frozen=True)
class View:
    """One sample in all networks.

    Attributes
    ----------
    sample, label
        Its name, and its class or an empty string.
    canvas
        The sample itself: the places of its units, and what draws them.
    networks
        Teacher, student, baseline, as far as there are.
    notes
        Doubts about what is shown, one sentence each.
    """

    sample: str
    label: str
    canvas: Canvas
    networks: Sequence[NetworkView]
    notes: Sequence[str]

    @property
    def coordinates(self) -> Mapping[str, NDArray]:
        """By name, each ``(U,)``: ``unit``, and where it lies: row and col, token, or x, y and z."""
        return self.canvas.coordinates

    @property
    def foreground(self) -> Bools:
        """Shape ``(U,)``; all False where the run has none."""
        return self.canvas.foreground

    @property
    def picture(self) -> Panel:
        """The input: an image as stored or a cloud as drawn, ``(H, W, 3)``, uint8; or words."""
        return self.canvas.draw_input()


class Scene:
    """A run opened for looking: which choices there are, and what each shows.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`; its units are cells of a grid, words, or points in space.

    Raises
    ------
    StoreError
        If the run holds no network.
    ValueError
        If its units are none of these.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        kind = choose_kind(run.samples)
        if kind is None:
            raise ValueError(
                f"the units of {run.path} are no image grid, no words and no points in space, which "
                "kdviz.explore shows: the samples need the coordinates row and col, or token, or x, y and z"
            )
        self.kind = kind
        self._groups = group_networks(run)
        if not self._groups:
            raise StoreError(f"{run.path} holds no measured network yet; kdviz.measure_checkpoints adds some")
        self.samples = [str(name) for name in run.samples["sample"].values]
        self.config = json.loads(str(run.attrs.get("config", "{}")))
        self.has_points = has_background(run.samples)
        self._derivation = Derivation(run)
        self._unfinished: dict[str, str] = {}
        self._passed_over: list[str] = []
        self.networks = lru_cache(maxsize=None)(self._list_networks)
        self._limits = lru_cache(maxsize=6)(self._find_limits)

    # -- choices

    @property
    def layers(self) -> list[str]:
        """Names of the layers, the papers' where known."""
        return list(self._groups)

    def seeds(self, layer: str) -> list[int]:
        """Training seeds of a layer's students and baselines; the teachers' where there are no others."""
        group = self._groups[layer]
        return sorted({*group.students, *group.baselines} or group.teachers)

    def _list_networks(self, layer: str, seed: int) -> dict[str, str]:
        """Give ``{role: network}`` of what stands side by side, as far as an epoch of it is finished."""
        group = self._groups[layer]
        teacher = group.teachers.get(seed) or next(iter(group.teachers.values()), None)
        roles = {
            "teacher": teacher,
            "student": group.students.get(seed),
            "baseline": group.baselines.get(seed),
        }
        found = {}
        for role, network in roles.items():
            try:
                if network is not None:
                    self._derivation.measured(network, group.layer)
                    found[role] = network
            except UnfinishedError as error:
                self._unfinished[f"{layer}/{seed}/{role}"] = str(error)
        if not found:
            raise UnfinishedError(f"{layer}: no epoch of any network is finished yet")
        return found

    def measured(self, layer: str, seed: int) -> dict[str, xr.Dataset]:
        """Give ``{role: dataset}`` as stored."""
        module = self._groups[layer].layer
        return {
            role: self._derivation.measured(network, module)
            for role, network in self.networks(layer, seed).items()
        }

    def epochs(self, layer: str, seed: int) -> list[int]:
        """Epochs of student and baseline; the teacher's where there are no others."""
        found = {role: ds["epoch"].values.tolist() for role, ds in self.measured(layer, seed).items()}
        learning = {role: epochs for role, epochs in found.items() if role != "teacher"}
        return sorted({epoch for epochs in (learning or found).values() for epoch in epochs})

    @property
    def grids(self) -> dict[str, int]:
        """The measured units and, of a grid, all that merge its cells: ``{"8 x 8": 2}`` by the factor."""
        return self.kind.grids(self.run.samples)

    @cached_property
    def overlays(self) -> list[str]:
        """What can be laid over the picture: the entropy, and the attribution maps that the run holds."""
        methods = [method for maps in self._maps.values() for method in maps["attribution_method"].values]
        return list(dict.fromkeys([ENTROPY, *map(str, methods)]))

    @cached_property
    def _maps(self) -> dict[str, xr.DataArray]:
        """Attribution maps by network: results ``attribution/<network>`` on the units of the run."""
        found = {}
        for name in self.run.results:
            room, _, network = name.partition("/")
            if room != _ATTRIBUTION:
                continue
            maps = self.run.result(name).get("attribution") if network in self.run.networks else None
            if maps is not None and maps.sizes.get("unit") == self.run.samples.sizes["unit"]:
                found[network] = maps
            else:
                self._passed_over.append(
                    f"Result {name!r} is not shown: maps are named attribution/<network> and on these units."
                )
        return found

    @cached_property
    def labels(self) -> dict[str, str]:
        """Class of every sample; empty where unknown."""
        if "label" not in self.run.samples.variables:
            return dict.fromkeys(self.samples, "")
        names = dict(enumerate(self.config.get("classes", [])))
        codes = self.run.samples["label"].values.tolist()
        return {
            sample: names.get(code, f"class {code}") for sample, code in zip(self.samples, codes, strict=True)
        }

    def choose(self, order: str, label: str, place: Place) -> list[str]:
        """Give the samples of one class (all if empty) in one of `ORDERS`.

        ``"most changed"``: by the units that are a point at only one of the student's first and last epochs.
        ``"student apart from baseline"``: by the difference of their object points at the last epoch. Both
        fall back to the order as stored where the run lacks what they need.
        """
        chosen = [name for name in self.samples if label in ("", self.labels[name])]
        networks = self.networks(place.layer, place.seed)
        if order == "most changed" and self.has_points:
            shown = networks.get("student") or networks.get("baseline") or networks["teacher"]
            points = self._points(shown, place).ds["knowledge_point"].values
            score = (points[0] != points[-1]).sum(axis=-1)
        elif (
            order == "student apart from baseline"
            and self.has_points
            and {"student", "baseline"} <= {*networks}
        ):
            ours, theirs = (
                self._counts(networks[role], place, "n_fg")[-1] for role in ("student", "baseline")
            )
            score = abs(ours - theirs)
        else:
            return chosen
        rank = dict(zip(self.samples, score.tolist(), strict=True))
        return sorted(chosen, key=lambda name: -rank[name])

    # -- what is shown

    def canvas(self, sample: str, ds: xr.Dataset | None = None) -> Canvas:
        """Prepare a sample to be drawn on, its units those of `ds` or as measured."""
        at, shown = self.samples.index(sample), self.run.samples if ds is None else ds
        valid = shown["valid"].values[at]
        foreground = shown["foreground"].values[at] if self.has_points else np.zeros_like(valid)
        return self.kind.of(self.run.samples, shown, at, foreground)

    def look(self, sample: str, epoch: int, overlay: str, place: Place) -> View:
        """Derive all that is shown of one sample."""
        at = self.samples.index(sample)
        networks = self.networks(place.layer, place.seed)
        derived = {role: self._points(network, place) for role, network in networks.items()}
        views = [
            self._look_at(role, network, derived[role], at, epoch, overlay, place)
            for role, network in networks.items()
        ]
        return View(
            sample=sample,
            label=self.labels[sample],
            canvas=self.canvas(sample, next(iter(derived.values())).ds),
            networks=views,
            notes=[
                *self._doubts(derived, overlay, place),
                *(
                    f"{one.role}: first measured at epoch {one.epoch}."
                    for one in views
                    if one.role != "teacher" and one.epoch > epoch
                ),
                *(f"{role}: {note}" for role, one in derived.items() for note in one.notes),
            ],
        )

    def trace(self, view: NetworkView, sample: str, quantity: str, place: Place) -> Trace:
        """Give what the charts show of one network: `quantity` is ``"entropy"`` or ``"gain"``."""
        at = self.samples.index(sample)
        derived = self._points(view.network, place)
        values, cutoff = view.entropy, np.nan
        if quantity == "gain":
            values = np.log10(view.gain, where=view.gain > 0, out=np.full(view.gain.shape, np.nan))
        if derived.counts is None:
            return Trace(view.network, view.role, None, values, cutoff)
        if quantity == ENTROPY:
            now = derived.ds.sel(epoch=view.epoch)
            own = now.get("sample_background_entropy")
            level = now["background_entropy"] if own is None else own[at]
            cutoff = float(level) - place.points.threshold
        learning = derived.learning
        return Trace(
            network=view.network,
            role=view.role,
            counts=tabulate_counts(derived.ds, derived.counts),
            values=values,
            cutoff=cutoff,
            n_fg=derived.counts["n_fg"].values[:, at],
            distance=derived.ds["weight_distance"].values if "weight_distance" in derived.ds else None,
            peak_epoch=None if learning is None else int(learning["peak_epoch"].values[at]),
        )

    # -- private

    def _points(self, network: str, place: Place) -> Derived:
        return self._derivation.points(
            network, self._groups[place.layer].layer, place.entropies, place.points
        )

    def _counts(self, network: str, place: Place, name: str) -> NDArray[np.integer]:
        counts = self._points(network, place).counts
        assert counts is not None
        return counts[name].values

    def _look_at(
        self, role: str, network: str, derived: Derived, at: int, epoch: int, overlay: str, place: Place
    ) -> NetworkView:
        ds, epochs = derived.ds, derived.ds["epoch"].values
        finished = role == "teacher" and len(self.networks(place.layer, place.seed)) > 1
        now = len(epochs) - 1 if finished else max(int(np.searchsorted(epochs, epoch, "right")) - 1, 0)
        valid = ds["valid"].values[at]
        none = np.zeros(valid.sum(), bool)
        entropy = ds["entropy"].values[now, at][valid]
        if overlay == ENTROPY:
            values, limits = entropy, self._limits(place.layer, place.seed, place.entropies)
        else:
            values, limits = self._attribution(network, overlay, at, place.entropies.coarsening)
            values = none + np.nan if values is None else values[valid]
        counts: dict[str, float] = {}
        if derived.counts is not None:
            counts = {
                f"{name}{end}": float(derived.counts[f"{name}{end}"].values[now, at])
                for name in ("n_fg", "n_bg", "fg_ratio")
                for end in ("", "_low", "_high")
            }
        return NetworkView(
            role=role,
            network=network,
            epoch=int(epochs[now]),
            gain=ds["gain"].values[now, at][valid],
            entropy=entropy,
            values=values,
            limits=limits,
            points=ds["knowledge_point"].values[now, at][valid] if counts else none,
            dropped=none if derived.learning is None else derived.learning["dropped"].values[now, at][valid],
            uncertain=ds["uncertain"].values[now, at][valid] if counts else none,
            counts=counts,
        )

    def _find_limits(self, layer: str, seed: int, entropies: EntropySettings) -> tuple[float, float]:
        """Choose the ends of the scale: nearly all entropies of all networks, epochs and samples."""
        values = []
        for network in self.networks(layer, seed).values():
            ds = self._derivation.entropies(network, self._groups[layer].layer, entropies).ds
            maps = ds["entropy"].where(ds["valid"]).values.reshape(-1, ds.sizes["unit"])
            values.append(maps[:: -(-len(maps) // _MAPS_FOR_LIMITS)].ravel())
        low, high = np.nanquantile(np.concatenate(values), (0.01, 0.99))
        return float(low), float(max(high, low + 1e-3))

    def _attribution(
        self, network: str, method: str, at: int, coarsening: int
    ) -> tuple[Floats | None, tuple[float, float]]:
        """Map of a method, None if unknown, and its scale, symmetric and the same for all samples."""
        maps, sample = self._maps.get(network), self.samples[at]
        if maps is None or method not in maps["attribution_method"] or sample not in maps["sample"]:
            return None, (-1.0, 1.0)
        last = maps.sel(attribution_method=method).isel(epoch=-1)
        valid = self.run.samples["valid"].sel(sample=last["sample"]).values
        known = np.abs(last.values[valid & np.isfinite(last.values)])
        end = (float(np.quantile(known, 0.99)) if known.any() else 0.0) or 1.0
        return self.kind.merge(self.run.samples, last.sel(sample=sample).values, coarsening), (-end, end)

    def _doubts(self, derived: Mapping[str, Derived], overlay: str, place: Place) -> list[str]:
        notes = [
            text for key, text in self._unfinished.items() if key.startswith(f"{place.layer}/{place.seed}/")
        ]
        if any(one.ds["entropy"].attrs.get("extrapolated") for one in derived.values()):
            notes.append(
                "Extrapolated: not the settings at which the gains were checked (linearity, feature loss)."
            )
        if place.entropies.solver == "optimum":
            notes.append(
                "The optimum spreads entropies about three times as far as the descent, for which the papers "
                "chose b = 0.2."
            )
        if not self.has_points:
            notes.append("No background, or no masks, in this run: entropies only, no knowledge points.")
        notes += self._passed_over
        if overlay != ENTROPY:
            notes.append(f"{overlay}: of the last epoch stored, each network on a scale of its own.")
        return notes
