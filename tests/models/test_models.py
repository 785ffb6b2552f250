import subprocess
import sys

import pytest
import torch
from torch import nn

from kdviz.models.image import PRESETS, build

torchvision_models = pytest.importorskip("torchvision.models", exc_type=ImportError)

# What the papers insert into a ResNet with 2048 features and 1000 classes: two 3x3 convolutions without bias,
# two batch normalisations, and two fully connected layers with bias.
RESNET_EXTRA = 2 * 2048 * 2048 * 9 + 2 * 2 * 2048 + 2 * (2048 * 2048 + 2048)
PARAMETERS = {  # torchvision's own counts at 1000 classes, from its documentation of the weights
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "resnet50": 25_557_032 + RESNET_EXTRA,
    "resnet101": 44_549_160 + RESNET_EXTRA,
    "resnet152": 60_192_808 + RESNET_EXTRA,
}
SMALL_VGG = 16 * 27 + 16 + 32 * 144 + 32 + 64 * 288 + 64 + 64 * 576 + 64  # convolutions
SMALL_VGG += 128 * 64 * 36 + 128 + 128 * 128 + 128 + 10 * 128 + 10  # fully connected, at 48 pixels


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_presets__name_the_papers_networks():
    assert sorted(PRESETS) == sorted([*PARAMETERS, "small_vgg", "small_vgg_deep"])


@pytest.mark.parametrize("name", PARAMETERS)
def test_build__has_the_known_number_of_parameters(name):
    network = build(name, classes=1000, input_size=224, device="meta")
    assert count_parameters(network) == PARAMETERS[name]


def test_build__small_vgg_has_the_parameters_of_its_description():
    assert count_parameters(build("small_vgg", classes=10, input_size=48)) == SMALL_VGG


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg16", "vgg19"])
def test_build__takes_the_state_of_torchvisions_network(name):
    with torch.device("meta"):
        theirs = getattr(torchvision_models, name)()
    ours = build(name, classes=1000, input_size=224, device="meta")
    shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in theirs.state_dict().items()}


def test_build__gives_the_logits_of_torchvisions_network():
    ours = build("alexnet", classes=5, input_size=64, seed=3).eval()
    theirs = torchvision_models.alexnet(num_classes=5).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(images), theirs(images))


@pytest.fixture(scope="module", params=sorted(PRESETS))
def thin(request):
    """Return a name, its thin network for 64 x 72 pixels, the output, the papers' layers in order of use."""
    network = build(request.param, classes=7, input_size=(64, 72), width=0.05).eval()
    order = []
    for key, layer in PRESETS[request.param].layers.items():
        network.get_submodule(layer).register_forward_hook(lambda *_, key=key: order.append(key))
    with torch.no_grad():
        return request.param, network, network(torch.zeros(2, 3, 64, 72)), order


def test_build__runs_at_another_size_width_and_class_count(thin):
    _, _, output, _ = thin
    assert output.shape == (2, 7)


