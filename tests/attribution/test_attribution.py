"""Attribution maps against captum called directly, slow replicas and numbers worked out by hand."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable

import captum.attr
import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

import kdviz
import kdviz.models  # before torchvision: makes it importable beside a CPU build of torch
from kdviz import analysis, attribution, testing, units
from kdviz.attribution import METHODS, draw_map, find_map_layer, randomisation
from kdviz.attribution.maps import check_layer, list_methods
from kdviz.attribution.unit_maps import reduce_map
from kdviz.errors import LayerError

torchvision = pytest.importorskip("torchvision")

ROUNDING = 1e-4  # relative: float32 sums in another order


@pytest.fixture(scope="module")
def images() -> Tensor:
    return testing.random_images(2, size=64, seed=3)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """In-place activations, each used several times, a linear head after average pooling."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.resnet18(num_classes=4)


@pytest.fixture(scope="module")
def plain(resnet: nn.Module) -> nn.Module:
    """The same network in eval mode, nothing in place, for captum called directly."""
    network = copy.deepcopy(resnet).eval()
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return network


TARGETS = torch.tensor([1, 3])


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=0, atol=float(theirs.abs().max()) * ROUNDING)


def test_captum__is_asked_for_by_the_maps_it_draws_before_any_work_and_by_nothing_else() -> None:
    code = (
        "import sys; sys.modules['captum'] = None\n"
        "import kdviz\n"
        "from kdviz import testing, transfer, unicam, units\n"
        "pair = {name: testing.small_cnn(seed=seed) for seed, name in enumerate('ab')}\n"
        "asked, quiet = (testing.random_images(16), [0, 1, 2, 3] * 4), {'progress': False}\n"
        "kdviz.attribute(pair['a'], asked[0], units=units.grid(4), methods=['grad_cam'], **quiet)\n"
        "transfer.localization(pair, *asked, teacher='a', **quiet)\n"
        "unicam.explain(*pair.values(), *asked, layers=['relu2'], units=units.grid(4), **quiet)\n"
        "unicam.score(pair, *asked, student='a', base='b', layers=['relu2'], perturb=0.5, **quiet)\n"
        "print('done')\n"
        "kdviz.attribute(None, None, units=None, methods=['grad_cam', 'occlusion'])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.stdout == "done\n"
    expected = "kdviz.errors.MissingExtraError: occlusion: captum draws these, install kdviz[attribution]"
    assert told.stderr.splitlines()[-1] == expected


# -- draw_map: each method against an independent account of it


def take_saliency(network: nn.Module, inputs: Tensor) -> Tensor:
    return captum.attr.Saliency(network).attribute(inputs, TARGETS, abs=False).norm(dim=1)


def take_activation(network: nn.Module, inputs: Tensor) -> Tensor:
    return captum.attr.LayerActivation(network, network.layer4).attribute(inputs).sum(1)


def take_grad_cam(network: nn.Module, inputs: Tensor) -> Tensor:
    return captum.attr.LayerGradCam(network, network.layer4).attribute(inputs, TARGETS)[:, 0]


def take_path(network: nn.Module, inputs: Tensor) -> Tensor:
    zeros = torch.zeros_like(inputs)
    return captum.attr.IntegratedGradients(network).attribute(inputs, zeros, TARGETS).sum(1)


def take_occlusion(network: nn.Module, inputs: Tensor) -> Tensor:
    occlusion = captum.attr.Occlusion(network)
    return occlusion.attribute(inputs, (3, 8, 8), strides=(3, 4, 4), target=TARGETS).mean(1)


@pytest.mark.parametrize(
    ("method", "take"),
    [("input_gradient", take_saliency), ("activation", take_activation), ("grad_cam", take_grad_cam)],
)
def test_draw_map__is_what_captum_gives(
    resnet: nn.Module,
    plain: nn.Module,
    images: Tensor,
    method: str,
    take: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    ours = draw_map(resnet, images, TARGETS, method=method)
    assert close(ours, take(plain, images.clone().requires_grad_(True)).detach())
    assert ours.dtype == torch.float32 and not ours.requires_grad


@pytest.mark.parametrize(
    ("method", "take"), [("integrated_gradients", take_path), ("occlusion", take_occlusion)]
)
def test_draw_map__of_many_passes_is_what_captum_gives(
    images: Tensor, method: str, take: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    network = kdviz.models.build("small_vgg", classes=4, input_size=64)  # a ResNet would take half a minute
    ours = draw_map(network, images, TARGETS, method=method)
    assert close(ours, take(network.eval(), images))


def read_layer4(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Output of layer4 as a leaf, and the logits that follow from it, by the parts of the network."""
    with torch.no_grad():
        stem = network.maxpool(network.relu(network.bn1(network.conv1(inputs))))
        output = network.layer4(network.layer3(network.layer2(network.layer1(stem))))
    output.requires_grad_(True)
    return output, network.fc(network.avgpool(output).flatten(1))


def test_draw_map__layer_gradient_is_that_of_the_rest_of_the_network(
    resnet: nn.Module, plain: nn.Module, images: Tensor
) -> None:
    output, logits = read_layer4(plain, images)
    logits[[0, 1], TARGETS].sum().backward()
    expected = output.grad.square().sum(1).sqrt()
    assert close(draw_map(resnet, images, TARGETS, method="layer_gradient", layer="layer4"), expected)


def test_draw_map__cam_weighs_channels_by_the_class_and_is_grad_cam_times_positions(
    resnet: nn.Module, plain: nn.Module, images: Tensor
) -> None:
    output, _ = read_layer4(plain, images)
    by_hand = torch.stack(
        [(plain.fc.weight[t][:, None, None] * one).sum(0) for t, one in zip(TARGETS, output, strict=True)]
    )
    cam = draw_map(resnet, images, TARGETS, method="cam")
    assert close(cam, by_hand.detach())
    assert close(draw_map(resnet, images, TARGETS, method="grad_cam"), cam / 4)  # layer4 has 2 x 2 positions


@pytest.mark.parametrize("method", ["layer_gradient", "activation", "grad_cam", "guided_grad_cam"])
def test_draw_map__is_the_same_whether_activations_work_in_place(
    resnet: nn.Module, plain: nn.Module, images: Tensor, method: str
) -> None:
    # the relu after bn1 overwrites its output
    ours, theirs = (
        draw_map(network, images, TARGETS, method=method, layer="bn1") for network in (resnet, plain)
    )
    assert torch.equal(ours, theirs)


class _GuidedReLU(torch.autograd.Function):
    """Let positive gradients through positive inputs only (Springenberg et al., 2015)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient.clamp(min=0) * (x > 0)


def test_draw_map__guided_grad_cam_is_the_replica_with_relus_replaced(
    resnet: nn.Module, plain: nn.Module, images: Tensor
) -> None:
    guided = copy.deepcopy(plain)
    for module in guided.modules():
        if isinstance(module, nn.ReLU):
            module.forward = _GuidedReLU.apply  # type: ignore[method-assign]
    inputs = images.clone().requires_grad_(True)
    guided(inputs)[[0, 1], TARGETS].sum().backward()
    cam = relu(captum.attr.LayerGradCam(plain, plain.layer4).attribute(images, TARGETS))
    expected = (inputs.grad * interpolate(cam, size=(64, 64), mode="nearest")).square().sum(1).sqrt()
    assert close(draw_map(resnet, images, TARGETS, method="guided_grad_cam"), expected.detach())


def test_draw_map__integrated_gradients_add_up_to_the_change_of_the_logit(images: Tensor) -> None:
    network = testing.small_cnn(size=8)
    inputs = testing.random_images(3, size=8)
    classes = torch.tensor([0, 1, 2])
    drawn = draw_map(network, inputs, classes, method="integrated_gradients").sum((1, 2))
    with torch.no_grad():
        logits = network(torch.cat([inputs, torch.zeros_like(inputs)]))
    change = logits[:3][range(3), classes] - logits[3:][range(3), classes]
    # completeness; kinks on the straight path leave an error of the 50-step rule
    assert torch.allclose(drawn, change, atol=0.01)


def linear_classifier(weight: Tensor) -> nn.Module:
    """Logits are sums of pixels times weights ``(C, 1, H, W)``."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(weight[0].numel(), len(weight), bias=False))
    with torch.no_grad():
        network[1].weight.copy_(weight.flatten(1))
    return network


def test_draw_map__of_a_linear_network_by_hand() -> None:
    weight = torch.arange(32.0).view(2, 1, 4, 4) - 10
    inputs = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    network, target = linear_classifier(weight), torch.tensor([1])
    contribution = (weight[1] * inputs[0])[0]
    assert close(draw_map(network, inputs, target, method="input_gradient")[0], weight[1, 0].abs())
    assert close(draw_map(network, inputs, target, method="integrated_gradients")[0], contribution)
    assert close(draw_map(network, inputs, target, method="occlusion")[0], contribution)  # windows of a pixel


def test_draw_map__grad_cam_keeps_the_sign() -> None:
    # one channel, A = x; logit 0 is minus the mean of A, so Grad-CAM is -x / 4
    network = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)
    )
    with torch.no_grad():
        network[0].weight.fill_(1)
        network[3].weight.copy_(torch.tensor([[-1.0], [2.0]]))
    inputs = torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])
    drawn = draw_map(network, inputs, torch.tensor([0]), method="grad_cam", layer="0")
    assert drawn.tolist() == [[[-0.25, -0.5], [-0.75, 1.0]]]
    assert draw_map(network, inputs, torch.tensor([1]), method="cam").tolist() == [[[2, 4], [6, -8]]]


class Functional(nn.Module):
    """Overwrites the convolution's output outside of any module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(relu(self.conv(inputs), inplace=True).mean((2, 3)))


def test_draw_map__reads_a_layer_before_what_overwrites_it() -> None:
    torch.manual_seed(0)
    network, inputs, classes = Functional(), testing.random_images(2), torch.tensor([0, 1])
    output = network.conv(inputs).detach().requires_grad_(True)
    network.head(relu(output).mean((2, 3)))[[0, 1], classes].sum().backward()
    assert close(draw_map(network, inputs, classes, method="layer_gradient"), output.grad.norm(dim=1))
    with pytest.raises(LayerError, match="cam needs logits"):  # conv is read before its relu
        draw_map(network, inputs, classes, method="cam")
    with pytest.raises(LayerError, match=r"nn\.ReLU modules and this network has none"):
        draw_map(network, inputs, classes, method="guided_grad_cam")


def snapshot(network: nn.Module) -> list[object]:
    parts: list[object] = [torch.random.get_rng_state().tolist()]
    for name, module in network.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        parts += [name, module.training, getattr(module, "inplace", None), *map(len, hooks)]
    parts += [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()]
    return [*parts, *(tensor.double().sum().item() for tensor in network.state_dict().values())]


@pytest.mark.parametrize("method", [method for method in METHODS if method != "occlusion"])
def test_draw_map__leaves_the_network_as_found(resnet: nn.Module, images: Tensor, method: str) -> None:
    before = snapshot(resnet)
    assert resnet.training and resnet.relu.inplace
    draw_map(resnet, images[:, :, :40, :40], TARGETS, method=method, layer="layer4")
    assert snapshot(resnet) == before


def test_draw_map__leaves_the_network_as_found_after_an_error(resnet: nn.Module, images: Tensor) -> None:
    before = snapshot(resnet)
    calls = iter([None] * 2)  # the checks before the map is drawn, and no more
    handle = resnet.fc.register_forward_hook(lambda *_: next(calls))
    with pytest.raises(StopIteration):
        draw_map(resnet, images, TARGETS, method="guided_grad_cam", layer="layer4")
    handle.remove()
    assert snapshot(resnet) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gradcam"}, "method is 'gradcam'; did you mean 'grad_cam'"),
        ({"classes": torch.tensor([1, 4])}, "classes run from 1 to 4; this network has classes 0 to 3"),
        ({"classes": torch.tensor([1])}, r"classes must be 2 integers, int64; got \(1,\)"),
        (
            {"inputs": torch.zeros(2, 3)},
            r"inputs must be images \(B, channels, height, width\), got \(2, 3\)",
        ),
        ({"layer": "fc"}, r"layer 'fc' gives \(1, 4\); a map needs .* such as 'layer4' gives"),
        ({"layer": "layer4.1.relu"}, "is used 2 times in one forward pass"),
        ({"layer": "layer5"}, "unknown layer 'layer5'"),
    ],
)
def test_draw_map__refuses(resnet: nn.Module, images: Tensor, change: dict, message: str) -> None:
    arguments = {"inputs": images, "classes": TARGETS, "method": "grad_cam"} | change
    with pytest.raises(ValueError, match=message):
        draw_map(resnet, arguments.pop("inputs"), arguments.pop("classes"), **arguments)


def test_find_map_layer__is_the_last_with_convolutions_and_more_than_one_position() -> None:
    with torch.device("meta"):
        vgg = torchvision.models.vgg16(init_weights=False)
    vgg = vgg.to_empty(device="cpu")
    assert find_map_layer(vgg, torch.zeros(1, 3, 64, 64)) == "features"  # 2 x 2
    assert find_map_layer(vgg, torch.zeros(1, 3, 32, 32)) == "features.28"  # features is 1 x 1
    assert find_map_layer(testing.small_cnn(), testing.random_images(1)) == "conv2"
    conv = nn.Conv2d(3, 3, 3, padding=1)
    twice = nn.Sequential(nn.Conv2d(3, 3, 1), conv, conv)
    assert find_map_layer(twice, testing.random_images(1)) == "0"  # the output of `conv` is not unique
    with pytest.raises(LayerError, match="no layer of this network gives a map"):
        find_map_layer(linear_classifier(torch.ones(2, 1, 4, 4)), torch.zeros(1, 1, 4, 4))


# -- attribute


def test_reduce_map__averages_pixels_after_bilinear_resizing() -> None:
    coarse = torch.tensor([[[0.0, 4.0]]])  # 1 x 2 onto 1 x 4 pixels: 0, 1, 3, 4
    assert reduce_map(coarse, units.grid(1, 2), (1, 4)).tolist() == [[0.5, 3.5]]
    fine = torch.arange(8.0).view(1, 2, 4)
    assert reduce_map(fine, units.grid(1, 2), (2, 4)).tolist() == [[(0 + 1 + 4 + 5) / 4, (2 + 3 + 6 + 7) / 4]]


def test_attribute__of_a_linear_network_by_hand() -> None:
    weight = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    ds = kdviz.attribute(
        linear_classifier(weight),
        torch.ones(2, 1, 4, 4) * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1),
        units=units.grid(2),
        labels=[2, 0],
        foreground=np.array([[True, False, False, False], [False, True, True, True]]),
        sample_ids=["a", "b"],
        epoch=7,
        progress=False,
    )
    assert ds["attribution_method"].values.tolist() == ["input_gradient", "integrated_gradients", "occlusion"]
    assert ds["attribution"].dims == ("attribution_method", "epoch", "sample", "unit")
    cells = weight[[2, 0], 0].view(2, 2, 2, 2, 2).transpose(2, 3).reshape(2, 4, 4)  # sample, unit, pixel
    chosen = ds["attribution"].sel(epoch=7)
    size = chosen.sel(attribution_method="input_gradient").values
    assert np.allclose(size, cells.abs().mean(2), atol=1e-6)
    share = chosen.sel(attribution_method="integrated_gradients").values
    assert np.allclose(share, cells.mean(2) * torch.tensor([[1.0], [2.0]]), atol=1e-5)
    assert ds["sample"].values.tolist() == ["a", "b"] and ds["explained"].values.tolist() == [2, 0]
    assert ds["foreground"].values.sum(1).tolist() == [1, 3]
    assert "layer" not in ds.attrs and json.loads(ds.attrs["config"])["explained"] == "labels"


def test_attribute__of_a_torchvision_network_scores_beside_its_entropy(
    resnet: nn.Module, images: Tensor
) -> None:
    mask = np.zeros((2, 64, 64), bool)
    mask[:, 16:48, 16:48] = True
    shared = {"units": units.grid(4), "foreground": mask, "progress": False}
    before = snapshot(resnet)
    quick = [method for method in METHODS if method not in ("integrated_gradients", "occlusion")]
    ds = kdviz.attribute(resnet, images, labels=[1, 3], methods=quick, **shared)
    assert snapshot(resnet) == before
    assert ds["attribution_method"].values.tolist() == quick and ds.attrs["layer"] == "layer4"
    assert list_methods(resnet, images, check_layer(resnet, images, "layer4")) == list(METHODS)
    for method in quick:
        drawn = draw_map(resnet, images, TARGETS, method=method)
        layered = drawn.shape[1:] == (2, 2)
        expected = interpolate(drawn[:, None], size=(64, 64), mode="bilinear") if layered else drawn
        expected = expected.view(2, 4, 16, 4, 16).mean((2, 4)).flatten(1)
        ours = torch.from_numpy(ds["attribution"].sel(attribution_method=method, epoch=0).values)
        assert close(ours, expected), method
    entropy = kdviz.measure(resnet, images, layers="layer4", probes=8, draws=2, **shared)
    scores = analysis.score_attributions(ds, entropy=entropy)
    assert scores["auc"].sel(attribution_method="entropy").notnull().all()
    assert scores["entropy_correlation"].sel(attribution_method="entropy").values.tolist() == [[1, 1]]


def test_attribute__does_not_depend_on_batch_mates_and_explains_the_answer_without_labels() -> None:
    network, inputs = testing.small_cnn(seed=1), testing.random_images(5, seed=2)
    together = kdviz.attribute(network, inputs, units=units.grid(4), progress=False)
    apart = kdviz.attribute(network, inputs, units=units.grid(4), max_batch=2, progress=False)
    difference = abs(together["attribution"] - apart["attribution"]).max()
    assert float(difference) < 1e-5  # float32 sums in batches of another size
    with torch.no_grad():
        answers = network.eval()(inputs).argmax(1)
    assert together["explained"].values.tolist() == answers.tolist()
    assert "cam" not in together["attribution_method"] and len(together["attribution_method"]) == 7
    other = kdviz.attribute(network, inputs, units=units.grid(4), explained=(answers + 1) % 4, progress=False)
    gradient = {"attribution_method": "input_gradient"}
    assert not np.allclose(other["attribution"].sel(gradient), together["attribution"].sel(gradient))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": "cam"}, "methods is 'c'; allowed: input_gradient, "),
        ({"methods": ["cam", "lime"]}, "methods is 'lime'; allowed: input_gradient, "),
        ({"methods": ["cam"]}, "cam needs logits that are one linear layer"),
        ({"labels": [0, 9]}, "classes run from 0 to 9; this network has classes 0 to 3"),
        ({"explained": [0.0, 1.0]}, r"explained must be 2 integers, got shape \(2,\) of float64"),
        ({"max_batch": 0}, "max_batch must be an integer of 1 or more, got 0"),
        ({"epoch": -1}, "epoch must be an integer of 0 or more, got -1"),
        ({"layer": "fc1"}, "layer 'fc1' gives"),
    ],
)
def test_attribute__refuses(change: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        kdviz.attribute(
            testing.small_cnn(), testing.random_images(2), units=units.grid(4), progress=False, **change
        )


def test_attribute__takes_a_method_named_twice_once() -> None:
    network, images = testing.small_cnn(), testing.random_images(1)
    named = ["input_gradient", "activation", "input_gradient"]
    ds = kdviz.attribute(network, images, units=units.grid(4), methods=named, progress=False)
    assert ds["attribution_method"].values.tolist() == ["input_gradient", "activation"]


# -- remove_units


def one_unit_at_a_time() -> tuple[nn.Module, Tensor, xr.Dataset]:
    """Logit 0 adds the four pixels, each a unit, with weights 4, 3, 2, 1; logit 1 is always 0."""
    network = linear_classifier(torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]], [[[0.0, 0.0], [0.0, 0.0]]]]))
    inputs = torch.tensor([[[[1.0, 1.0], [1.0, -3.0]]]])  # of mean 0
    ds = kdviz.attribute(network, inputs, units=units.grid(2), labels=[0], progress=False)
    return network, inputs, ds


