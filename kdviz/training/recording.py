"""Record a training that somebody else runs: the epochs to measure, the exact path of the weights, the seeds.

The folder is that of a `TrainingRecord`. Each epoch's end writes the network first and ``history.json``
second, both whole or not at all: what that file tells is on disk, so a kill loses no more than the epoch in
which it happens. The network after the newest epoch is always there; it goes when a newer one comes, unless
it is among those to measure.
"""

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError, model_validator
from torch import Tensor, nn

from kdviz.arguments import whole_number
from kdviz.errors import KdvizWarning, StoreError
from kdviz.files import list_differences, make_folder, read_json, write_json
from kdviz.networks import read_checkpoint
from kdviz.networks.hashing import fingerprint
from kdviz.schema import choose_epochs
from kdviz.training.distances import Odometer
from kdviz.training.records import History, checkpoint_path, write_tensors

COLUMNS = ("loss", "accuracy", "validation_accuracy")
"""Names of the numbers that an epoch may have."""

_OWN_FILE = re.compile(r"epoch-\d{3,}\.safetensors")


class Recorder:
    """Follow a training of your own: save the epochs to measure, and how far weights move step by step.

    Three lines beside any loop, see the example. Make it when the network has the weights, and is on the
    device, that training starts with; a training that is resumed has loaded its checkpoint before.

    Parameters
    ----------
    network
        The one that is trained; of a training on several devices, that of one process, with whole weights.
        What `torch.compile` and `DistributedDataParallel` put around it is left out of names.
    folder
        Of this record alone; made if it is missing. `TrainingRecord.open` opens it, at any time.
    layers
        Layers whose weight movement is recorded, such as those to measure; biases do not count.
    epochs
        How many there will be: every one of the first half, every second later, and the last are then
        measured (:func:`kdviz.schema.choose_epochs`), and all beyond. Or a list of those to measure. None:
        all. Epoch 0, the network as it is now, always is.
    seed
        With which you seeded the training, to be kept beside `torch.initial_seed`.
    epoch
        How many epochs the network has been trained for; only needed where its tracked weights are alike
        after several, as frozen ones are.

    Raises
    ------
    LayerError
        If a layer is unknown, or has no weight to be relative to.
    StoreError
        If `folder` holds something else, a record of other layers or another seed, or one of which the
        network continues no epoch; or if it cannot be read or written.
    ValueError
        If an argument makes no sense.

    Warns
    -----
    KdvizWarning
        If epochs later than the network's are recorded, and will be replaced.

    See Also
    --------
    kdviz.training.train : Trains, and leaves the same.

    Notes
    -----
    **Resuming.** A recorder on a folder that has a record continues it after the epoch whose tracked weights
    the network has, to the bit. Where later epochs are recorded, because your own checkpoint is older than
    the kill, they stay until the next epoch ends, and are replaced then. A network with its initial weights
    continues nothing: remove the folder to begin anew. Save your own checkpoint *after* `end_epoch`, at the
    end of an epoch, so that the record is never behind it.

    The distance is the sum of the norms of all steps over the initial norm (TPAMI 2022 [1]_, section 3.3, and
    the authors' code). It costs a copy of each tracked weight, and nothing waits for a GPU before the epoch
    ends.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, section 3.3.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(2, 1, bias=False))
    >>> _ = nn.init.constant_(network[0].weight, 1.0)
    >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    >>> folder = getfixture("tmp_path") / "student"
    >>> recorder = Recorder(network, folder, layers="0", epochs=2, seed=3)
    >>> for _ in range(2):
    ...     for slope in (1.0, -1.0):  # there and back again
    ...         optimizer.zero_grad()
    ...         network(torch.full((1, 2), slope)).sum().backward()
    ...         optimizer.step()
    ...         recorder.step()
    ...     recorder.end_epoch(accuracy=0.5)
    >>> from kdviz.training import TrainingRecord
    >>> record = TrainingRecord.open(folder)
    >>> list(record.checkpoints), record.seed
    ([0, 1, 2], 3)
    >>> record.weight_distance("0").values.tolist()
    [0.0, 1.0, 2.0]
    """

    def __init__(
        self,
        network: nn.Module,
        folder: str | Path,
        *,
        layers: str | Sequence[str | nn.Module],
        epochs: int | Iterable[int] | None = None,
        seed: int | None = None,
        epoch: int | None = None,
    ) -> None:
        self._network = _unwrap(network)
        self._odometer = Odometer(self._network, [layers] if isinstance(layers, str | nn.Module) else layers)
        if not self._odometer.weights:
            raise ValueError("layers is empty; name those to measure, or any other with a weight")
        self._chosen, self._all_beyond = _read_epochs(epochs)
        seed = None if seed is None else whole_number("seed", seed)
        self.folder = make_folder(folder)
        self._path = self.folder / "history.json"
        self._contents = b""  # of that file, as it was last read or written
        self._stored = 0  # epochs that it tells of; `_told` may leave out the last of them
        if self._path.exists():
            self._resume(seed, epoch)
        else:
            self._begin(seed, epoch)
        self._odometer.start_epoch()

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return self._told.epochs

    def step(self) -> None:
        """Note the way of one step: call it after every step of the optimiser, and after nothing else."""
        self._odometer.record_step()

    def end_epoch(
        self,
        *,
        loss: float | None = None,
        accuracy: float | None = None,
        validation_accuracy: float | None = None,
    ) -> None:
        """Write what there is after an epoch.

        Parameters
        ----------
        loss, accuracy, validation_accuracy
            Columns of ``history``, where they are known: mean training loss, share of right answers in
            training, and on held-out samples. Those that are not finite count as unknown.

        Raises
        ------
        ValueError
            If a tracked weight moved after the last `step`, or was replaced by another tensor.
        StoreError
            If something else wrote into the folder meanwhile, or it cannot be written.
        """
        told = (loss, accuracy, validation_accuracy)
        values = {name: _finite(value) for name, value in zip(COLUMNS, told, strict=True)}
        if behind := self._odometer.list_behind():
            raise ValueError(
                f"the weights of {', '.join(behind)} moved after the last step of the recorder, or were "
                "replaced; call step() after every step of the optimiser and end_epoch() before anything "
                "else changes weights, and make the recorder when weights are loaded"
            )
        self._check_alone()
        if self.epoch < self._stored:  # first, since files of these epochs are overwritten next
            self._put(self._told)
        # anew, since an epoch that could not be written may be ended again
        self._odometer.distances = {layer: [*path] for layer, path in self._told.weight_distance.items()}
        self._odometer.end_epoch()
        history = {
            name: [*self._told.history.get(name, [None] * self.epoch), value]
            for name, value in values.items()
            if value is not None or name in self._told.history
        }
        self._write(self._extend(self._told, history))
        self._odometer.start_epoch()

    def finish(self) -> None:
        """Measure the newest epoch, too, though `epochs` does not name it: where training ended early.

        Raises
        ------
        StoreError
            As of `end_epoch`.
        """
        name = checkpoint_path(self.folder, self.epoch).name
        if self.epoch in self._told.checkpoints or name not in self._told.files:
            return
        if self.epoch == self._stored:  # else an older epoch was resumed, and nothing trained
            self._check_alone()
            self._put(self._told.model_copy(update={"checkpoints": [*self._told.checkpoints, self.epoch]}))

    # -- where it begins

    def _begin(self, seed: int | None, epoch: int | None) -> None:
        foreign = [entry.name for entry in self.folder.iterdir() if not entry.name.startswith(".")]
        foreign = [name for name in foreign if name != checkpoint_path(self.folder, 0).name]
        if foreign:
            raise StoreError(
                f"{self.folder} holds other files ({foreign[0]}) and no record; name an empty folder"
            )
        if epoch:
            raise StoreError(f"nothing is recorded in {self.folder}, and so no epoch {epoch} to continue")
        self._write(
            _Recorded(
                checkpoints=[0],
                history={},
                weight_distance=self._odometer.distances,
                initial_norms=self._odometer.initial,
                weights={layer: [mark] for layer, mark in self._mark_weights().items()},
                seed=seed,
                torch_seed=torch.initial_seed(),
            )
        )

    def _resume(self, seed: int | None, epoch: int | None) -> None:
        recorded = self._read()
        asked: dict[str, Any] = {"layers": sorted(self._odometer.weights)}
        stored: dict[str, Any] = {"layers": sorted(recorded.weights)}
        if seed is not None:
            asked["seed"], stored["seed"] = seed, recorded.seed
        if differing := list_differences(stored, asked):
            raise StoreError(
                f"{self.folder} holds a record that differs in {'; '.join(differing)}; name another folder, "
                "or pass what it was begun with"
            )
        at = self._find_epoch(recorded, epoch)
        last = self._stored = recorded.epochs
        if at < last:
            later = f"epoch {last}" if at + 1 == last else f"epochs {at + 1} to {last}"
            warnings.warn(
                f"the network has the weights of epoch {at}: {later} of the record in {self.folder} will be "
                "replaced when the next epoch ends",
                KdvizWarning,
                stacklevel=3,
            )
        self._told = recorded.until(at, self.folder)
        self._odometer.initial = self._told.initial_norms

    def _find_epoch(self, recorded: "_Recorded", epoch: int | None) -> int:
        """Find the recorded epoch whose weights the network has."""
        now, last = self._mark_weights(), recorded.epochs
        found = [at for at in range(last + 1) if all(recorded.weights[one][at] == now[one] for one in now)]
        begin = f"or remove {self.folder} to begin anew"
        load = f"load your checkpoint of the end of a recorded epoch before the recorder is made, {begin}"
        if not found:
            strange = [one for one, mark in now.items() if mark not in recorded.weights[one]] or list(now)
            raise StoreError(
                f"{self.folder} records epochs 0 to {last}, and the weights of {', '.join(strange)} are "
                f"those after none of them; {load}"
            )
        if epoch is not None and epoch not in found:
            raise StoreError(
                f"the network has the weights of epoch {_name_epochs(found)} of the record in {self.folder}, "
                f"not of epoch {epoch}; {load}"
            )
        if epoch is None and len(found) > 1:
            raise AmbiguousEpochError(
                f"the tracked weights of the network are alike after epochs {_name_epochs(found)} of the "
                f"record in {self.folder}; pass epoch, how many it was trained for"
            )
        at = found[0] if epoch is None else epoch
        if at == 0 < last:
            raise StoreError(
                f"{self.folder} records epochs 0 to {last}, and the network has its initial weights; {load}"
            )
        return at

    def _mark_weights(self) -> dict[str, str]:
        return {layer: fingerprint(weight) for layer, weight in self._odometer.weights.items()}

    # -- what is on disk

    def _read(self) -> "_Recorded":
        self._contents = self._path.read_bytes()
        try:
            return _Recorded.model_validate(read_json(self._path, remove=self.folder))
        except ValidationError as error:
            raise StoreError(
                f"{self._path} is damaged, or of a training by kdviz itself: it is no whole record; name "
                f"another folder, or remove {self.folder} to begin anew"
            ) from error

    def _check_alone(self) -> None:
        if not self._path.exists() or self._path.read_bytes() != self._contents:
            raise StoreError(
                f"{self._path} is gone or was written by another recorder; name a folder for each training"
            )

    def _extend(self, told: "_Recorded", history: dict[str, list[float | None]]) -> "_Recorded":
        epoch = told.epochs + 1
        chosen = epoch in self._chosen or epoch > self._all_beyond
        marks = self._mark_weights()
        return told.model_copy(
            update={
                "checkpoints": [*told.checkpoints, epoch] if chosen else told.checkpoints,
                "history": history,
                "weight_distance": self._odometer.distances,
                "weights": {layer: [*told.weights[layer], mark] for layer, mark in marks.items()},
            }
        )

    def _write(self, told: "_Recorded") -> None:
        """Write the network, then the history that tells of it, and remove what that no longer tells of."""
        path = checkpoint_path(self.folder, told.epochs)
        about = {"layers": sorted(told.weights), "seed": told.seed, "torch_seed": told.torch_seed}
        tensors = {
            name: value
            for name, value in read_checkpoint(self._network.state_dict()).items()
            if isinstance(value, Tensor)
        }
        kept = [checkpoint_path(self.folder, epoch).name for epoch in told.checkpoints]
        files = {name: told.files[name] for name in kept if name in told.files}
        files[path.name] = write_tensors(path, tensors, {"epoch": told.epochs, "run": about})
        self._put(told.model_copy(update={"files": files}))
        for other in self.folder.iterdir():
            if _OWN_FILE.fullmatch(other.name) and other.name not in files:
                other.unlink()

    def _put(self, told: "_Recorded") -> None:
        write_json(self._path, told.model_dump())
        self._contents, self._stored = self._path.read_bytes(), told.epochs
        self._told = told


