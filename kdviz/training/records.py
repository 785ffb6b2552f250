"""What a training run leaves in its folder, written so that a kill at any moment loses at most one epoch.

A folder holds ``plan.json`` (what is being trained, written first), ``epoch-NNN.safetensors`` (the network
after that epoch), ``state.safetensors`` (where to resume; removed at the end) and ``history.json`` (written
last: a folder that has it is finished). Nothing in them depends on the time or the place of the run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from kdviz import schema
from kdviz.errors import StoreError
from kdviz.files import read_json, write_bytes
from kdviz.networks.checkpoints import Checkpoint, match_names, name_checkpoint, read_checkpoint

_DEFINITIONS = {
    "step": "sum over mini-batches of the norm of the weight's update, over its initial norm",
    "epoch": "sum over epochs of the norm of the weight's change, over its initial norm",
    "checkpoint": "sum over checkpoints of the norm of the weight's change, over its initial norm",
}
_METADATA = "kdviz"  # one entry only: safetensors writes several in random order


@dataclass(frozen=True)
class TrainingRecord:
    """A finished training run.

    Attributes
    ----------
    folder
        Where it lies.
    """

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> "TrainingRecord":
        """Open the folder of a finished run.

        Raises
        ------
        StoreError
            If no run was finished there.
        """
        if not (Path(folder) / "history.json").is_file():
            raise StoreError(f"no finished training run in {folder}")
        return cls(Path(folder))

    @cached_property
    def _contents(self) -> dict[str, Any]:
        path = self.folder / "history.json"
        contents = read_json(path)
        if missing := {"checkpoints", "history", "weight_distance"} - contents.keys():
            raise StoreError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
        if not _is_whole(contents["checkpoints"], contents["history"], contents["weight_distance"]):
            raise StoreError(f"{path} is damaged: its lists do not fit each other")
        return contents

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Saved networks, by completed epochs; 0 is the untrained network."""
        return {epoch: checkpoint_path(self.folder, epoch) for epoch in self._contents["checkpoints"]}

    @property
    def history(self) -> pd.DataFrame:
        """Mean training loss per epoch (index ``epoch``, from 1), and the accuracies where there are any."""
        columns = self._contents["history"]
        epochs = pd.RangeIndex(1, len(columns["loss"]) + 1, name="epoch")
        return pd.DataFrame(columns, index=epochs)

    def weight_distance(
        self, layer: str | None, *, definition: Literal["step", "epoch"] = "step"
    ) -> xr.DataArray:
        """Give how far a layer's weight had moved at each checkpoint, as recorded during training.

        Parameters
        ----------
        layer
            A tracked layer, or None for all parameters of the network taken as one vector.
        definition
            ``"step"`` sums the norms of the updates of all mini-batches, as the papers' code does;
            ``"epoch"`` the norms of the changes over epochs, as their text says (Eq. 8 of [1]_).

        Returns
        -------
        xarray.DataArray
            ``weight_distance`` (epoch), float32, relative to the norm of the initial weight, biases left out.

        Raises
        ------
        ValueError
            If `layer` was not tracked or `definition` is unknown.

        References
        ----------
        .. [1] Zhang et al., TPAMI 2022, section 3.3.
        """
        if definition not in ("step", "epoch"):
            raise ValueError(f"definition must be 'step' or 'epoch', got {definition!r}")
        recorded = self._contents["weight_distance"][definition]
        key = layer or NETWORK
        if key not in recorded:
            tracked = ", ".join(name for name in recorded if name != NETWORK)
            raise ValueError(f"layer {layer!r} was not tracked in {self.folder}; tracked: {tracked}")
        epochs = list(self.checkpoints)
        return _distance_array([recorded[key][epoch] for epoch in epochs], epochs, layer, definition)


NETWORK = "*"  # key of the whole network beside the layers' names


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
    return _distance_array(distances, epochs, layer, "checkpoint")


def _is_whole(checkpoints: Any, history: Any, weight_distance: Any) -> bool:
    """Whether there is one number for every epoch, and one more where epoch 0 counts."""
    try:
        epochs = len(history["loss"])
        distances = [paths for rule in ("step", "epoch") for paths in weight_distance[rule].values()]
        lengths = {np.asarray(column, float).shape for column in history.values()}
        from_start = {np.asarray(path, float).shape for path in distances}
        known = all(NETWORK in weight_distance[rule] for rule in ("step", "epoch"))
        return (
            known
            and lengths == {(epochs,)}
            and from_start == {(epochs + 1,)}
            and set(checkpoints) <= set(range(epochs + 1))
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _read_weight(checkpoint: Checkpoint, layer: str) -> Tensor:
    name = f"{layer}.weight"
    weight = match_names(read_checkpoint(checkpoint), {name}).get(name)
    if not isinstance(weight, Tensor):
        raise ValueError(f"no weight {name!r} in {name_checkpoint(checkpoint)}")
    return weight.detach().cpu().double()


def _distance_array(
    distances: list[float], epochs: list[int], layer: str | None, definition: str
) -> xr.DataArray:
    values = xr.DataArray(np.asarray(distances, "float32"), dims="epoch", coords={"epoch": epochs})
    annotated = schema.annotate(xr.Dataset({"weight_distance": values}))["weight_distance"]
    scope = {"layer": layer} if layer else {"scope": "all parameters of the network"}
    return annotated.assign_attrs(definition=f"{definition}: {_DEFINITIONS[definition]}", **scope)


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Where the network after `epoch` epochs is saved."""
    return folder / f"epoch-{epoch:03d}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file through `write_bytes`; same contents, same bytes."""
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(own, {_METADATA: json.dumps(metadata, sort_keys=True)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises
    ------
    StoreError
        If it is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()[_METADATA])
        return load_file(path), metadata
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        raise StoreError(f"cannot read {path}: {error}") from error
