"""The recorder as a callback of Lightning and of transformers, beside copies of every step."""

import subprocess
import sys
from types import SimpleNamespace

import kdviz.models  # noqa: F401  # isort: skip  # torchvision beside a CPU build of torch
import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from test_recording import copy_weights, follow_path
from test_training import TinyNetwork, make_data, read_folder
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from kdviz.errors import KdvizWarning, StoreError
from kdviz.training import TrainingRecord
from kdviz.training.lightning import LightningRecorder
from kdviz.training.records import read_tensors
from kdviz.training.transformers import TransformersRecorder

torch.set_num_threads(1)

BATCHES = 5  # of an epoch


def check_distances(record, layers, network_name, initial, places):
    """Compare what is recorded with copies of the weights after every step, ``(epoch, weights)``."""
    epochs = list(record.checkpoints)
    for layer in layers:
        name = f"{network_name}{layer}.weight"
        expected = follow_path(initial[name], [(epoch, weights[name]) for epoch, weights in places])
        distance = record.weight_distance(f"{network_name}{layer}")
        # the recorder subtracts in float32, which is near exact for small steps
        np.testing.assert_allclose(distance, [expected[epoch] for epoch in epochs], rtol=1e-5)
        assert (np.diff(distance) > 0).all()


# -- Lightning


def make_module(library, *, seed=0, manual=False):
    """A module of a student and a teacher that copies its weights after every step of an optimiser."""

    class Module(library.LightningModule):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = TinyNetwork(seed), TinyNetwork(seed=100)
            self.automatic_optimization = not manual
            self.places = []

        def training_step(self, batch, index):
            inputs, labels = batch
            torch.manual_seed(100 * self.current_epoch + index)  # so that a resumed training draws the same
            loss = nn.functional.cross_entropy(self.student(inputs), labels)
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            if manual:
                self.manual_backward(loss)
                for optimizer in self.optimizers():
                    optimizer.step()
                    self.places.append((self.current_epoch + 1, copy_weights(self)))
                    optimizer.zero_grad()
            return loss

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            self.places.append((self.current_epoch + 1, copy_weights(self)))

        def validation_step(self, batch, index):
            inputs, labels = batch
            self.log("val_acc", (self.student(inputs).argmax(1) == labels).float().mean())

        def configure_optimizers(self):
            if not manual:
                return torch.optim.SGD(self.student.parameters(), 0.05, momentum=0.9)
            halves = (self.student.conv, self.student.norm), (self.student.fc1, self.student.fc3)
            return [torch.optim.SGD([p for m in half for p in m.parameters()], 0.05) for half in halves]

    return Module()


