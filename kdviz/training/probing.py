"""Accuracy of a frozen layer over training: the same new head is trained on top of every checkpoint."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import xarray as xr
from torch import Tensor, nn

from kdviz.files import beside, make_folder, read_json, write_json
from kdviz.networks import device_of, fingerprint_tensors, load_weights
from kdviz.networks.checkpoints import Checkpoint
from kdviz.training.distances import epoch_array
from kdviz.training.dividing import names_up_to
from kdviz.training.plans import TrainingPlan
from kdviz.training.records import claim
from kdviz.training.stages import CrossEntropy, evaluate, placed, train

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
    device: str | torch.device | None = None,
    progress: bool = True,
    name: str = "",
) -> xr.DataArray:
    """Measure what a layer is good for at every checkpoint: freeze it and train what lies beyond.

    A student in the first stage of distillation has no head of its own yet. One trained by
    ``CrossEntropy(beyond=layer)``, by the same plan at every epoch, tells how far its feature would carry.

    Parameters
    ----------
    network
        What lies beyond `layer` is the head that every training starts from. Ends with the weights it was
        given.
    checkpoints
        ``{epoch: path or state dict}``, as in :func:`kdviz.measure_checkpoints`. Of each, only what lies at
        or below `layer` is used; a head in it, trained or not, is not.
    inputs, labels
        To train the heads on, as in `train`.
    layer
        Last frozen layer.
    folder
        Holds ``probes.json`` with the accuracies known, a file with what each was trained on and, in passing,
        the head in training. Stopped, the same call goes on where it was.
    plan
        Of every head.
    validation
        Held-out inputs and labels, which no head is trained on.
    device
        Where to train and evaluate; None: where the network is.
    progress
        Show progress bars.
    name
        Of the network in what is told of it.

    Returns
    -------
    xarray.DataArray
        ``accuracy`` (epoch), float32: share of right answers on `validation`.

    Raises
    ------
    ValueError, TypeError, LayerError, FloatingPointError
        As `train`; also ValueError if there is no checkpoint.
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
        raise ValueError("checkpoints is empty; pass {epoch: weights}")
    folder, epochs = make_folder(folder), sorted(map(int, checkpoints))
    data = dict(
        zip(("inputs", "labels", "held-out", "their labels"), (inputs, labels, *validation), strict=True)
    )
    about = {"plan": plan.model_dump(mode="json"), "layer": layer, "data": fingerprint_tensors(data)}
    path = folder / PROBES
    done = read_json(path, remove=path) if path.exists() else {}
    original = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with placed(device or device_of(network), network):
        below = names_up_to(network, layer, inputs)
        head = {name: tensor for name, tensor in original.items() if name not in below}
        try:
            for epoch in epochs:
                load_weights(network, checkpoints[epoch])
                network.load_state_dict(head, strict=False)
                place = folder / f"epoch-{epoch:03d}"
                weights = fingerprint_tensors(network.state_dict())
                claim(beside(place, ".json"), about | {"weights": weights})
                if str(epoch) not in done:
                    train(
                        network,
                        inputs,
                        labels,
                        loss=CrossEntropy(beyond=layer),
                        folder=place,
                        plan=plan,
                        progress=progress,
                        name=f"{name} head at epoch {epoch}".strip(),
                    )
                    done[str(epoch)] = evaluate(network, *validation)
                    write_json(path, done)
                shutil.rmtree(place, ignore_errors=True)
        finally:
            network.load_state_dict(original)
    values = [done[str(epoch)] for epoch in epochs]
    told = f"a head trained anew above the frozen layer {layer}"
    return epoch_array("accuracy", values, epochs, definition=told)
