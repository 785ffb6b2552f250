"""Measure a network that was trained elsewhere, from a folder of its checkpoints."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import nn
from tqdm.auto import tqdm

from kdviz.arguments import name_some, suggest
from kdviz.errors import KdvizWarning, LayerError, MisfitError, StoreError
from kdviz.files import list_differences
from kdviz.measuring import Estimate, Measurement, plan_measurement, run_measurement
from kdviz.networks import frozen, load_weights
from kdviz.networks.features import answer, name_modules
from kdviz.networks.feeding import find_entry
from kdviz.schema import Attribute
from kdviz.sources.samples import Prepared, SampleSet, check_folder
from kdviz.store import Run, describe, open_run
from kdviz.store.contents import networks_file
from kdviz.studies.factories import find_factory
from kdviz.studies.own import OwnData, Saved, Whereabouts, build_fed
from kdviz.training import weight_distance
from kdviz.training.distances import epoch_array

_ASKED = 300  # samples by which accuracies are told
_AT_ONCE = 64  # of them
_OFTEN, _FAR = 0.5, 0.2  # accuracy in another order of classes, and how much better, that make a hint
_ITSELF = "the network itself, on "  # how definitions of such accuracies begin
_SHOWN = 200  # layers that a message lists
_OPTIONS = {"--role": "network_role", "--seed": "training_seed", "--method": "distillation_method"}
_OF_DATA = {"size": "--size"}  # what is no option of its own is -s data.NAME
_OF_MASKS = ("foreground", "void", "threshold")  # masks are compared themselves


@dataclass(frozen=True)
class FolderPlan:
    """How every checkpoint in a folder is measured, as `plan_folder` makes it.

    Attributes
    ----------
    store
        Run directory, made or added to.
    measurement
        What is measured.
    module
        The network as it is built.
    where
        Where its checkpoints and the samples lie.
    everything
        All samples that there are.
    """

    store: Path
    measurement: Measurement
    module: nn.Module
    where: Whereabouts
    everything: SampleSet

    @property
    def name(self) -> str:
        """Name of the network in the run."""
        return str(self.measurement.network)

    def estimate(self) -> Estimate | None:
        """Estimate what is left, as :meth:`kdviz.measuring.Measurement.estimate`; writes nothing."""
        with self._advising():
            return self.measurement.estimate(self.store if self.store.is_dir() else None)

    def measure(self, progress: bool = True) -> Run:
        """Measure what is left, accuracies, and how far the weights went between checkpoints.

        The accuracy is that on up to 300 of all samples, spread over the classes, of a network that tells as
        many classes as they have; they are taken to be in the same order. Those that were told to
        :func:`kdviz.store.describe` stay. Where all of it lies is remembered beside the run, for what is
        asked of the networks afterwards.

        Raises
        ------
        DataError, StoreError
            As :func:`kdviz.measure_checkpoints`.

        Warns
        -----
        KdvizWarning
            If H2 cannot be asked at a layer: it has no weights, or there is no checkpoint of epoch 0. If the
            network would be right far more often with its outputs in another order of classes.
        """
        with self._advising():
            run_measurement(self.measurement, self.store, progress=progress)
        run = describe(self.store, classes=self.everything.classes)
        self.where.add_to(run)
        self._write_accuracies(run, progress)
        self._write_distances(run)
        return run

    def _write_accuracies(self, run: Run, progress: bool) -> None:
        """Tell accuracies that are not known yet, where nobody else told some."""
        checkpoints = {epoch: one for epoch, one in self.measurement.checkpoints.items() if one is not None}
        unknown: dict[str, list[int]] = {}
        for layer in self.measurement.names:
            values = run.variable(self.name, layer, "accuracy")
            known = () if values is None else values.to_series().dropna().index
            if values is None or not len(known) or str(values.attrs.get("definition")).startswith(_ITSELF):
                unknown[layer] = [epoch for epoch in checkpoints if epoch not in known]
        epochs = [epoch for epoch in checkpoints if any(epoch in some for some in unknown.values())]
        if not epochs or not self._tells_classes():
            return
        asked, found = self.everything.pick_evenly(_ASKED), []
        inputs = torch.from_numpy(self.where.data.prepare(asked).inputs[:])
        network, device = self.measurement.make_network(), self.measurement.device or "cpu"
        for epoch in tqdm(epochs, desc=f"accuracy of {self.name}", disable=not progress):
            load_weights(network, checkpoints[epoch], self.measurement.part)
            with frozen(network.to(device)), torch.no_grad():
                logits = [answer(network, some.to(device)).cpu() for some in inputs.split(_AT_ONCE)]
            predicted = torch.cat(logits).argmax(1).numpy()
            found.append(float((predicted == asked.labels).mean()))
        if hint := _find_order(predicted, asked.labels, self.everything.classes):
            warnings.warn(f"{self.name}: {hint}", KdvizWarning, stacklevel=3)
        definition = f"{_ITSELF}{len(asked)} of the {asked.plural} that there are"
        accuracy = epoch_array("accuracy", found, epochs, definition=definition)
        for layer, some in unknown.items():
            if some:
                run.write_variable(self.name, layer, accuracy.sel(epoch=some))

    def _tells_classes(self) -> bool:
        """Whether the network gives a logit for each class of the samples."""
        network = self.measurement.make_network()
        one = torch.from_numpy(self.where.data.prepare(self.everything.pick_evenly(1)).inputs[:])
        with suppress(LayerError), frozen(network), torch.no_grad():  # it may give no tensor
            return answer(network, one).shape == (1, len(self.everything.classes))
        return False

    def _write_distances(self, run: Run) -> None:
        """Write how far weights went between checkpoints, or say why H2 cannot be asked."""
        found = {epoch: one for epoch, one in self.measurement.checkpoints.items() if one is not None}
        saved = self.where.checkpoints[self.name]
        for layer in self.measurement.names if len(found) > 1 else ():
            weight = next(_list_weights(self.module, layer), None)
            why = "it has no weights" if weight is None else ""
            why = f"{saved.folder} begins at epoch {min(found)}, not 0" if min(found) > 0 else why
            if why:
                if self.measurement.role != "teacher":  # H2 is about the others
                    told = f"{self.name}: H2 is not asked at {layer}, as {why}"
                    warnings.warn(told, KdvizWarning, stacklevel=3)
                continue
            weight = f"{saved.part}.{weight}" if saved.part else str(weight)
            run.write_variable(self.name, layer, weight_distance(found, layer=weight, initial=found[0]))

    @contextmanager
    def _advising(self) -> Iterator[None]:
        """Say what to do where the network that is built is not that of the checkpoints."""
        try:
            yield
        except MisfitError as error:
            raise MisfitError(
                f"{error}; if {self.where.checkpoints[self.name].folder} is of another kind of network, name "
                "what builds that: --network module:function"
            ) from error


def plan_folder(
    store: Path,
    *,
    network: str,
    checkpoints: Path,
    pattern: str | None,
    part: str | None,
    data: OwnData,
    layers: Sequence[str],
    entry: str | None,
    role: str,
    name: str | None,
    seed: int,
    method: str | None,
    grid: int | None,
    samples: int,
    device: str | None,
) -> FolderPlan:
    """Say how every checkpoint in a folder is measured, once samples and network are known to be there.

    Parameters
    ----------
    store
        Run directory, made or added to.
    network
        ``module:function`` that builds the network; modules in the current folder are found.
    checkpoints, pattern
        As :func:`kdviz.sources.find_checkpoints` reads them.
    part
        Which of several networks in one checkpoint, as :func:`kdviz.measure_checkpoints`.
    data
        How samples are read: images, texts or clouds. All that there are; nothing is held out.
    layers
        Names in ``named_modules()``.
    entry
        Of texts, the module at whose output noise is added; that which
        :func:`kdviz.networks.feeding.find_entry` finds by default.
    role, name, seed, method
        Of the network: ``"student"``; its name in the run, role and seed by default; its training seed; the
        loss by which it learned, if any.
    grid, samples
        Of images, cells a side; and how many samples, spread over the classes.
    device
        As :func:`kdviz.measure_checkpoints`.

    Raises
    ------
    ValueError
        If there is no such function, or the network takes no clouds.
    LayerError
        If the network has no such layer; all that it has are listed. If no one module embeds its words.
    StoreError
        If the run was measured on other samples, or holds another network of this name.
    DataError
        As what it calls.
    """
    make_network, module = find_factory(network)
    check_folder("--checkpoints", checkpoints)
    saved = Saved(folder=checkpoints, pattern=pattern, part=part)
    found = saved.find()
    everything = data.read()
    _check_layers(module, layers, network)
    if data.modality == "text" and entry is None:
        entry = find_entry(module)
    chosen = data.choose(everything, samples, evenly=True)
    prepared = data.prepare(chosen, grid=grid)
    make_fed = partial(build_fed, make_network, data, prepared)
    name = name or f"{role}-s{seed}"
    details: dict[str, Attribute] = {
        "training_seed": seed,
        "architecture": type(module).__name__,
        "dataset_id": chosen.source,
    }
    details |= {} if method is None else {"distillation_method": method}
    lies = Whereabouts(data=data, grid=grid, checkpoints={name: saved})
    if store.is_dir():
        run = open_run(store)
        _check_run(run, lies, chosen, prepared, name, {**details, "network_role": role})
        if known := [attrs["dataset_id"] for (one, _), attrs in run.catalogue().items() if one == name]:
            details["dataset_id"] = known[0]  # samples are the same, whatever their folder is called now
    measurement = plan_measurement(
        make_fed,
        found,
        torch.from_numpy(prepared.inputs[:]),
        network=name,
        role=role,
        layers=list(layers),
        units=prepared.units,
        entry=entry,
        foreground=prepared.foreground,
        labels=chosen.labels,
        sample_ids=chosen.sample_ids,
        details=details,
        part=part,
        device=device,
    )
    return FolderPlan(store, measurement, module, lies, everything)


def _find_order(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Say where answers would be right far more often if outputs were of the classes in another order."""
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (labels, predicted), 1)
    _, outputs = linear_sum_assignment(-counts)
    now, then = counts.trace() / len(labels), counts[np.arange(len(classes)), outputs].sum() / len(labels)
    if then < _OFTEN or then - now < _FAR:
        return ""
    order = ", ".join(classes[at] for at in np.argsort(outputs))
    return (
        f"right on {now:.2f} of the samples, but on {then:.2f} if its outputs were {order}, in this order; "
        f"they are taken to be {', '.join(classes)}: rename classes so that they sort as outputs, or let "
        "what builds the network sort its outputs"
    )


