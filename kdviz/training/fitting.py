"""The training loop: resumable, and a function of its arguments alone.

Order, augmentation and dropout are keyed by (seed, epoch), so that an epoch is the same whether or not the
run was interrupted before it, and the same for every network trained with one seed. On a CPU, a resumed run
ends bit-equal to an uninterrupted one with the same machine, versions and thread count; some CUDA kernels add
in random order and give that up. This module does not know what is being learned: `Task` says it.

Symbols: ``N`` samples, ``B`` samples of a batch, ``H, W`` image height and width.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz.errors import KdvizWarning, StoreError
from kdviz.files import exclusive, is_changed, lock_beside, make_folder, sealed, write_bytes, write_json
from kdviz.networks import device_of, fingerprint_tensors
from kdviz.networks.inputs import check_finite
from kdviz.training.distances import Odometer
from kdviz.training.plans import TrainingPlan
from kdviz.training.records import (
    TrainingRecord,
    check_file,
    checkpoint_path,
    claim,
    parts_path,
    read_tensors,
    write_tensors,
)
from kdviz.training.watching import FACTORS, Setback, find_fault, tell_failure, tell_setback

_STREAMS = {"order": 0, "augmentation": 1, "dropout": 2}
_PADDING = 4  # pixels


@dataclass(frozen=True)
class Task:
    """What one run optimises.

    Attributes
    ----------
    network
        Saved at every checkpoint.
    parts
        Trained beside it and saved with it; may be empty.
    parameters
        Those of the network that are optimised; all of `parts` are.
    inputs
        Shape ``(N, ...)``; batches of it go to `loss`.
    loss
        From a batch ``(B, ...)`` and the batch's positions ``(B,)`` in `inputs` to the mean loss and, where
        there are labels, the number of right answers.
    set_mode
        Sets train and eval modes; called before each epoch.
    validate
        Accuracy on held-out data after each epoch, or None.
    odometer
        Follows the weights of the network's tracked layers.
    guess
        Mean loss of the best guess that looks at no input, if the network is to beat it; None where that is
        not known.
    identity
        JSON-ready description of what is trained on what; a folder is resumed only by an equal one.
    name
        Names the network in what is told of it.
    """

    network: nn.Module
    parts: nn.Module
    parameters: Sequence[nn.Parameter]
    inputs: Tensor
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
    set_mode: Callable[[], object]
    validate: Callable[[], float] | None
    odometer: Odometer
    guess: float | None
    identity: Mapping[str, Any]
    name: str


def fit(task: Task, *, plan: TrainingPlan, folder: str | Path, progress: bool) -> TrainingRecord:
    """Train to the end of the plan, from wherever the folder's last run got, and leave the final weights.

    A training that diverges or dies begins anew at lower rates, as :mod:`kdviz.training.watching` tells.

    Raises
    ------
    StoreError
        If the folder belongs to another run, another process trains in it, or it cannot be read or written.
    FloatingPointError
        If it diverges or dies at all rates; network and parts then have their initial weights again, as after
        any error, and the folder is empty, so that other rates can be tried.
    ValueError
        If it diverges because inputs are not finite.

    Warns
    -----
    KdvizWarning
        If it begins anew.
    """
    folder = make_folder(folder)
    lock = folder / ".training"
    with exclusive(lock_beside(lock), lock):
        return _Run(task, plan, folder).finish(progress)


class _Run:
    def __init__(self, task: Task, plan: TrainingPlan, folder: Path) -> None:
        self.task, self.plan, self.folder = task, plan, folder
        self.state_path, self.history_path = folder / "state.pt", folder / "history.json"
        self.device = device_of(task.network)
        self.identity = dict(
            task.identity,
            plan=plan.model_dump(mode="json"),
            tracked_layers=list(task.odometer.weights),
            initial_weights=fingerprint_tensors(task.network.state_dict()),
            initial_parts=fingerprint_tensors(task.parts.state_dict()),
        )
        path = folder / "plan.json"
        foreign = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
        if foreign and not path.exists():
            raise StoreError(f"{folder} holds other files ({foreign[0]}); name an empty folder")
        claim(path, self.identity)
        self.parameters = [*task.parameters, *task.parts.parameters()]
        self.odometer = task.odometer
        self.setbacks: list[Setback] = []
        self._begin()

    def _begin(self) -> None:
        """Put all but the weights where a training begins."""
        plan, parameters = self.plan, self.parameters
        rate, decay = self.pace.rate(1), plan.weight_decay
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters, rate, weight_decay=decay)
            if plan.optimiser == "adamw"
            else torch.optim.SGD(parameters, rate, plan.momentum, weight_decay=decay)
        )
        self.epoch = 0
        self.untrained: float | None = None  # loss of the first batch
        self.history: dict[str, list[float]] = {"loss": []}
        self.files: dict[str, str] = {}  # SHA-256 by name
        self.odometer.distances = {layer: [0.0] for layer in self.odometer.weights}

    @property
    def pace(self) -> TrainingPlan:
        """The plan at the rates that are tried now."""
        return self.plan.slowed(FACTORS[len(self.setbacks)])

    def finish(self, progress: bool) -> TrainingRecord:
        modules = [*self.task.network.modules(), *self.task.parts.modules()]
        modes = [(module, module.training) for module in modules]
        ours = {id(parameter) for parameter in self.task.parameters}
        others = [p for p in self.task.network.parameters() if p.requires_grad and id(p) not in ours]
        steps = len(self.plan.batch_sizes(len(self.task.inputs)))
        try:
            for parameter in others:
                parameter.requires_grad_(False)
            if not self.history_path.exists():
                self._resume()
                with tqdm(
                    total=self.plan.epochs * steps, initial=self.epoch * steps, disable=not progress
                ) as bar:
                    bar.set_description(f"train {self.task.name}")
                    while self.epoch < self.plan.epochs:
                        self._train_epoch(bar)
                        self._save()
                self._commit()
            record = TrainingRecord.open(self.folder)
            self.files = record.files
            self._load(self.plan.epochs)
            self.state_path.unlink(missing_ok=True)
        except BaseException:
            if checkpoint_path(self.folder, 0).exists():
                self._load(0)
            raise
        finally:
            self.optimiser.zero_grad(set_to_none=True)
            for parameter in others:
                parameter.requires_grad_(True)
            for module, mode in modes:
                module.training = mode
        return record

    def _resume(self) -> None:
        if not self.state_path.exists():
            return self._save()
        try:
            if is_changed(self.state_path):
                raise ValueError("it is not what was written")
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
            self.epoch, self.history = state["epoch"], state["history"]
            self.files, self.untrained = state.get("files", {}), state.get("untrained")
            self.setbacks = [Setback.model_validate(one) for one in state.get("setbacks", [])]
            self.odometer.distances = {
                layer: state["weight_distance"][layer] for layer in self.odometer.distances
            }
            self.task.network.load_state_dict(state["network"])
            self.task.parts.load_state_dict(state["parts"])
            self.optimiser.load_state_dict(state["optimiser"])
        except Exception as error:  # a damaged file makes the reader raise nearly anything
            reason, _, _ = str(error).partition("\n")
            raise StoreError(
                f"{self.state_path} is damaged: {reason}; put a backup of it back, or remove {self.folder} "
                "to train anew"
            ) from error

    def _train_epoch(self, bar: tqdm) -> None:
        epoch = self.epoch + 1
        for group in self.optimiser.param_groups:
            group["lr"] = self.pace.rate(epoch)
        order = torch.randperm(len(self.task.inputs), generator=_generator(self.plan.seed, epoch, "order"))
        batches = order.split(self.plan.batch_sizes(len(order)))
        augmentation = _generator(self.plan.seed, epoch, "augmentation")
        losses: list[Tensor] = []
        right: list[Tensor] = []
        self.task.set_mode()
        self.task.parts.train()
        self.odometer.start_epoch()
        with draws_seeded(self.device, self.plan.seed, epoch):
            for positions in batches:
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
        sums = torch.stack(losses).double()
        mean_loss = float(sums.sum()) / len(order)
        means = [one / len(rows) for one, rows in zip(sums.tolist(), batches, strict=True)]
        if epoch == 1:
            self.untrained = means[0]
        passed = [*self.history["loss"], mean_loss]
        fault = find_fault(
            passed,
            means,
            untrained=self.untrained,
            guess=self.task.guess if self.pace.rate(epoch) else None,
            finite=all(bool(parameter.isfinite().all()) for parameter in self.parameters),
            epochs=self.plan.epochs,
        )
        if fault:
            self._go_back(passed, fault)
            bar.reset()
            return
        self.odometer.end_epoch()
        self.history["loss"].append(mean_loss)
        bar.set_postfix(loss=f"{mean_loss:.4g}")
        if right:
            self.history.setdefault("accuracy", []).append(int(torch.stack(right).sum()) / len(order))
        if self.task.validate:
            self.history.setdefault("validation_accuracy", []).append(self.task.validate())
        self.epoch = epoch

    def _go_back(self, losses: list[float], reason: str) -> None:
        """Throw the training so far away, and have it begun anew at lower rates, if any are left."""
        check_finite(self.task.inputs, range(len(self.task.inputs)))  # no rate would mend it
        told = [loss if np.isfinite(loss) else None for loss in losses]
        factor = FACTORS[len(self.setbacks)]
        self.setbacks.append(Setback(rate_factor=factor, losses=told, reason=reason))
        self._load(0)
        if len(self.setbacks) == len(FACTORS):
            self._clear()
            raise FloatingPointError(tell_failure(self.task.name, self.setbacks, self.plan.rate(1)))
        lower = FACTORS[len(self.setbacks)]
        warnings.warn(tell_setback(self.task.name, self.setbacks[-1], lower), KdvizWarning, stacklevel=2)
        self._begin()

    def _clear(self) -> None:
        """Remove what other rates would be refused for; what the folder is for goes last."""
        self.state_path.unlink(missing_ok=True)
        for epoch in self.plan.checkpoints:
            for path, _ in self._files(epoch):
                path.unlink(missing_ok=True)
        (self.folder / "plan.json").unlink()

    def _save(self) -> None:
        """Checkpoints first, state second: whatever the state says is done, is on disk."""
        if self.epoch in self.plan.checkpoints:
            metadata = {"epoch": self.epoch, "run": self.identity}
            for path, module in self._files(self.epoch):
                self.files[path.name] = write_tensors(path, module.state_dict(), metadata)
        modules = {
            "network": self.task.network.state_dict(),
            "parts": self.task.parts.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        state = io.BytesIO()
        torch.save(self._told() | {"epoch": self.epoch, "untrained": self.untrained} | modules, state)
        write_bytes(self.state_path, sealed(state.getvalue()))

    def _commit(self) -> None:
        about = {"checkpoints": list(self.plan.checkpoints), "seed": self.plan.seed}
        write_json(self.history_path, self._told() | about)

    def _told(self) -> dict[str, Any]:
        distances = self.odometer.distances
        told = {"history": self.history, "weight_distance": distances, "files": self.files}
        if not self.setbacks:
            return told
        setbacks = [one.model_dump() for one in self.setbacks]
        return told | {"rate_factor": FACTORS[len(setbacks)], "setbacks": setbacks}

    def _load(self, epoch: int) -> None:
        for path, module in self._files(epoch):
            check_file(path, self.files)
            module.load_state_dict(read_tensors(path))

    def _files(self, epoch: int) -> list[tuple[Path, nn.Module]]:
        """List where the weights of an epoch lie, and whose they are."""
        network, parts = self.task.network, self.task.parts
        both = ((checkpoint_path(self.folder, epoch), network), (parts_path(self.folder, epoch), parts))
        return [(path, module) for path, module in both if module is network or module.state_dict()]


def _key(seed: int, epoch: int, stream: str) -> int:
    return int(
        np.random.SeedSequence([seed, epoch, _STREAMS[stream]]).generate_state(1, np.uint64)[0]
        >> np.uint64(1)
    )


def _generator(seed: int, epoch: int, stream: str) -> torch.Generator:
    return torch.Generator().manual_seed(_key(seed, epoch, stream))


@contextmanager
def draws_seeded(device: torch.device, seed: int, epoch: int) -> Iterator[None]:
    """Seed the global generators for dropout and losses, of epoch 0 for parts; put their states back."""
    key, accelerated = _key(seed, epoch, "dropout"), device.type != "cpu"
    places, kind = ([device], device.type) if accelerated else ([], "cuda")
    with torch.random.fork_rng(devices=places, device_type=kind):
        torch.default_generator.manual_seed(key)  # torch.manual_seed would also reseed other accelerators
        if accelerated:
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
