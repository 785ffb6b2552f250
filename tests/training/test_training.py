import copy
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import nn

from kdviz.distillation import LOGITS, Features, Loss
from kdviz.errors import LayerError, StoreError
from kdviz.files import exclusive, lock_beside, write_bytes
from kdviz.models import build, cloud
from kdviz.networks import read_layers
from kdviz.training import (
    CrossEntropy,
    TrainingPlan,
    TrainingRecord,
    dividing,
    evaluate,
    fitting,
    probe_accuracy,
    probing,
    reading,
    stages,
    train,
    weight_distance,
)
from kdviz.training.records import read_tensors

torch.set_num_threads(1)


class TinyNetwork(nn.Module):
    """Convolution, batch normalisation, dropout and three fully connected layers on 3 x 8 x 8 images."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.fc1 = nn.Linear(4 * 64, 8)
            self.drop = nn.Dropout(0.3)
            self.fc2 = nn.Linear(8, 8)
            self.fc3 = nn.Linear(8, 2)

    def forward(self, images):
        feature = self.norm(self.conv(images)).relu().flatten(1)
        feature = self.drop(self.fc1(feature).relu())
        return self.fc3(self.drop(self.fc2(feature).relu()))


def make_data(count=50, seed=0):
    """Images whose class is the sign of the first channel's mean."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 3, 8, 8, generator=generator)
    images[:, 0] += (2 * labels - 1)[:, None, None] * 0.5
    return images, labels


def make_plan(**options):
    return TrainingPlan(**{"epochs": 3, "batch_size": 16, "learning_rate": 0.05, "seed": 1, **options})


