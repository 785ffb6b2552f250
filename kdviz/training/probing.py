"""Accuracy of a frozen layer over training: the same new head is trained on top of every checkpoint."""

import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import xarray as xr
from torch import Tensor, nn

from kdviz import schema
from kdviz.errors import StoreError
from kdviz.files import read_json, write_json
from kdviz.networks import fingerprint_tensors
from kdviz.networks.checkpoints import Checkpoint, load_weights
from kdviz.training.plans import TrainingPlan
from kdviz.training.stages import evaluate, modules_below, train_head

PROBES = "probes.json"


def probe_accuracy(
    network: nn.Module,
    checkpoints: Mapping[int, Checkpoint],
    inputs: Tensor,
    labels: Tensor,
    *,
    layer: str,
    folder: str | Path,
    plan: TrainingPlan,
    validation: tuple[Tensor, Tensor],
    progress: bool = True,
) -> xr.DataArray:
    """Measure what a layer is good for at every checkpoint: freeze it and train what lies above.

    A student in the first stage of distillation has no head of its own yet. One trained by `train_head`, by
    the same plan at every epoch, tells how far its feature would carry.

    Parameters
    ----------
    network
        What lies above `layer` is the head that every training starts from. Ends with the weights it was
        given.
    checkpoints
        ``{epoch: path or state dict}``, as in :func:`kdviz.measure_checkpoints`. Of each, only what lies at
        or below `layer` is used; a head in it, trained or not, is not.
    inputs, labels
        To train the heads on, as in `train_classifier`.
    layer
        Last frozen layer.
    folder
        Holds ``probes.json`` with the epochs done and, in passing, the head in training. Stopped, the same
        call goes on where it was.
    plan
        Of every head.
    validation
        Held-out inputs and labels, which no head is trained on.
    progress
        Show progress bars.

    Returns
    -------
    xarray.DataArray
        ``accuracy`` (epoch), float32: share of right answers on `validation`.

    Raises
    ------
    ValueError, TypeError, LayerError, FloatingPointError
        As `train_head`; also ValueError if there is no checkpoint.
    DataError
        If a checkpoint is missing, damaged, or does not fit the network.
    StoreError
        If `folder` holds the probes of other weights, data, layer or plan.

    Notes
    -----
    Cost a checkpoint: one pass forward of `inputs` through the frozen part, which is then known, training of
    the part above, and one pass forward of `validation`.
    """
    if not checkpoints:
        raise ValueError("checkpoints is empty; give {epoch: weights}")
    folder = Path(folder)
    about = {
        "plan": plan.as_json(),
        "layer": layer,
        "data": fingerprint_tensors(
            {"inputs": inputs, "labels": labels, "held-out": validation[0], "their labels": validation[1]}
        ),
    }
    done = _read_done(folder / PROBES, about)
    original = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    below = _names_below(network, layer, inputs)
    head = {name: tensor for name, tensor in original.items() if name not in below}
    try:
        for epoch in sorted(checkpoints):
            load_weights(network, checkpoints[epoch])
            network.load_state_dict(head, strict=False)
            weights = fingerprint_tensors(network.state_dict())
            known = done.get(str(epoch))
            if known is not None and known["weights"] != weights:
                raise StoreError(f"{folder} holds the probe of other weights at epoch {epoch}; name another")
            place = folder / f"epoch-{epoch:03d}"
            if known is None:
                train_head(network, inputs, labels, layer=layer, folder=place, plan=plan, progress=progress)
                done[str(epoch)] = {"weights": weights, "accuracy": evaluate(network, *validation)}
                write_json(folder / PROBES, about | {"epochs": done})
            shutil.rmtree(place, ignore_errors=True)
    finally:
        network.load_state_dict(original)
    epochs = sorted(map(int, checkpoints))
    values = [done[str(epoch)]["accuracy"] for epoch in epochs]
    return accuracy_array(values, epochs, f"a head trained anew above the frozen layer {layer}")


def accuracy_array(values: list[float], epochs: list[int], definition: str) -> xr.DataArray:
    """Name accuracies as the data contract does; `definition` says by which network."""
    array = xr.DataArray(np.asarray(values, "float32"), dims="epoch", coords={"epoch": epochs})
    annotated = schema.annotate(xr.Dataset({"accuracy": array}))["accuracy"]
    return annotated.assign_attrs(definition=definition)


def _names_below(network: nn.Module, layer: str, inputs: Tensor) -> set[str]:
    """Names, in the state dict, of all tensors that the layer's feature can depend on."""
    parts = modules_below(network, layer, inputs)
    kinds = (nn.Module.named_parameters, nn.Module.named_buffers)
    own = {id(tensor) for part in parts for kind in kinds for _, tensor in kind(part, recurse=False)}
    named = chain.from_iterable(kind(network, remove_duplicate=False) for kind in kinds)
    return {name for name, tensor in named if id(tensor) in own}  # by identity: weights may be tied


def _read_done(path: Path, about: Mapping[str, object]) -> dict[str, dict]:
    if not path.exists():
        return {}
    stored = read_json(path)
    done = stored.pop("epochs", None)
    if not isinstance(done, dict):
        raise StoreError(f"{path} is damaged: it holds no epochs; remove it to train the heads anew")
    if differing := sorted(key for key in about if stored.get(key) != about[key]):
        raise StoreError(f"{path.parent} holds probes that differ in {', '.join(differing)}; name another")
    return done
