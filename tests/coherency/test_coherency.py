"""Scale moves between layers without changing outputs, only where it may, and the audit sees what moves."""

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import colormaps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import kdviz
import kdviz.attribution
import kdviz.errors
import kdviz.models
from kdviz import coherency, render
from kdviz.coherency import Pair, audits, find_pairs, output_difference, prove_equal, rescale
from kdviz.entropy import gain_ratio, solve
from kdviz.testing import random_images, small_cnn


class Wrapped(nn.Module):
    """Layers by name and a forward pass written as a function of them and the input."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> object:
        return self._forward(self, x)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def conv(inputs: int = 3, outputs: int = 4, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def between(*layers: nn.Module) -> nn.Module:
    """Two convolutions with something between, for images of 8 x 8."""
    return nn.Sequential(
        OrderedDict(first=conv(), **{f"b{n}": x for n, x in enumerate(layers)}, second=conv(4))
    )


def before_linear(reduce: Callable[[Tensor], Tensor], features: int) -> nn.Module:
    """A convolution, a function, and a fully connected layer that reads its result."""
    return Wrapped(
        lambda net, x: net.second(reduce(net.first(x))), first=conv(), second=nn.Linear(features, 5)
    )


# -- which pairs

HOMOGENEOUS = {
    "nothing": between(),
    "relu": between(nn.ReLU()),
    "leaky": between(nn.LeakyReLU(0.2, inplace=True)),
    "prelu": between(nn.PReLU(4)),
    "pools": between(nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.AvgPool2d(2)),
    "adaptive": between(nn.AdaptiveAvgPool2d(4), nn.AdaptiveMaxPool2d(2)),
    "padding": between(nn.ZeroPad2d(2), nn.Identity(), nn.Dropout2d(0.5)),
    "functions": Wrapped(
        lambda net, x: net.second(F.avg_pool2d(F.max_pool2d(F.relu(net.first(x)), 2), 2)),
        first=conv(),
        second=conv(4),
    ),
    "dropout function": Wrapped(
        lambda net, x: net.second(F.dropout(torch.relu(net.first(x)), training=net.training)),
        first=conv(),
        second=conv(4),
    ),
    "flatten": nn.Sequential(
        OrderedDict(first=conv(), relu=nn.ReLU(), flat=nn.Flatten(), second=nn.Linear(256, 5))
    ),
    "view": before_linear(lambda x: x.relu().view(x.size(0), -1), 256),
    "reshape": before_linear(lambda x: F.adaptive_avg_pool2d(x, 2).reshape(x.shape[0], 16), 16),
    "mean": before_linear(lambda x: x.relu().mean((2, 3)), 4),
    "linear": nn.Sequential(
        OrderedDict(flat=nn.Flatten(), first=nn.Linear(192, 6), relu=nn.ReLU(), second=nn.Linear(6, 5))
    ),
    "tokens": Wrapped(
        lambda net, x: net.second(net.first(x.flatten(2)).relu()),
        first=nn.Linear(64, 6),
        second=nn.Linear(6, 5),
    ),
    "groups": nn.Sequential(OrderedDict(first=conv(), relu=nn.ReLU(), second=conv(4, 6, groups=2))),
    "depthwise": nn.Sequential(OrderedDict(first=conv(3, 6, groups=3), second=conv(6, 6, groups=6))),
    "no bias": nn.Sequential(OrderedDict(first=conv(bias=False), relu=nn.ReLU(), second=conv(4, bias=False))),
    "reflected": nn.Sequential(OrderedDict(first=conv(), second=conv(4, padding_mode="reflect"))),
}


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_find_pairs__takes_what_keeps_positive_factors(name: str) -> None:
    network, images = HOMOGENEOUS[name].train(), random_images(2)
    (pair,) = find_pairs(network, images).pairs
    assert (pair.first, pair.second) == ("first", "second")
    powers = 2.0 ** torch.randint(-4, 5, (pair.channels,))
    rescaled = rescale(network, pair, powers)
    assert not torch.equal(rescaled.first.weight, network.first.weight)
    assert prove_equal(network, rescaled, images) == 0, "powers of 2 make no rounding error"
    assert output_difference(network, rescaled, images) == 0
    assert 0 < prove_equal(network, rescale(network, pair, 3.0), images) < 1e-6
    assert network.training and rescaled.training


REFUSED = {
    "gelu": (between(nn.GELU()), r"b0 \(GELU\) is not known to be positively homogeneous"),
    "sigmoid": (between(nn.Sigmoid()), r"Sigmoid.* is not known"),
    "relu6": (between(nn.ReLU6()), r"ReLU6.* is not known"),
    "softmax": (between(nn.Softmax(1)), r"Softmax.* is not known"),
    "shift": (between(nn.ConstantPad2d(1, 2.0)), r"ConstantPad2d.* is not known"),
    "norm": (between(nn.BatchNorm2d(4)), r"BatchNorm2d.* scale of its own; fold it first"),
    "functional norm": (between(nn.LocalResponseNorm(2)), "is not known"),
    "two dimensions": (between(nn.Flatten(2), nn.Unflatten(2, (8, 8))), r"Flatten.* is not known"),
    "padded channels": (
        Wrapped(lambda n, x: n.second(F.pad(n.first(x), (0, 0, 0, 0, 0, 1))), first=conv(), second=conv(5)),
        "pad is not known",
    ),
    "mean of channels": (before_linear(lambda x: x.mean((1, 2)), 8), "mean is not known"),
    "mean of all": (before_linear(lambda x: x + x.mean(), 8), "its output branches, to add, mean"),
    "permuted": (before_linear(lambda x: x.permute(0, 2, 3, 1), 4), "permute is not known"),
    "last axis": (before_linear(lambda x: x, 8), "reads another axis"),
    "mixed": (before_linear(lambda x: x.reshape(-1, 64), 64), "reshape is not known"),
    "residual": (
        Wrapped(lambda n, x: n.second(n.first(x) + x), first=conv(3, 3), second=conv(3)),
        "add joins it with another branch",
    ),
    "branch": (
        Wrapped(lambda n, x: n.second(n.first(x)) + n.first.weight.sum(), first=conv(), second=conv(4)),
        "the weight of first .* is shared with a function",
    ),
    "read twice": (
        Wrapped(lambda n, x: n.second((y := n.first(x)).relu()) + y, first=conv(), second=conv(4)),
        r"its output branches, to add, relu: no single layer reads it",
    ),
    "overwritten": (
        Wrapped(
            lambda n, x: (y := n.first(x), F.relu(y, inplace=True), n.second(y))[2],
            first=conv(),
            second=conv(4),
        ),
        "its output branches",
    ),
    "parametrized": (
        nn.Sequential(OrderedDict(first=nn.utils.parametrizations.weight_norm(conv()), second=conv(4))),
        "that is not called as a plain layer",
    ),
    "computed": (
        nn.Sequential(OrderedDict(first=nn.utils.spectral_norm(conv()), second=conv(4))),
        "weight of first .* is computed from other parameters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_find_pairs__refuses_with_a_reason(name: str) -> None:
    network, reason = REFUSED[name]
    survey = find_pairs(network, random_images(2))
    assert not [pair for pair in survey.pairs if pair.first == "first"]
    assert re.search(reason, survey.refusals["first"]), survey.refusals


def test_find_pairs__refuses_layers_used_twice_and_weights_in_two_places() -> None:
    twice = Wrapped(lambda n, x: n.last(n.again(n.again(x).relu())), again=conv(3, 3), last=conv(3))
    survey = find_pairs(twice, random_images(2))
    assert survey.pairs == () and survey.refusals["again"].startswith("again (Conv2d) is used 2 times")
    shared = nn.Sequential(OrderedDict(a=conv(3, 3), b=conv(3, 3), c=conv(3, 3), d=conv(3, 3)))
    shared.d.weight = nn.Parameter(shared.b.weight.data)  # another parameter, the same memory
    refusals = find_pairs(shared, random_images(2)).refusals
    assert refusals["a"] == refusals["b"] == "the weight of b (Conv2d) is shared with d"
    assert refusals["c"] == "the weight of d (Conv2d) is shared with b"


def test_find_pairs__knows_channels_and_what_lies_between() -> None:
    network = small_cnn(size=8, width=6)
    state = copy.deepcopy(network.state_dict())
    survey = find_pairs(network, random_images(2))
    assert survey.pairs == (
        Pair("conv1", "conv2", 6, 1, ("relu1",)),
        Pair("conv2", "fc1", 6, 16, ("relu2", "pool", "flatten")),
        Pair("fc1", "fc2", 12, 1, ("relu3",)),
    )
    assert survey.refusals == {} and survey.order[:3] == ("conv1", "relu1", "conv2")
    assert coherency.list_disjoint(survey.pairs) == [survey.pairs[0], survey.pairs[2]]
    assert survey.tabulate()["next"].tolist() == ["conv2", "fc1", "fc2"]
    assert network.training and all(
        torch.equal(state[key], value) for key, value in network.state_dict().items()
    )


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Wrapped(lambda n, x: n.a(x) if x.sum() > 0 else x, a=conv()), "torch.fx cannot trace this Wrapped"),
        (Wrapped(lambda n, x: {"out": n.a(x)}, a=conv()), "gives a dict; wrap it in a module"),
        (
            Wrapped(lambda n, x: F.dropout(n.a(x)), a=conv()),
            "gives other outputs than by itself: it is random",
        ),
    ],
)
def test_find_pairs__says_what_cannot_be_traced(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_pairs(network, random_images(2))


def test_find_pairs__in_a_resnet_stays_inside_the_blocks() -> None:
    from torchvision.models import resnet18  # importable once kdviz.models is

    network, images = resnet18(weights=None).eval(), random_images(2, size=32)
    assert find_pairs(network, images).pairs == ()
    folded = coherency.fold_batch_norm(network, images)
    survey = find_pairs(folded, images)
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [str(pair) for pair in survey.pairs] == [f"{name}.conv1 -> {name}.conv2" for name in blocks]
    assert set(survey.refusals) == {"conv1", *(f"{name}.conv2" for name in blocks)} | {
        f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)
    }
    assert 0 < prove_equal(folded, rescale(folded, survey.pairs[3], 3.0), images) < 1e-6


# -- rescaling


def test_rescale__by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 1))
    network.load_state_dict(
        {
            "0.weight": torch.tensor([3.0, 5.0]).view(2, 1, 1, 1),
            "0.bias": torch.tensor([6.0, 10.0]),
            "3.weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
            "3.bias": torch.tensor([7.0]),
        }
    )
    (pair,) = find_pairs(network, torch.ones(1, 1, 1, 2)).pairs
    rescaled = rescale(network, pair, [2.0, 4.0]).state_dict()
    assert rescaled["0.weight"].flatten().tolist() == [1.5, 1.25]
    assert rescaled["0.bias"].tolist() == [3, 2.5]
    assert rescaled["3.weight"].tolist() == [[2, 4, 12, 16]], "the first two inputs are the first channel's"
    assert rescaled["3.bias"].tolist() == [7], "what is added to the old scale keeps it"
    assert network[0].bias.tolist() == [6, 10], "a copy is changed"


@pytest.mark.parametrize(
    "factor", [-1.0, 0.0, math.nan, math.inf, [1.0] * 5 + [-1.0], torch.ones(2), [[1.0] * 6]]
)
def test_rescale__refuses_factors_that_relu_does_not_pass(factor: object) -> None:
    network = small_cnn()
    (pair, *_) = find_pairs(network, random_images(1)).pairs
    message = "factor must be (positive and finite|one number or 6, one for each channel of 'conv1')"
    with pytest.raises(ValueError, match=message):
        rescale(network, pair, factor)


def test_rescale__refuses_a_pair_of_another_network() -> None:
    (pair, *_) = find_pairs(small_cnn(width=6), random_images(1)).pairs
    with pytest.raises(ValueError, match="conv1 -> conv2 with 6 channels is a pair of another network"):
        rescale(small_cnn(width=5), pair, 2.0)
    with pytest.raises(ValueError, match="is a pair of another network"):
        rescale(nn.Sequential(nn.Linear(2, 2)), pair, 2.0)


def scale_second_bias(network: nn.Module, pair: Pair, factor: Tensor | float) -> None:
    """The reading of the paper that changes the outputs."""
    with torch.no_grad():
        network.get_submodule(pair.second).bias.mul_(torch.as_tensor(factor).flatten()[0])


def test_prove_equal__catches_a_second_bias_that_was_scaled_too() -> None:
    network, images = small_cnn(), random_images(4)
    for pair in find_pairs(network, images).pairs:
        wrong = rescale(network, pair, 4.0)
        assert prove_equal(network, wrong, images) == 0
        scale_second_bias(wrong, pair, 4.0)
        with pytest.raises(ValueError, match="not the same function: their outputs differ by"):
            prove_equal(network, wrong, images)


def test_prove_equal__does_not_accept_what_is_no_number() -> None:
    network = small_cnn()
    broken = copy.deepcopy(network)
    nn.init.constant_(broken.fc2.bias, math.nan)
    with pytest.raises(ValueError, match="differ by nan"):
        prove_equal(network, broken, random_images(1))


def test_output_difference__is_a_share_of_the_largest_output() -> None:
    first, second = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
    first.load_state_dict({"weight": torch.tensor([[-8.0], [2.0]])})
    second.load_state_dict({"weight": torch.tensor([[-8.0], [3.0]])})
    assert output_difference(first, second, torch.ones(1, 1)) == 1 / 8


def test_fold_batch_norm__by_hand_and_only_where_a_layer_alone_feeds_it() -> None:
    network = nn.Sequential(
        OrderedDict(
            conv=conv(bias=False), norm=nn.BatchNorm2d(4), relu=nn.ReLU(), after=nn.BatchNorm2d(4),
            flat=nn.Flatten(), fc=nn.Linear(256, 5), norm1=nn.BatchNorm1d(5),
        )
    )  # fmt: skip
    images = random_images(8)
    for _ in range(3):
        network(images)  # moves the running statistics
    nn.init.uniform_(network.norm.weight, 0.5, 2)
    folded = coherency.fold_batch_norm(network, images)
    kinds = [type(module).__name__ for module in folded]
    assert kinds == ["Conv2d", "Identity", "ReLU", "BatchNorm2d", "Flatten", "Linear", "Identity"]
    by = network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()
    torch.testing.assert_close(folded.conv.weight, network.conv.weight * by[:, None, None, None])
    torch.testing.assert_close(folded.conv.bias, network.norm.bias - network.norm.running_mean * by)
    network.eval()
    torch.testing.assert_close(folded(images), network(images))
    assert type(network.norm) is nn.BatchNorm2d, "the network itself is left"


def test_fold_batch_norm__leaves_a_norm_whose_layer_is_read_elsewhere() -> None:
    network = Wrapped(lambda n, x: n.norm(y := n.conv(x)) + y, conv=conv(), norm=nn.BatchNorm2d(4))
    network(random_images(8))
    assert type(coherency.fold_batch_norm(network, random_images(2)).norm) is nn.BatchNorm2d


# -- comparing maps


def test_compare_maps__by_hand() -> None:
    before = np.array([[[1.0, 2.0], [2.0, 4.0]], [[0.0, 3.0], [4.0, 0.0]]])
    same = coherency.compare_maps(before, before)
    assert same.pop("moved") is False
    assert same == pytest.approx({"ratio": 1, "cosine": 1, "rank_correlation": 1, "difference": 0})
    quarter = coherency.compare_maps(before, before / 4)
    assert (quarter["ratio"], quarter["cosine"], quarter["difference"]) == (0.25, pytest.approx(1), 3)
    other = coherency.compare_maps(before, np.stack([before[0], [[0, 4], [3, 0]]]))
    assert (other["ratio"], other["cosine"]) == (1, pytest.approx(24 / 25)), "that of the sample that moved"
    # ranks 1.5, 3, 4, 1.5 and 1.5, 4, 3, 1.5: covariance 3.5, variance 4.5
    assert (other["rank_correlation"], other["difference"]) == (pytest.approx(3.5 / 4.5), 1)
    assert coherency.compare_maps(before, before + 2e-4)["moved"] is False, "of a largest value of 4"
    assert coherency.compare_maps(before, before + 2e-4, absolute=True)["moved"] is True
    dead = coherency.compare_maps(np.zeros((1, 3)), np.zeros((1, 3)))
    assert math.isnan(dead["cosine"]) and math.isnan(dead["ratio"]) and not dead["moved"]
    assert coherency.compare_maps(np.zeros((1, 3)), np.ones((1, 3)))["moved"]
    lost = before.copy()
    lost[1, 0, 0] = np.nan
    assert coherency.compare_maps(before, lost)["moved"] and coherency.compare_maps(lost, before)["moved"]


# -- the audit


@pytest.fixture(scope="module")
def audited() -> pd.DataFrame:
    """The pairs of a small network in its own precision, all methods; read only."""
    network, images = small_cnn(size=8), random_images(2)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, :4] = True
    classes = torch.tensor([0, 3])
    survey = find_pairs(network, images)
    options = {"units": kdviz.units.grid(4), "foreground": masks, "progress": False, "threshold": 0.05}
    groups = [survey.pairs[1], [survey.pairs[0], survey.pairs[2]]]
    return coherency.audit(
        network, images, classes, pairs=groups, double=False, probes=16, draws=2, seed=3, **options
    )


def at(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table), where
    return table


def test_audit__names_every_map_and_its_place(audited: pd.DataFrame) -> None:
    middle = at(audited, pair="conv2 -> fc1", factor="x4")
    assert dict(middle[["layer", "place"]].drop_duplicates().to_numpy()) == {
        "input": "input", "conv1": "before", "conv2": "between", "fc1": "after", "fc2": "after",
    }  # fmt: skip
    maps = {"layer_gradient", "activation", "grad_cam", "guided_grad_cam", "entropy"}
    assert set(at(middle, layer="conv1")["method"]) == maps
    assert set(at(middle, layer="fc1")["method"]) == {"layer_gradient", "activation", "entropy"}
    assert set(at(middle, layer="input")["method"]) == {"input_gradient", "integrated_gradients", "occlusion"}
    both = at(audited, pair="2 pairs from conv1", factor="x4", method="entropy")
    assert dict(both[["layer", "place"]].to_numpy()) == {
        "conv1": "between", "conv2": "after", "fc1": "between", "fc2": "after",
    }  # fmt: skip
    assert (audited["output_difference"] < 1e-6).all()


def test_audit__uniform_powers_of_2_move_raw_maps_between_the_pair_and_nothing_else(
    audited: pd.DataFrame,
) -> None:
    uniform = at(audited, factor="x4")
    assert (uniform["output_difference"] == 0).all()
    raw = uniform["method"].isin(["activation", "layer_gradient"]) & (uniform["place"] == "between")
    assert (uniform.loc[~raw, "difference"] == 0).all(), "to the bit, the entropy too"
    assert not uniform.loc[~raw, "moved"].any() and uniform.loc[raw, "moved"].all()
    assert np.allclose(at(uniform[raw], method="activation")["ratio"], 0.25)
    assert np.allclose(at(uniform[raw], method="layer_gradient")["ratio"], 4)
    assert np.allclose(uniform[["cosine", "rank_correlation"]], 1)
    of_entropy = at(uniform, method="entropy")
    assert (of_entropy["jaccard"] == 1).all() and (of_entropy[["n_fg", "n_bg"]] == 0).all(axis=None)


def test_audit__per_channel_factors_move_the_entropy_between_the_pair_only(audited: pd.DataFrame) -> None:
    per_channel = at(audited, factor="per channel")
    inside, outside = (per_channel[(per_channel["place"] == "between") == side] for side in (True, False))
    assert (at(inside, method="entropy")["difference"] > 0.05).all()
    assert (at(inside, method="entropy")[["jaccard"]] < 1).any(axis=None)
    assert (at(outside, method="entropy")["difference"] < 1e-4).all()
    for method in ("activation", "layer_gradient"):
        assert (at(inside, method=method)["cosine"] < 0.995).all()
        assert (at(outside, method=method)["cosine"] > 1 - 1e-6).all()
    for method in ("input_gradient", "integrated_gradients", "occlusion", "grad_cam", "guided_grad_cam"):
        assert not at(per_channel, method=method)["moved"].any()


def test_audit__takes_batches_of_images_and_classes_as_measuring_does() -> None:
    images, classes = random_images(3), torch.arange(3)
    loader = DataLoader(TensorDataset(images, classes), batch_size=2)
    options = {"units": kdviz.units.grid(4), "methods": ["input_gradient"], "progress": False}
    tables = [coherency.audit(small_cnn(), given, classes, **options) for given in (loader, images)]
    pd.testing.assert_frame_equal(*tables)


def test_audit__entropy_between_a_linear_pair_moves_as_the_closed_form_says() -> None:
    problem = kdviz.testing.linear_problem(samples=1, features=6, cells=4)
    first, head = problem.network.linear, nn.Linear(6, 3)
    index = problem.units.index((3, 8, 8)).ravel().copy()
    nn.init.constant_(first.bias, 100.0)  # far from the kink, so that the ReLU passes everything
    with torch.no_grad():
        first.weight.mul_(torch.randn(6, 16)[:, index].exp())  # channels that look at other units
    network = nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=first, relu=nn.ReLU(), head=head))
    options = {"units": problem.units, "methods": ["entropy"], "layers": ["linear"], "progress": False}
    table = coherency.audit(network, problem.inputs, torch.tensor([0]), seed=5, **options)
    (pair,) = find_pairs(network, problem.inputs).pairs
    factors = audits._draw_factors(pair, 1.0, 5).numpy()
    entropies = []
    for down in (np.ones(6), factors):
        squares = ((first.weight.detach().double().numpy() / down[:, None]) ** 2).sum(0) / 6
        gain = np.bincount(index, squares, minlength=16)[None]
        variance = gain.sum(1) * 0.01**2
        ratio = gain_ratio(gain, variance, True, 0.01)
        entropies.append(np.log(solve(ratio, weight=7.0, calibration=0.386).noise_ratio))
    expected = np.abs(entropies[1] - entropies[0]).max()
    assert expected > 0.1
    found = dict(zip(table["factor"], table["difference"], strict=True))
    assert found["per channel"] == pytest.approx(expected, rel=1e-3)
    assert found["x4"] == 0


def test_audit__class_activation_maps_carry_the_scale_of_the_head() -> None:
    network = nn.Sequential(
        OrderedDict(
            conv=conv(), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(4, 3)
        )
    )
    table = coherency.audit(
        network, random_images(2), torch.tensor([0, 2]), units=kdviz.units.grid(4), layers=["relu"],
        methods=["cam", "activation"], progress=False,
    )  # fmt: skip
    assert set(table["place"]) == {"between"}
    assert not at(table, method="cam")["moved"].any(), "the head's weights undo the factor"
    assert at(table, method="activation")["moved"].all()


def test_audit__stops_where_outputs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def rescale_too_much(network: nn.Module, pair: Pair, factors: Tensor) -> nn.Module:
        rescaled = rescale(network, pair, factors)
        scale_second_bias(rescaled, pair, factors)
        return rescaled

    monkeypatch.setattr(audits, "rescale", rescale_too_much)
    with pytest.raises(ValueError, match="not the same function"):
        coherency.audit(
            small_cnn(), random_images(2), torch.tensor([0, 1]), units=kdviz.units.grid(4),
            methods=["activation"], progress=False,
        )  # fmt: skip


def test_audit__folds_batch_norm_and_leaves_the_network() -> None:
    network = between(nn.BatchNorm2d(4), nn.ReLU())
    network = nn.Sequential(
        OrderedDict(**dict(network.named_children()), flat=nn.Flatten(), fc=nn.Linear(256, 3))
    )
    network(random_images(8))
    state = copy.deepcopy(network.state_dict())
    table = coherency.audit(
        network, random_images(2), torch.tensor([0, 1]), units=kdviz.units.grid(4),
        methods=["activation"], spread=0, progress=False,
    )  # fmt: skip
    assert table["pair"].unique().tolist() == ["first -> second", "second -> fc"]
    assert network.training and all(
        torch.equal(state[key], value) for key, value in network.state_dict().items()
    )
    assert "fold it first" in find_pairs(network, random_images(2)).refusals["first"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pairs": []}, "pairs has nothing in it; this network has conv1 -> conv2, conv2 -> fc1"),
        ({"pairs": [Pair("conv1", "fc1", 6)]}, "pairs has conv1 -> fc1; this network has"),
        ({"pairs": "overlapping"}, "rescaled at once that share a layer"),
        ({"layers": ["conv7"]}, "layers has 'conv7', which the forward pass does not call exactly once"),
        ({"methods": ["saliency"]}, "methods is 'saliency'; allowed: input_gradient, "),
        ({"methods": ["cam"]}, r"methods has cam, of which this network has no map at \["),
        ({"factors": [-2.0]}, "factor must be positive and finite"),
    ],
)
def test_audit__refuses_before_any_work(changed: dict[str, object], message: str) -> None:
    network, images = small_cnn(), random_images(2)
    if changed.get("pairs") == "overlapping":
        changed = {"pairs": [list(find_pairs(network, images).pairs)]}
    with pytest.raises(ValueError, match=message):
        coherency.audit(network, images, torch.tensor([0, 1]), units=kdviz.units.grid(4), **changed)


def test_audit__places_blocks_by_what_they_call_last() -> None:
    """Inside a block scale moves, after it nothing does; a container is the last module in it."""
    block = Wrapped(
        lambda net, x: net.relu2(x + net.conv2(net.relu1(net.conv1(x)))),
        conv1=conv(4, 4), relu1=nn.ReLU(), conv2=conv(4, 4), relu2=nn.ReLU(),
    )  # fmt: skip
    stem = nn.Sequential(conv(3, 4), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU())
    parts = OrderedDict(stem=stem, block=block, head=head, out=nn.Linear(8, 3))
    network, images = nn.Sequential(parts).eval(), random_images(2, size=8)
    table = coherency.audit(
        network, images, torch.tensor([0, 1]), units=kdviz.units.grid(4), layers=["stem", "block", "head"],
        methods=["activation", "entropy"], factors=[4.0], spread=1.0, probes=8, draws=2, progress=False,
    )  # fmt: skip
    places = table[["pair", "layer", "place"]].drop_duplicates().to_numpy().tolist()
    assert places == [
        ["block.conv1 -> block.conv2", "stem", "before"],
        ["block.conv1 -> block.conv2", "block", "after"],
        ["block.conv1 -> block.conv2", "head", "after"],
        ["head.1 -> out", "stem", "before"],
        ["head.1 -> out", "block", "before"],
        ["head.1 -> out", "head", "between"],
    ]
    assert (table["moved"] == (table["place"] == "between") & ~_is_uniform_entropy(table)).all()


def _is_uniform_entropy(table: pd.DataFrame) -> pd.Series:
    return (table["method"] == "entropy") & (table["factor"] == "x4")


def test_audit__says_why_a_network_has_no_pair() -> None:
    network = nn.Sequential(OrderedDict(**dict(between(nn.GELU()).named_children()), flat=nn.Flatten()))
    with pytest.raises(ValueError, match=r"no pair that can be rescaled \(first: b0 \(GELU\) is not known"):
        coherency.audit(network, random_images(1), torch.tensor([0]), units=kdviz.units.grid(4))


def test_audit__of_a_network_that_insists_on_float32_says_so() -> None:
    network = Wrapped(lambda net, x: net.conv2(net.conv1(x.float()).relu()).amax((2, 3)),
                      conv1=conv(3, 4), conv2=conv(4, 2)).eval()  # fmt: skip
    images = random_images(2, size=8)
    (pair,) = coherency.find_pairs(network, images).pairs
    message = r"this Wrapped does not compute in float64, so that no output is proved to stay \(Input t"
    with pytest.raises(ValueError, match=message):
        coherency.audit(network, images, torch.tensor([0, 1]), units=kdviz.units.grid(4), progress=False)
    with pytest.raises(ValueError, match=message):
        coherency.prove_equal(network, coherency.rescale(network, pair, 4.0), images)


def test_draw_maps__of_a_fully_connected_layer_are_its_feature_and_gradient() -> None:
    network, images, classes = small_cnn().eval(), random_images(2), torch.tensor([1, 3])
    maps = coherency.draw_maps(
        network,
        images,
        classes,
        layers=["fc1", "conv2"],
        methods=["activation", "layer_gradient", "grad_cam"],
    )
    hidden = network[:7](images)
    gradient = network.fc2.weight[classes] * (hidden > 0)
    np.testing.assert_allclose(maps["fc1", "activation"], hidden.detach(), rtol=1e-6)
    np.testing.assert_allclose(maps["fc1", "layer_gradient"], gradient.detach(), rtol=1e-6)
    expected = kdviz.attribution.draw_map(network, images, classes, method="grad_cam", layer="conv2")
    np.testing.assert_array_equal(maps["conv2", "grad_cam"], expected)
    assert len(maps) == 5 and not any(module._forward_hooks for module in network.modules())
    with pytest.raises(ValueError, match="method is 'entropy'; allowed: input_gradient"):
        coherency.draw_maps(network, images, classes, layers=["fc1"], methods=["entropy"])
    with pytest.raises(kdviz.errors.LayerError, match="unknown layer 'fc3'"):
        coherency.draw_maps(network, images, classes, layers=["fc3"], methods=["activation"])


@pytest.mark.slow
def test_audit__small_vgg_meets_the_goal_with_factors_that_round() -> None:
    network = kdviz.models.build("small_vgg", classes=10, input_size=16, seed=1).eval()
    images = random_images(1, size=16)
    pairs = find_pairs(network, images).pairs
    table = coherency.audit(
        network, images, torch.tensor([4]), units=kdviz.units.grid(4), pairs=[pairs[0::2], pairs[1::2]],
        factors=[3.0], methods=["entropy"], probes=8, draws=2, progress=False,
    )  # fmt: skip
    assert len(table) == 2 * 2 * 7
    inside = (table["place"] == "between") & (table["factor"] == "per channel")
    assert (table.loc[~inside, "difference"] <= 1e-4).all()
    assert (table.loc[inside, "difference"] > 1e-2).all()


# -- the figures


def test_coherency_chart__counts_what_moved_where() -> None:
    index = pd.MultiIndex.from_tuples(
        [("entropy", "x4", "between"), ("entropy", "x4", "after"), ("entropy", "per channel", "between"),
         ("input_gradient", "x4", "input")],
        names=["method", "factor", "place"],
    )  # fmt: skip
    table = pd.DataFrame({"moved": [0, 0, 2, 0], "compared": [4, 3, 5, 6]}, index=index)
    figure = render.coherency_chart(table, title="what moved")
    uniform, own = figure.axes
    assert [one.get_title() for one in figure.axes] == ["a layer by 4", "each channel by its own factor"]
    assert [label.get_text() for label in uniform.get_yticklabels()] == ["entropy", "input gradient"]
    columns = [label.get_text().replace("\n", " ") for label in uniform.get_xticklabels()]
    assert columns == ["the input", "between them", "after them"]
    told = {(*text.get_position(), text.get_text()) for text in uniform.texts}
    assert told == {(1, 0, "0 of 4"), (2, 0, "0 of 3"), (0, 1, "0 of 6")}
    assert [(*text.get_position(), text.get_text()) for text in own.texts] == [(1, 0, "2 of 5")]
    assert own.images[0].get_array()[0, 1] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="table has no row"):
        render.coherency_chart(table[:0], title="")


def test_coherency_figure__has_common_limits_and_says_how_far_maps_moved() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    signed = np.array([[-2.0, 1.0], [0.0, 0.0]])
    maps = {"grad_cam": [signed, signed * 4], "entropy": [-np.ones((2, 2)), np.array([[-1, -1], [-1, -1.5]])]}
    figure = render.coherency_figure(picture, maps, networks=["before", "after"])
    rows = np.array(figure.axes[:6]).reshape(2, 3)
    assert [axis.get_title() for axis in rows[0]] == ["image", "grad cam", "entropy"]
    assert [axis.get_ylabel() for axis in rows[:, 0]] == ["before", "after"]
    assert [axis.get_xlabel() for axis in rows[1]] == ["", "x 4.00, cos 1.00", "up to 0.50 nat"]
    drawn = rows[1, 1].images[0].get_array()
    assert drawn.shape == (48, 48, 3), "cells of 24 pixels"
    scale = (signed * 4 + 8) / 16  # colours of both lines, around 0
    np.testing.assert_array_equal(drawn[::24, ::24], np.rint(255 * colormaps["RdBu_r"](scale)[..., :3]))
    bars = [axis.get_xlim() for axis in figure.axes[7:]]
    assert bars == [(-8, 8), (-1, -1.5)], "entropies run towards what is kept"
    assert "a map of zeros" in {
        axis.get_xlabel()
        for axis in render.coherency_figure(picture, {"cam": [signed * 0] * 2}, networks="ab").axes
    }
    with pytest.raises(
        ValueError, match=r"maps\['cam'\] must be 2 maps \(h, w\), one for each of networks; got 1"
    ):
        render.coherency_figure(picture, {"cam": [signed]}, networks=["before", "after"])