def test_presets__name_layers_with_a_weight_in_order_of_use(thin):
    name, network, _, order = thin
    layers = PRESETS[name].layers
    assert order == ["conv", "fc1", "fc2", "fc3"]
    assert all(isinstance(network.get_submodule(layer).weight, nn.Parameter) for layer in layers.values())
    convolutions = [layer for layer, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert convolutions[-1] == layers["conv"]


def test_build__no_activation_works_in_place(thin):
    _, network, _, _ = thin
    activations = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    assert activations and not any(module.inplace for module in activations)


def test_build__width_scales_every_layer_but_image_and_classes():
    shapes = {
        key: tuple(tensor.shape)
        for key, tensor in build(
            "vgg11", classes=7, input_size=32, width=0.25, device="meta"
        ).named_parameters()
    }
    assert shapes["features.0.weight"] == (16, 3, 3, 3)
    assert shapes["features.3.weight"] == (32, 16, 3, 3)
    assert shapes["classifier.0.weight"] == (1024, 128 * 49)
    assert shapes["classifier.6.weight"] == (7, 1024)
    assert shapes["classifier.6.bias"] == (7,)


@pytest.mark.parametrize(
    ("name", "weight", "threshold"), [("vgg16", 7, 0.2), ("alexnet", 7, 0.25), ("resnet101", 6, 0.2)]
)
def test_presets__hold_the_papers_constants(name, weight, threshold):
    assert (PRESETS[name].weight, PRESETS[name].threshold) == (weight, threshold)


def test_presets__resnet_top_convolution_is_read_behind_its_normalisation():
    network = build("resnet50", classes=4, input_size=64, width=0.05)
    outputs = []
    network.get_submodule(PRESETS["resnet50"].layers["conv"]).register_forward_hook(
        lambda module, args, output: outputs.append(output)
    )
    with torch.no_grad():
        network(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    # in train mode batch normalisation brings each channel to mean 0, variance 1 (float32 rounding, and its
    # epsilon of 1e-5 on channels of small variance)
    assert outputs[0].mean((0, 2, 3)).abs().max() < 1e-5
    assert outputs[0].var((0, 2, 3), unbiased=False).median().item() == pytest.approx(1, abs=0.01)


def test_build__resnet_extra_layers_are_2048_wide():
    network = build("resnet50", classes=9, input_size=224, device="meta")
    assert tuple(network.top.conv1.weight.shape) == (2048, 2048, 3, 3)
    assert tuple(network.head.fc1.weight.shape) == (2048, 2048)
    assert tuple(network.head.fc3.weight.shape) == (9, 2048)


def test_build__initial_values_follow_the_papers():
    network = build("vgg11", classes=10, input_size=32, width=0.25)
    fc2 = network.classifier[3].weight  # a million draws: 0.1 % standard error of the deviation
    assert fc2.std().item() == pytest.approx(0.01, rel=0.005)
    conv = network.features[16].weight  # fan-out 128 * 9; 147,456 draws: 0.2 % standard error
    assert conv.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)
    assert all(not parameter.any() for name, parameter in network.named_parameters() if name.endswith("bias"))


def test_build__small_vgg_keeps_the_scale_of_the_signal():
    network = build("small_vgg", classes=10, input_size=48).eval()
    images = torch.randn(32, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    # Kaiming initialisation keeps the mean square up to a factor of 2 a layer; N(0, 0.01) loses 1e-4 in two
    assert 0.05 < network(images).square().mean().item() < 20


def test_build__same_seed_same_weights_and_other_seed_other_weights():
    first, again, other = (build("small_vgg", classes=3, input_size=16, seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.features.conv1.weight, other.features.conv1.weight)


def test_build__leaves_global_random_state_alone():
    before = torch.get_rng_state()
    build("resnet50", classes=3, input_size=32, width=0.05)
    assert torch.equal(torch.get_rng_state(), before)


def test_build__dropout_replaces_every_probability():
    def probabilities(name, **options):
        network = build(name, classes=3, input_size=64, device="meta", **options)
        return [module.p for module in network.modules() if isinstance(module, nn.Dropout)]

    assert probabilities("alexnet") == [0.5, 0.5]
    assert probabilities("resnet50") == [0, 0]
    assert probabilities("alexnet", dropout=0.1) == probabilities("resnet50", dropout=0.1) == [0.1, 0.1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vgg17"}, "name is .vgg17."),
        ({"classes": 0}, "classes must be an integer of 1 or more, got 0"),
        ({"width": 0.0}, "width must be a positive number"),
        ({"input_size": (48, 48, 3)}, "input_size must be one or two"),
        ({"input_size": 31}, "numbers of 32 or more, got 31"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_build__refuses_bad_input(options, message):
    arguments = {"name": "vgg11", "classes": 3, "input_size": 48, **options}
    with pytest.raises(ValueError, match=message):
        build(**arguments)


@pytest.mark.parametrize(
    ("name", "least"), [("alexnet", 63), ("vgg16", 32), ("small_vgg", 8), ("resnet50", 1)]
)
def test_build__knows_the_smallest_image(name, least):
    network = build(name, classes=3, input_size=least, device="meta").eval()
    assert network(torch.empty(1, 3, least, least, device="meta")).shape == (1, 3)
    with pytest.raises(ValueError, match=f"numbers of {least} or more, got {least - 1}"):
        build(name, classes=3, input_size=least - 1)
    if least > 1:
        with pytest.raises(RuntimeError, match="too small"):
            network(torch.empty(1, 3, least, least - 1, device="meta"))


USE_BOTH = """
import torchvision
network = kdviz.models.build("vgg11", classes=2, input_size=32, width=0.1)
assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
assert torchvision.models.alexnet is not None and torch.ops.torchvision.nms is not None
"""


def test_shim__kdviz_imported_before_torchvision():
    result = run_python("import torch\nimport kdviz.models" + USE_BOTH)
    assert result.returncode == 0, result.stderr


def test_shim__kdviz_imported_after_torchvision_even_if_that_failed():
    first = "import torch\ntry:\n    import torchvision\nexcept RuntimeError:\n    pass\n"
    result = run_python(first + "import kdviz.models" + USE_BOTH)
    assert result.returncode == 0, result.stderr


def test_shim__declares_nothing_where_torchvision_imports():
    code = """
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from kdviz.models import torchvision_shim
import kdviz.models
assert torchvision_shim._library is None
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_shim__passes_on_other_failures():
    code = """
import sys, importlib.abc
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            raise RuntimeError("the disk is on fire")
sys.meta_path.insert(0, Broken())
import kdviz.models
"""
    result = run_python(code)
    assert result.returncode == 1
    assert "the disk is on fire" in result.stderr


def test_build__works_without_torchvision_for_the_small_network():
    code = """
import sys
sys.modules["torchvision"] = None
from kdviz.errors import MissingExtraError
from kdviz.models import build
build("small_vgg", classes=2, input_size=16)
try:
    build("vgg11", classes=2, input_size=32)
except MissingExtraError as error:
    assert "kdviz[vision]" in str(error)
else:
    raise SystemExit("no error")
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
