"""How far weights move in training: recorded step by step, or read from saved checkpoints.

Distances are relative to the norm of the initial weights; biases are left out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from kdviz import schema
from kdviz.networks.checkpoints import Checkpoint, match_names, name_checkpoint, read_checkpoint

NETWORK = "*"  # stands for all parameters of the network as one vector, beside the layers' names
DEFINITIONS = {
    "step": "sum over mini-batches of the norm of the weight's update, over its initial norm",
    "epoch": "sum over epochs of the norm of the weight's change, over its initial norm",
    "checkpoint": "sum over checkpoints of the norm of the weight's change, over its initial norm",
}


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
    return distance_array(distances, epochs, layer, "checkpoint")


class Odometer:
    """Sums how far weights move, by step and by epoch, relative to their initial norm.

    ``distances[definition][layer]`` lists the sum after 0, 1, ... epochs; `NETWORK` stands for all parameters
    as one vector.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        self.weights = {layer: network.get_submodule(layer).weight for layer in layers}
        self.parameters = list(network.parameters())
        self.initial = {name: float(norm) for name, norm in self._norms(None).items()}
        still = [name for name, norm in self.initial.items() if norm == 0]
        if still:
            raise ValueError(
                f"the initial weight of {', '.join(still)} is 0, so no distance is relative to it"
            )
        self.distances = {rule: {name: [0.0] for name in self.initial} for rule in ("step", "epoch")}

    def start_epoch(self) -> None:
        """Note where the weights are."""
        self.epoch_start = [parameter.detach().clone() for parameter in self.parameters]
        self.step_start = [tensor.clone() for tensor in self.epoch_start]
        self.steps: list[dict[str, Tensor]] = []

    def record_step(self) -> None:
        """Add the way of one step."""
        self.steps.append(self._norms(self.step_start))
        for old, parameter in zip(self.step_start, self.parameters, strict=True):
            old.copy_(parameter.detach())

    def end_epoch(self) -> None:
        """Add the epoch to all sums."""
        moved = self._norms(self.epoch_start)
        for name, initial in self.initial.items():
            steps = float(torch.stack([step[name] for step in self.steps]).sum())
            for rule, length in (("step", steps), ("epoch", float(moved[name]))):
                self.distances[rule][name].append(self.distances[rule][name][-1] + length / initial)

    @torch.no_grad()
    def _norms(self, origin: list[Tensor] | None) -> dict[str, Tensor]:
        """Norms of the parameters' differences to `origin` (to 0 if None); kept on the device, in float64."""
        squares = {
            id(parameter): torch.linalg.vector_norm(
                parameter if origin is None else parameter - origin[index], dtype=torch.float64
            ).square()
            for index, parameter in enumerate(self.parameters)
        }
        norms = {layer: squares[id(weight)].sqrt() for layer, weight in self.weights.items()}
        norms[NETWORK] = torch.stack(list(squares.values())).sum().sqrt()
        return norms


def _read_weight(checkpoint: Checkpoint, layer: str) -> Tensor:
    name = f"{layer}.weight"
    weight = match_names(read_checkpoint(checkpoint), {name}).get(name)
    if not isinstance(weight, Tensor):
        raise ValueError(f"no weight {name!r} in {name_checkpoint(checkpoint)}")
    return weight.detach().cpu().double()


def distance_array(
    distances: list[float], epochs: list[int], layer: str | None, definition: str
) -> xr.DataArray:
    """Name distances as the data contract does."""
    scope = {"layer": layer} if layer else {"scope": "all parameters of the network"}
    told = f"{definition}: {DEFINITIONS[definition]}"
    return epoch_array("weight_distance", distances, epochs, definition=told, **scope)


def epoch_array(name: str, values: list[float], epochs: list[int], **attrs: str) -> xr.DataArray:
    """Name one number per epoch as the data contract does; float32."""
    array = xr.DataArray(np.asarray(values, "float32"), dims="epoch", coords={"epoch": epochs})
    return schema.annotate(xr.Dataset({name: array}))[name].assign_attrs(attrs)
