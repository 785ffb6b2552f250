"""Every loss against its formula, written out in NumPy: value, slopes by finite differences, and memory."""

import re
import signal
import subprocess
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import kdviz
from kdviz.distillation import (
    CRD,
    KL,
    LOGITS,
    LOSSES,
    PAIRS,
    AttentionTransfer,
    Features,
    FineTuning,
    Hint,
    Outputs,
    SoftLabels,
    published,
)
from kdviz.distillation.contrast import draw_negatives
from kdviz.networks import fingerprint_tensors
from kdviz.training import TrainingPlan, TrainingRecord, train
from kdviz.training.records import read_tensors

COUNT, CLASSES = 4, 3
LABELS, ROWS = np.array([2, 0, 1, 1]), np.array([8, 1, 4, 3])
ALL_LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])  # of nine samples


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def as_outputs(arrays, *, slopes=False):
    return Outputs({layer: torch.tensor(array, requires_grad=slopes) for layer, array in arrays.items()})


def check_slopes(loss, replica, ours, theirs):
    """Compare a loss and its gradients by outputs of the student and by parts with those of a replica.

    `replica` takes ``{name: array}``, layers and parameters of parts. Steps of 1e-5 leave errors of 1e-9.
    """
    student, labels, rows = as_outputs(ours, slopes=True), torch.tensor(LABELS), torch.tensor(ROWS)
    value = loss(student, as_outputs(theirs), labels, rows)
    value.backward()
    tensors = student | ({} if loss.parts is None else dict(loss.parts.named_parameters()))
    arrays = {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
    assert value.item() == pytest.approx(replica(arrays), rel=1e-12)
    for name, array in arrays.items():
        slopes = np.zeros_like(array)
        for at in np.ndindex(array.shape):
            known, ends = array[at], []
            for step in (1e-5, -1e-5):
                array[at] = known + step
                ends.append(replica(arrays))
            array[at] = known
            slopes[at] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(tensors[name].grad, slopes, rtol=0, atol=1e-6, err_msg=name)
        assert np.abs(slopes).max() > 1e-4, f"nothing depends on {name}"


def prepared(loss, ours, theirs):
    one, other = (as_outputs({layer: array[:1] for layer, array in two.items()}) for two in (ours, theirs))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss.prepare(one, other, len(ALL_LABELS), torch.tensor(ALL_LABELS))
    return loss


# -- formulas


def soften(logits, temperature=1.0):
    powers = np.exp(logits / temperature)
    return powers / powers.sum(-1, keepdims=True)


def cross(wanted, logits, temperature=1.0):
    """Cross-entropy, the mean over samples."""
    return -np.mean([np.sum(p * np.log(q)) for p, q in zip(wanted, soften(logits, temperature), strict=True)])


def of_labels(arrays):
    return cross(np.eye(CLASSES)[LABELS], arrays[LOGITS])


def unit(vector):
    return vector / np.sqrt(np.sum(vector**2))


def pool(image, height, width):
    """A cell is the mean of those that its stretch touches, in both directions."""
    pooled = np.zeros((height, width))
    for row, column in np.ndindex(height, width):
        top, left = row * image.shape[0] // height, column * image.shape[1] // width
        bottom, right = -(-(row + 1) * image.shape[0] // height), -(-(column + 1) * image.shape[1] // width)
        pooled[row, column] = image[top:bottom, left:right].mean()
    return pooled


def test_kl__is_softened_cross_entropy_beside_that_of_the_labels():
    ours, theirs = {LOGITS: draw(COUNT, CLASSES)}, {LOGITS: 3 * draw(COUNT, CLASSES, seed=1)}

    def replica(arrays):
        return 0.3 * of_labels(arrays) + 0.7 * 2.5**2 * cross(
            soften(theirs[LOGITS], 2.5), arrays[LOGITS], 2.5
        )

    check_slopes(prepared(KL(2.5, 0.3, 0.7), ours, theirs), replica, ours, theirs)
    assert KL().temperature == 4


def test_features__is_the_mean_squared_difference():
    ours, theirs = {"a": draw(COUNT, 2, 3)}, {"b": draw(COUNT, 2, 3, seed=1)}
    loss = prepared(Features("a", "b"), ours, theirs)
    check_slopes(loss, lambda arrays: np.mean((arrays["a"] - theirs["b"]) ** 2), ours, theirs)


@pytest.mark.parametrize("size", [(2, 2), (5, 4)])
def test_hint__between_maps_pools_and_mixes_channels(size):
    ours = {"a": draw(COUNT, 2, 4, 3), LOGITS: draw(COUNT, CLASSES)}
    theirs = {"b": draw(COUNT, 3, *size, seed=1)}

    def replica(arrays):
        total = 0.0
        for image, wanted in zip(arrays["a"], theirs["b"], strict=True):
            pooled = [pool(channel, *size) for channel in image]
            for weights, bias, target in zip(arrays["weight"], arrays["bias"], wanted, strict=True):
                guess = bias + sum(
                    float(weight.item()) * one for weight, one in zip(weights, pooled, strict=True)
                )
                total += np.sum((target - guess) ** 2)
        return 0.5 * of_labels(arrays) + 2 * 0.5 * total / theirs["b"].size

    check_slopes(prepared(Hint("a", "b", 0.5, 2.0), ours, theirs), replica, ours, theirs)


@pytest.mark.parametrize(("narrow", "wide"), [((5,), (3,)), ((3, 4), (3, 2))])
def test_hint__between_vectors_or_as_many_tokens_is_linear(narrow, wide):
    ours = {"a": draw(COUNT, *narrow), LOGITS: draw(COUNT, CLASSES)}
    theirs = {"b": draw(COUNT, *wide, seed=1)}

    def replica(arrays):
        guess = np.einsum("...i,oi->...o", arrays["a"], arrays["weight"]) + arrays["bias"]
        return of_labels(arrays) + np.mean((guess - theirs["b"]) ** 2) / 2

    check_slopes(prepared(Hint("a", "b"), ours, theirs), replica, ours, theirs)


def test_hint__between_maps_and_a_vector_is_linear_in_all_entries():
    ours = {"a": draw(COUNT, 2, 2, 2), LOGITS: draw(COUNT, CLASSES)}
    theirs = {"b": draw(COUNT, 3, seed=1)}

    def replica(arrays):
        guess = arrays["a"].reshape(COUNT, 8) @ arrays["1.weight"].T + arrays["1.bias"]
        return of_labels(arrays) + np.mean((guess - theirs["b"]) ** 2) / 2

    check_slopes(prepared(Hint("a", "b"), ours, theirs), replica, ours, theirs)


def test_hint__between_equal_sizes_has_no_regressor():
    ours, theirs = {"a": draw(COUNT, 5), LOGITS: draw(COUNT, CLASSES)}, {"a": draw(COUNT, 5, seed=1)}
    loss = prepared(Hint("a"), ours, theirs)
    assert loss.parts.state_dict() == {}
    check_slopes(loss, lambda one: of_labels(one) + np.mean((one["a"] - theirs["a"]) ** 2) / 2, ours, theirs)


def test_attention__is_the_distance_of_maps_of_unit_length():
    ours = {"a": draw(COUNT, 3, 4, 4), "b": draw(COUNT, 2, 2, 2, seed=1), LOGITS: draw(COUNT, CLASSES)}
    theirs = {"c": draw(COUNT, 2, 2, 3, seed=2), "d": draw(COUNT, 5, 3, 3, seed=3)}

    def look(image, height, width):
        return unit(pool(np.sum(image**2, axis=0), height, width).ravel())

    def replica(arrays):
        total = 0.0
        for one, other, size in (("a", "c", (2, 3)), ("b", "d", (2, 2))):
            pairs = zip(arrays[one], theirs[other], strict=True)
            total += np.mean([(look(x, *size) - look(y, *size)) ** 2 for x, y in pairs])
        return 0.5 * of_labels(arrays) + 10 * total

    loss = AttentionTransfer(["a", "b"], ["c", "d"], class_weight=0.5, weight=10.0)
    check_slopes(prepared(loss, ours, theirs), replica, ours, theirs)


def test_attention__of_proportional_maps_is_zero():
    ours, theirs = {"a": draw(COUNT, 3, 4, 4), LOGITS: draw(COUNT, CLASSES)}, {}
    theirs["a"] = -2.5 * ours["a"][:, ::-1]  # nor does the order of channels count
    loss, student = AttentionTransfer("a", class_weight=0.0), as_outputs(ours, slopes=True)
    value = loss(student, as_outputs(theirs), torch.tensor(LABELS), torch.tensor(ROWS))
    value.backward()
    assert value.item() < 1e-25 and student["a"].grad.abs().max() < 1e-12  # rounding of float64, times 1000
    theirs["a"][0, 0] += 1
    assert loss(student, as_outputs(theirs), torch.tensor(LABELS), torch.tensor(ROWS)) > 0.1


# -- contrast


@pytest.mark.parametrize("scale", [1.0, 7.0, None])
def test_crd__tells_pairs_by_h(scale):
    ours, theirs = {"a": draw(COUNT, 2, 3), LOGITS: draw(COUNT, CLASSES)}, {"b": draw(COUNT, 4, seed=1)}
    loss = CRD("a", "b", 0.5, 0.8, temperature=0.5, size=2, momentum=0.75, scale=scale)
    before = prepared(loss, ours, theirs).parts.memory.numpy().copy()
    heads = {name: parameter.detach().numpy() for name, parameter in loss.parts.named_parameters()}

    def project(arrays, features, side):
        flat = [arrays[f"heads.{side}.weight"] @ feature.ravel() for feature in features]
        return [unit(one - np.mean(flat, axis=0)) for one in flat]

    memory = before.copy()
    for side, features in enumerate((ours["a"], theirs["b"])):
        for row, view in zip(ROWS, project(heads, features, side), strict=True):
            memory[side, row] = unit(0.75 * before[side, row] + 0.25 * view)

    def exponentials(arrays):
        """Of the same sample and of six negatives, all that are of other classes: ``(2, B, 7)``."""
        views = project(arrays, arrays["a"], 0), project(arrays, theirs["b"], 1)
        return np.array(
            [
                [
                    [np.exp(one @ other / 0.5) for other in (views[1 - side][k], *kept[ALL_LABELS != label])]
                    for k, (one, label) in enumerate(zip(views[side], LABELS, strict=True))
                ]
                for side, kept in ((1, memory[0]), (0, memory[1]))
            ]
        )

    start = 9 * exponentials(heads | ours).mean((1, 2))
    fixed = np.full(2, scale) if scale else start

    def replica(arrays):
        found = exponentials(arrays)
        h = found / (found + fixed[:, None, None] * 6 / 9)
        sides = np.mean(-np.log(h[..., 0]) - np.log(1 - h[..., 1:]).sum(2), axis=1)
        return 0.5 * of_labels(arrays) + 0.8 * sides.sum()

    check_slopes(loss, replica, ours, theirs)
    np.testing.assert_allclose(loss.parts.memory, memory, rtol=1e-12)
    np.testing.assert_allclose(loss.parts.log_scale.exp(), fixed, rtol=1e-12)
    others = np.setdiff1d(np.arange(9), ROWS)
    np.testing.assert_array_equal(loss.parts.memory[:, others], before[:, others])


def test_crd__learns_nothing_from_a_batch_of_one():
    ours, theirs = {"a": draw(1, 5), LOGITS: draw(1, CLASSES)}, {"b": draw(1, 4, seed=1)}
    loss, student = prepared(CRD("a", "b", class_weight=0.0), ours, theirs), as_outputs(ours, slopes=True)
    before = loss.parts.memory.clone()
    value = loss(student, as_outputs(theirs), torch.tensor([2]), torch.tensor([8]))
    value.backward()
    assert value.isfinite() and student["a"].grad.eq(0).all()
    torch.testing.assert_close(loss.parts.memory, before)


def test_crd__negatives_are_of_other_classes_each_once_and_as_likely():
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    wanted = torch.tensor([2, 0, 1]).repeat(4000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = draw_negatives(wanted, labels, 5)
    assert (labels[rows] != wanted[:, None]).all()
    assert all(len(set(own)) == 5 for own in rows.tolist())
    shares = rows[wanted == 2].flatten().bincount(minlength=10) / 4000
    # five of eight; four standard errors of a share of 4000
    np.testing.assert_allclose(shares, [5 / 8] * 8 + [0, 0], rtol=0, atol=4 * np.sqrt(15 / 64 / 4000))


@pytest.mark.parametrize(
    ("sizes", "negatives", "expected"),
    [((5, 3, 2), None, 5), ((5, 3, 2), 4, 4), ((20000, 20000), None, 16384)],
)
def test_crd__has_as_many_negatives_as_every_class_finds(sizes, negatives, expected):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    loss, one = CRD("a", size=1, negatives=negatives), as_outputs({"a": draw(1, 2)})
    loss.prepare(one, one, len(labels), labels)
    assert loss.parts.count == expected and loss.parts.memory.shape == (2, len(labels), 1)


# -- soft labels


def test_soft_labels__are_labels_with_noise_softened():
    ours, loss = {LOGITS: draw(COUNT, CLASSES)}, SoftLabels(0.3, 0.25, 0.4, 0.6, seed=5)
    wanted = []
    for label, row in zip(LABELS, ROWS, strict=True):
        noise = np.random.default_rng([5, row]).standard_normal(CLASSES)
        wanted.append(soften(np.eye(CLASSES)[label] + np.sqrt(0.3) * noise, 0.25))
    check_slopes(loss, lambda one: 0.4 * of_labels(one) + 0.6 * cross(wanted, one[LOGITS]), ours, {})


def test_soft_labels__belong_to_their_samples():
    loss, labels, rows = SoftLabels(), torch.arange(2000) % 4, torch.arange(2000)
    soft, order = (
        loss.soften(labels, rows, 4),
        torch.randperm(2000, generator=torch.Generator().manual_seed(1)),
    )
    assert torch.equal(loss.soften(labels[order], rows[order], 4), soft[order])
    assert not torch.equal(SoftLabels(seed=1).soften(labels, rows, 4), soft)
    ahead = 0.15 * (soft[rows, labels].log() - soft[rows, (labels + 1) % 4].log())
    # the difference of two draws of variance 0.2, around 1: four standard errors of 2000
    assert ahead.mean().item() == pytest.approx(1, abs=4 * np.sqrt(0.4 / 2000))
    assert ahead.var().item() == pytest.approx(0.4, abs=4 * 0.4 * np.sqrt(2 / 2000))


# -- refusals


@pytest.mark.parametrize(
    ("loss", "shape", "message"),
    [
        (AttentionTransfer("a"), (8,), r"more than one cell, and layer 'a' gives \(8,\)"),
        (AttentionTransfer("a"), (8, 1, 1), r"more than one cell, and layer 'a' gives \(8, 1, 1\)"),
        (AttentionTransfer(LOGITS), (8,), r"more than one cell, and the logits are \(3,\)"),
        (Features("a"), (9,), "equal sizes: 'a' of the student has 9 entries, 'a' of the teacher 10"),
        (KL(), (8,), r"the student gives logits \(3,\), the teacher \(4,\)"),
        (Hint("a"), (8, 4, 4), r"no regressor from features \(8, 4, 4\) of the student to \(5, 2\)"),
        (CRD("a", negatives=7), (8,), "draws 7 negatives from other classes, .* there are 6 samples"),
    ],
)
def test_prepare__refuses_what_does_not_suit_the_loss(loss, shape, message):
    ours = {"a": draw(1, *shape), LOGITS: draw(1, CLASSES)}
    with pytest.raises(ValueError, match=message):
        prepared(
            loss,
            ours,
            {"a": draw(1, 5, 2), LOGITS: draw(1, CLASSES + (not isinstance(loss, AttentionTransfer)))},
        )


def test_crd__of_one_class_is_refused():
    one = as_outputs({"a": draw(1, 2)})
    with pytest.raises(ValueError, match=r"draws its negatives from other classes, .* there are 0 samples"):
        CRD("a").prepare(one, one, 3, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KL(temperature=0), "temperature must be a positive number"),
        (lambda: KL(weight=-1), "weight must be a finite number, 0 to"),
        (lambda: CRD("a", negatives=0), "negatives must be an integer of 1 or more"),
        (lambda: CRD("a", momentum=1.5), r"momentum must lie in 0\.\.1, got 1.5"),
        (lambda: SoftLabels(variance=-0.2), "variance must be a finite number"),
        (lambda: AttentionTransfer(["a", "b"], "c"), "must name as many layers"),
        (lambda: published("resnet50-resnet20", "kl"), "did you mean 'resnet50-resnet18'"),
        (lambda: published("alexnet", "kl"), "allowed: resnet50-resnet18, vgg19-vgg11, .*, mnist"),
        (lambda: published("mnist", "attention"), "method is 'attention'; allowed: kl, hint, crd"),
    ],
)
def test_loss__refuses_bad_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_published__weights_are_those_of_the_paper():
    """Read from the table of appendix 9 once more, row by row; each loss takes them."""
    table = [
        [(w["class_weight"], w["weight"]) for m in ("kl", "hint", "crd") if (w := published(p, m))]
        for p in PAIRS
    ]
    assert table == [
        [(0.5, 0.5), (1, 5), (1, 0.8)],
        [(1, 0.2), (1, 0.5), (1, 0.8)],
        [(0.9, 0.1), (1, 0.2), (1, 1.2)],
        [(1, 0.2), (1, 1), (1, 0.2)],
        [(0.1, 0.9), (1, 1), (1, 0.8)],
        [(0.1, 0.9), (1, 0.2), (1, 0.8)],
        [(0.9, 0.1), (1, 100), (1, 1.2)],
        [(0.5, 0.5), (1, 5), (1, 0.8)],
        [(0.5, 0.5), (1, 0.2), (1, 0.8)],
        [(0.1, 0.9), (1, 2), (1, 0.1)],
    ]
    loss = CRD("a", **published("mnist", "crd"))
    assert (loss.temperature, loss.negatives, loss.weight) == (0.1, 32, 0.1)
    assert KL(**published("mnist", "kl")).temperature == 8


# -- training


class Student(nn.Module):
    """Maps (4, 8, 8), features of 6, logits of 2; float64."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.conv = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
            self.fc1 = nn.Linear(256, 6, dtype=torch.float64)
            self.fc2 = nn.Linear(6, 2, dtype=torch.float64)

    def forward(self, images):
        return self.fc2(self.fc1(self.conv(images).relu().flatten(1)).relu())


class Teacher(nn.Sequential):
    """Maps (5, 3, 3), features of 9, 6 and 2."""

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            super().__init__(
                nn.Conv2d(3, 5, 4, stride=2, dtype=torch.float64),
                nn.Flatten(),
                nn.Linear(45, 9, dtype=torch.float64),
                nn.Tanh(),
                nn.Linear(9, 6, dtype=torch.float64),
                nn.Linear(6, 2, dtype=torch.float64),
            )


MAKERS = {
    "features": lambda: Features("fc1", "4"),
    "kl": KL,
    "hint": lambda: Hint("conv", "0"),
    "crd": lambda: CRD("fc1", "2", size=3),
    "attention": lambda: AttentionTransfer("conv", "0"),
    "soft-labels": SoftLabels,
    "fine-tuning": FineTuning,
}
PARTS = {
    "hint": {"weight", "bias"},
    "crd": {"memory", "log_scale", "heads.0.weight", "heads.1.weight"},
}


def learn(kind, folder, *, loss=None, teacher=True, seed=3):
    """Train three epochs of three batches; return student and loss."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(30, 3, 8, 8, generator=generator, dtype=torch.float64), torch.arange(30) % 2
    student, loss = Student(), loss or MAKERS[kind]()
    plan = TrainingPlan(epochs=3, batch_size=10, learning_rate=0.01, seed=seed)
    train(
        student,
        images,
        labels,
        loss=loss,
        teacher=Teacher() if teacher else None,
        folder=folder,
        plan=plan,
        progress=False,
    )
    return student, loss


def state_of(*modules):
    return [
        (name, tensor.tolist())
        for module in modules
        if module is not None
        for name, tensor in module.state_dict().items()
    ]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch, torch._dynamo  # optimisers load the latter at their first step
torch.set_num_threads(1)
from test_losses import MAKERS, learn
from kdviz.training import fitting

step, left = fitting.Odometer.record_step, 5  # of nine: in the second epoch

def die_once(odometer):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    step(odometer)

fitting.Odometer.record_step = die_once
for kind in MAKERS:
    child = os.fork()
    if not child:
        learn(kind, os.path.join({folder!r}, kind))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(kind, os.WTERMSIG(status))
"""


def test_training__killed_goes_on_to_the_same_bits_with_the_parts_of_every_loss(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[:-1] == [f"{kind} {int(signal.SIGKILL)}" for kind in LOSSES]
    for kind in LOSSES:
        (whole, loss), place = learn(kind, tmp_path / f"{kind}-whole"), tmp_path / kind
        assert not (place / "history.json").exists() and (place / "state.pt").exists()
        resumed, other = learn(kind, place)
        assert state_of(whole, loss.parts) == state_of(resumed, other.parts), kind
        names = sorted(path.name for path in place.iterdir() if path.name[0] != ".")
        assert all(
            (place / n).read_bytes() == (tmp_path / f"{kind}-whole" / n).read_bytes() for n in names
        ), kind
        assert {name for name, _ in state_of(loss.parts)} == PARTS.get(kind, set())
        assert "parts-003.safetensors" in names or kind not in PARTS
        again, _ = learn(kind, tmp_path / f"{kind}-again", loss=loss)  # whose parts are trained already
        assert state_of(again) == state_of(whole), kind


@pytest.mark.parametrize("kind", list(PARTS))
def test_parts__start_as_the_seed_says(tmp_path, kind):
    def start(name, seed, noise):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            learn(kind, tmp_path / name, seed=seed)
        return fingerprint_tensors(read_tensors(tmp_path / name / "parts-000.safetensors"))

    assert start("a", 3, 0) == start("b", 3, 1) != start("c", 4, 0)


@pytest.mark.parametrize("kind", [kind for kind, loss in LOSSES.items() if loss.needs_teacher])
def test_train__asks_for_the_teacher_of_a_loss(tmp_path, kind):
    with pytest.raises(ValueError, match="this loss needs a teacher, and there is none"):
        learn(kind, tmp_path, teacher=False)
    assert list(tmp_path.iterdir()) == []


def test_soft_labels__train_the_same_with_a_teacher_and_without(tmp_path):
    alone, _ = learn("soft-labels", tmp_path / "alone", teacher=False)
    beside, _ = learn("soft-labels", tmp_path / "beside")
    assert state_of(alone) == state_of(beside)


# -- one's own


def test_page__shows_losses_of_ones_own_that_train(tmp_path, monkeypatch):
    """The code of the documentation runs as it stands, on networks of other widths and depths."""
    page = Path(__file__).parents[2] / "docs" / "api" / "distillation.md"
    monkeypatch.chdir(tmp_path)
    student, teacher = (
        nn.Sequential(OrderedDict(flat=nn.Flatten(), layer2=nn.Linear(12, width), layer3=nn.Linear(width, 3)))
        for width in (4, 7)
    )
    start, generator = state_of(student), torch.Generator().manual_seed(0)
    names = {
        "student": student,
        "teacher": teacher,
        "inputs": torch.randn(12, 3, 2, 2, generator=generator),
        "labels": torch.arange(12) % 3,
    }
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.setattr(kdviz.training, "train", partial(train, progress=False))
    for block, folder in zip(blocks, ("logits", "similar", "projected"), strict=True):
        exec(block, names)
        assert state_of(student) != start
        start, record = state_of(student), TrainingRecord.open(folder)
        assert record.parts.keys() == ({*range(13)} if folder == "projected" else set())
    assert names["loss"].parts.weight.shape == (16, 4)
    own = next(line for line in page.read_text().split("\n") if line.startswith("losses: "))
    assert {loss["kind"] for loss in yaml.safe_load(own)["losses"]} < LOSSES.keys()
    listed = re.findall(r"^\| `([\w-]+)` \| \{py:class\}`~kdviz.distillation.(\w+)`", page.read_text(), re.M)
    assert {kind: name for kind, name in listed} == {kind: loss.__name__ for kind, loss in LOSSES.items()}
