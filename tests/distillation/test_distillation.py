"""Losses of one's own in ten lines, each against gradients by hand, and what the interface promises."""

import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from kdviz.distillation import LOGITS, LOSSES, Features, Loss, as_loss
from kdviz.errors import LayerError
from kdviz.training import TrainingPlan, TrainingRecord, train
from kdviz.training.records import read_tensors

DOUBLE = torch.float64
COUNT, FEATURES, CLASSES = 6, 5, 3


class Layers(nn.Module):
    """A linear layer ``hidden``, without activation, and logits above it; float64."""

    def __init__(self, width, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.hidden = nn.Linear(FEATURES, width, bias=False, dtype=DOUBLE)
        self.head = nn.Linear(width, CLASSES, bias=False, dtype=DOUBLE)
        for layer in (self.hidden, self.head):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator, dtype=DOUBLE) / 2

    def forward(self, inputs):
        return self.head(self.hidden(inputs))


class Hint(Loss):
    """Half the squared distance between the teacher's feature and what a regressor makes of the student's."""

    layers, up_to = ("hidden",), "hidden"

    def __init__(self, narrow, wide):
        self.parts = nn.Linear(narrow, wide, bias=False, dtype=DOUBLE)
        self.parts.weight.data = torch.linspace(-1, 1, narrow * wide, dtype=DOUBLE).reshape(wide, narrow)

    def __call__(self, student, teacher, labels, rows):
        guess = self.parts(student["hidden"])
        return (guess - teacher["hidden"]).square().sum(1).mean() / 2


def soften(student, teacher, labels, rows, temperature=4.0):
    """Cross-entropy of both networks' softened classes, times the square of the temperature."""
    wanted = (teacher.logits / temperature).softmax(1)
    told = (student.logits / temperature).log_softmax(1)
    return -(temperature**2) * (wanted * told).sum(1).mean()


@pytest.fixture
def inputs():
    return torch.randn(COUNT, FEATURES, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)


def run(student, teacher, inputs, loss, folder, labels=None, **options):
    """Train with one batch an epoch, so that every epoch is one step of momentum 0.9 without decay."""
    settings = {"epochs": 2, "batch_size": COUNT, "learning_rate": 0.1, "weight_decay": 0.0, **options}
    plan = TrainingPlan(**settings)
    return train(
        student, inputs, labels, teacher=teacher, loss=loss, folder=folder, plan=plan, progress=False
    )


def descend(weights, gradients, steps=2):
    """Take the steps of SGD with momentum by hand; list the weights before and after each."""
    speed, path = [np.zeros_like(weight) for weight in weights], [weights]
    for _ in range(steps):
        speed = [0.9 * old + slope for old, slope in zip(speed, gradients(*path[-1]), strict=True)]
        path.append([weight - 0.1 * move for weight, move in zip(path[-1], speed, strict=True)])
    return path


def test_hint__with_a_regressor_takes_the_steps_of_its_definition(tmp_path, inputs):
    student, teacher, loss = Layers(2, seed=1), Layers(4, seed=2), Hint(2, 4)
    above, x = student.head.weight.detach().clone(), inputs.numpy()
    wanted = x @ teacher.hidden.weight.detach().numpy().T

    def gradients(weight, regressor):
        error = x @ weight.T @ regressor.T - wanted
        return regressor.T @ error.T @ x / COUNT, error.T @ (x @ weight.T) / COUNT

    start = [student.hidden.weight.detach().numpy().copy(), loss.parts.weight.detach().numpy().copy()]
    path = descend(start, gradients)
    record = run(student, teacher, inputs, loss, tmp_path)
    # float64 rounding of sums over 6 samples in another order
    np.testing.assert_allclose(student.hidden.weight.detach(), path[-1][0], rtol=1e-12)
    np.testing.assert_allclose(loss.parts.weight.detach(), path[-1][1], rtol=1e-12)
    losses = [np.square(x @ w.T @ r.T - wanted).sum(1).mean() / 2 for w, r in path[:-1]]
    np.testing.assert_allclose(record.history["loss"], losses, rtol=1e-12)
    assert torch.equal(student.head.weight, above), "beyond the layer, nothing is trained"
    for epoch, (_, regressor) in enumerate(path):
        np.testing.assert_allclose(read_tensors(record.parts[epoch])["weight"], regressor, rtol=1e-12)


def test_function_of_logits__takes_the_steps_of_its_definition(tmp_path, inputs):
    """The slope of softened cross-entropy by the student's logits is temperature times (p - q)."""
    student, teacher, x = Layers(2, seed=1), Layers(4, seed=2), inputs.numpy()
    below, above = (layer.weight.detach().numpy() for layer in (teacher.hidden, teacher.head))

    def soft(logits):
        powers = np.exp(logits / 4.0)
        return powers / powers.sum(1, keepdims=True)

    def gradients(weight, head):
        slope = 4.0 * (soft(x @ weight.T @ head.T) - soft(x @ below.T @ above.T)) / COUNT
        return head.T @ slope.T @ x, slope.T @ (x @ weight.T)

    start = [student.hidden.weight.detach().numpy().copy(), student.head.weight.detach().numpy().copy()]
    path = descend(start, gradients)
    record = run(student, teacher, inputs, soften, tmp_path)
    np.testing.assert_allclose(student.hidden.weight.detach(), path[-1][0], rtol=1e-12)  # as above
    np.testing.assert_allclose(student.head.weight.detach(), path[-1][1], rtol=1e-12)
    assert list(record.history.columns) == ["loss"] and record.parts == {}