def read_folder(folder):
    """Return the bytes of everything a finished run leaves, but the lock."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name[0] != "."}


def copy_state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same_state(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def train_tiny(network, folder, **options):
    plan = make_plan(**options.pop("plan", {}))
    arguments = {"tracked_layers": ["conv", "fc1"], "progress": False, **options}
    return train(network, *make_data(), folder=folder, plan=plan, **arguments)


def match(student, teacher, folder, *, layer="fc2", teacher_layer=None, **options):
    plan = make_plan(**options.pop("plan", {}))
    arguments = {"tracked_layers": ["fc2"], "progress": False, **options}
    loss = Features(layer, teacher_layer)
    return train(student, make_data()[0], teacher=teacher, loss=loss, folder=folder, plan=plan, **arguments)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    network = TinyNetwork(seed=100)
    train_tiny(network, tmp_path_factory.mktemp("teacher"), plan={"epochs": 6})
    return network


# plans


def test_plan__learning_rate_is_even_in_the_logarithm():
    plan = make_plan(epochs=3, learning_rate=(1e-2, 1e-4))
    assert [plan.rate(epoch) for epoch in (1, 2, 3)] == pytest.approx([1e-2, 1e-3, 1e-4])
    assert [make_plan(learning_rate=0.5).rate(epoch) for epoch in (1, 3)] == [0.5, 0.5]
    assert make_plan(epochs=1, learning_rate=(0.1, 0.01)).rate(1) == pytest.approx(0.1)


def test_train__adamw_takes_the_steps_of_its_definition(tmp_path):
    """One step from zero moments: every weight moves by the rate times the sign of its slope, after decay."""
    network = TinyNetwork().eval()
    before = network.fc3.weight.detach().clone()
    plan = {"epochs": 1, "batch_size": 50, "learning_rate": 0.01, "weight_decay": 0.1, "optimiser": "adamw"}
    network.drop.p = 0.0
    train_tiny(network, tmp_path, plan=plan)
    moved = ((network.fc3.weight.detach() - before * (1 - 0.01 * 0.1)) / 0.01).abs()
    assert (moved < 1e-3).any() and (moved > 0.999).sum() >= 4  # after a dead unit there is no slope
    assert ((moved < 1e-3) | ((moved - 1).abs() < 1e-3)).all()


def test_plan__rest_of_an_epoch_joins_the_last_batch_where_it_is_small():
    assert make_plan(batch_size=16).batch_sizes(50) == [16, 16, 16, 2]
    assert make_plan(batch_size=16, least_batch=2).batch_sizes(50) == [16, 16, 16, 2]
    assert make_plan(batch_size=16, least_batch=3).batch_sizes(50) == [16, 16, 18]
    assert make_plan(batch_size=16, least_batch=3).batch_sizes(2) == [2]


def test_plan__saves_every_epoch_unless_told():
    assert make_plan(epochs=3).checkpoints == (0, 1, 2, 3)
    assert make_plan(epochs=150, checkpoints=(0, 2, 150)).checkpoints == (0, 2, 150)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"learning_rate": (0.1, 0.0)}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"optimiser": "adam"}, "optimiser"),
        ({"least_batch": 0}, "least_batch"),
        ({"checkpoints": (1, 3)}, "must rise from 0 to epochs=3"),
        ({"checkpoints": (0, 2)}, "must rise from 0 to epochs=3"),
        ({"checkpoints": (0, 2, 2, 3)}, "must rise from 0 to epochs=3"),
        ({"learningrate": 0.1}, "learningrate"),
    ],
)
def test_plan__refuses_bad_values(options, message):
    with pytest.raises(ValidationError, match=message):
        make_plan(**options)


# what a run leaves


def test_train__learns_and_leaves_the_last_checkpoint(tmp_path):
    network = TinyNetwork()
    record = train_tiny(network, tmp_path, plan={"epochs": 6}, validation=make_data(seed=9))
    assert record.history["loss"].iloc[-1] < 0.5 * record.history["loss"].iloc[0]
    assert evaluate(network, *make_data(seed=9)) == record.history["validation_accuracy"].iloc[-1] > 0.9
    assert same_state(read_tensors(record.checkpoints[6]), network.state_dict())
    assert list(record.history.index) == [1, 2, 3, 4, 5, 6]


def test_train__saves_the_listed_epochs_alone(tmp_path):
    initial = copy_state(TinyNetwork())
    record = train_tiny(TinyNetwork(), tmp_path, plan={"epochs": 5, "checkpoints": (0, 2, 5)})
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "epoch-000.safetensors",
        "epoch-002.safetensors",
        "epoch-005.safetensors",
    ]
    weights = read_tensors(record.checkpoints[0])
    with safe_open(record.checkpoints[0], framework="pt") as file:
        metadata = json.loads(file.metadata()["kdviz"])
    assert same_state(weights, initial)
    assert metadata["epoch"] == 0 and metadata["run"]["plan"]["seed"] == 1


def test_train__loss_and_accuracy_are_means_over_samples(tmp_path):
    network = TinyNetwork()
    network.drop.p = 0.0
    images, labels = make_data()
    reference = TinyNetwork()
    reference.drop.p = 0.0
    with torch.no_grad():
        logits = torch.cat(
            [reference(batch) for batch in images.split(50)]
        )  # one batch: same batch statistics
    record = train_tiny(network, tmp_path, plan={"epochs": 1, "batch_size": 50, "learning_rate": 0.0})
    # the order of samples changes float32 sums by rounding
    assert record.history["loss"].item() == pytest.approx(
        nn.functional.cross_entropy(logits, labels).item(), rel=1e-5
    )
    assert record.history["accuracy"].item() == (logits.argmax(1) == labels).double().mean().item()


def test_train__takes_the_steps_of_plain_sgd(tmp_path):
    network, reference = TinyNetwork(), TinyNetwork()
    network.drop.p = reference.drop.p = 0.0
    images, labels = make_data()
    train_tiny(network, tmp_path, plan={"epochs": 2, "batch_size": 50, "learning_rate": (0.1, 0.01)})
    velocity = [torch.zeros_like(parameter) for parameter in reference.parameters()]
    for rate in (0.1, 0.01):
        loss = nn.functional.cross_entropy(reference(images), labels)
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for parameter, gradient, speed in zip(reference.parameters(), gradients, velocity, strict=True):
                speed.mul_(0.9).add_(gradient + 1e-4 * parameter)
                parameter -= rate * speed
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        # float32 rounding of two steps, in another order of samples
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_train__leaves_modes_gradients_and_random_state(tmp_path):
    network = TinyNetwork()
    network.norm.eval()
    before = torch.get_rng_state()
    train_tiny(network, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training and not network.norm.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_train__does_not_depend_on_global_random_state(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            train_tiny(TinyNetwork(), tmp_path / name, plan={"augment": True})
    assert read_folder(tmp_path / "a") == read_folder(tmp_path / "b")


def test_train__another_seed_gives_other_weights(tmp_path):
    first, second = TinyNetwork(), TinyNetwork()
    train_tiny(first, tmp_path / "a")
    train_tiny(second, tmp_path / "b", plan={"seed": 2})
    assert not torch.equal(first.fc1.weight, second.fc1.weight)


# resuming


class Remembering(Loss):
    """A regressor to the teacher's size, and a memory of features to draw negatives from, as in CRD."""

    layers, teacher_layers, needs_labels = ("fc1", LOGITS), ("conv",), True

    def __init__(self, count, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.parts = nn.ModuleDict({"regress": nn.Linear(8, 4), "norm": nn.BatchNorm1d(4)})
        self.parts.register_buffer("memory", torch.zeros(count, 4))

    def __call__(self, student, teacher, labels, rows):
        memory, guess = self.parts.memory, self.parts.norm(self.parts.regress(student["fc1"]))
        wanted = teacher["conv"].mean((2, 3))
        negatives = memory[torch.randint(len(memory), (len(rows), 3))]
        memory[rows] = wanted
        apart = (negatives * guess[:, None]).sum(2).sigmoid().mean()
        return nn.functional.cross_entropy(student.logits, labels) + (guess - wanted).square().mean() + apart


def remember(student, folder, *, loss=None, **options):
    """Train with a loss that has parts; return it."""
    loss = Remembering(50) if loss is None else loss
    plan = {"optimiser": "adamw", "learning_rate": 0.01, **options.pop("plan", {})}
    teacher, arguments = TinyNetwork(seed=100), {"plan": make_plan(**plan), "progress": False, **options}
    train(student, *make_data(), teacher=teacher, loss=loss, folder=folder, **arguments)
    return loss


KILLED_RUN = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_training import TinyNetwork, fitting, {run}

left = int(sys.argv[1])

def die_at_event(function):  # steps, and writes that have not reached the disk
    def counted(*args):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return counted

os.fsync = die_at_event(os.fsync)
fitting.Odometer.record_step = die_at_event(fitting.Odometer.record_step)
{run}(TinyNetwork(), {folder!r}, plan={plan})
"""


@pytest.mark.filterwarnings("default:.*begins anew")
@pytest.mark.parametrize("rate", [0.05, 2.0])  # the second diverges
@pytest.mark.parametrize("run", [train_tiny, remember])
def test_resume__after_kills_at_any_moment_is_bit_equal(tmp_path, run, rate):
    plan = {"epochs": 16, "augment": True, "learning_rate": rate}
    whole = TinyNetwork()
    loss = run(whole, tmp_path / "whole", plan=plan)
    assert (TrainingRecord.open(tmp_path / "whole").rate_factor < 1) == (rate > 1)
    folder = tmp_path / "killed"
    events = np.random.default_rng().integers(1, 30, size=3)  # of 98 or more in all; other ones every time
    tests = str(Path(__file__).parent)
    code = KILLED_RUN.format(tests=tests, folder=str(folder), run=run.__name__, plan=plan)
    for event in events:
        result = subprocess.run([sys.executable, "-c", code, str(event)], check=False)
        assert result.returncode == -signal.SIGKILL, events
    network = TinyNetwork()
    resumed = run(network, folder, plan=plan)
    assert read_folder(folder) == read_folder(tmp_path / "whole"), events
    assert same_state(network.state_dict(), whole.state_dict()), events
    if run is remember:
        assert same_state(resumed.parts.state_dict(), loss.parts.state_dict()), events
        assert (tmp_path / "whole" / "parts-016.safetensors").exists()


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("step", [2, 4, 6, 9])
def test_resume__of_parts_goes_on_with_their_own_momentum(tmp_path, monkeypatch, optimiser, step):
    plan = {"epochs": 3, "optimiser": optimiser}
    whole, student, loss = TinyNetwork(), TinyNetwork(), Remembering(50)
    expected = remember(whole, tmp_path / "whole", plan=plan)
    initial = copy_state(loss.parts)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_call(patch, fitting.Odometer, "record_step", step)
        remember(student, tmp_path / "broken", loss=loss, plan=plan)
    assert same_state(loss.parts.state_dict(), initial)  # so that the same call can be repeated
    remember(student, tmp_path / "broken", loss=loss, plan=plan)
    assert read_folder(tmp_path / "broken") == read_folder(tmp_path / "whole")
    assert same_state(loss.parts.state_dict(), expected.parts.state_dict())


def test_resume__checkpoints_hold_network_and_parts_apart(tmp_path):
    student = TinyNetwork()
    loss = remember(student, tmp_path, plan={"checkpoints": (0, 1, 3)})
    record = TrainingRecord.open(tmp_path)
    assert list(record.parts) == list(record.checkpoints) == [0, 1, 3]
    assert read_tensors(record.checkpoints[1]).keys() == student.state_dict().keys()
    assert same_state(read_tensors(record.parts[0]), Remembering(50).parts.state_dict())
    last = read_tensors(record.parts[3])
    assert last.keys() == loss.parts.state_dict().keys() and same_state(last, loss.parts.state_dict())
    assert not same_state(last, read_tensors(record.parts[1]))
    again = Remembering(50)
    remember(TinyNetwork(), tmp_path, loss=again, plan={"checkpoints": (0, 1, 3)})
    assert same_state(again.parts.state_dict(), last), "of a finished training they are read"
    assert train_tiny(TinyNetwork(), tmp_path / "without").parts == {}


def test_resume__never_restarts_a_part_in_silence(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_call(patch, fitting.Odometer, "record_step", 6)
        remember(TinyNetwork(), tmp_path)
    with pytest.raises(StoreError, match="initial_parts"):
        remember(TinyNetwork(), tmp_path, loss=Remembering(50, seed=1))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["parts"].popitem()
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(StoreError, match="damaged"):
        remember(TinyNetwork(), tmp_path)


@pytest.mark.parametrize(
    "moment", ["step", "before checkpoint", "before state", "before rename", "before history"]
)
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_resume__after_an_error_at_each_moment_is_bit_equal(tmp_path, monkeypatch, moment, optimiser):
    plan = {"epochs": 4, "optimiser": optimiser}
    train_tiny(TinyNetwork(), tmp_path / "whole", plan=plan)
    network = TinyNetwork()
    initial = copy_state(network)
    with monkeypatch.context() as patch:
        if moment == "step":
            interrupt_call(patch, fitting.Odometer, "record_step", 10)  # 4 steps an epoch: inside the third
        elif moment == "before rename":
            interrupt_call(patch, os, "replace", 6)
        elif moment == "before history":
            interrupt_call(patch, fitting._Run, "_commit", 1)
        elif moment == "before state":
            interrupt_call(patch, torch, "save", 3)
        else:
            interrupt_call(patch, fitting, "write_tensors", 3)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(network, tmp_path / "broken", plan=plan)
    assert not (tmp_path / "broken" / "history.json").exists()
    assert same_state(network.state_dict(), initial)  # so that the same call can be repeated
    train_tiny(network, tmp_path / "broken", plan=plan)
    assert read_folder(tmp_path / "broken") == read_folder(tmp_path / "whole")


def interrupt_call(patch, owner, name, count):
    """Let `name` raise at its `count`-th call."""
    function, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(None)
        if len(calls) == count:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    patch.setattr(owner, name, interrupted)


def test_resume__finished_folder_returns_without_training(tmp_path, monkeypatch):
    first = TinyNetwork()
    train_tiny(first, tmp_path)
    monkeypatch.setattr(fitting._Run, "_train_epoch", lambda *_: pytest.fail("trained again"))
    again = TinyNetwork()
    record = train_tiny(again, tmp_path)
    assert same_state(again.state_dict(), first.state_dict())
    assert record == TrainingRecord.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": {"learning_rate": 0.1}}, "differs in plan.learning_rate 0.05, now 0.1;"),
        ({"tracked_layers": ["fc2"]}, "differs in tracked_layers"),
        ({"validation": make_data(seed=3)}, "differs in validation"),
        ({"network": TinyNetwork(seed=5)}, "differs in initial_weights"),
    ],
)
def test_resume__refuses_the_folder_of_another_run(tmp_path, change, message):
    train_tiny(TinyNetwork(), tmp_path)
    before = read_folder(tmp_path)
    arguments = {"network": TinyNetwork(), **change}
    with pytest.raises(StoreError, match=message):
        train_tiny(arguments.pop("network"), tmp_path, **arguments)
    assert read_folder(tmp_path) == before


def test_resume__refuses_other_data_and_another_teacher(tmp_path, teacher):
    train_tiny(TinyNetwork(), tmp_path / "a")
    arguments = {"folder": tmp_path / "a", "plan": make_plan(), "tracked_layers": ["conv", "fc1"]}
    with pytest.raises(StoreError, match="differs in inputs"):
        train(TinyNetwork(), make_data(seed=4)[0], make_data()[1], **arguments, progress=False)
    match(TinyNetwork(), teacher, tmp_path / "b")
    with pytest.raises(StoreError, match="differs in teacher "):
        match(TinyNetwork(), TinyNetwork(seed=7), tmp_path / "b")


def test_resume__refuses_a_folder_with_foreign_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"holds other files \(thesis.tex\)"):
        train_tiny(TinyNetwork(), tmp_path)


def test_resume__refuses_a_second_writer(tmp_path):
    with exclusive(lock_beside(tmp_path / ".training"), tmp_path), pytest.raises(StoreError, match="process"):
        train_tiny(TinyNetwork(), tmp_path)


def test_write_bytes__an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_record__open_refuses_an_unfinished_run(tmp_path):
    with pytest.raises(StoreError, match="no finished training run"):
        TrainingRecord.open(tmp_path)


# the papers' stages


def test_features__matches_the_teacher_and_leaves_the_part_above(tmp_path, teacher):
    student = TinyNetwork()
    student.drop.p = 0.0
    initial, guide = copy_state(student), copy_state(teacher)
    record = match(student, teacher, tmp_path, plan={"epochs": 40, "learning_rate": 0.02})
    assert record.history["loss"].iloc[-1] < 0.1 * record.history["loss"].iloc[0]
    assert list(record.history.columns) == ["loss"]
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, initial[name]) == name.startswith("fc3"), name
    assert same_state(teacher.state_dict(), guide) and teacher.training


def test_features__loss_is_the_mean_square_before_the_activation(tmp_path, teacher):
    student = TinyNetwork()
    student.drop.p = 0.0
    images, _ = make_data()
    plan = {"epochs": 1, "batch_size": 50, "learning_rate": 0.0}
    record = match(student, teacher, tmp_path, plan=plan, layer="fc1", tracked_layers=[])
    reference = TinyNetwork()
    teacher.eval()
    with torch.no_grad():
        features = [
            network.fc1(network.norm(network.conv(images)).relu().flatten(1))
            for network in (reference, teacher)
        ]
    teacher.train()
    # float32 rounding only; the student's batch statistics are those of the one batch
    assert record.history["loss"].item() == pytest.approx(
        (features[0] - features[1]).square().mean().item(), 1e-5
    )


def test_features__known_and_recomputed_teacher_features_agree(tmp_path, teacher, monkeypatch):
    known = match(TinyNetwork(), teacher, tmp_path / "known").history["loss"]
    monkeypatch.setattr(reading, "_MAX_CACHED_BYTES", 0)
    recomputed = match(TinyNetwork(), teacher, tmp_path / "recomputed").history["loss"]
    # other batches in the teacher's forward pass: float32 rounding, grown over 12 steps
    assert recomputed.to_numpy() == pytest.approx(known.to_numpy(), rel=1e-4)


def test_features__refuses_features_of_other_size(tmp_path, teacher):
    with pytest.raises(ValueError, match="'fc1' of the student has 8 entries, 'fc3' of the teacher 2"):
        match(TinyNetwork(), teacher, tmp_path, layer="fc1", teacher_layer="fc3")


def test_features__another_teacher_layer_is_matched(tmp_path, teacher):
    same = {"layer": "fc1", "plan": {"epochs": 1}}
    fc1 = match(TinyNetwork(), teacher, tmp_path / "a", **same).history["loss"]
    crossed = match(TinyNetwork(), teacher, tmp_path / "b", teacher_layer="fc2", **same).history["loss"]
    assert fc1.item() != crossed.item()


@pytest.mark.parametrize("cached", [True, False])
def test_train__beyond_a_layer_keeps_every_bit_up_to_the_layer(tmp_path, monkeypatch, cached):
    if not cached:
        monkeypatch.setattr(stages, "cut", lambda *_: None)
    student = TinyNetwork()
    initial = copy_state(student)
    record = train(
        student,
        *make_data(),
        loss=CrossEntropy("fc1"),
        folder=tmp_path,
        plan=make_plan(),
        tracked_layers=["fc1", "fc2"],
        progress=False,
    )
    for name, tensor in student.state_dict().items():  # the running statistics of `norm` included
        assert torch.equal(tensor, initial[name]) == (not name.startswith(("fc2", "fc3"))), name
    assert record.weight_distance("fc1").values.tolist() == [0, 0, 0, 0]
    assert record.weight_distance("fc2").values[-1] > 0
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_train__frozen_features_computed_once_change_nothing(tmp_path, monkeypatch):
    arguments = {"plan": make_plan(), "progress": False, "validation": make_data(seed=2)}
    once, whole = TinyNetwork(), TinyNetwork()
    train(once, *make_data(), loss=CrossEntropy("fc1"), folder=tmp_path / "once", **arguments)
    monkeypatch.setattr(stages, "cut", lambda *_: None)
    train(whole, *make_data(), loss=CrossEntropy("fc1"), folder=tmp_path / "whole", **arguments)
    for ours, theirs in zip(once.parameters(), whole.parameters(), strict=True):
        # features come from batches of other samples: float32 rounding, grown over 12 steps
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", ["conv", "fc1", "fc2"])
def test_cut__feature_and_head_make_the_network(layer):
    network = TinyNetwork().eval()
    images, _ = make_data()
    feature = read_layers(network, images, [layer])[layer]
    assert torch.equal(dividing.cut(network, layer)(feature), network(images))


def test_cut__refuses_what_passes_around_the_layer():
    class Skipping(TinyNetwork):
        def forward(self, images):
            hidden = self.fc1(self.conv(images).flatten(1))
            return self.fc3(self.fc2(hidden) + hidden)

    class Branching(TinyNetwork):
        def forward(self, images):
            return super().forward(images if images.mean() > 0 else -images)

    assert dividing.cut(Skipping(), "fc2") is None
    assert dividing.cut(Skipping(), "fc1") is not None
    assert dividing.cut(Branching(), "fc1") is None


def test_cut__refuses_a_layer_inside_a_module_that_is_not_traced():
    network = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(64, 2, 8, batch_first=True))
    assert dividing.cut(network, "1.linear1") is None


def test_train__refuses_to_train_beyond_the_last_layer(tmp_path):
    with pytest.raises(LayerError, match="no parameter lies beyond layer 'fc3'"):
        train(
            TinyNetwork(),
            *make_data(),
            loss=CrossEntropy("fc3"),
            folder=tmp_path,
            plan=make_plan(),
            progress=False,
        )


def probe(folder, checkpoints, *, network=None, count=40, layer="fc1", epochs=2):
    return probe_accuracy(
        TinyNetwork() if network is None else network,
        checkpoints,
        *make_data(count),
        layer=layer,
        folder=folder,
        plan=TrainingPlan(epochs=epochs, learning_rate=0.05, batch_size=10, checkpoints=(0, epochs)),
        validation=make_data(30, seed=1),
        progress=False,
    )


def test_probe_accuracy__is_that_of_a_head_trained_by_hand(tmp_path):
    states = {epoch: TinyNetwork(seed=epoch).state_dict() for epoch in (3, 0)}
    network = TinyNetwork(seed=9)
    found = probe(tmp_path / "probes", states, network=network)
    assert found.name == "accuracy" and found["epoch"].values.tolist() == [0, 3]
    assert found.attrs["definition"] == "a head trained anew above the frozen layer fc1"
    for epoch, state in states.items():
        by_hand = TinyNetwork(seed=9)  # whose head it is, whatever the checkpoint has above fc1
        frozen = {name: tensor for name, tensor in state.items() if name[:3] not in ("fc2", "fc3")}
        by_hand.load_state_dict(frozen, strict=False)
        optimiser = torch.optim.SGD(
            [*by_hand.fc2.parameters(), *by_hand.fc3.parameters()], 0.05, 0.9, weight_decay=1e-4
        )
        images, labels = make_data(40)
        for step in (1, 2):
            by_hand.train()
            by_hand.norm.eval()
            order = torch.randperm(40, generator=fitting._generator(0, step, "order"))
            with fitting.draws_seeded(torch.device("cpu"), 0, step):
                for positions in order.split(10):
                    optimiser.zero_grad()
                    feature = by_hand.norm(by_hand.conv(images[positions])).relu().flatten(1)
                    feature = by_hand.fc1(feature).relu()  # dropout lies above fc1 here, and is active
                    hidden = by_hand.drop(by_hand.fc2(by_hand.drop(feature)).relu())
                    nn.functional.cross_entropy(by_hand.fc3(hidden), labels[positions]).backward()
                    optimiser.step()
        assert float(found.sel(epoch=epoch)) == np.float32(evaluate(by_hand, *make_data(30, seed=1)))
    assert len(set(found.values.tolist())) == 2
    left = network.state_dict()
    assert all(torch.equal(left[name], tensor) for name, tensor in TinyNetwork(seed=9).state_dict().items())
    assert not list((tmp_path / "probes").rglob("*.safetensors")), "no weights are kept"


def test_probe_accuracy__takes_no_head_from_a_checkpoint(tmp_path):
    trained, other = TinyNetwork(seed=1).state_dict(), TinyNetwork(seed=1).state_dict()
    for name in ("fc2.weight", "fc3.weight", "fc3.bias"):
        other[name] = -5 * other[name]
    found = probe(tmp_path / "one", {0: trained, 1: other})
    assert float(found[0]) == float(found[1])
    other["conv.weight"] = -other["conv.weight"]
    assert float(probe(tmp_path / "two", {1: other})[0]) != float(found[0]), "but what lies below"


def test_names_up_to__are_those_of_the_frozen_part_and_of_weights_tied_to_it():
    network = TinyNetwork()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    below = {"conv.weight", "conv.bias", "fc1.weight", "fc1.bias", *(f"norm.{name}" for name in norm)}
    images = make_data(2)[0]
    assert dividing.names_up_to(network, "fc1", images) == below
    network.fc2.bias = network.fc1.bias
    assert dividing.names_up_to(network, "fc1", images) == below | {"fc2.bias"}


def test_cloud_student__trains_and_freezes_normalisation_that_eval_mode_folds_away(tmp_path):
    """`NormalisedLinear` calls no norm in eval mode; distillation must train it and the head leave it be."""
    teacher, student = (cloud.build("small_pointnet", classes=3, width=0.25, seed=seed) for seed in (0, 1))
    clouds, labels = torch.randn(8, 64, 3), torch.arange(8) % 3
    norms = [name for name in student.state_dict() if ".norm." in name and not name.startswith("head.fc3")]
    below = [name for name in norms if name.startswith(("points", "head.fc1"))]
    plan = TrainingPlan(epochs=1, batch_size=4, learning_rate=0.1)
    before = copy.deepcopy(student.state_dict())
    train(student, clouds, loss=Features("head.fc1"), teacher=teacher, folder=tmp_path / "1", plan=plan)
    between = copy.deepcopy(student.state_dict())
    assert all(not torch.equal(before[name], between[name]) for name in below)
    train(student, clouds, labels, loss=CrossEntropy("head.fc1"), folder=tmp_path / "2", plan=plan)
    after = student.state_dict()
    assert all(torch.equal(between[name], after[name]) for name in below)
    beyond = [name for name in norms if name.startswith("head.fc2")]
    assert beyond and all(not torch.equal(between[name], after[name]) for name in beyond)


def test_probe_accuracy__goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    states = {epoch: TinyNetwork(seed=epoch).state_dict() for epoch in (0, 1, 2)}
    whole = probe(tmp_path / "whole", states)
    probe(tmp_path / "part", {epoch: states[epoch] for epoch in (0, 1)})
    trained = []
    unwatched = probing.train
    monkeypatch.setattr(
        probing,
        "train",
        lambda *args, **options: (trained.append(options["folder"].name), unwatched(*args, **options)),
    )
    assert probe(tmp_path / "part", states).equals(whole) and trained == ["epoch-002"]
    assert probe(tmp_path / "part", states).equals(whole) and trained == ["epoch-002"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "differs in plan"),
        ({"layer": "conv"}, "differs in layer"),
        ({"count": 30}, "differs in data"),
        ({"checkpoints": {0: TinyNetwork(seed=5).state_dict()}}, "differs in weights"),
        ({"checkpoints": {}}, "checkpoints is empty"),
    ],
)
def test_probe_accuracy__refuses_the_folder_of_other_probes(tmp_path, change, message):
    probe(tmp_path, {0: TinyNetwork().state_dict()})
    options = {"checkpoints": {0: TinyNetwork().state_dict()}} | change
    with pytest.raises((StoreError, ValueError), match=message):
        probe(tmp_path, options.pop("checkpoints"), **options)


def test_stages__student_and_baseline_share_weights_order_and_checkpoints(tmp_path, teacher, monkeypatch):
    seen = {}
    step = fitting._Run._train_epoch
    for name in ("baseline", "student"):
        batches = seen[name] = []

        def watched(run, bar, batches=batches):
            loss = run.task.loss

            def note(batch, positions):
                batches.append(positions.tolist())
                return loss(batch, positions)

            object.__setattr__(run.task, "loss", note)
            step(run, bar)
            object.__setattr__(run.task, "loss", loss)

        monkeypatch.setattr(fitting._Run, "_train_epoch", watched)
        network = build("small_vgg", classes=2, input_size=8, width=0.25, seed=3)
        arguments = {"folder": tmp_path / name, "plan": make_plan(), "tracked_layers": [], "progress": False}
        if name == "baseline":
            baseline = train(network, *make_data(), **arguments)
        else:
            guide = build("small_vgg", classes=2, input_size=8, width=0.25, seed=4)
            loss = Features("classifier.fc1")
            student = train(network, make_data()[0], teacher=guide, loss=loss, **arguments)
    assert seen["student"] == seen["baseline"]
    assert [len(batch) for batch in seen["student"]] == [16, 16, 16, 2] * 3
    first_epoch = [position for batch in seen["student"][:4] for position in batch]
    assert sorted(first_epoch) == list(range(50))
    assert seen["student"][:4] != seen["student"][4:8]
    assert list(student.checkpoints) == list(baseline.checkpoints) == [0, 1, 2, 3]
    weights = [read_tensors(record.checkpoints[0]) for record in (student, baseline)]
    assert same_state(*weights)


def test_evaluate__counts_right_answers_in_eval_mode():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(2, 2, bias=False))
    network[2].weight.data = torch.eye(2)
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [2.0, 3.0]])
    assert evaluate(network, inputs, torch.tensor([0, 1, 1, 1]), batch_size=3) == 0.75
    assert network.training


# augmentation


def test_crop_and_flip__shifts_and_mirrors_whole_images():
    generator = torch.Generator().manual_seed(0)
    images = torch.arange(1.0, 1 + 400 * 3 * 10 * 10).reshape(400, 3, 10, 10)
    moved = fitting._crop_and_flip(images, generator)
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    found = set()
    for index in range(400):
        candidates = {
            (top, left, mirrored)
            for top in range(9)
            for left in range(9)
            for mirrored in (False, True)
            if torch.equal(
                padded[index, :, top : top + 10, left : left + 10].flip(-1 if mirrored else ()), moved[index]
            )
        }
        assert len(candidates) == 1
        found |= candidates
    # 162 equally likely outcomes in 400 draws: 148 expected, standard deviation about 3.5
    assert len(found) > 130
    assert {shift[0] for shift in found} == {shift[1] for shift in found} == set(range(9))


# weight distance


def test_weight_distance__closed_form():
    states = {
        0: {"fc.weight": torch.tensor([[3.0, 4.0]]), "fc.bias": torch.tensor([0.0])},  # norm 5
        2: {"fc.weight": torch.tensor([[3.0, 14.0]]), "fc.bias": torch.tensor([9.0])},  # moves 10
        5: {"fc.weight": torch.tensor([[0.0, 10.0]]), "fc.bias": torch.tensor([0.0])},  # moves 5 back
    }
    distance = weight_distance(states, layer="fc", initial=states[0])
    assert distance.values.tolist() == [0.0, 2.0, 3.0]
    assert distance.epoch.values.tolist() == [0, 2, 5]
    assert distance.dtype == np.float32 and distance.name == "weight_distance"
    assert distance.attrs["definition"].startswith("checkpoint: ")
    without_first = weight_distance({2: states[2], 5: states[5]}, layer="fc", initial=states[0])
    assert without_first.values.tolist() == [2.0, 3.0]


def test_weight_distance__reads_files_of_both_kinds(tmp_path):
    record = train_tiny(TinyNetwork(), tmp_path / "run")
    states = {epoch: read_tensors(path) for epoch, path in record.checkpoints.items()}
    for epoch, state in states.items():
        torch.save(state, tmp_path / f"{epoch}.pt")
    from_states = weight_distance(states, layer="fc1", initial=states[0])
    saved = weight_distance(record.checkpoints, layer="fc1", initial=record.checkpoints[0])
    pickled = {epoch: tmp_path / f"{epoch}.pt" for epoch in states}
    assert saved.identical(from_states)
    assert weight_distance(pickled, layer="fc1", initial=pickled[0]).identical(from_states)


def test_weight_distance__steps_epochs_and_straight_line_in_order(tmp_path):
    record = train_tiny(TinyNetwork(), tmp_path, plan={"epochs": 5})
    states = [read_tensors(record.checkpoints[epoch]) for epoch in (0, 5)]
    for layer in ("conv", "fc1"):
        start, end = (state[f"{layer}.weight"].double() for state in states)
        straight = float((end - start).norm() / start.norm())
        epochs = float(weight_distance(record.checkpoints, layer=layer, initial=record.checkpoints[0])[-1])
        steps = float(record.weight_distance(layer)[-1])
        assert steps > epochs > straight > 0.01


def test_weight_distance__recorded_sums_every_update(tmp_path):
    network = TinyNetwork()
    network.drop.p = 0.0
    # one step an epoch: steps and epochs are the same moves
    record = train_tiny(network, tmp_path, plan={"batch_size": 50})
    np.testing.assert_allclose(
        record.weight_distance("conv"),
        weight_distance(record.checkpoints, layer="conv", initial=record.checkpoints[0]),
        rtol=1e-6,  # float64 sums of the same numbers, stored as float32
    )


def test_weight_distance__zero_learning_rate_moves_nothing(tmp_path):
    record = train_tiny(TinyNetwork(), tmp_path, plan={"learning_rate": 0.0})
    assert record.weight_distance("fc1").values.tolist() == [0, 0, 0, 0]


def test_weight_distance__only_checkpoints_are_given(tmp_path):
    record = train_tiny(TinyNetwork(), tmp_path, plan={"checkpoints": (0, 1, 3)})
    assert record.weight_distance("fc1").epoch.values.tolist() == [0, 1, 3]
    recorded = json.loads((tmp_path / "history.json").read_text())["weight_distance"]["fc1"]
    assert (
        record.weight_distance("fc1").values.tolist() == np.float32([recorded[k] for k in (0, 1, 3)]).tolist()
    )


def test_weight_distance__refuses_bad_input(tmp_path):
    state = {"fc.weight": torch.ones(2, 2)}
    with pytest.raises(ValueError, match="checkpoints is empty"):
        weight_distance({}, layer="fc", initial=state)
    with pytest.raises(ValueError, match=r"no weight 'fd.weight' in the state dict"):
        weight_distance({0: state}, layer="fd", initial=state)
    with pytest.raises(ValueError, match="initial weight of layer 'fc' is 0"):
        weight_distance({0: state}, layer="fc", initial={"fc.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"shape \(3,\) at epoch 1"):
        weight_distance({1: {"fc.weight": torch.ones(3)}}, layer="fc", initial=state)
    record = train_tiny(TinyNetwork(), tmp_path)
    with pytest.raises(ValueError, match=r"no weight 'fc9.weight' in .*epoch-000.safetensors"):
        weight_distance(record.checkpoints, layer="fc9", initial=record.checkpoints[0])
    with pytest.raises(ValueError, match="'fc2' was not tracked"):
        record.weight_distance("fc2")


def test_record__of_a_former_layout_says_so(tmp_path):
    train_tiny(TinyNetwork(), tmp_path)
    path = tmp_path / "history.json"
    stored = json.loads(path.read_text())
    moved = stored["weight_distance"]
    del stored["sha256"]
    path.write_text(json.dumps(stored | {"weight_distance": {"step": moved, "epoch": moved}}))
    with pytest.raises(StoreError, match=r"or of another version of kdviz: .*remove .* to train anew"):
        TrainingRecord.open(tmp_path).weight_distance("fc1")


# refusals


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": make_data()[0].numpy()}, TypeError, "inputs must be a tensor, got ndarray"),
        ({"inputs": torch.zeros(0, 3, 8, 8)}, ValueError, "inputs must have a sample axis"),
        ({"labels": make_data()[1].float()}, TypeError, "labels must be an int64 tensor, got torch.float32"),
        ({"labels": make_data()[1][:-1]}, ValueError, r"labels must have shape \(50,\)"),
        ({"labels": make_data()[1] + 1}, ValueError, r"labels must lie in 0..1, .* got 1..2"),
        ({"tracked_layers": ["fc4"]}, LayerError, "unknown layer 'fc4'"),
        ({"tracked_layers": ["drop"]}, LayerError, "'drop' has no weight"),
        (
            {"inputs": torch.zeros(50, 9), "plan": make_plan(augment=True)},
            ValueError,
            "plan.augment is for images",
        ),
    ],
)
def test_train__refuses_bad_input_before_any_work(tmp_path, change, error, message):
    images, labels = make_data()
    arguments = {"inputs": images, "labels": labels, "plan": make_plan(), "tracked_layers": [], **change}
    with pytest.raises(error, match=message):
        train(TinyNetwork(), **arguments, folder=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_evaluate__refuses_a_network_without_logits():
    with pytest.raises(ValueError, match=r"must give logits \(samples, classes\), got \(1, 3, 8, 8\)"):
        evaluate(nn.ReLU(), *make_data())


def test_train__nan_in_inputs_is_not_blamed_on_the_rate(tmp_path):
    inputs, labels = make_data()
    inputs[3, 0, 0, 0] = math.nan
    plan = TrainingPlan(epochs=1, learning_rate=0.01)
    with pytest.raises(ValueError, match=r"^inputs hold NaN or infinite values, in samples 3$"):
        train(TinyNetwork(), inputs, labels, plan=plan, folder=tmp_path, progress=False)
