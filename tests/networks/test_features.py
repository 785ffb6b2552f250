import pytest
import torch
from torch import nn
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
)

from kdviz.errors import LayerError
from kdviz.networks.features import (
    FeatureReader,
    answer,
    frozen,
    list_layers,
    read_layers,
    resolve_layers,
    unwrap,
)
from kdviz.testing import random_images, small_cnn


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(self.linear(x))


class Structured(nn.Module):
    """An inner module that returns a tuple of (values, count)."""

    class Inner(nn.Module):
        def forward(self, x):
            return 3 * x, x.shape[0]

    def __init__(self):
        super().__init__()
        self.inner = self.Inner()

    def forward(self, x):
        return self.inner(x)[0]


def hook_count(network):
    return sum(len(module._forward_hooks) for module in network.modules())


def test_list_layers__names_the_leaves():
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    assert list_layers(network) == ["0.0", "0.1", "1"]


def test_resolve_layers__takes_names_and_modules():
    network = small_cnn()
    assert resolve_layers(network, ["fc1", network.conv2]) == ["fc1", "conv2"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["cnv1"], r"unknown layer 'cnv1'; did you mean 'conv1'"),
        (["zzzz"], r"unknown layer 'zzzz'; allowed: conv1, relu1, conv2"),
        ([""], r"unknown layer ''"),
        (["_orig_mod"], r"unknown layer '_orig_mod'; allowed: conv1"),
        (["_orig_mod._orig_mod"], r"unknown layer '_orig_mod\._orig_mod'"),
        (["fc1", "fc1"], r"a layer is named twice: \['fc1', 'fc1'\]"),
        ([nn.Linear(1, 1)], r"the Linear passed as layer is not a part of this network"),
    ],
)
def test_resolve_layers__refuses(layers, message):
    with pytest.raises(LayerError, match=message):
        resolve_layers(small_cnn(), layers)


def test_resolve_layers__the_network_is_no_layer_of_itself():
    for network in (small_cnn(), torch.compile(small_cnn())):
        with pytest.raises(LayerError, match="is the network itself; choose a layer inside it"):
            resolve_layers(network, [network])


def test_resolve_layers__sees_one_module_under_its_name_and_as_object():
    network = small_cnn()
    with pytest.raises(LayerError, match="named twice"):
        resolve_layers(network, ["fc1", network.fc1])


@pytest.mark.parametrize("raises", [False, True])
def test_frozen__puts_back_every_mode_and_gradient_flag(raises):
    network = small_cnn()
    network.conv2.eval()
    network.fc1.weight.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    flags = [parameter.requires_grad for parameter in network.parameters()]
    assert len(set(modes)) == len(set(flags)) == 2
    try:
        with frozen(network):
            assert not any(module.training for module in network.modules())
            assert not any(parameter.requires_grad for parameter in network.parameters())
            if raises:
                raise KeyError("stop")
    except KeyError:
        assert raises
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == flags


def test_reader__reads_what_the_layers_give():
    network, images = small_cnn(), random_images(3)
    features = FeatureReader(network, ["conv1", "fc1"])(images)
    conv1 = network.conv1(images)
    fc1 = network.fc1(network.flatten(network.pool(network.relu2(network.conv2(conv1.relu())))))
    assert torch.equal(features["conv1"], conv1.relu().flatten(1))
    assert torch.equal(features["fc1"], fc1.relu())
    raw = FeatureReader(network, ["fc1"], "identity")(images)
    assert torch.equal(raw["fc1"], fc1)
    assert (raw["fc1"] < 0).any()


def test_reader__stops_the_pass_once_the_last_layer_has_spoken():
    network = small_cnn()
    seen = []
    network.relu2.register_forward_hook(lambda *_: seen.append("relu2"))
    network.fc2.register_forward_hook(lambda *_: seen.append("fc2"))
    FeatureReader(network, ["fc1", "conv1"])(random_images(1))
    assert seen == ["relu2"]


@pytest.mark.parametrize("feature", ["identity", lambda output: output], ids=["identity", "callable"])
def test_reader__in_place_activation_cannot_change_the_feature(feature):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    inputs = torch.randn(5, 4)
    expected = network[0](inputs)
    features = FeatureReader(network, ["0", "2"], feature)(inputs)
    assert (expected < 0).any()
    assert torch.equal(features["0"], expected)


def test_reader__looks_for_its_layers_once(monkeypatch):
    network, images = small_cnn(), random_images(1)
    expected = network.conv1(images).relu().flatten(1)
    reader = FeatureReader(network, ["conv1"])
    monkeypatch.setattr(network, "named_modules", lambda *_, **__: pytest.fail("walked through the network"))
    assert torch.equal(reader(images)["conv1"], expected)