def test_features__is_the_mean_over_samples_and_entries(tmp_path, inputs):
    student, teacher, x = Layers(4, seed=1), Layers(4, seed=2), inputs.numpy()
    wanted = x @ teacher.hidden.weight.detach().numpy().T
    start = [student.hidden.weight.detach().numpy().copy()]
    path = descend(start, lambda weight: [2 * (x @ weight.T - wanted).T @ x / (COUNT * 4)])
    run(student, teacher, inputs, Features("hidden"), tmp_path)
    np.testing.assert_allclose(student.hidden.weight.detach(), path[-1][0], rtol=1e-12)
    assert LOSSES["features"] is Features


class Watching(Loss):
    """Notes what it is given."""

    layers = ("0", "1", LOGITS)

    def __init__(self, **settings):
        self.seen = nn.Module()  # modules are no settings
        self.seen.calls = []
        vars(self).update(settings)

    def __call__(self, student, teacher, labels, rows):
        self.seen.calls.append((student, teacher, labels, rows))
        return student.logits.square().mean()


@pytest.mark.parametrize("augment", [False, True])
def test_loss__gets_maps_as_they_are_with_labels_and_rows(tmp_path, augment):
    images = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10) % 2
    student, teacher = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2))
        for _ in range(2)
    )
    loss = Watching(teacher_layers=("0",))
    record = run(student, teacher, images, loss, tmp_path, labels, epochs=1, batch_size=5, augment=augment)
    _, *calls = loss.seen.calls  # the first was the trial
    (ours, theirs, wanted, rows), _ = calls
    assert [tuple(tensor.shape) for tensor in ours.values()] == [(5, 4, 6, 6), (5, 4, 6, 6), (5, 2)]
    assert ours["0"].requires_grad and not torch.equal(ours["0"], ours["1"]), "read before the ReLU"
    assert list(theirs) == ["0"] and not theirs["0"].requires_grad
    assert torch.equal(wanted, labels[rows])
    assert torch.equal(theirs["0"], teacher[0](images[rows])) != augment
    assert sorted(torch.cat([call[3] for call in calls]).tolist()) == list(range(10))
    assert "accuracy" in record.history
    with pytest.raises(KeyError, match="LOGITS"):
        _ = theirs.logits


def test_loss__trains_what_it_says_and_leaves_the_rest(tmp_path, inputs):
    class Between(nn.Sequential):
        def __init__(self):
            super().__init__(
                *(nn.Linear(5, 5, dtype=DOUBLE) for _ in range(3)), nn.BatchNorm1d(5, dtype=DOUBLE)
            )

    for name, settings, moved in (
        ("all", {}, {"0", "1", "2", "3"}),
        ("up to", {"up_to": "1"}, {"0", "1"}),
        ("beyond", {"beyond": "0"}, {"1", "2", "3"}),
        ("between", {"beyond": "0", "up_to": "1"}, {"1"}),
    ):
        torch.manual_seed(0)
        student = Between()
        before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        loss = Watching(layers=("1", LOGITS), **settings)
        run(student, Between(), inputs, loss, tmp_path / name)
        changed = {
            key for key, tensor in student.state_dict().items() if not torch.equal(tensor, before[key])
        }
        assert {key[0] for key in changed} == moved, name
        assert all(parameter.requires_grad for parameter in student.parameters())


def test_loss__settings_identify_it():
    assert as_loss(partial(soften, temperature=2.0)).describe() != as_loss(soften).describe()
    assert Features("a").describe() != Features("b").describe()
    plain = Watching(tau=0.1, table=torch.ones(2), layers=("x",)).describe()
    assert plain["tau"] == 0.1 and plain["layers"] == ["x"] and "seen" not in plain
    assert plain != Watching(tau=0.1, table=torch.zeros(2), layers=("x",)).describe()


def weigh(weight, bias=0):
    def loss(student, teacher, labels, rows):
        return weight * student.logits.square().mean() + bias

    return loss


def weigh_by_globals(weight):
    """Return a function whose weight is a global of its module, used by another of its functions."""
    text = "def helper(x): return [WEIGHT * y for y in x][0]\ndef loss(student, *_): return helper([student])"
    names = {"WEIGHT": weight, "__name__": "own"}
    exec(text, names)
    return names["loss"]


def count_down(value):
    return count_down(value - 1) if value else value


class Weigh:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, student, *_):
        return self.weight * student.logits.mean()

    def method(self, student, *_):
        return self(student)