def test_remove_units__curves_of_a_linear_network_by_hand() -> None:
    network, inputs, ds = one_unit_at_a_time()
    curves = attribution.remove_units(
        network, inputs, ds, units=units.grid(2), reference="mean", steps=4, progress=False
    )

    def chance(*logits: float) -> list[float]:
        return (1 / (1 + np.exp(-np.array(logits)))).tolist()

    # contributions 4, 3, 2, -3, in this order; a removed unit contributes nothing
    by_share = curves.sel(attribution_method="integrated_gradients", sample=ds["sample"].values[0])
    assert by_share["deletion"].values.tolist() == pytest.approx(chance(6, 2, -1, -3, 0))
    assert by_share["insertion"].values.tolist() == pytest.approx(chance(0, 4, 7, 9, 6))
    ends = chance(6, 2, -1, -3, 0)
    area = (ends[0] / 2 + sum(ends[1:4]) + ends[4] / 2) / 4
    assert float(by_share["deletion_area"]) == pytest.approx(area)
    assert curves["share"].values.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves["attribution_method"].values.tolist()[-1] == "random"
    # gradients 4, 3, 2, 1 give the same order as contributions here
    assert np.array_equal(curves["deletion"][0], curves["deletion"][1])


def test_remove_units__blur_shows_the_smeared_input() -> None:
    # of a constant input the blurred one is the same: nothing changes, whatever is removed
    network, _, _ = one_unit_at_a_time()
    inputs = torch.ones(1, 1, 2, 2)
    ds = kdviz.attribute(network, inputs, units=units.grid(2), labels=[0], progress=False)
    curves = attribution.remove_units(network, inputs, ds, units=units.grid(2), steps=4, progress=False)
    assert float(curves["deletion"].std("share").max()) < 1e-6
    assert float(curves["deletion"].max()) == pytest.approx(1 / (1 + np.exp(-10)))

    # channels are not mixed: a network that reads one of two is blind to the other
    weight = torch.zeros(2, 2, 2, 2)
    weight[0, 0] = 1
    network = linear_classifier(weight)
    inputs = torch.stack([torch.ones(2, 2), torch.tensor([[9.0, -9.0], [5.0, 0.0]])])[None]
    ds = kdviz.attribute(network, inputs, units=units.grid(2), labels=[0], progress=False)
    other = attribution.remove_units(network, inputs, ds, units=units.grid(2), steps=4, progress=False)
    assert float(other["deletion"].std("share").max()) < 1e-6