def _check_layers(module: nn.Module, layers: Sequence[str], network: str) -> None:
    """Refuse layers that the network does not have, with those that are near, or that it has."""
    known = [name for name in name_modules(module) if name]
    if unknown := [layer for layer in layers if layer not in known]:
        raise LayerError(
            f"{network} has no layer{'s' if len(unknown) > 1 else ''} {name_some(map(repr, unknown))} "
            f"(--layers); "
            f"{suggest(unknown[0], known, _SHOWN)}"
        )


def _check_run(
    run: Run,
    asked: Whereabouts,
    chosen: SampleSet,
    prepared: Prepared,
    name: str,
    details: Mapping[str, Attribute],
) -> None:
    """Refuse other samples than those of a run that is there, and another network of a name in it."""
    before = Whereabouts.load(run.path) if networks_file(run.path).is_file() else asked
    there, now = _describe(before), _describe(asked)
    if there["data.kind"] == now["data.kind"]:
        there |= {"--samples": run.samples.sizes["sample"], "--masks": _tell("foreground" in run.samples)}
        now |= {"--samples": len(chosen), "--masks": _tell(prepared.foreground is not None)}
    else:
        there, now = ({"data.kind": told["data.kind"]} for told in (there, now))
    differing = list_differences(there, now)
    if not differing and (others := sorted({*chosen.sample_ids} - {*run.samples["sample"].values.tolist()})):
        differing = [f"other {chosen.plural}, without {name_some(others, 3)}"]
    if differing:
        raise StoreError(
            f"{run.path} was measured with {'; '.join(differing)}: all networks of a run see the same "
            f"{chosen.plural}; give the same, or write another run"
        )
    for (known, _), attrs in run.catalogue().items():
        old, new = (
            {option: about.get(key, "none") for option, key in _OPTIONS.items()} for about in (attrs, details)
        )
        if known == name and (differing := list_differences(old, new)):
            raise StoreError(
                f"{run.path} holds a network {name} already, measured with {'; '.join(differing)}: give the "
                "same, or another --name"
            )


def _describe(asked: Whereabouts) -> dict[str, object]:
    """Tell how samples are read and cut, by options; where they lie may change."""
    told = {
        _OF_DATA.get(name, f"data.{name}"): value
        for name, value in asked.data
        if name not in _OF_MASKS and not isinstance(value, Path)
    }
    return {**told, "--grid": asked.grid}


def _tell(is_given: bool) -> str:
    return "given" if is_given else "none"


def _list_weights(network: nn.Module, layer: str) -> Iterator[str]:
    """Yield the names of the modules within a layer that have a matrix of weights, the last first."""
    for inner, module in reversed([*network.get_submodule(layer).named_modules()]):
        weight = getattr(module, "weight", None)
        if weight is not None and weight.dim() > 1:
            yield f"{layer}.{inner}".rstrip(".")
