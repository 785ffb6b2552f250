"""What a training run leaves in its folder, written so that a kill at any moment loses at most one epoch.

A folder holds ``plan.json`` (what is being trained, written first), ``epoch-NNN.safetensors`` (the network
after that epoch, a plain state dict), ``parts-NNN.safetensors`` beside it (the same of what the loss trains
along, where there is any), ``state.pt`` (where to resume: weights, parts, optimiser; removed at the
end) and ``history.json`` (written last: a folder that has it is finished). Nothing in them depends on the
time or the place of the run. ``state.pt`` and ``history.json`` carry their own checksums and those of the
weights, so that no changed bit is read. Of a training that a `Recorder` follows, ``history.json`` is there
from the start and replaced after every epoch, and there is no ``plan.json``.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd
import xarray as xr
from pydantic import BaseModel, ValidationError, model_validator
from safetensors.torch import load_file, save
from torch import Tensor

from kdviz.errors import StoreError
from kdviz.files import hash_file, list_differences, read_json, write_bytes, write_json
from kdviz.training.distances import BY_STEP, epoch_array
from kdviz.training.watching import Setback


@dataclass(frozen=True)
class TrainingRecord:
    """A finished training run, or what a :class:`Recorder` has of one so far.

    Attributes
    ----------
    folder
        Where it lies.
    """

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> "TrainingRecord":
        """Open the folder of a run; what is recorded there later is seen when it is opened again.

        Raises
        ------
        StoreError
            If no run was finished or recorded there.
        """
        if not (Path(folder) / "history.json").is_file():
            raise StoreError(f"no finished training run in {folder}, and no record of one")
        return cls(Path(folder))

    @cached_property
    def _contents(self) -> "History":
        path = self.folder / "history.json"
        try:
            return History.model_validate(read_json(path, remove=self.folder))
        except ValidationError as error:
            raise StoreError(
                f"{path} is damaged, or of another version of kdviz: it is no whole history of a training "
                f"run; remove {self.folder} to train anew"
            ) from error

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Saved networks, by completed epochs; 0 is the untrained network.

        Raises
        ------
        StoreError
            If one is not what was written.
        """
        return self._find(checkpoint_path)

    @property
    def parts(self) -> dict[int, Path]:
        """What the loss trained beside the network, at the same epochs; empty where it trained nothing.

        Raises
        ------
        StoreError
            If one is not what was written.
        """
        return {epoch: path for epoch, path in self._find(parts_path).items() if path.exists()}

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of every file with weights, by name; none of runs from before they were kept."""
        return self._contents.files

    def _find(self, place: Callable[[Path, int], Path]) -> dict[int, Path]:
        paths = {epoch: place(self.folder, epoch) for epoch in self._contents.checkpoints}
        for path in paths.values():
            check_file(path, self.files)
        return paths

    @property
    def seed(self) -> int | None:
        """Seed of the run, for ``training_seed``; None where none was told."""
        return self._contents.seed

    @property
    def torch_seed(self) -> int | None:
        """What `torch.initial_seed` was when a :class:`Recorder` was made; None of other runs."""
        return self._contents.torch_seed

    @property
    def history(self) -> pd.DataFrame:
        """Numbers of every epoch (index ``epoch``, from 1).

        ``loss`` is the mean training loss; with the accuracies where there are any. What a
        :class:`Recorder` was not told is left out, or NaN.
        """
        epochs = pd.RangeIndex(1, self._contents.epochs + 1, name="epoch")
        return pd.DataFrame(self._contents.history, index=epochs, dtype=float)

    @property
    def rate_factor(self) -> float:
        """Times the rates of its plan: below 1 where the training diverged or died, and began anew."""
        return self._contents.rate_factor

    @property
    def learning_rate(self) -> float | None:
        """Rate of the first epoch: that of its plan times `rate_factor`; None where no plan is told."""
        path = self.folder / "plan.json"
        plan = read_json(path, remove=self.folder).get("plan", {}) if path.is_file() else {}
        rates = plan.get("learning_rate")
        first = rates[0] if isinstance(rates, list) else rates
        return None if first is None else float(first) * self.rate_factor

    @property
    def setbacks(self) -> list[Setback]:
        """What was thrown away, first things first; counted neither in `history` nor in `weight_distance`."""
        return self._contents.setbacks

    def weight_distance(self, layer: str) -> xr.DataArray:
        """Return how far the weight of a tracked layer had moved at each checkpoint.

        Returns
        -------
        xarray.DataArray
            ``weight_distance`` (epoch), float32: sum of the norms of the updates of all mini-batches, as the
            papers' code has it, relative to the norm of the initial weight, biases left out. Their text sums
            over epochs (Eq. 8 of [1]_), as `kdviz.weight_distance` does from checkpoints.

        Raises
        ------
        ValueError
            If `layer` was not tracked.

        References
        ----------
        .. [1] Zhang et al., TPAMI 2022, section 3.3.
        """
        recorded = self._contents.weight_distance
        if layer not in recorded:
            raise ValueError(
                f"layer {layer!r} was not tracked in {self.folder}; tracked: {', '.join(recorded)}"
            )
        epochs = self._contents.checkpoints
        values = [recorded[layer][epoch] for epoch in epochs]
        return epoch_array("weight_distance", values, epochs, definition=BY_STEP, layer=layer)


class History(BaseModel):
    """What is written at the end: one number for every epoch, and one more where epoch 0 counts."""

    checkpoints: list[int]
    history: dict[str, list[float | None]]
    weight_distance: dict[str, list[float]]
    files: dict[str, str] = {}
    seed: int | None = None
    torch_seed: int | None = None
    rate_factor: float = 1.0
    setbacks: list[Setback] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self._lengths()) != 1 or not set(self.checkpoints) <= set(range(self.epochs + 1)):
            raise ValueError("its lists do not fit each other")
        return self

    def _lengths(self) -> set[int]:
        lengths = {len(column) for column in self.history.values()}
        return lengths | {len(path) - 1 for path in self.weight_distance.values()}

    @property
    def epochs(self) -> int:
        """Number of completed epochs."""
        return max(self._lengths())


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Where the network after `epoch` epochs is saved."""
    return folder / f"epoch-{epoch:03d}.safetensors"