@pytest.mark.parametrize(
    "make",
    [
        weigh,
        lambda x: weigh(1, x),
        weigh_by_globals,
        lambda x: lambda *_: x,
        lambda x: weigh(weigh(x)),
        lambda x: weigh(torch.tensor([x])),
        lambda x: weigh(np.array([1, x])),
        lambda x: weigh(np.float32(x / 10)),
        lambda x: weigh({"of": {x}, "to": (1, x)}),
        lambda x: weigh(nn.Linear(1, x).requires_grad_(False)),
        lambda x: partial(soften, temperature=np.float32(x)),
        lambda x: lambda student, *_, weight=x: weight * student.logits.mean(),
        lambda x: eval(f"lambda student, *_: {x}.0 * student.logits.mean()"),
        lambda x: eval(f"lambda student, *_: student.logits.{['mean', 'sum'][x % 2]}()"),
        Weigh,
        lambda x: Weigh(x).method,
    ],
)
def test_own_loss__is_known_by_what_it_does(make):
    torch.manual_seed(0)
    two, fifty_one = (as_loss(make(x)).describe() for x in (2, 51))
    torch.manual_seed(0)
    assert two == as_loss(make(2)).describe() == json.loads(json.dumps(two))
    assert two != fifty_one


def test_setting__of_an_own_loss_is_known_by_its_value():
    for one, other in [
        (np.array([1.0]), np.array([2.0])),
        (np.array([1.0]), np.array([1], np.float32)),
        (np.float32(0.1), np.float32(0.9)),
        (lambda: 1, lambda: 2),
        (Weigh(1), Weigh(2)),
        (torch.float32, torch.float64),
        (torch.mean, torch.sum),
    ]:
        assert Watching(tau=one).describe() != Watching(tau=other).describe()
    assert Watching(tau=np.float64(0.5)).describe() == Watching(tau=0.5).describe()
    assert Watching(tau=count_down).describe() == Watching(tau=count_down).describe()


def test_own_loss__with_what_cannot_be_told_from_others_is_refused():
    for secret in (torch.Generator(), iter([1]), np.array([object()])):
        with pytest.raises(TypeError, match=r"a loss depends on .*, and nothing of it can be kept"):
            as_loss(weigh(secret)).describe()


def test_own_loss__is_the_same_in_other_processes():
    code = (
        "import json; from distillation.test_distillation import *; print(json.dumps([as_loss(f).describe() "
        "for f in (soften, weigh({'a', 'b'}), weigh_by_globals(2), count_down, lambda s: s in {'a', 'b'})"
        "]))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1 and "weigh" in told.pop()


def test_own_loss__of_another_weight_is_not_resumed(tmp_path, inputs):
    run(Layers(2, seed=0), Layers(3, seed=1), inputs, weigh(2), tmp_path / "run")
    with pytest.raises(Exception, match="loss"):
        run(Layers(2, seed=0), Layers(3, seed=1), inputs, weigh(50), tmp_path / "run")


def test_losses__of_stored_trainings_keep_their_descriptions():
    assert LOSSES["hint"]("a", "b").describe() == {
        "name": "Hint",
        "layers": ["a", LOGITS],
        "teacher_layers": ["b"],
        "up_to": None,
        "beyond": None,
        "class_weight": 1.0,
        "weight": 1.0,
    }
    assert LOSSES["kl"]().describe() == {
        "name": "KL",
        "layers": [LOGITS],
        "teacher_layers": None,
        "up_to": None,
        "beyond": None,
        "class_weight": 0.5,
        "weight": 0.5,
        "temperature": 4.0,
    }


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (Features("head"), ValueError, "equal sizes"),
        (Features("hiden"), LayerError, "unknown layer 'hiden'"),
        (Features, TypeError, "loss must be"),
        ("features", TypeError, "loss must be"),
        (Watching(layers=(LOGITS,), needs_labels=True), ValueError, "needs labels"),
        (Hint(3, 2), ValueError, f"the loss Hint fails on a first batch of {COUNT}: mat1 and mat2 shapes"),
        (partial(soften, warmth=2), ValueError, "the loss .*soften.* fails .* keyword argument 'warmth'"),
        (lambda student, *_: student.logits.sum(1), ValueError, r"must return one number .* got tensor\("),
        (lambda *_: 3.0, ValueError, "must return one number with a gradient, got 3.0"),
        (None, ValueError, "a teacher came without the loss by which to learn from it"),
    ],
)
def test_distil__refuses_before_any_work(tmp_path, inputs, loss, error, message):
    teacher = nn.Sequential()
    teacher.hidden = nn.Linear(5, 2, dtype=DOUBLE)
    teacher.head = nn.Linear(2, 7, dtype=DOUBLE)
    with pytest.raises(error, match=message):
        run(Layers(2, seed=0), teacher, inputs, loss, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_distil__training_is_a_record_like_any_other(tmp_path, inputs):
    record = run(Layers(2, seed=1), Layers(4, seed=2), inputs, Hint(2, 4), tmp_path)
    assert record == TrainingRecord.open(tmp_path)
    assert read_tensors(record.checkpoints[2]).keys() == {"hidden.weight", "head.weight"}
