"""Measure a network that was trained elsewhere, from a folder of its checkpoints."""

import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdviz.errors import KdvizWarning
from kdviz.measuring import measure_checkpoints
from kdviz.schema import Attribute
from kdviz.sources import find_checkpoints, image_folder, normalise
from kdviz.store import Run, describe
from kdviz.training import weight_distance
from kdviz.units import grid as cut_grid


def measure_folder(
    store: Path,
    *,
    network: str,
    checkpoints: Path,
    images: Path,
    masks: Path | None,
    layers: Sequence[str],
    role: str,
    name: str | None,
    seed: int,
    method: str | None,
    size: int,
    grid: int,
    samples: int,
    device: str | None,
    progress: bool,
) -> Run:
    """Measure every checkpoint in a folder, and how far the weights went between them; continues.

    Parameters
    ----------
    store
        Run directory, made or added to.
    network
        ``module:function`` that builds the network; modules in the current folder are found.
    checkpoints, images, masks
        As :func:`kdviz.sources.find_checkpoints` and :func:`kdviz.sources.image_folder` read them.
    layers
        Names in ``named_modules()``.
    role, name, seed, method
        Of the network: ``"student"``; its name in the run, role and seed by default; its training seed; the
        loss by which it learned, if any.
    size, grid, samples
        Pixels a side that images are resized to, cells a side, and how many images, spread over the classes.
    device, progress
        As :func:`kdviz.measure_checkpoints`.

    Raises
    ------
    ValueError
        If there is no such function, or a layer is unknown (near names are given).
    DataError, LayerError, StoreError
        As what it calls.

    Warns
    -----
    KdvizWarning
        If H2 cannot be asked at a layer: it has no weights, or there is no checkpoint of epoch 0.
    """
    make_network, module = _find_factory(network)
    found = find_checkpoints(checkpoints)
    pictures = image_folder(images, masks=masks, size=size)
    rows = np.unique(np.linspace(0, len(pictures) - 1, min(samples, len(pictures))).round().astype(int))
    chosen = pictures.select(rows)
    name = name or f"{role}-s{seed}"
    details: dict[str, Attribute] = {
        "training_seed": seed,
        "architecture": type(module).__name__,
        "dataset_id": f"{images.name}, {size} pixels",
    }
    measure_checkpoints(
        make_network,
        found,
        torch.from_numpy(normalise(chosen.images[:])),
        network=name,
        role=role,
        layers=list(layers),
        units=cut_grid(grid),
        foreground=None if chosen.masks is None else chosen.masks[:],
        labels=chosen.labels,
        sample_ids=chosen.sample_ids,
        store=store,
        details=details | ({} if method is None else {"distillation_method": method}),
        device=device,
        progress=progress,
    )
    run = describe(store, classes=pictures.classes)
    for layer in layers if len(found) > 1 else ():
        weight = next(_list_weights(module, layer), None)
        why = "it has no weights" if weight is None else ""
        why = f"{checkpoints} begins at epoch {min(found)}, not 0" if min(found) > 0 else why
        if why:
            warnings.warn(f"{name}: H2 is not asked at {layer}, as {why}", KdvizWarning, stacklevel=2)
            continue
        run.write_variable(name, layer, weight_distance(found, layer=str(weight), initial=found[0]))
    return run


def _find_factory(network: str) -> tuple[Callable[[], nn.Module], nn.Module]:
    """Return what builds the network, and one that it built."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Any = pkgutil.resolve_name(network)
        made = factory()
        if not isinstance(made, nn.Module):
            raise TypeError(f"it returns a {type(made).__name__}")
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"--network is {network!r}; allowed: module:function of a function without arguments that builds "
            f"the network, its module in this folder or installed ({error})"
        ) from error
    return factory, made


def _list_weights(network: nn.Module, layer: str) -> Iterator[str]:
    """Yield the names of the modules within a layer that have a matrix of weights, the last first."""
    for inner, module in reversed([*network.get_submodule(layer).named_modules()]):
        weight = getattr(module, "weight", None)
        if weight is not None and weight.dim() > 1:
            yield f"{layer}.{inner}".rstrip(".")
