"""CKA: the plain formula, the population value of linear networks, chance, jackknife, and stages found."""

import numpy as np
import pytest
import torch
from torch import nn

from kdviz import testing, transfer
from kdviz.errors import LayerError
from kdviz.networks import frozen
from kdviz.transfer.stages import find_stages, thin

SIZE = 6


def ask(networks, inputs, **options):
    labels = np.zeros(len(inputs), int)
    return transfer.representation(
        networks, inputs, labels, **({"teacher": "teacher", "progress": False} | options)
    )


def linear(*weights):
    """Linear layers one after the other, in float64, of which the last gives logits."""
    layers = [nn.Linear(weight.shape[1], weight.shape[0], bias=False).double() for weight in weights]
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(torch.as_tensor(weight))
    return nn.Sequential(*layers)


def hsic(one, other):
    """The unbiased criterion as printed, of features ``(n, D)`` (Nguyen et al. 2021, Eq. (3))."""
    count = len(one)
    k, other_k = one @ one.T, other @ other.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(other_k, 0)
    ones = np.ones(count)
    return (
        np.trace(k @ other_k)
        + (ones @ k @ ones) * (ones @ other_k @ ones) / ((count - 1) * (count - 2))
        - 2 / (count - 2) * (ones @ k @ other_k @ ones)
    ) / (count * (count - 3))


def slow_cka(one, other, parts):
    """The ratio of means over minibatches (Eq. (2) there)."""
    sums = [
        sum(hsic(left[part], right[part]) for part in parts)
        for left, right in ((one, other), (one, one), (other, other))
    ]
    return sums[0] / np.sqrt(sums[1] * sums[2])