def continue_or_begin(network: nn.Module, folder: str | Path, *, epoch: int, **options: Any) -> Recorder:
    """Make a `Recorder` for a trainer that counts epochs; its count decides where weights do not."""
    try:
        return Recorder(network, folder, **options)
    except AmbiguousEpochError:
        return Recorder(network, folder, epoch=epoch, **options)


class AmbiguousEpochError(StoreError):
    """The weights of a network are alike after several recorded epochs."""


class _Recorded(History):
    """A `History` to be continued: by layer, the norm at first, and hashes of the weight by epoch."""

    initial_norms: dict[str, float]
    weights: dict[str, list[str]]

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        lengths = {len(marks) - 1 for marks in self.weights.values()}
        if lengths != {self.epochs} or not self.weights.keys() == self.weight_distance.keys():
            raise ValueError("its weights do not fit its distances")
        if self.initial_norms.keys() != self.weights.keys():
            raise ValueError("its norms do not fit its weights")
        return self

    def until(self, epoch: int, folder: Path) -> "_Recorded":
        """Leave out the epochs after one."""
        names = {checkpoint_path(folder, at).name for at in range(epoch + 1)}
        return self.model_copy(
            update={
                "checkpoints": [at for at in self.checkpoints if at <= epoch],
                "history": {name: column[:epoch] for name, column in self.history.items()},
                "weight_distance": {layer: path[: epoch + 1] for layer, path in self.weight_distance.items()},
                "weights": {layer: marks[: epoch + 1] for layer, marks in self.weights.items()},
                "files": {name: digest for name, digest in self.files.items() if name in names},
            }
        )


def _unwrap(network: nn.Module) -> nn.Module:
    """Return the network inside of what `torch.compile` and training on several devices put around it."""
    inner = getattr(network, "_orig_mod", network)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    return network if inner is network else _unwrap(inner)


def _name_epochs(epochs: Sequence[int]) -> str:
    """Join epochs: 3, 4 and 5."""
    *others, last = map(str, epochs)
    return f"{', '.join(others)} and {last}" if others else last


def _read_epochs(epochs: int | Iterable[int] | None) -> tuple[frozenset[int], float]:
    """Return the epochs to measure, and the one beyond which all are."""
    if epochs is None:
        return frozenset(), 0
    if isinstance(epochs, Iterable):
        return frozenset(whole_number("epochs", epoch) for epoch in epochs), math.inf
    count = whole_number("epochs", epochs, 1)
    return frozenset(choose_epochs(count)), count


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
