"""The training loop: resumable, and a function of its arguments alone.

Order, augmentation and dropout are keyed by (seed, epoch), so that an epoch is the same whether or not the
run was interrupted before it, and the same for every network trained with one seed. On a CPU, a resumed run
ends bit-equal to an uninterrupted one with the same machine, versions and thread count; some CUDA kernels add
in random order and give that up. This module does not know what is being learned: `Task` says it.

Symbols: ``N`` samples, ``B`` samples of a batch, ``H, W`` image height and width.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz.errors import StoreError
from kdviz.files import read_json, write_json
from kdviz.networks import fingerprint_tensors
from kdviz.training.plans import TrainingPlan
from kdviz.training.records import (
    NETWORK,
    TrainingRecord,
    checkpoint_path,
    read_tensors,
    write_tensors,
)

_STREAMS = {"order": 0, "augmentation": 1, "dropout": 2}
_PADDING = 4  # pixels
_STATES = {  # what an optimiser remembers of a parameter: the stored name and torch's
    "sgd": {"momentum": "momentum_buffer"},
    "adamw": {"step": "step", "mean": "exp_avg", "square": "exp_avg_sq"},
}


@dataclass(frozen=True)
class Task:
    """What one run optimises.

    Attributes
    ----------
    network
        Saved at every checkpoint.
    parameters
        The part of the network's parameters that is optimised, by their names in the network.
    inputs
        Shape ``(N, ...)``; batches of it go to `loss`.
    loss
        From a batch ``(B, ...)`` and the batch's positions ``(B,)`` in `inputs` to the mean loss and, where
        there are labels, the number of right answers.
    set_mode
        Sets train and eval modes; called before each epoch.
    validate
        Accuracy on held-out data after each epoch, or None.
    identity
        JSON-ready description of what is trained on what; a folder is resumed only by an equal one.
    """

    network: nn.Module
    parameters: Mapping[str, nn.Parameter]
    inputs: Tensor
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
    set_mode: Callable[[], object]
    validate: Callable[[], float] | None
    identity: Mapping[str, Any]


def fit(
    task: Task, *, plan: TrainingPlan, folder: str | Path, tracked_layers: Sequence[str], progress: bool
) -> TrainingRecord:
    """Train to the end of the plan, from wherever the folder's last run got, and leave the final weights.

    Raises
    ------
    StoreError
        If the folder belongs to another run, another process trains in it, or it cannot be read or written.
    FloatingPointError
        If the loss is no longer finite; the network then has its initial weights again, as after any error.
    """
    folder = Path(folder)
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(folder / ".lock", timeout=0))
        except Timeout:
            raise StoreError(f"another process is training in {folder}") from None
        except OSError as error:
            raise StoreError(f"cannot train in {folder}: {error}") from error
        return _Run(task, plan, folder, tracked_layers).finish(progress)


class _Run:
    def __init__(self, task: Task, plan: TrainingPlan, folder: Path, tracked_layers: Sequence[str]) -> None:
        self.task, self.plan, self.folder = task, plan, folder
        self.device = next(iter(task.parameters.values())).device
        self.identity = dict(
            task.identity,
            plan=plan.as_json(),
            tracked_layers=list(tracked_layers),
            initial_weights=fingerprint_tensors(task.network.state_dict()),
        )
        self._claim_folder()
        self.optimiser = _make_optimiser(plan, list(task.parameters.values()))
        self.odometer = _Odometer(task.network, tracked_layers)
        self.epoch = 0
        self.history: dict[str, list[float]] = {"loss": []}

    def _claim_folder(self) -> None:
        path = self.folder / "plan.json"
        identity = json.loads(json.dumps(self.identity))
        if not path.exists():
            foreign = [entry.name for entry in self.folder.iterdir() if not entry.name.startswith(".")]
            if foreign:
                raise StoreError(f"{self.folder} holds other files ({foreign[0]}); name an empty folder")
            write_json(path, identity)
        stored = read_json(path)
        differing = sorted(
            key for key in stored.keys() | identity.keys() if stored.get(key) != identity.get(key)
        )
        if "plan" in differing:
            ours, theirs = identity["plan"], dict(stored.get("plan") or {})
            changed = [
                f"{key} {theirs.get(key)} -> {ours.get(key)}" for key in ours if ours[key] != theirs.get(key)
            ]
            differing[differing.index("plan")] = f"plan ({', '.join(changed)})"
        if differing:
            raise StoreError(
                f"{self.folder} holds a run that differs in {', '.join(differing)}; name another folder, "
                "or pass what that run was started with (build the network again for its initial weights)"
            )

    def finish(self, progress: bool) -> TrainingRecord:
        modes = [(module, module.training) for module in self.task.network.modules()]
        steps = len(self.plan.batch_sizes(len(self.task.inputs)))
        try:
            if not (self.folder / "history.json").exists():
                self._resume()
                with tqdm(
                    total=self.plan.epochs * steps, initial=self.epoch * steps, disable=not progress
                ) as bar:
                    bar.set_description(f"train {self.folder.name}")
                    while self.epoch < self.plan.epochs:
                        self._train_epoch(bar)
                        self._save()
                self._commit()
            self._load(checkpoint_path(self.folder, self.plan.epochs))
            (self.folder / "state.safetensors").unlink(missing_ok=True)
        except BaseException:
            if checkpoint_path(self.folder, 0).exists():
                self._load(checkpoint_path(self.folder, 0))
            raise
        finally:
            self.optimiser.zero_grad(set_to_none=True)
            for module, mode in modes:
                module.training = mode
        return TrainingRecord.open(self.folder)

    def _resume(self) -> None:
        if not (self.folder / "state.safetensors").exists():
            return self._save()
        path = self.folder / "state.safetensors"
        tensors, progress = read_tensors(path)
        try:
            self._restore(tensors, progress)
        except (KeyError, TypeError, RuntimeError) as error:  # the last is how torch refuses other shapes
            reason, _, _ = str(error).partition("\n")
            raise StoreError(f"{path} is damaged: {reason}; remove {self.folder} to train anew") from error

    def _restore(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        self.epoch, self.history = progress["epoch"], progress["history"]
        self.odometer.distances = progress["weight_distance"]
        weights = {
            name.removeprefix("network/"): tensors[name] for name in tensors if name.startswith("network/")
        }
        self.task.network.load_state_dict(weights)
        for name, parameter in self.task.parameters.items():
            for stored, kind in _STATES[self.plan.optimiser].items():
                if f"{stored}/{name}" in tensors:
                    place = "cpu" if kind == "step" else self.device
                    self.optimiser.state[parameter][kind] = tensors[f"{stored}/{name}"].to(place, copy=True)

    def _train_epoch(self, bar: tqdm) -> None:
        epoch = self.epoch + 1
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate(epoch)
        order = torch.randperm(len(self.task.inputs), generator=_generator(self.plan.seed, epoch, "order"))
        augmentation = _generator(self.plan.seed, epoch, "augmentation")
        losses: list[Tensor] = []
        right: list[Tensor] = []
        self.task.set_mode()
        self.odometer.start_epoch()
        with _dropout_seeded(self.device, self.plan.seed, epoch):
            for positions in order.split(self.plan.batch_sizes(len(order))):
                batch = self.task.inputs[positions]
                if self.plan.augment:
                    batch = _crop_and_flip(batch, augmentation)
                loss, hits = self.task.loss(batch.to(self.device), positions)
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                self.optimiser.step()
                self.odometer.record_step()
                losses.append(loss.detach() * len(positions))
                right += [] if hits is None else [hits]
                bar.update()
        mean_loss = float(torch.stack(losses).double().sum()) / len(order)
        if not np.isfinite(mean_loss):
            raise FloatingPointError(f"the loss became {mean_loss} in epoch {epoch}; lower learning_rate")
        self.odometer.end_epoch()
        self.history["loss"].append(mean_loss)
        bar.set_postfix(loss=f"{mean_loss:.4g}")
        if right:
            self.history.setdefault("accuracy", []).append(int(torch.stack(right).sum()) / len(order))
        if self.task.validate:
            self.history.setdefault("validation_accuracy", []).append(self.task.validate())
        self.epoch = epoch

    def _save(self) -> None:
        """Checkpoint first, state second: whatever the state says is done, is on disk."""
        weights = self.task.network.state_dict()
        if self.epoch in self.plan.checkpoints:
            metadata = {"epoch": self.epoch, "run": self.identity}
            write_tensors(checkpoint_path(self.folder, self.epoch), weights, metadata)
        tensors = {f"network/{name}": tensor for name, tensor in weights.items()}
        for name, parameter in self.task.parameters.items():
            for stored, kind in _STATES[self.plan.optimiser].items():
                state = self.optimiser.state[parameter].get(kind)
                if state is not None:
                    tensors[f"{stored}/{name}"] = state
        progress = {"epoch": self.epoch, "history": self.history, "weight_distance": self.odometer.distances}
        write_tensors(self.folder / "state.safetensors", tensors, progress)

    def _commit(self) -> None:
        contents = {
            "checkpoints": list(self.plan.checkpoints),
            "history": self.history,
            "weight_distance": self.odometer.distances,
        }
        write_json(self.folder / "history.json", contents)

    def _load(self, path: Path) -> None:
        self.task.network.load_state_dict(read_tensors(path)[0])


def _make_optimiser(plan: TrainingPlan, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate, decay = plan.rate(1), plan.weight_decay
    if plan.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, momentum=plan.momentum, weight_decay=decay)


class _Odometer:
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
        self.epoch_start = [parameter.detach().clone() for parameter in self.parameters]
        self.step_start = [tensor.clone() for tensor in self.epoch_start]
        self.steps: list[dict[str, Tensor]] = []

    def record_step(self) -> None:
        self.steps.append(self._norms(self.step_start))
        for old, parameter in zip(self.step_start, self.parameters, strict=True):
            old.copy_(parameter.detach())

    def end_epoch(self) -> None:
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


def _key(seed: int, epoch: int, stream: str) -> int:
    return int(
        np.random.SeedSequence([seed, epoch, _STREAMS[stream]]).generate_state(1, np.uint64)[0]
        >> np.uint64(1)
    )


def _generator(seed: int, epoch: int, stream: str) -> torch.Generator:
    return torch.Generator().manual_seed(_key(seed, epoch, stream))


@contextmanager
def _dropout_seeded(device: torch.device, seed: int, epoch: int) -> Iterator[None]:
    """Seed the global generator that dropout draws from, and put its state back."""
    key = _key(seed, epoch, "dropout")
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key)  # torch.manual_seed would also reseed every accelerator
            yield
    else:
        with torch.random.fork_rng(devices=[device], device_type=device.type):
            torch.get_device_module(device).manual_seed(key)
            yield


def _crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to 4 pixels, filling with 0, and mirror half of them; shape ``(B, C, H, W)``."""
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, (_PADDING,) * 4)
    shifts = torch.randint(0, 2 * _PADDING + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows = shifts[0] + torch.arange(height)
    columns = shifts[1] + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
    index = torch.arange(count)[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