@pytest.fixture
def inputs():
    return torch.randn(40, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3


@pytest.fixture
def pair():
    rng = np.random.default_rng(1)
    return {
        name: linear(rng.normal(size=(8, SIZE)), rng.normal(size=(5, 8)), rng.normal(size=(3, 5)))
        for name in ("teacher", "student")
    }


def features(network, inputs):
    found = []
    for layer in network:
        inputs = layer(inputs)
        found.append(inputs.detach().numpy())
    return found


@pytest.mark.parametrize("max_batch", [64, 7])
def test_cka__of_one_batch_is_the_formula(pair, inputs, max_batch):
    ds = ask(pair, inputs, max_batch=max_batch)
    assert ds["stage_layer"].values.tolist() == [["0", "1", ""]] * 2
    teacher, student = (features(network, inputs) for network in pair.values())
    for at in range(3):
        for beside in range(3):
            expected = slow_cka(student[at], teacher[beside], [slice(None)])
            assert ds["cka"].sel(network="student")[at, beside].item() == pytest.approx(expected, rel=1e-9)
    assert ds["cka_pseudo_value"].sizes["batch"] == 1
    assert ds["cka_pseudo_value"].sel(network="student").item() == pytest.approx(
        np.mean([slow_cka(student[at], teacher[at], [slice(None)]) for at in range(3)])
    )


@pytest.mark.parametrize("max_batch", [64, 3])
def test_minibatches__are_joined_and_left_out_as_the_formulas_say(pair, inputs, max_batch):
    ds = ask(pair, inputs, minibatch=10, seed=4, max_batch=max_batch)
    parts = np.array_split(np.random.default_rng(4).permutation(40), 4)
    teacher, student = (features(network, inputs) for network in pair.values())

    def mean(parts):
        return np.mean([slow_cka(one, other, parts) for one, other in zip(student, teacher, strict=True)])

    found = ds.sel(network="student")
    assert np.diag(found["cka"]).mean() == pytest.approx(mean(parts), rel=1e-9)
    for left_out in range(4):
        others = [part for number, part in enumerate(parts) if number != left_out]
        expected = 4 * mean(parts) - 3 * mean(others)
        assert found["cka_pseudo_value"][left_out].item() == pytest.approx(expected, rel=1e-9)


def test_linear_networks__come_to_the_value_of_the_population():
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(2, 4, SIZE))
    inputs = torch.randn(2000, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ds = ask({"teacher": linear(one), "student": linear(other)}, inputs)
    # of inputs of unit covariance: |W V'|^2 / (|W W'| |V V'|)
    expected = np.square(one @ other.T).sum() / np.sqrt(
        np.square(one @ one.T).sum() * np.square(other @ other.T).sum()
    )
    values = ds["cka_pseudo_value"].sel(network="student")
    error = float(values.std(ddof=1)) / values.size**0.5
    assert 0.003 < error < 0.03
    assert abs(float(values.mean()) - expected) < 3 * error


def test_debiased_estimate__does_not_depend_on_the_size_of_minibatches(pair):
    inputs = torch.randn(3000, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    small, large = (ask(pair, inputs, minibatch=size)["cka"].sel(network="student") for size in (6, 500))
    # the biased one is off by 0.1 and more at six samples; these differ by what chance leaves
    np.testing.assert_allclose(small, large, atol=0.03)


def test_networks_that_differ_by_rotation_and_scale__are_one(inputs):
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(4, SIZE))
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    networks = {"teacher": linear(weight), "same": linear(weight), "turned": linear(3 * rotation @ weight)}
    ds = ask(networks, inputs, minibatch=10)
    np.testing.assert_allclose(ds["cka"], 1.0, rtol=1e-9)
    np.testing.assert_allclose(ds["cka_pseudo_value"], 1.0, rtol=1e-9)


def test_networks_that_know_nothing_of_each_other__come_out_near_zero():
    class Drawn(nn.Module):
        def __init__(self, seed):
            super().__init__()
            table = torch.randn(600, 50, generator=torch.Generator().manual_seed(seed))
            self.table = nn.Embedding.from_pretrained(table)

        def forward(self, inputs):
            return self.table(inputs[:, 0].round().long())

    numbers = torch.arange(600.0)[:, None]
    ds = ask({"teacher": Drawn(0), **{str(seed): Drawn(seed) for seed in range(1, 9)}}, numbers, minibatch=50)
    values = ds["cka_pseudo_value"].isel(network=slice(1, None))
    error = values.std("batch", ddof=1) / values.sizes["batch"] ** 0.5
    assert float(error.max()) < 0.02  # the biased one is 50 / (50 + 50) and more
    assert abs(float(values.mean())) < 3 * float(error.mean()) / 8**0.5


def test_stage_that_gives_the_same_for_all__is_undefined_and_named(pair, inputs):
    dead = linear(np.zeros((8, SIZE)), *[layer.weight.detach().numpy() for layer in pair["teacher"][1:]])
    dead[0].bias = nn.Parameter(torch.full((8,), 5.0, dtype=torch.float64))
    ds = ask({**pair, "dead": dead}, inputs)
    assert (
        np.isnan(ds["cka"].sel(network="dead")).all() and not np.isnan(ds["cka"].sel(network="student")).any()
    )
    assert np.isnan(ds["cka_pseudo_value"].sel(network="dead")).all()
    assert ds.attrs["note"] == "the same for all samples: 0 of dead, 1 of dead, logits of dead"


def test_max_batch__changes_nothing_but_rounding():
    networks = {name: testing.small_cnn(seed=seed) for seed, name in enumerate(["teacher", "student"])}
    images = testing.random_images(30)
    one, other = (ask(networks, images, max_batch=size, minibatch=15) for size in (64, 4))
    # features are float32: sums of another order
    np.testing.assert_allclose(one["cka"], other["cka"], atol=1e-5)
    assert one["stage_layer"].values.tolist() == [["relu2", "flatten", "relu3", ""]] * 2


# -- stages


class Block(nn.Module):
    """Of a residual network: its one activation is used twice."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, stride, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.relu = nn.ReLU()

    def forward(self, images):
        return self.relu(self.conv2(self.relu(self.conv1(images))))


class Residual(nn.Module):
    """Stem, four layers of some blocks, mean and head, as in a ResNet."""

    def __init__(self, blocks, width):
        super().__init__()
        self.conv1, self.relu = nn.Conv2d(3, width, 3, 2, 1), nn.ReLU()
        for layer in range(4):
            sides = [(width, width, 1 + (block == 0)) for block in range(blocks)]
            setattr(self, f"layer{layer + 1}", nn.Sequential(*(Block(*one) for one in sides)))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(width, 5)

    def forward(self, images):
        images = self.relu(self.conv1(images))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            images = layer(images)
        return self.fc(self.avgpool(images).flatten(1))


class Encoder(nn.Module):
    """Of tokens: blocks in a list, one after the other, then the first token's logits."""

    def __init__(self, depth):
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 1, 8, batch_first=True) for _ in range(depth)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, ids):
        tokens = self.embedding(ids)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0])