def test_reader__makes_one_column_of_one_number_a_sample():
    network = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    inputs = torch.randn(5, 4)
    features = FeatureReader(network, ["1"], "identity")(inputs)
    assert torch.equal(features["1"], network(inputs)[:, None])


def test_reader__callable_picks_from_a_structure():
    inputs = torch.randn(2, 4)
    features = FeatureReader(Structured(), ["inner"], lambda output: output[0])(inputs)
    assert torch.equal(features["inner"], 3 * inputs)


class Gives(nn.Module):
    """Gives what a function makes of its inputs, by a layer named ``inner``."""

    def __init__(self, make):
        super().__init__()
        self.inner = nn.Identity()
        self.inner.forward = make

    def forward(self, inputs):
        return self.inner(inputs)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: (3 * x,), lambda x: 3 * x),
        (lambda x: (3 * x, None, 7, torch.arange(len(x))), lambda x: 3 * x),
        (lambda x: {"out": [x - 1]}, lambda x: x - 1),
        (lambda x: ImageClassifierOutput(logits=2 * x, hidden_states=(x, x)), lambda x: 2 * x),
        (lambda x: {"logits": 2 * x, "features": x}, lambda x: 2 * x),
        (lambda x: BaseModelOutput(last_hidden_state=x + 1), lambda x: x + 1),
        (lambda x: (x, x[:1]), lambda x: x),  # the other is one for all samples
    ],
    ids=["tuple", "cache", "dict", "logits", "logits-of-a-dict", "dataclass", "rows"],
)
def test_reader__takes_the_logits_or_the_one_tensor_of_a_structure(make, expected):
    inputs, network = torch.randn(2, 4, requires_grad=True), Gives(make)
    assert torch.equal(FeatureReader(network, ["inner"], "identity")(inputs)["inner"], expected(inputs))
    assert torch.equal(answer(network, inputs), expected(inputs))
    read = read_layers(network, inputs, ["inner", ""])
    assert torch.equal(read[""], read["inner"])
    (slope,) = torch.autograd.grad(read[""].sum(), read["inner"])
    assert slope.eq(1).all(), "the layer lies on the way to the output"


def test_reader__refuses_a_structure_of_several_and_the_advice_helps():
    network = Gives(lambda x: BaseModelOutputWithPooling(last_hidden_state=x - 1, pooler_output=x + 1))
    match = (
        r"'inner' returns a \w+ of 2 floating-point tensors \(\(2, 4\), \(2, 4\)\), not one; pass feature= a"
    )
    with pytest.raises(LayerError, match=match) as told:
        FeatureReader(network, ["inner"])(torch.randn(2, 4))
    advice = str(told.value).rpartition("feature=")[2]
    inputs = torch.randn(2, 4)
    read = FeatureReader(network, ["inner"], eval(advice))(inputs)
    assert torch.equal(read["inner"], (inputs - 1).relu())
    with pytest.raises(LayerError, match="the network returns a BaseModelOutputWithPooling of 2"):
        answer(network, inputs)


@pytest.mark.parametrize(
    ("feature", "expected"),
    [("first", [[0.0, -1.0]]), ("last", [[4.0, -5.0]]), ("mean", [[2.0, -3.0]])],
)
def test_reader__features_of_tokens(feature, expected):
    tokens = torch.tensor([[[0.0, -1.0], [2.0, -3.0], [4.0, -5.0]]])
    assert FeatureReader(nn.Sequential(nn.Identity()), ["0"], feature)(tokens)["0"].tolist() == expected
    with pytest.raises(
        LayerError, match=rf"feature='{feature}' is for layers that give tokens .* feature='identity'"
    ):
        FeatureReader(nn.Sequential(nn.Identity()), ["0"], feature)(tokens[0])


@pytest.mark.parametrize(
    ("feature", "came"), [(lambda out: out[1], "int"), (lambda out: out[0][:1], r"\(1, 4\)")]
)
def test_reader__refuses_a_callable_that_gives_no_feature(feature, came):
    with pytest.raises(LayerError, match=rf"first axis is the sample \(2 here\), got {came}"):
        FeatureReader(Structured(), ["inner"], feature)(torch.randn(2, 4))


def test_reader__refuses_an_unknown_feature():
    with pytest.raises(ValueError, match="feature is 'silu'; allowed: relu, identity, first, last, mean"):
        FeatureReader(small_cnn(), ["fc1"], "silu")


def test_check__gives_the_widths():
    widths = FeatureReader(small_cnn(width=6, features=12), ["conv1", "fc1"]).check(random_images(1))
    assert widths == {"conv1": 6 * 8 * 8, "fc1": 12}


