"""A :class:`kdviz.training.Recorder` as a callback of the `Trainer` of Hugging Face's transformers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdviz.errors import MissingExtraError
from kdviz.models.torchvision_shim import prepare_torchvision
from kdviz.training.recording import Recorder, continue_or_begin

prepare_torchvision()  # which is imported with it
try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise MissingExtraError("kdviz.training.transformers needs transformers: install kdviz[text]") from error


class TransformersRecorder(TrainerCallback):
    """Record a training by a `Trainer` of transformers, as one of its ``callbacks``.

    Every step of the optimiser counts, however many batches it gathers. The last epoch is always measured.
    Process 0 records. To resume, pass ``resume_from_checkpoint`` of the end of an epoch, as
    ``save_strategy="epoch"`` leaves them: one from within an epoch has lost the way there.

    Parameters
    ----------
    folder, layers, epochs, seed
        As of :class:`kdviz.training.Recorder`. Layers are named as in what is recorded. By default `epochs`
        and `seed` are those of the training's arguments.
    part
        Name of the network within the model, such as ``"student"``; by default the whole model is recorded.

    Raises
    ------
    MissingExtraError
        On import, if transformers is missing.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        layers: str | Sequence[str],
        epochs: int | Iterable[int] | None = None,
        seed: int | None = None,
        part: str = "",
    ) -> None:
        self.folder, self.layers, self.epochs, self.seed, self.part = folder, layers, epochs, seed, part
        self.recorder: Recorder | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin, or continue: by now weights are restored from a checkpoint."""
        self.recorder = None
        if state.is_world_process_zero:
            planned = state.num_train_epochs  # of data without length as many as there are numbers
            known = None if planned > max(state.max_steps, 1) else planned
            self.recorder = continue_or_begin(
                kwargs["model"].get_submodule(self.part),
                self.folder,
                layers=self.layers,
                epochs=known if self.epochs is None else self.epochs,
                seed=args.seed if self.seed is None else self.seed,
                epoch=int(state.epoch or 0),
            )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the step."""
        if self.recorder is not None:
            self.recorder.step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the epoch; the trainer's own checkpoint comes later."""
        if self.recorder is not None:
            self.recorder.end_epoch()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the last epoch, too."""
        if self.recorder is not None:
            self.recorder.finish()
