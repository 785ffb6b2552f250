"""Attacks: closed form on a linear softmax, captum, budgets to the bit, and who is fooled with whom."""

import numpy as np
import pytest
import torch
import xarray as xr
from captum.robust import PGD
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from kdviz import testing, transfer
from kdviz.transfer import Pixels

SIZE, CLASSES = 6, 3
PIXELS = Pixels((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def linear(seed, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(CLASSES, 3 * SIZE**2, generator=generator) * scale)
        network[1].bias.zero_()
    return network


class Recording(nn.Module):
    """Keeps all that a network is fed, with the gradients off."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, images):
        if not images.requires_grad:
            self.seen.append(images.clone())
        return self.network(images)


@pytest.fixture
def pixels():
    """Of them some at 0, some at 1 and one next to nothing."""
    given = torch.rand(12, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    given = given.clamp(0, 1)
    given[0, 0, 0, 0] = 1e-20
    return given


def attack(networks, pixels, labels=None, **options):
    given = {"teacher": "teacher", "pixels": PIXELS, "progress": False} | options
    labels = np.arange(len(pixels)) % CLASSES if labels is None else labels
    return transfer.adversarial(networks, PIXELS.write(pixels), labels, **given)


def record_attacked(network, pixels, labels=None, **options):
    """Return the pixels that the attack on a network ends at, as read back from what it is fed."""
    watched = Recording(network)
    attack({"teacher": watched, "other": linear(9)}, pixels, labels, **options)
    clean, attacked = watched.seen[-2:]
    return PIXELS.read(clean), PIXELS.read(attacked)


def test_one_step_on_a_linear_softmax__is_its_closed_form(pixels):
    network, labels = linear(0), torch.arange(12) % CLASSES
    _, found = record_attacked(network, pixels, labels.numpy(), epsilon=0.1, step=0.1, steps=1)
    weight = network[1].weight.double()
    inputs = PIXELS.write(pixels).double().flatten(1)
    # dJ / dx = W' (p - e_y), and positive deviations change no sign
    gradient = ((inputs @ weight.T).softmax(1) - one_hot(labels, CLASSES)) @ weight
    expected = (pixels.double() + 0.1 * gradient.sign().reshape(pixels.shape)).clamp(0, 1)
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6)  # float32, there and back


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("steps", [1, 5])
def test_attack__is_that_of_captum_without_its_threshold(pixels, steps):
    network, labels = testing.small_cnn(size=SIZE, classes=CLASSES), torch.arange(12) % CLASSES

    def lose(logits, classes):
        return cross_entropy(logits, classes, reduction="none")

    captum = PGD(lambda images: network(PIXELS.write(images)), lose, 0.0, 1.0)
    captum.fgsm.zero_thresh = 0
    expected = captum.perturb(
        pixels.clone().requires_grad_(), radius=0.05, step_size=0.03, step_num=steps, target=labels
    )
    _, found = record_attacked(network, pixels, epsilon=0.05, step=0.03, steps=steps)
    np.testing.assert_allclose(found, expected, atol=1e-6)  # float32, there and back


@pytest.mark.parametrize("way", ["fgsm", "pgd"])
@pytest.mark.parametrize("epsilon", [2 / 255, 8 / 255, 0.1, 1 / 3])
def test_budget__is_held_to_the_bit(pixels, way, epsilon, monkeypatch):
    fed = []
    write = Pixels.write
    monkeypatch.setattr(Pixels, "write", lambda self, given: fed.append(given.detach()) or write(self, given))
    attack({"teacher": linear(0), "other": linear(1)}, pixels, attack=way, epsilon=epsilon)
    clean, attacked = fed[1].double(), fed[-1].double()
    # differences of float32 are exact in float64, but where one is tiny beside the other
    moved = (attacked - clean).abs()
    assert moved.max() <= epsilon
    assert moved.max() >= epsilon * (1 - 1e-6) and attacked.min() == 0 and attacked.max() == 1


def test_strength_of_0__fools_nobody_and_says_so(pixels):
    networks = {"teacher": linear(0), "alone": linear(1), "student": linear(2)}
    for way in ("fgsm", "pgd"):
        ds = attack(networks, pixels, attack=way, epsilon=0.0, independent="alone")
        assert np.isnan(ds["fooled"]).all()
        assert ds.attrs["note"] == "the attack changes no class that teacher, alone gives"


def test_teacher__is_fooled_by_all_that_is_kept_and_a_copy_of_it_too(pixels):
    networks = {"teacher": linear(0), "copy": linear(0), "alone": linear(1)}
    ds = attack(networks, pixels, epsilon=0.1, attacked=list(networks))
    kept = ~np.isnan(ds["fooled_by_teacher"]).any("network").values
    assert 0 < kept.sum()
    fooled = ds["fooled"].sel(attacked="teacher")
    np.testing.assert_array_equal(fooled.sel(network=["teacher", "copy"])[:, kept], 1.0)
    np.testing.assert_array_equal(ds["fooled_by_teacher"], fooled)
    np.testing.assert_array_equal(ds["fooled"].sel(attacked="copy"), fooled)
    alone = attack(networks, pixels, epsilon=0.1, attacked="alone")["fooled"]
    xr.testing.assert_equal(alone, ds["fooled"].sel(attacked=["teacher", "alone"]))
    for name in networks:
        own = ds["fooled"].sel(attacked=name, network=name)
        assert set(own.values[~np.isnan(own.values)]) == {1.0}


def test_fooling__is_what_the_margins_say():
    # logits w (x - 1/2): an image at 0.5 + m is fooled where the budget exceeds m; the student's line is
    # half a step off, so that it changes its class where its own margin is between
    def line(weight, offset):
        network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
        with torch.no_grad():
            network[1].weight.copy_(torch.tensor([[0.0], [weight]]))
            network[1].bias.copy_(torch.tensor([0.0, -weight * offset]))
        return network

    networks = {"teacher": line(10.0, 0.5), "near": line(3.0, 0.48), "far": line(10.0, 0.2)}
    images = torch.tensor([0.51, 0.53, 0.55, 0.9]).reshape(4, 1, 1, 1)
    ds = transfer.adversarial(
        networks, images, [1, 1, 1, 1], teacher="teacher", epsilon=0.06, attacked=["teacher", "far"],
        pixels=Pixels((0.0,), (1.0,)), progress=False,
    )  # fmt: skip
    # to 0.45, 0.47, 0.49 and 0.84
    expected = [[1, 1, 1, np.nan], [1, 1, 0, np.nan], [0, 0, 0, np.nan]]
    np.testing.assert_array_equal(ds["fooled_by_teacher"], expected)
    assert ds.attrs["note"] == "the attack changes no class that far gives"


def test_certain_network__is_attacked_though_float32_knows_no_doubt():
    network = linear(0, scale=30.0)
    pixels = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    labels = network(PIXELS.write(pixels)).argmax(1)
    assert (network(PIXELS.write(pixels)).softmax(1).gather(1, labels[:, None]) == 1).any()
    clean, attacked = record_attacked(network, pixels, labels.numpy(), epsilon=0.01)
    assert ((attacked - clean).abs().flatten(1).max(1).values > 0.009).all()


@pytest.mark.parametrize("way", ["fgsm", "pgd"])
def test_max_batch__changes_no_draw(pixels, way):
    networks = {"teacher": linear(0), "alone": linear(1)}
    given = {"attack": way, "epsilon": 0.05, "independent": "alone"}
    whole, parts = (attack(networks, pixels, max_batch=size, **given) for size in (64, 5))
    np.testing.assert_array_equal(whole["fooled"], parts["fooled"])


def test_random_start__is_uniform_in_the_budget_and_belongs_to_the_sample():
    grey = torch.full((40, 3, SIZE, SIZE), 0.5)
    given = {"attack": "pgd", "epsilon": 0.1, "step": 0.0}
    clean, start = record_attacked(linear(0), grey, **given)
    moved = (start - clean).double()
    assert moved.abs().max() <= 0.1 + 1e-6  # float32, there and back
    # of 4320 uniform values in -0.1..0.1 the mean has an error of 0.0009, the deviation is 0.0577
    assert abs(float(moved.mean())) < 0.003 and float(moved.std()) == pytest.approx(0.1 / 3**0.5, rel=0.05)
    assert len(moved.flatten(1).unique(dim=0)) == 40
    _, other = record_attacked(linear(0), grey, seed=1, **given)
    assert not torch.equal(start, other)
    _, fgsm = record_attacked(linear(0), grey, **(given | {"attack": "fgsm"}))
    assert torch.equal(fgsm, clean)


def test_adversarial__says_what_it_cannot_do(pixels, tables, numbered, labels):
    networks = {"teacher": linear(0), "alone": linear(1)}
    with pytest.raises(ValueError, match="attack is 'fgms'; did you mean 'fgsm'"):
        attack(networks, pixels, attack="fgms")
    with pytest.raises(ValueError, match=r"epsilon must be a finite number, 0 to .*, got -0.1"):
        attack(networks, pixels, epsilon=-0.1)
    with pytest.raises(ValueError, match="attacked is 'alon'; did you mean 'alone'"):
        attack(networks, pixels, attacked="alon")
    with pytest.raises(ValueError, match="adversarial is for images"):
        transfer.adversarial(tables, numbered, labels, teacher="teacher")
    with pytest.raises(ValueError, match=r"adversarial works on pixels .*: pass pixels=kdviz.transfer.Pix"):
        transfer.adversarial(networks, pixels, np.zeros(12, int), teacher="teacher")
    with pytest.raises(ValueError, match=r"pass pixels=Pixels\(mean, std\)"):
        attack(networks, pixels * 9)
    blind = type(tables["teacher"])([0] * 12)
    with pytest.raises(ValueError, match="no gradient reaches the inputs of network 'teacher'"):
        attack({"teacher": blind, "alone": linear(1)}, pixels * 0)