def fit(library, module, callbacks, *, max_epochs=4, folder=None, ckpt_path=None, **options):
    arguments = {"enable_checkpointing": folder is not None, "default_root_dir": folder, **options}
    trainer = library.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **arguments,
    )
    data = TensorDataset(*make_data())
    trainer.fit(module, DataLoader(data, 10), DataLoader(data, 50), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("library", [lightning.pytorch, pytorch_lightning])
def test_lightning__adds_up_every_step_of_accumulated_gradients(tmp_path, library):
    module = make_module(library)
    initial = copy_weights(module)
    callback = LightningRecorder(
        tmp_path,
        layers=["student.conv", "student.fc1"],
        metrics={"loss": "train_loss", "validation_accuracy": "val_acc"},
    )
    trainer = fit(library, module, [callback], accumulate_grad_batches=2)
    record = TrainingRecord.open(tmp_path)
    assert list(record.checkpoints) == [0, 1, 2, 4]
    assert len(module.places) == trainer.global_step == 4 * 3  # of five batches, the last one is alone
    check_distances(record, ["conv", "fc1"], "student.", initial, module.places)
    for epoch in (1, 4):
        weights = read_tensors(record.checkpoints[epoch])
        _, expected = [place for place in module.places if place[0] == epoch][-1]
        assert all(np.array_equal(weights[name].numpy(), expected[name]) for name in expected)
    assert record.history.shape == (4, 2)
    assert record.history["loss"][4] < record.history["loss"][1]
    assert record.history["validation_accuracy"][4] == pytest.approx(
        trainer.callback_metrics["val_acc"].item()
    )


def test_lightning__counts_every_optimiser_of_manual_training(tmp_path):
    module = make_module(lightning.pytorch, manual=True)
    initial = copy_weights(module)
    fit(
        lightning.pytorch,
        module,
        [LightningRecorder(tmp_path, layers=["conv", "fc1"], part="student")],
        max_epochs=2,
    )
    record = TrainingRecord.open(tmp_path)
    assert len(module.places) == 2 * BATCHES * 2
    student = {
        name.removeprefix("student."): value for name, value in initial.items() if name.startswith("student.")
    }
    places = [
        (epoch, {name.removeprefix("student."): w for name, w in all_.items()})
        for epoch, all_ in module.places
    ]
    check_distances(record, ["conv", "fc1"], "", student, places)
    assert read_tensors(record.checkpoints[2]).keys() == TinyNetwork().state_dict().keys()


def test_lightning__keeps_the_seed_and_the_last_epoch_of_a_training_that_stops_early(tmp_path, monkeypatch):
    class Stop(lightning.pytorch.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 6

    monkeypatch.setenv("PL_GLOBAL_SEED", "")
    lightning.pytorch.seed_everything(11, verbose=False)
    module = make_module(lightning.pytorch)
    callback = LightningRecorder(tmp_path, layers="student.fc1")
    fit(lightning.pytorch, module, [callback, Stop()], max_epochs=12)
    record = TrainingRecord.open(tmp_path)
    assert list(record.checkpoints) == [0, 1, 2, 3, 4, 5, 6, 7] and len(record.history) == 7
    assert (record.seed, record.torch_seed) == (11, 11)
    before = record.weight_distance("student.fc1")
    module.trainer.optimizers[0].step()
    assert callback.recorder is None, "a training that is over is let go"
    assert TrainingRecord.open(tmp_path).weight_distance("student.fc1").identical(before)


@pytest.mark.filterwarnings("ignore:the network has the weights of epoch")
@pytest.mark.parametrize("failing", ["training", "end"])
def test_lightning__resumes_from_its_own_checkpoint_to_the_bit(tmp_path, failing):
    class Fail(lightning.pytorch.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, index):
            if failing == "training" and (trainer.current_epoch, index) == (2, 3):
                raise RuntimeError("stopped here")

        def on_train_epoch_end(self, trainer, pl_module):  # after the recorder's, before the checkpoint
            if failing == "end" and trainer.current_epoch == 2:
                raise RuntimeError("stopped here")

    def record(name, seed=0, **options):
        module, folder = make_module(lightning.pytorch, seed=seed), tmp_path / name
        more = options.pop("callbacks", [])
        callback = LightningRecorder(folder / "record", layers=["student.conv", "student.fc1"], seed=4)
        torch.manual_seed(0)
        fit(lightning.pytorch, module, [callback, *more], folder=folder, **options)
        return module

    whole = record("whole")
    with pytest.raises(RuntimeError, match="stopped here"):
        record("broken", callbacks=[Fail()])
    (own,) = (tmp_path / "broken").rglob("*.ckpt")
    with pytest.raises(StoreError, match="has its initial weights"):
        record("broken")
    module = record("broken", seed=9, ckpt_path=own)
    assert read_folder(tmp_path / "broken" / "record") == read_folder(tmp_path / "whole" / "record")
    assert np.array_equal(module.student.fc1.weight.detach(), whole.student.fc1.weight.detach())
    assert TrainingRecord.open(tmp_path / "whole" / "record").history.shape == (4, 0)


def test_lightning__refuses_unknown_columns(tmp_path):
    with pytest.raises(ValueError, match="column of metrics is 'acc'"):
        LightningRecorder(tmp_path, layers="fc1", metrics={"acc": "val_acc"})


# -- transformers


class Classifier(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.net = TinyNetwork(seed)

    def forward(self, images, labels):
        logits = self.net(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Copies(TrainerCallback):
    """Copies the weights after every step, by the event that the recorder does not use."""

    def __init__(self):
        self.places, self.batches = [], 0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.places.append((int(np.ceil(state.epoch - 1e-9)), copy_weights(model)))

    def on_substep_end(self, args, state, control, **kwargs):
        self.batches += 1


def run_trainer(folder, model, callbacks, *, resume=None, **options):
    images, labels = make_data()
    rows = [{"images": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder),
            "num_train_epochs": 4,
            "per_device_train_batch_size": 10,
            "per_device_eval_batch_size": 50,
            "learning_rate": 0.01,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 7,
            **options,
        }
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_transformers__adds_up_every_step_of_accumulated_gradients(tmp_path):
    model, copies = Classifier(), Copies()
    initial = copy_weights(model)
    callback = TransformersRecorder(tmp_path / "record", layers=["net.conv", "net.fc1"])
    trainer = run_trainer(tmp_path / "own", model, [callback, copies], gradient_accumulation_steps=2)
    record = TrainingRecord.open(tmp_path / "record")
    assert list(record.checkpoints) == [0, 1, 2, 4] and record.seed == 7
    assert trainer.state.global_step == len(copies.places) == 4 * 3 and copies.batches == 4 * 2
    check_distances(record, ["conv", "fc1"], "net.", initial, copies.places)
    weights = read_tensors(record.checkpoints[4])
    assert all(np.array_equal(weights[name].numpy(), copies.places[-1][1][name]) for name in initial)


def test_transformers__measures_the_last_epoch_though_the_best_is_loaded(tmp_path):
    model, copies = Classifier(), Copies()
    callback = TransformersRecorder(tmp_path / "record", layers="fc1", part="net")
    trainer = run_trainer(
        tmp_path / "own",
        model,
        [callback, copies, EarlyStoppingCallback(1, early_stopping_threshold=9.0)],
        num_train_epochs=9,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        learning_rate=0.3,
    )
    record = TrainingRecord.open(tmp_path / "record")
    stopped = round(trainer.state.epoch)
    assert stopped == 2
    assert list(record.checkpoints) == [0, 1, 2]
    assert np.array_equal(
        read_tensors(record.checkpoints[2])["fc1.weight"], copies.places[-1][1]["net.fc1.weight"]
    )


def test_transformers__resumes_from_its_own_checkpoint_to_the_bit(tmp_path):
    class Fail(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 13:
                raise RuntimeError("stopped here")

    def record(name, *callbacks, seed=0, **options):
        callback = TransformersRecorder(tmp_path / name / "record", layers=["conv", "fc1"], part="net")
        run_trainer(
            tmp_path / name / "own",
            Classifier(seed),
            [callback, *callbacks],
            save_strategy="epoch",
            **options,
        )

    record("whole")
    with pytest.raises(RuntimeError, match="stopped here"):
        record("broken", Fail())
    own = tmp_path / "broken" / "own" / "checkpoint-10"
    with pytest.raises(StoreError, match="has its initial weights"):
        record("broken")
    record("broken", seed=9, resume=str(own))
    assert read_folder(tmp_path / "broken" / "record") == read_folder(tmp_path / "whole" / "record")
    with pytest.warns(KdvizWarning, match="epochs 3 to 4"):
        record("broken", seed=9, resume=str(own))
    assert read_folder(tmp_path / "broken" / "record") == read_folder(tmp_path / "whole" / "record")


def test_transformers__refuses_a_checkpoint_from_within_an_epoch(tmp_path):
    callback = TransformersRecorder(tmp_path / "record", layers="net.fc1")
    run_trainer(tmp_path / "own", Classifier(), [callback], save_strategy="steps", save_steps=7)
    with pytest.raises(
        StoreError, match=r"weights of net.fc1 are those after none of them; load your checkpoint"
    ):
        run_trainer(tmp_path / "own", Classifier(), [callback], resume=str(tmp_path / "own" / "checkpoint-7"))


# -- processes that do not record


def test_callbacks__of_other_processes_do_nothing(tmp_path):
    trainer, state = SimpleNamespace(is_global_zero=False), SimpleNamespace(is_world_process_zero=False)
    callback = LightningRecorder(tmp_path / "a", layers="fc1")
    for event in (callback.on_train_start, callback.on_train_epoch_end, callback.on_train_end):
        event(trainer, TinyNetwork())
    other = TransformersRecorder(tmp_path / "b", layers="fc1")
    for event in (other.on_train_begin, other.on_optimizer_step, other.on_epoch_end, other.on_train_end):
        event(None, state, None, model=TinyNetwork())
    assert list(tmp_path.iterdir()) == []


# -- without them


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("lightning", ["lightning", "lightning.pytorch", "pytorch_lightning"], "lightning"),
        ("transformers", ["transformers"], "text"),
    ],
)
def test_callback__says_what_to_install(module, missing, extra):
    code = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import kdviz.training
try:
    import kdviz.training.{module}
except ImportError as error:
    print(type(error).__name__, error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("MissingExtraError") and f"install kdviz[{extra}]" in result.stdout
