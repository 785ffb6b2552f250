"""A :class:`kdviz.training.Recorder` as a callback of Lightning; works with `pytorch_lightning` as well."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdviz.arguments import one_of
from kdviz.errors import MissingExtraError
from kdviz.models.torchvision_shim import prepare_torchvision
from kdviz.training.recording import COLUMNS, Recorder, continue_or_begin

prepare_torchvision()  # which is imported with it
try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    try:
        from pytorch_lightning import Callback  # type: ignore[assignment]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "kdviz.training.lightning needs Lightning: install kdviz[lightning]"
        ) from error


class LightningRecorder(Callback):
    """Record a training by a Lightning `Trainer`: ``Trainer(callbacks=[LightningRecorder(...)])``.

    Every step of every optimiser counts, those of manual optimisation too. The last epoch is always measured.
    Process 0 records. To resume, pass ``ckpt_path`` of a checkpoint of the end of an epoch, as
    `ModelCheckpoint` saves by default.

    Parameters
    ----------
    folder, layers, epochs, seed
        As of :class:`kdviz.training.Recorder`. Layers are named as in what is recorded. By default `epochs`
        is the trainer's ``max_epochs``, and `seed` that of ``seed_everything``.
    part
        Name of the network within the module, such as ``"student"``; by default the whole module is recorded.
    metrics
        Logged names of what to keep for every epoch, ``{"validation_accuracy": "val_acc"}``; columns are
        ``loss``, ``accuracy`` and ``validation_accuracy``.

    Raises
    ------
    MissingExtraError
        On import, if Lightning is missing.
    ValueError
        If `metrics` has another column.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        layers: str | Sequence[str],
        epochs: int | Iterable[int] | None = None,
        seed: int | None = None,
        part: str = "",
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.layers, self.epochs, self.seed, self.part = folder, layers, epochs, seed, part
        self.metrics = dict(metrics or {})
        for column in self.metrics:
            one_of("a column of metrics", column, COLUMNS)
        self.recorder: Recorder | None = None
        self._hooks: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, or continue: by now weights are restored from a checkpoint."""
        self._let_go()
        if not trainer.is_global_zero:
            return
        known = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        seeded = os.environ.get("PL_GLOBAL_SEED")
        self.recorder = recorder = continue_or_begin(
            pl_module.get_submodule(self.part),
            self.folder,
            layers=self.layers,
            epochs=known if self.epochs is None else self.epochs,
            seed=int(seeded) if self.seed is None and seeded else self.seed,
            epoch=trainer.current_epoch,
        )
        # the end of a batch is no step where gradients are accumulated, and several in manual optimisation
        self._hooks = [
            optimizer.register_step_post_hook(lambda *_: recorder.step()) for optimizer in trainer.optimizers
        ]

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the epoch; Lightning's own checkpoint comes later."""
        if self.recorder is not None:
            logged = trainer.callback_metrics
            self.recorder.end_epoch(**{column: logged.get(name) for column, name in self.metrics.items()})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the last epoch, too."""
        if self.recorder is not None:
            self.recorder.finish()
        self._let_go()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the optimisers alone."""
        self._let_go()

    def _let_go(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self.recorder = [], None