def test_check__refuses_reused_and_unused_layers():
    network, inputs = Reused(), torch.randn(1, 4)
    with pytest.raises(LayerError, match="'linear' is used 2 times in one forward pass"):
        FeatureReader(network, ["linear"]).check(inputs)
    with pytest.raises(LayerError, match="'unused' takes no part in the forward pass"):
        FeatureReader(network, ["unused"]).check(inputs)
    assert hook_count(network) == 0


def test_reader__takes_its_hooks_off_even_when_the_network_raises():
    network = small_cnn()
    reader = FeatureReader(network, ["conv1", "fc1"])
    reader(random_images(1))
    assert hook_count(network) == 0
    with pytest.raises(RuntimeError):
        reader(random_images(1, channels=5))
    assert hook_count(network) == 0


def test_read_layers__keeps_the_graph_and_runs_nothing_above():
    network, images = small_cnn().train(), random_images(2)
    network.fc2.register_forward_hook(lambda *_: pytest.fail("ran on"))
    read = read_layers(network, images, ["fc1", "conv1"])
    assert list(read) == ["fc1", "conv1"]
    assert torch.equal(read["conv1"], network.conv1(images))  # neither flat nor cut by a ReLU
    (ours,) = torch.autograd.grad(read["fc1"].sum(), network.conv1.weight)
    hidden = network.pool(network.relu2(network.conv2(network.conv1(images).relu())))
    (expected,) = torch.autograd.grad(network.fc1(hidden.flatten(1)).sum(), network.conv1.weight)
    assert torch.equal(ours, expected)
    assert network.training
    assert hook_count(network) == 1


def test_read_layers__lies_on_the_way_to_the_output_and_is_not_overwritten():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    inputs = torch.randn(5, 4)
    expected = network[0](inputs)
    read, logits = read_layers(network, inputs, ["0", ""]).values()
    assert torch.equal(read, expected)
    assert torch.equal(logits, network(inputs))
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), read)
    torch.testing.assert_close(gradient, network[2].weight[1] * (expected > 0))


def test_read_layers__mapping_is_passed_by_name():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, values, scale):
            return self.inner(values * scale)

    network, values = Scaled(), torch.randn(2, 3)
    (read,) = read_layers(network, {"scale": torch.tensor([[2.0], [3.0]]), "values": values}, [""]).values()
    assert torch.equal(read, network.inner(values * torch.tensor([[2.0], [3.0]])))


@pytest.mark.parametrize(
    ("network", "layers", "message"),
    [
        (small_cnn(size=4), ["fc7"], "unknown layer 'fc7'"),
        (Gives(lambda x: (x, -x)), ["inner"], "'inner' returns a tuple of 2 floating-point tensors"),
        (Reused(), ["linear", ""], "'linear' is used 2 times"),
        (Reused(), ["unused"], "'unused' takes no part"),
    ],
)
def test_read_layers__refuses(network, layers, message):
    inputs = random_images(1, size=4) if isinstance(network, nn.Sequential) else torch.randn(1, 4)
    with pytest.raises(LayerError, match=message):
        read_layers(network, inputs, layers)
    assert hook_count(network) == 0


def test_unwrap__opens_compiled_modules_and_refuses_replicas():
    network = small_cnn()
    assert unwrap(torch.compile(network)) is network
    assert unwrap(network) is network
    with pytest.raises(LayerError, match=r"pass its \.module instead"):
        unwrap(nn.DataParallel(network))


def test_resolve_layers__small_network_is_listed_whole() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(LayerError, match="unknown layer 'dense'; allowed: 0, 1"):
        resolve_layers(network, ["dense"])


def test_frozen__compiled_code_rests() -> None:
    ran = []

    def backend(graph, inputs):
        return lambda *values: ran.append(1) or graph(*values)

    network, images = small_cnn().eval().requires_grad_(False), random_images(1)
    network.compile(backend=backend)
    reader = FeatureReader(network, ["conv2"])
    with frozen(network):
        assert reader.check(images) == {"conv2": 6 * 8 * 8}
    assert not ran  # a graph may have been made without the hooks of the reader
    reader.check(images)
    assert ran


def test_frozen__computes_in_full_precision_and_restores_the_choice() -> None:
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = True
    try:
        with pytest.raises(KeyError), frozen(nn.Linear(2, 2)):
            assert not convolutions.allow_tf32, "10 bits of a float32 would drown the noise"
            assert not products.allow_tf32
            raise KeyError
        assert convolutions.allow_tf32 and products.allow_tf32
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before