def parts_path(folder: Path, epoch: int) -> Path:
    """Where what the loss trains along is saved."""
    return folder / f"parts-{epoch:03d}.safetensors"


def claim(path: Path, identity: Mapping[str, Any]) -> None:
    """Write what a folder is for, or refuse one that is for something else.

    Raises
    ------
    StoreError
        If `path` holds another identity; it names what differs.
    """
    wanted = json.loads(json.dumps(identity))
    if not path.exists():
        write_json(path, wanted)
    if differing := list_differences(read_json(path, remove=path.parent), wanted):
        raise StoreError(
            f"{path.parent} holds a run that differs in {'; '.join(differing)}; name another folder, or pass "
            "what that run was started with (build networks and losses again for their initial weights)"
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Write a safetensors file through `write_bytes`, and return its SHA-256; same contents, same bytes."""
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    # one entry of metadata only: safetensors writes several in random order
    contents = save(own, {"kdviz": json.dumps(metadata, sort_keys=True)})
    write_bytes(path, contents)
    return hashlib.sha256(contents).hexdigest()


def check_file(path: Path, files: Mapping[str, str]) -> None:
    """Refuse a file of weights that is not the one of which `files` tells the SHA-256.

    Raises
    ------
    StoreError
        If it is gone or damaged; it says what to do.
    """
    known = files.get(path.name)
    if known is not None and not (path.is_file() and hash_file(path) == known):
        what = "is damaged: it is not what was written" if path.exists() else "is missing"
        raise StoreError(f"{path} {what}; put a backup of it back, or remove {path.parent} to train anew")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors that `write_tensors` wrote.

    Raises
    ------
    StoreError
        If the file is missing or damaged.
    """
    try:
        return load_file(path)
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        raise StoreError(f"cannot read {path}: {error}") from error
