"""What is known of samples and networks beside their numbers, added to a run that is there."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from numpy.typing import ArrayLike

from kdviz import schema
from kdviz.arguments import finite_number, name_some, some_text, suggest
from kdviz.errors import StoreError
from kdviz.files import file_errors
from kdviz.store.files import storable
from kdviz.store.layout import write_array
from kdviz.store.replacing import replace_folder
from kdviz.store.run import Run, open_run
from kdviz.store.sealing import SealedStore

_DEFINITION = "as given to kdviz.store.describe"


def describe(
    run: Run | str | Path,
    *,
    labels: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    accuracy: Mapping[str, float | Mapping[int, float]] | None = None,
    layers: Mapping[str, str | Sequence[str]] | None = None,
    overwrite: bool = False,
) -> Run:
    """Say of a run what its samples are, how well its networks do, how its layers are called.

    Nothing is measured again. Class names then stand beside samples in app and figures, accuracies in tables
    and reports, and layers go by their names, in this order, before those of the study. What is there
    stays: the same is taken as said already, so that a call that was stopped can be repeated.

    Parameters
    ----------
    run
        Run directory, open or as a path.
    labels
        Class of every sample, ``(B,)``, integers of 0 or more, in the order of the run's samples.
    classes
        Names of the classes 0, 1, ...; of labels given here or before. What was measured of a
        :class:`~kdviz.sources.TextSet`, `ImageSet` or `CloudSet` takes its: ``classes=texts.classes``.
    accuracy
        Share of held-out samples that a network classifies correctly, 0 to 1: ``{network: {epoch: value}}``
        as a training logs it, of which the measured epochs count, or ``{network: value}`` at the last of
        them.
    layers
        Modules by the names to show, ``{"fc1": "classifier.0"}``; added to those named before. What plays one
        part in several architectures gets one name, ``{"last conv": ["layer4", "features.8"]}``: networks are
        then shown side by side and compared there, each at its own module.
    overwrite
        Replace what is there and says otherwise.

    Returns
    -------
    Run
        The run, opened anew.

    Raises
    ------
    ValueError
        If nothing is said, labels are not one for each sample or beyond the classes, there are none to name,
        an accuracy is no share, an epoch or a layer was not measured, two names are of one layer, or one name
        is of two layers of one network.
    StoreError
        If the run has no such network (near ones are named), holds something else and `overwrite` is not set,
        is an exported file, or is being written by another process.

    Examples
    --------
    >>> import kdviz
    >>> kdviz.store.describe("run.zarr", labels=[0, 1], classes=["cat", "dog"],
    ...                      accuracy={"student": {0: 0.1, 5: 0.83}, "baseline": 0.79})  # doctest: +SKIP
    """
    if labels is None and classes is None and accuracy is None and layers is None:
        raise ValueError("nothing is said of the run; pass labels, classes, accuracy or layers")
    run = run if isinstance(run, Run) else open_run(run)  # who holds the lock already may say something
    run._check_directory()
    with run.writing(), file_errors(f"cannot write {run.path}"):
        now = open_run(run.path)  # what another process said since counts too
        run.samples, run.layer_names = now.samples, now.layer_names
        named = None if labels is classes is None else _label(run, labels, classes, overwrite)
        told, names = _by_epoch(run, accuracy or {}), _name_layers(run, layers or {}, overwrite)
        scores = {
            (network, layer): _score(run, network, layer, values, overwrite)
            for network, values in told.items()
            for layer in run.layers(network)
        }
        if named is not None:  # labels and the names of their classes, in one
            write_array(run._pending, storable(named)["label"])
            replace_folder(run._pending, run.path / "points" / "label")
        if names != run.layer_names:
            points = zarr.open_group(SealedStore(run.path / "points"), mode="r+")
            points.attrs["layer_names"] = json.dumps(names)
        for (network, layer), values in scores.items():
            if not values.size:
                continue
            run.write_variable(network, layer, values)
            last = run.epochs(network, layer)[-1]
            if last in told[network]:
                group = zarr.open_group(SealedStore(run._folder(network, layer)), mode="r+")
                group.attrs["accuracy"] = told[network][last]
    return open_run(run.path)


def _label(
    run: Run, labels: ArrayLike | None, classes: Sequence[str] | None, overwrite: bool
) -> xr.Dataset | None:
    """Return the samples with their labels and names of classes; None if they are in the run already."""
    count, there = run.samples.sizes["sample"], run.samples.get("label")
    if labels is None:
        if there is None:
            raise ValueError("classes name labels, and the run has none; pass labels, too")
        labels = there.values
    codes = np.asarray(labels)
    if codes.shape != (count,) or codes.dtype.kind not in "iu" or codes.min() < 0:
        raise ValueError(
            f"labels must be {count} integers of 0 or more, one for each sample of the run, got shape "
            f"{codes.shape} of {codes.dtype}{f', the smallest {codes.min()}' if codes.size else ''}"
        )
    before = schema.read_classes(run.samples)
    if isinstance(classes, str):
        raise ValueError(f"classes must be a list of names, got the one text {classes!r}")
    names = before if classes is None else [some_text("classes: a name", name) for name in classes]
    if names and codes.max() >= len(names):
        raise ValueError(
            f"labels are up to {codes.max()}, beyond the {len(names)} classes {name_some(names)}; name all, "
            f"0 to {codes.max()}"
        )
    same = {
        "labels": there is None or np.array_equal(there.values, codes),
        "classes": not before or names == before,
    }
    if not all(same.values()) and not overwrite:
        wrong = " and ".join(name for name, fine in same.items() if not fine)
        raise StoreError(f"{run.path} holds other {wrong}; overwrite=True replaces them")
    if there is not None and all(same.values()) and names == before:
        return None
    described = run.samples.drop_vars("label", errors="ignore").assign_coords(label=("sample", codes))
    described["label"].attrs["classes"] = json.dumps(names)
    schema.validate(described)
    return described[["label"]]


def _name_layers(
    run: Run, layers: Mapping[str, str | Sequence[str]], overwrite: bool
) -> dict[str, tuple[str, ...]]:
    """Check names of layers, and return all that are told, those new among them last."""
    measured = {network: run.layers(network) for network in run.networks}
    known = dict.fromkeys(itertools.chain(*measured.values()))
    asked = {name: (one,) if isinstance(one, str) else tuple(one) for name, one in layers.items()}
    modules = [*itertools.chain(*asked.values())]
    for name, own in asked.items():
        some_text("layers: a name", name)
        if not own:
            raise ValueError(f"layers names no module {name!r}; {suggest(name, known)}")
        for module in own:
            if module not in known:
                raise ValueError(f"layers names {module!r}, which was not measured; {suggest(module, known)}")
            if modules.count(module) > 1:
                raise ValueError(f"layers has several names of {module!r}; give it one")
        if name in known and name not in modules:
            raise ValueError(f"layers calls {own[0]!r} {name!r}, the name of another module; choose another")
        for network, here in measured.items():
            if len(both := [module for module in own if module in here]) > 1:
                raise ValueError(
                    f"layers calls both {' and '.join(map(repr, both))} of {network!r} {name!r}; a name is "
                    "of one layer of each network"
                )
    kept = {
        name: own
        for name, own in run.layer_names.items()
        if (asked[name] == own if name in asked else not {*own} & {*modules})
    }
    if (gone := [name for name in run.layer_names if name not in kept]) and not overwrite:
        raise StoreError(f"{run.path} has other layers {name_some(gone)}; overwrite=True replaces them")
    return kept | asked


def _by_epoch(run: Run, accuracy: Mapping[str, float | Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """Check accuracies, and return them by network and epoch."""
    found = {}
    for network, values in accuracy.items():
        measured = sorted({epoch for layer in run.layers(network) for epoch in run.epochs(network, layer)})
        asked = values if isinstance(values, Mapping) else {measured[-1]: values}
        if asked and not {*asked} & {*measured}:
            raise ValueError(
                f"accuracy of {network!r} has epochs {name_some(asked)}, none of which was measured; "
                f"allowed: {name_some(measured, 20)}"
            )
        for epoch, value in asked.items():
            if finite_number(f"accuracy of {network!r} at epoch {epoch}", value, 0.0) > 1:
                raise ValueError(
                    f"accuracy of {network!r} at epoch {epoch} is {value}; allowed: a share, 0 to 1, such as "
                    "0.935 for 93.5 %"
                )
        found[network] = {int(epoch): float(asked[epoch]) for epoch in measured if epoch in asked}
    return found


def _score(run: Run, network: str, layer: str, values: Mapping[int, float], overwrite: bool) -> xr.DataArray:
    """Return the accuracies of a layer's epochs, or refuse those that contradict the run."""
    epochs = run.epochs(network, layer)
    known = {epoch: value for epoch, value in values.items() if epoch in epochs}
    array = xr.DataArray([*known.values()], dims="epoch", coords={"epoch": [*known]}, name="accuracy")
    stored = run.variable(network, layer, "accuracy")
    older = {} if stored is None else dict(zip(stored["epoch"].values.tolist(), stored.values, strict=True))
    last = run.catalogue()[network, layer].get("accuracy")
    older |= {} if last is None else {epochs[-1]: np.float32(last)}
    other = [epoch for epoch in known if abs(older.get(epoch, np.nan) - known[epoch]) > 1e-7]
    if other and not overwrite:
        raise StoreError(
            f"{run.path} holds another accuracy of {network!r} at epochs {name_some(other)}, such as "
            f"{older[other[0]]:.4g} instead of {known[other[0]]:.4g}; overwrite=True replaces it"
        )
    array = schema.annotate(array.astype("float32").to_dataset())["accuracy"]
    return array.assign_attrs(definition=_DEFINITION)