def stages(network, inputs):
    with frozen(network):
        return find_stages(network, inputs)


def test_stages__of_residual_networks_are_the_same_at_any_depth():
    images = torch.zeros(2, 3, 64, 64)
    expected = ["relu", "layer1", "layer2", "layer3", "layer4", "avgpool", ""]
    assert stages(Residual(1, 4), images) == stages(Residual(3, 6), images) == expected


def test_stages__of_transformers_are_blocks_and_of_perceptrons_each_layer():
    ids = torch.zeros(2, 4, dtype=torch.int64)
    assert stages(Encoder(6), ids) == [*(f"blocks.{number}" for number in range(6)), ""]
    perceptron = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    assert stages(perceptron, torch.zeros(2, 4)) == ["1", "3", ""]
    assert stages(nn.Linear(4, 3), torch.zeros(2, 4)) == [""]


class Crossed(nn.Module):
    """Declares its layers in another order than it uses them, and its activation is used twice."""

    def __init__(self):
        super().__init__()
        self.head, self.act = nn.Linear(8, 5), nn.ReLU()
        self.second, self.first = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, inputs):
        return self.head(self.act(self.second(self.act(self.first(inputs)))))


def test_stages__come_in_the_order_of_use_and_are_used_once():
    assert stages(Crossed(), torch.zeros(2, 4)) == ["first", "second", ""]


def test_deeper_network__loses_stages_between_evenly():
    assert thin(list("abcdefghijklm"), 7) == list("acegikm")
    assert thin(list("ab"), 2) == list("ab")


def test_networks_of_different_depth__are_compared_on_as_many_stages():
    images = testing.random_images(8, size=64)
    networks = {
        "teacher": Residual(2, 4),
        "student": nn.Sequential(nn.Flatten(), nn.Linear(3 * 64**2, 6), nn.ReLU(), nn.Linear(6, 5)),
    }
    ds = ask(networks, images)
    assert ds["cka"].shape == (2, 3, 3)
    assert ds["stage_layer"].sel(network="student").values.tolist() == ["0", "2", ""]
    assert ds["stage_layer"].sel(network="teacher").values.tolist() == ["relu", "layer3", ""]


def test_named_layers__are_read(pair, inputs):
    ds = ask(pair, inputs, layers={"teacher": ["1", ""], "student": [pair["student"][0], ""]})
    whole = ask(pair, inputs)
    assert ds["cka"].sel(network="student")[0, 0].item() == whole["cka"].sel(network="student")[0, 1].item()


def test_layer_given_as_module__is_found_where_networks_are_copied_to_a_device(pair, inputs, copied):
    ds = ask(pair, inputs, layers={name: [network[0], ""] for name, network in pair.items()})
    assert copied and not set(copied) & {id(network) for network in pair.values()}
    assert ds["stage_layer"].values.tolist() == [["0", ""]] * 2


def test_representation__says_what_it_cannot_do(pair, inputs):
    with pytest.raises(ValueError, match="representation needs 4 samples or more, got 3"):
        ask(pair, inputs[:3])
    with pytest.raises(ValueError, match="minibatch must be an integer of 4 or more, got 3"):
        ask(pair, inputs, minibatch=3)
    with pytest.raises(
        ValueError, match="layers must be given of each of teacher, student, got those of teacher"
    ):
        ask(pair, inputs, layers={"teacher": ["0"]})
    with pytest.raises(
        ValueError, match="as many of each network, one or more, got 1 of teacher, 2 of student"
    ):
        ask(pair, inputs, layers={"teacher": ["0"], "student": ["0", "1"]})
    with pytest.raises(LayerError, match="unknown layer 'o'"):
        ask(pair, inputs, layers={"teacher": ["o"], "student": ["0"]})
