"""How far weights move in training: recorded step by step, or read from saved checkpoints.

Distances are relative to the norm of the initial weights; biases are left out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from kdviz import schema
from kdviz.errors import LayerError
from kdviz.networks.checkpoints import find_tensor
from kdviz.networks.features import resolve_layers
from kdviz.networks.saved import Checkpoint, name_checkpoint

BY_STEP = "step: sum over mini-batches of the norm of the weight's update, over its initial norm"
_BY_CHECKPOINT = "checkpoint: sum over checkpoints of the norm of the weight's change, over its initial norm"


def weight_distance(
    checkpoints: Mapping[int, Checkpoint],
    *,
    layer: str,
    initial: Checkpoint,
) -> xr.DataArray:
    """Measure how far a layer's weight moved, from saved checkpoints alone.

    Parameters
    ----------
    checkpoints
        Networks by epoch: a state dict, or the path of one (``.safetensors``, or a file for `torch.load`).
    layer
        Name of the layer; its tensor ``<layer>.weight`` counts, the bias does not.
    initial
        The network before training, to whose weight norm distances are relative.

    Returns
    -------
    xarray.DataArray
        ``weight_distance`` (epoch), float32: sum over checkpoints up to each epoch of
        ``|w_k - w_previous| / |w_0|`` (Eq. 8 of [1]_ with checkpoints in place of epochs, which cuts
        corners: the fewer checkpoints, the shorter the path).

    Raises
    ------
    ValueError
        If `checkpoints` is empty, a state has no such weight, shapes differ, or the initial weight is 0.
    DataError
        If a checkpoint is missing or damaged.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, section 3.3.

    Examples
    --------
    >>> states = {k: {"fc.weight": torch.full((2, 2), 1.0 + k)} for k in range(3)}
    >>> weight_distance(states, layer="fc", initial=states[0]).values.tolist()
    [0.0, 1.0, 2.0]
    """
    if not checkpoints:
        raise ValueError("checkpoints is empty")
    previous = _read_weight(initial, layer)
    norm = float(previous.norm())
    if norm == 0:
        raise ValueError(f"the initial weight of layer {layer!r} is 0, so no distance is relative to it")
    epochs = sorted(checkpoints)
    distances, path = [], 0.0
    for epoch in epochs:
        current = _read_weight(checkpoints[epoch], layer)
        if current.shape != previous.shape:
            raise ValueError(
                f"weight of layer {layer!r} has shape {tuple(current.shape)} at epoch {epoch}, "
                f"{tuple(previous.shape)} before"
            )
        path += float((current - previous).norm()) / norm
        distances.append(path)
        previous = current
    return epoch_array("weight_distance", distances, epochs, definition=_BY_CHECKPOINT, layer=layer)


class Odometer:
    """Sums how far the weights of some layers move, step by step, relative to their initial norms.

    ``distances[layer]`` lists the sum after 0, 1, ... epochs.

    Raises
    ------
    LayerError
        If a layer is unknown, or has no weight to be relative to.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str | nn.Module]) -> None:
        self.weights: dict[str, Tensor] = {}
        self.modules = {layer: network.get_submodule(layer) for layer in resolve_layers(network, layers)}
        for layer, module in self.modules.items():
            weight = getattr(module, "weight", None)
            if not isinstance(weight, nn.Parameter) or not weight.any():
                raise LayerError(f"tracked layer {layer!r} has no weight, or one of zeros, that could move")
            self.weights[layer] = weight
        self.initial = {layer: float(_norm(weight)) for layer, weight in self.weights.items()}
        self.distances = {layer: [0.0] for layer in self.weights}

    def start_epoch(self) -> None:
        """Note where the weights are."""
        self.places = {layer: weight.detach().clone() for layer, weight in self.weights.items()}
        self.steps: dict[str, list[Tensor]] = {layer: [] for layer in self.weights}

    def list_behind(self) -> list[str]:
        """List the layers whose weights are not where the last recorded step left them, or are others."""
        return [
            layer
            for layer, weight in self.weights.items()
            if self.modules[layer].weight is not weight
            or not torch.allclose(weight, self.places[layer], rtol=0, atol=0, equal_nan=True)
        ]

    def record_step(self) -> None:
        """Note the way of one step."""
        for layer, weight in self.weights.items():
            self.steps[layer].append(_norm(weight - self.places[layer]))
            self.places[layer].copy_(weight.detach())

    def end_epoch(self) -> None:
        """Add the epoch to all sums."""
        for layer, distances in self.distances.items():
            steps = self.steps[layer]
            moved = float(torch.stack(steps).sum()) if steps else 0.0
            distances.append(distances[-1] + moved / self.initial[layer])


def _norm(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)


def _read_weight(checkpoint: Checkpoint, layer: str) -> Tensor:
    name = f"{layer}.weight"
    weight = find_tensor(checkpoint, name)
    if weight is None:
        raise ValueError(f"no weight {name!r} in {name_checkpoint(checkpoint)}")
    return weight.detach().cpu().double()


def epoch_array(name: str, values: list[float], epochs: list[int], **attrs: str) -> xr.DataArray:
    """Name one number per epoch as the data contract does; float32."""
    array = xr.DataArray(np.asarray(values, "float32"), dims="epoch", coords={"epoch": epochs})
    return schema.annotate(xr.Dataset({name: array}))[name].assign_attrs(attrs)
