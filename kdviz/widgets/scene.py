"""What a selection shows of a run: arrays and tables. Draws nothing, knows no widget.

Symbols: ``E`` epochs of a network, ``U`` units of the shown sample, without those that only pad it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import xarray as xr

from kdviz.analysis import Settings, tabulate_counts
from kdviz.errors import StoreError
from kdviz.render.canvas import Canvas
from kdviz.render.canvases import choose_kind, title_samples
from kdviz.render.charts import Charts, Trace
from kdviz.render.looks import ENTROPY, NetworkView
from kdviz.render.style import NetworkStyle
from kdviz.schema import read_classes
from kdviz.store import Run, open_run
from kdviz.widgets.derivation import Derivation, Derived, has_background
from kdviz.widgets.lineup import Lineup
from kdviz.widgets.overlays import Overlays

ORDERS = ("as stored", "most changed", "apart")
_WITHOUT = {
    True: "No {foreground}, or no background, in this run: entropies only, no knowledge points.",
    False: "No masks say what the {foreground} is: entropies only, no knowledge points. "
    "kdviz.store.add_masks(run, masks) adds them.",
}
_MAPS_FOR_LIMITS = 1000  # of every network: enough for quantiles of units


@dataclass(frozen=True)
class Place:
    """Which networks, and under which settings: all of a selection but epoch, sample and looks."""

    layer: str
    networks: tuple[str, ...]
    settings: Settings


@dataclass(frozen=True)
class View:
    """One sample in all networks.

    Attributes
    ----------
    sample, title, label
        Its name, what it is called where people read it, and its class or an empty string.
    canvas
        The sample itself: the places of its units, and what draws them.
    networks
        In the order chosen.
    styles
        Colour and marker by name of network.
    notes
        Doubts about what is shown, one sentence each.
    """

    sample: str
    title: str
    label: str
    canvas: Canvas
    networks: Sequence[NetworkView]
    styles: Mapping[str, NetworkStyle]
    notes: Sequence[str]


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
        self.kind = choose_kind(run.samples)
        self.titles = title_samples(run.samples)
        self.samples = list(self.titles)
        self.has_points = has_background(run.samples)
        self._open(run)

    def _open(self, run: Run) -> None:
        """Look at what has been measured of the run so far."""
        there, derivation = (_tell_progress(run), run.results), Derivation(run)
        lineup, overlays = Lineup(run, derivation), Overlays(run, self.kind)
        if not lineup.layers:
            raise StoreError(f"{run.path} holds no measured network yet; kdviz.measure_checkpoints adds some")
        self.run, self._there, self._derivation = run, there, derivation
        self.lineup, self.overlays = lineup, overlays
        self._limits = lru_cache(maxsize=6)(self._find_limits)

    def reload(self) -> bool:
        """Look again whether more has been measured since, and tell whether it has."""
        now = open_run(self.run.path)
        if (_tell_progress(now), now.results) == self._there:
            return False
        self._open(now)
        return True

    # -- choices

    @property
    def layers(self) -> list[str]:
        """Names of the layers, the papers' where known."""
        return self.lineup.layers

    @property
    def grids(self) -> dict[str, int]:
        """The measured units and, of a grid, all that merge its cells: ``{"8 x 8": 2}`` by the factor."""
        return self.kind.grids(self.run.samples)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Class of every sample; empty where unknown."""
        if "label" not in self.run.samples.variables:
            return dict.fromkeys(self.samples, "")
        names = dict(enumerate(read_classes(self.run.samples)))
        codes = self.run.samples["label"].values.tolist()
        return {
            sample: names.get(code, f"class {code}") for sample, code in zip(self.samples, codes, strict=True)
        }

    @property
    def is_begun(self) -> bool:
        """Whether the measurement of some layer is begun and not finished."""
        return any(done < 1 for done in self._there[0].values())

    @property
    def gaps(self) -> str:
        """What of the run is missing, in one sentence, as ``kdviz info`` says it first; or nothing."""
        try:
            return self.run.gaps()
        except StoreError as error:  # of what is not shown; what is shown is told when it is
            return str(error)

    def resolve(self, settings: Settings, layer: str, network: str) -> Settings:
        """Fill in what a measurement was made with, and the threshold of the run, where none is chosen."""
        attrs = self._derivation.measured(network, self.lineup.module(network, layer)).attrs
        if settings.weight is None:
            settings = replace(settings, weight=float(attrs.get("weight", self.kind.vocabulary.weight)))
        if settings.unit_gain is None:
            settings = replace(settings, unit_gain=attrs.get("unit_gain", "mean"))
        return settings.of_run(self.run)

    def choose(self, order: str, label: str, place: Place) -> list[str]:
        """List the samples of one class (all if empty) in one of `ORDERS`.

        ``"most changed"``: by the units that are a point at only one of the first and last epochs, in the
        first learner shown. ``"apart"``: by the difference between the foreground points of the first two, at
        the last epoch. Both fall back to the order as stored where there is no such network or no point.
        """
        chosen = [name for name in self.samples if label in ("", self.labels[name])]
        learners = self.lineup.learners(place.networks)
        if not self.has_points:
            return chosen
        if order == "most changed":
            points = self.derived((learners or place.networks)[0], place).ds["knowledge_point"].values
            score = (points[0] != points[-1]).sum(axis=-1)
        elif order == "apart" and len(learners) > 1:
            every = (self.derived(name, place).counts for name in learners[:2])
            ours, theirs = (counts["n_fg"].values[-1] for counts in every if counts is not None)
            score = abs(ours - theirs)
        else:
            return chosen
        rank = dict(zip(self.samples, np.nan_to_num(score).tolist(), strict=True))
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
        derived = {name: self.derived(name, place) for name in place.networks}
        views = [self._look_at(name, one, sample, epoch, overlay, place) for name, one in derived.items()]
        return View(
            sample=sample,
            title=self.titles[sample],
            label=self.labels[sample],
            canvas=self.canvas(sample, derived[place.networks[0]].ds),
            networks=views,
            styles=self.lineup.styles,
            notes=[
                *self._doubts(derived, overlay, place),
                *(
                    f"{one.network}: first measured at epoch {one.epoch}."
                    for one in views
                    if one.role != "teacher" and one.epoch > epoch
                ),
                *(
                    f"{one.network}: no {overlay} map of {self.titles[sample]} is stored."
                    for one in views
                    if np.isnan(one.values).all()
                ),
                *(f"{name}: {note}" for name, one in derived.items() for note in one.notes),
            ],
        )

    def charts(self, view: View, epoch: int, quantity: str, place: Place) -> Charts:
        """Collect what the charts show: `quantity` is ``"entropy"`` or ``"gain"``."""
        traces = [self.trace(one, view.sample, quantity, place) for one in view.networks]
        divided = _is_divided(self.derived(view.networks[0].network, place))
        label = "entropy (nat)" if quantity == ENTROPY else f"log10 gain{' of a part' if divided else ''}"
        return Charts(traces, epoch, label, self.kind.vocabulary)

    def trace(self, view: NetworkView, sample: str, quantity: str, place: Place) -> Trace:
        """Collect what the charts show of one network."""
        at = self.samples.index(sample)
        derived = self.derived(view.network, place)
        style = self.lineup.styles[view.network]
        values, cutoff = view.entropy, np.nan
        if quantity == "gain":
            gain, valid = view.gain, derived.ds["valid"].values[at]
            if _is_divided(derived):
                gain = gain / derived.ds["unit_size"].values[at][valid]
            values = np.log10(gain, where=gain > 0, out=np.full(gain.shape, np.nan))
        if derived.counts is None:
            return Trace(view.network, style, None, values, cutoff)
        if quantity == ENTROPY:
            now = derived.ds.sel(epoch=view.epoch)
            own = now.get("sample_background_entropy")
            level = now["background_entropy"] if own is None else own[at]
            cutoff = float(level) - derived.ds["knowledge_point"].attrs["threshold"]
        peak = None if derived.learning is None else derived.learning["peak_epoch"].values[at]
        return Trace(
            network=view.network,
            style=style,
            counts=tabulate_counts(derived.ds, derived.counts),
            values=values,
            cutoff=cutoff,
            n_fg=derived.counts["n_fg"].values[:, at],
            distance=derived.ds["weight_distance"].values if "weight_distance" in derived.ds else None,
            peak_epoch=None if peak is None or np.isnan(peak) else int(peak),
        )

    def derived(self, network: str, place: Place) -> Derived:
        """Derive what a network holds; asking again costs nothing."""
        return self._derivation.points(network, self.lineup.module(network, place.layer), place.settings)

    # -- private

    def _look_at(
        self, network: str, derived: Derived, sample: str, epoch: int, overlay: str, place: Place
    ) -> NetworkView:
        at, ds, epochs = self.samples.index(sample), derived.ds, derived.ds["epoch"].values
        learners = self.lineup.learners(place.networks)
        finished = learners and network not in learners
        now = len(epochs) - 1 if finished else max(int(np.searchsorted(epochs, epoch, "right")) - 1, 0)
        valid = ds["valid"].values[at]
        none = np.zeros(valid.sum(), bool)
        entropy = ds["entropy"].values[now, at][valid]
        if overlay == ENTROPY:
            settings = replace(place.settings, threshold=None, background="checkpoint")
            values, limits = entropy, self._limits(replace(place, settings=settings))
        else:
            values, limits = self.overlays.find(network, overlay, sample, place.settings.coarsening)
            values = none + np.nan if values is None else values[valid]
        counts: dict[str, float] = {}
        if derived.counts is not None and not np.isnan(derived.counts["n_fg"].values[now, at]):
            counts = {
                f"{name}{end}": float(derived.counts[f"{name}{end}"].values[now, at])
                for name in ("n_fg", "n_bg", "fg_ratio")
                for end in ("", "_low", "_high")
            }
        return NetworkView(
            role=self.lineup.role(network),
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

    def _find_limits(self, place: Place) -> tuple[float, float]:
        """Choose the ends of the scale: nearly all entropies of all networks, epochs and samples."""
        values = []
        for network in place.networks:
            module = self.lineup.module(network, place.layer)
            ds = self._derivation.entropies(network, module, place.settings).ds
            maps = ds["entropy"].where(ds["valid"]).values.reshape(-1, ds.sizes["unit"])
            values.append(maps[:: -(-len(maps) // _MAPS_FOR_LIMITS)].ravel())
        low, high = np.nanquantile(np.concatenate(values), (0.01, 0.99))
        return float(low), float(max(high, low + 1e-3))

    def _doubts(self, derived: Mapping[str, Derived], overlay: str, place: Place) -> list[str]:
        notes = [text for (layer, _), text in self.lineup.notes.items() if layer == place.layer]
        if any(one.ds["entropy"].attrs.get("extrapolated") for one in derived.values()):
            notes.append(
                "Extrapolated: not the settings at which the gains were checked (linearity, feature loss)."
            )
        if place.settings.solver == "optimum":
            notes.append(
                "The optimum spreads entropies about three times as far as the descent, for which the papers "
                "chose b = 0.2."
            )
        if not self.has_points:
            told = _WITHOUT["foreground" in self.run.samples]
            notes.append(told.format(foreground=self.kind.vocabulary.foreground))
        notes += self.overlays.notes
        if overlay != ENTROPY:
            notes.append(f"{overlay}: of the last epoch stored, each network on a scale of its own.")
        return notes


def _tell_progress(run: Run) -> dict[tuple[str, str], float]:
    """Tell which share of every network and layer is measured; of a file, which never changes, nothing."""
    if not run.path.is_dir():
        return {}
    try:
        table = run.summary()
    except StoreError:  # of what is not shown, perhaps
        return {}
    places = zip(table["network"], table["layer"], strict=True)
    return dict(zip(places, table["done"], strict=True))


def _is_divided(derived: Derived) -> bool:
    """Tell whether units differ in size, and entropies are of gains divided by it."""
    return derived.ds["entropy"].attrs.get("unit_gain") == "mean"