def test_remove_units__ranks_the_entropy_by_what_is_kept_and_settles_ties_by_chance() -> None:
    network, inputs, ds = one_unit_at_a_time()
    ds = ds.isel(attribution_method=[0])
    ds["attribution"][:] = 1.0  # all tied: the same order as the random one
    entropy = ds.rename(attribution="entropy").isel(attribution_method=0, drop=True).copy(deep=True)
    entropy["entropy"][:] = [[[-3.0, -4.0, -2.0, -1.0]]]  # most kept: units 1, 0, 2, 3
    curves = attribution.remove_units(
        network, inputs, ds, units=units.grid(2), entropy=entropy, reference="mean", steps=4, progress=False
    )
    assert curves["attribution_method"].values.tolist() == ["input_gradient", "entropy", "random"]
    tied, kept, random = curves["deletion"].values
    assert np.array_equal(tied, random)
    logits = np.log(kept / (1 - kept))[0]
    assert np.allclose(logits, [6, 3, -1, -3, 0], atol=1e-5)


def test_remove_units__refuses() -> None:
    network, inputs, ds = one_unit_at_a_time()
    with pytest.raises(ValueError, match="reference is 'zero'; allowed: blur, mean"):
        attribution.remove_units(network, inputs, ds, units=units.grid(2), reference="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"steps must be an integer in 1\.\.4, got 5"):
        attribution.remove_units(network, inputs, ds, units=units.grid(2), steps=5)
    with pytest.raises(ValueError, match="sample_ids must be 2 unique names, got 1"):
        attribution.remove_units(network, inputs.repeat(2, 1, 1, 1), ds, units=units.grid(2), steps=2)
    wide = torch.ones(1, 1, 2, 4)
    with pytest.raises(ValueError, match="attributions are of 2 x 2 units, units are 1 x 4; pass the units"):
        attribution.remove_units(network, wide, ds, units=units.grid(1, 4), steps=2)


def test_remove_units__knows_the_inputs_that_maps_were_made_of() -> None:
    network, inputs = testing.small_cnn(), testing.random_images(3)
    common = dict(units=units.grid(4), progress=False)
    ds = kdviz.attribute(network, inputs, methods=["activation"], sample_ids=["a", "b", "c"], **common)
    curves = attribution.remove_units(network, inputs, ds, steps=2, **common)
    chosen = attribution.remove_units(network, inputs[[2, 0]], ds.isel(sample=[2, 0]), steps=2, **common)
    kept = curves.isel(sample=[2, 0], attribution_method=[0])  # the random order is another of two samples
    xr.testing.assert_allclose(chosen.isel(attribution_method=[0]), kept)
    with pytest.raises(ValueError, match=r"inputs are not those .*: 2 of 3 differ, first a, c; pass"):
        attribution.remove_units(network, inputs[[2, 1, 0]], ds, steps=2, **common)
    with pytest.raises(ValueError, match="1 of 1 differ, first b"):
        attribution.remove_units(network, inputs[:1], ds.sel(sample=["b"]), steps=2, **common)
    older = ds.drop_vars("input_hash")
    attribution.remove_units(network, inputs[[2, 1, 0]], older, steps=2, **common)


def test_remove_units__moves_one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = testing.small_cnn(), testing.random_images(4)
    ds = kdviz.attribute(network, inputs, units=units.grid(4), methods=["activation"], progress=False)
    moved: list[int] = []
    true_to = Tensor.to

    def to(tensor: Tensor, *args: object, **options: object) -> Tensor:
        moved.append(len(tensor) if tensor.shape[1:] == inputs.shape[1:] else 0)
        return true_to(tensor, *args, **options)

    monkeypatch.setattr(Tensor, "to", to)
    attribution.remove_units(network, inputs, ds, units=units.grid(4), steps=2, max_batch=2, progress=False)
    assert max(moved) == 2


# -- randomise_weights


def test_randomise_weights__moves_what_depends_on_them_and_leaves_the_network_alone() -> None:
    network, inputs = testing.small_cnn(seed=1), testing.random_images(3, seed=2)
    before = snapshot(network)
    found = attribution.randomise_weights(
        network,
        inputs,
        units=units.grid(4),
        methods=["input_gradient", "activation"],
        entropy_layers=["conv1"],
        seed=5,
        progress=False,
    )
    assert snapshot(network) == before
    assert found["stage"].values.tolist() == ["fc2", "fc1", "conv2", "conv1"]
    assert found["attribution_method"].values.tolist() == ["input_gradient", "activation", "entropy conv1"]
    still = found["similarity"].transpose("attribution_method", "stage", "sample").values > 1 - 1e-12
    assert still[0].sum() == 0  # the gradient depends on all layers
    assert still[1].all(1).tolist() == [True, True, False, False]  # the default layer is conv2
    assert still[2].all(1).tolist() == [True, True, True, False]

    changed = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in (changed.fc2.weight, changed.fc2.bias):
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(weight.mean() + weight.std(correction=0) * drawn)
    explained = kdviz.attribute(network, inputs, units=units.grid(4), methods=["activation"], progress=False)
    maps = [
        kdviz.attribute(
            one,
            inputs,
            units=units.grid(4),
            explained=explained["explained"].values,
            methods=["input_gradient"],
            progress=False,
        )["attribution"].values
        for one in (network, changed)
    ]
    expected = analysis.rank_correlation(*maps)[0, 0]
    assert np.allclose(found["similarity"].sel(attribution_method="input_gradient", stage="fc2"), expected)


def test_randomise_weights__independent_changes_one_module_at_a_time() -> None:
    network, inputs = testing.small_cnn(seed=1), testing.random_images(2, seed=2)
    found = attribution.randomise_weights(
        network,
        inputs,
        units=units.grid(4),
        methods=["activation"],
        stages=["conv1", "fc1"],
        order="independent",
        progress=False,
    )
    moved = found["similarity"].sel(attribution_method="activation").values < 1 - 1e-12
    assert moved.tolist() == [[True, True], [False, False]]
    with pytest.raises(ValueError, match=r"stages \['relu1'\] have no weights .* to draw; allowed: conv1"):
        attribution.randomise_weights(network, inputs, units=units.grid(4), stages=["relu1"])
    with pytest.raises(ValueError, match="order is 'all'; allowed: cascade, independent"):
        attribution.randomise_weights(network, inputs, units=units.grid(4), order="all")  # type: ignore[arg-type]


def test_randomise_weights__a_module_without_spread_is_no_stage() -> None:
    network, inputs = testing.small_cnn(seed=1), testing.random_images(2, seed=2)
    nn.init.constant_(network.conv2.weight, 0.1)  # its mean rounds
    nn.init.zeros_(network.conv2.bias)
    nn.init.zeros_(network.conv1.bias)
    options = {"units": units.grid(4), "methods": ["input_gradient"], "progress": False}
    found = attribution.randomise_weights(network, inputs, **options)
    assert found["stage"].values.tolist() == ["fc2", "fc1", "conv1"]
    assert (found["similarity"].values < 1 - 1e-12).all()
    with pytest.raises(ValueError, match=r"stages \['conv2'\] have no weights of their own to draw"):
        attribution.randomise_weights(network, inputs, stages=["conv2"], **options)


def test_randomise_weights__draws_the_maps_once_a_stage_and_once_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, inputs = testing.small_cnn(seed=1), testing.random_images(2, seed=2)
    drawn: list[nn.Module] = []
    true_attribute = randomisation.attribute
    monkeypatch.setattr(
        randomisation,
        "attribute",
        lambda one, *args, **options: drawn.append(one) or true_attribute(one, *args, **options),
    )
    attribution.randomise_weights(
        network, inputs, units=units.grid(4), methods=["activation"], stages=["fc1", "conv1"], progress=False
    )
    assert [one is network for one in drawn] == [True, False, False]
