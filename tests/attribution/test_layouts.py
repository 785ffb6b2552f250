"""Where the channels of a layer lie: maps of Swins, ViTs and their like against captum on turned tensors."""

import copy
from collections.abc import Callable
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kdviz
import kdviz.models  # before torchvision: makes it importable beside a CPU build of torch
from kdviz import attribution, coherency, units
from kdviz.attribution import draw_map, find_map_layer
from kdviz.attribution.maps import check_layer
from kdviz.errors import LayerError
from kdviz.networks.layouts import FIRST, LAST, find_layout
from kdviz.testing import random_images, small_cnn

torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")

IMAGES = random_images(2, size=32, seed=3)
CLASSES = torch.tensor([1, 3])
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8, "num_labels": 4,
}  # fmt: skip


def hugging_face(name: str, **options: Any) -> nn.Module:
    config = getattr(transformers, f"{name.partition('For')[0]}Config")
    return getattr(transformers, name)(config(**options))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "torchvision-vit": lambda: torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4
    ),
    # as many channels as positions along a side, in its first stage
    "torchvision-swin": lambda: torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=[2, 2], num_classes=4
    ),
    "vit": lambda: hugging_face("ViTForImageClassification", **SMALL),
    "deit": lambda: hugging_face("DeiTForImageClassification", **SMALL),
    "deit-distilled": lambda: hugging_face("DeiTForImageClassificationWithTeacher", **SMALL),
    "beit": lambda: hugging_face("BeitForImageClassification", **SMALL),
    "dinov2": lambda: hugging_face("Dinov2ForImageClassification", **SMALL),
    "dinov2-registers": lambda: hugging_face(
        "Dinov2WithRegistersForImageClassification", **SMALL, num_register_tokens=4
    ),
    "swin": lambda: hugging_face(
        "SwinForImageClassification", image_size=32, patch_size=4, embed_dim=8, depths=[1, 1],
        num_heads=[2, 2], window_size=2, num_labels=4,
    ),
    "segformer": lambda: hugging_face(
        "SegformerForImageClassification", num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
        hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2],
        mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=4,
    ),
    "convnext": lambda: hugging_face(
        "ConvNextForImageClassification", num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4
    ),
}  # fmt: skip


def make(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NETWORKS[name]().eval()
        with torch.no_grad():
            for weight in network.parameters():  # heads of zeros, and what is too small to differ
                weight.add_(0.3 * torch.randn_like(weight))
    return network


class Apart(nn.Module):
    """A layer whose positions pass through `seen` as channels first, which is what captum is asked about."""

    def __init__(self, layer: nn.Module, others: int | None) -> None:
        super().__init__()
        self.layer, self.others, self.seen = layer, others, nn.Identity()

    def forward(self, *given: Any) -> Tensor:
        output = self.layer(*given)
        if self.others is None:  # (B, h, w, K)
            return self.seen(output.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        side = round((output.shape[1] - self.others) ** 0.5)
        positions = output[:, self.others :].transpose(1, 2).reshape(len(output), -1, side, side)
        return torch.cat([output[:, : self.others], self.seen(positions).flatten(2).transpose(1, 2)], 1)


LAYERS = {
    "torchvision-vit": ("encoder.layers.encoder_layer_1.ln_1", 1),
    "torchvision-swin": ("features.1", None),  # 8 x 8 positions and 8 channels
    "vit": ("vit.layers.1.layernorm_before", 1),
    "deit": ("deit.layers.1.layernorm_before", 2),
    "deit-distilled": ("deit.layers.1.layernorm_before", 2),
    "dinov2": ("dinov2.encoder.layer.1.norm1", 1),
    "dinov2-registers": ("dinov2_with_registers.encoder.layer.1.norm1", 5),
    "beit": ("beit.layers.0.layernorm_after", 1),
    "swin": ("swin.encoder.layers.0.blocks.0.layernorm_after", 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_draw_map__is_that_of_captum_on_the_turned_layer(name: str) -> None:
    layer, others = LAYERS[name]
    network = make(name)
    turned = copy.deepcopy(network)
    apart = Apart(turned.get_submodule(layer), others)
    turned.set_submodule(layer, apart)

    def forward(images: Tensor) -> Tensor:
        output = turned(images)
        return output if isinstance(output, Tensor) else output.logits

    cam = captum.attr.LayerGradCam(forward, apart.seen).attribute(IMAGES, CLASSES)[:, 0]
    activation = captum.attr.LayerActivation(forward, apart.seen).attribute(IMAGES).sum(1)
    gradient = captum.attr.LayerGradientXActivation(forward, apart.seen, multiply_by_inputs=False).attribute(
        IMAGES, CLASSES
    )
    expected = {"grad_cam": cam, "activation": activation, "layer_gradient": gradient.norm(dim=1)}
    for method, theirs in expected.items():
        ours = draw_map(network, IMAGES, CLASSES, method=method, layer=layer)
        assert theirs.detach().std((1, 2)).min() > 1e-3 * theirs.abs().max(), "there is something to see"
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("name", "expected", "layout"),
    [
        ("torchvision-vit", "encoder.layers.encoder_layer_1.ln_1", "tokens 4 x 4 after 1 others"),
        ("torchvision-swin", "norm", "channels last"),
        ("vit", "vit.layers.1.layernorm_before", "tokens 4 x 4 after 1 others"),
        ("deit", "deit.layers.1.layernorm_before", "tokens 4 x 4 after 2 others"),
        ("deit-distilled", "deit.layers.1.layernorm_before", "tokens 4 x 4 after 2 others"),
        ("beit", "beit.layers.1", "tokens 4 x 4 after 1 others"),  # it averages the patches
        ("dinov2", "dinov2.layernorm", "tokens 4 x 4 after 1 others"),  # its head reads both
        ("dinov2-registers", "dinov2_with_registers.layernorm", "tokens 4 x 4 after 5 others"),
        ("swin", "swin.layernorm", "tokens 4 x 4 after 0 others"),
        ("segformer", "segformer", "channels first"),
        ("convnext", "convnext.encoder", "channels first"),
    ],
)
def test_find_map_layer__is_the_deepest_whose_positions_the_logits_see(
    name: str, expected: str, layout: str
) -> None:
    network = make(name)
    place = check_layer(network, IMAGES, None)
    assert (place.layer, place.layout.name) == (expected, layout)
    assert draw_map(network, IMAGES, CLASSES, method="layer_gradient").min() > 0
    if name == "torchvision-vit":  # its head is initialised with zeros, through which nothing is seen
        nn.init.zeros_(network.heads.head.weight)
        assert find_map_layer(network, IMAGES) == expected
        assert not network.heads.head.weight.any()


def test_attribute__of_a_network_with_an_output_of_its_own_and_inputs_by_name() -> None:
    network, grid = make("swin"), units.grid(4)
    quiet = {"units": grid, "progress": False}
    by_name = {"pixel_values": IMAGES, "labels": CLASSES}  # which a network must never be given
    ds = kdviz.attribute(network, by_name, **quiet)
    assert ds.attrs["layer"] == "swin.layernorm" and "tokens 4 x 4 after 0 others" in ds.attrs["config"]
    assert ds["explained"].values.tolist() == [1, 3]

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.swin, self.classifier = network.swin, network.classifier

        def forward(self, images: Tensor) -> Tensor:
            return self.classifier(self.swin(images).pooler_output)

    plain = kdviz.attribute(Logits(), IMAGES, labels=CLASSES, **quiet)
    assert "cam" in plain["attribution_method"], "the norm is averaged, and one linear layer follows"
    np.testing.assert_allclose(ds["attribution"], plain["attribution"], rtol=1e-3, atol=1e-5)
    curves = [
        attribution.remove_units(*given, **quiet, steps=4)["deletion"]
        for given in ((network, by_name, ds), (Logits(), IMAGES, plain))
    ]
    np.testing.assert_allclose(curves[0].values, curves[1].values, rtol=1e-4)


def test_attribute__further_inputs_stay_as_they_are() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_cnn(seed=1)

        def forward(self, metadata: Tensor, images: Tensor) -> Tensor:
            return self.inner(images + metadata[:, :1, None, None])

    images, metadata = random_images(3), torch.tensor([[0.5, 1.0], [-1.0, 1.0], [2.0, 0.0]])
    named = {"metadata": metadata, "images": images}  # noise and maps are for what has the units' shape
    quiet = {"units": units.grid(4), "labels": [0, 1, 2], "progress": False}
    ours = kdviz.attribute(Shifted(), named, **quiet, layer="inner.conv2")
    for method in ("input_gradient", "grad_cam", "guided_grad_cam", "activation", "layer_gradient"):
        theirs = kdviz.attribute(
            small_cnn(seed=1), images + metadata[:, :1, None, None], **quiet, layer="conv2", methods=[method]
        )
        both = [ds["attribution"].sel(attribution_method=method) for ds in (ours, theirs)]
        np.testing.assert_allclose(*both, rtol=1e-3, atol=1e-6, err_msg=method)
    network = Shifted().eval()
    with torch.no_grad():  # from black images, shifted as they are
        change = network(**named)[range(3), range(3)] - network(metadata, 0 * images)[range(3), range(3)]
    path = ours["attribution"].sel(attribution_method="integrated_gradients")
    pixels = images[0, 0].numel() / units.grid(4).count
    np.testing.assert_allclose(path.sum("unit")[0] * pixels, change, atol=0.02)  # the 50-step rule


class Turning(nn.Module):
    """Gives what it is given, of a shape that says nothing: (B, 8, 8, 8) of images of 8 x 8."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.weight, self.last, self.head = nn.Parameter(torch.ones(1)), last, nn.Linear(8, 4)
        self.opaque = nn.Module()
        self.opaque.forward = lambda images: images.repeat(1, 3, 1, 1)[:, :8].movedim(1, -1 if last else 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.opaque(images).mean((1, 2) if self.last else (2, 3)))


@pytest.mark.parametrize("last", [False, True])
def test_check_layer__asks_where_it_cannot_know_and_the_advice_helps(last: bool) -> None:
    network, images = Turning(last), random_images(2, size=8)
    with pytest.raises(
        LayerError, match=r"\(1, 8, 8, 8\), of which axes are the channels cannot be known; pass"
    ) as told:
        draw_map(network, images, CLASSES, method="activation", layer="opaque")
    advice = "lambda output: output.movedim(-1, 1)" if last else "lambda output: output"
    assert advice in str(told.value)
    drawn = draw_map(network, images, CLASSES, method="activation", layer="opaque", layout=eval(advice))
    torch.testing.assert_close(drawn, images.repeat(1, 3, 1, 1)[:, :8].sum(1))
    with pytest.raises(LayerError, match=r"layout turns what layer 'opaque' gives, .* to \(1, 64\)"):
        draw_map(
            network,
            images,
            CLASSES,
            method="activation",
            layer="opaque",
            layout=lambda out: out.sum(1).flatten(1),
        )


def test_check_layer__positions_that_no_logit_sees_are_refused_but_for_the_activation() -> None:
    network = make("vit")
    match = "layer 'vit.layernorm' reach the logits no more, .* such as 'vit.layers.1.layernorm_before'"
    with pytest.raises(LayerError, match=match):
        draw_map(network, IMAGES, CLASSES, method="grad_cam", layer="vit.layernorm")
    drawn = draw_map(network, IMAGES, CLASSES, method="activation", layer="vit.layernorm")
    with torch.no_grad():
        tokens = network.vit(IMAGES).last_hidden_state
    torch.testing.assert_close(drawn, tokens[:, 1:].sum(2).view(2, 4, 4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "size", "parts", "expected"),
    [
        ((1, 16, 7, 7), (28, 28), nn.ReLU(), FIRST.name),
        ((1, 7, 7, 16), (28, 28), nn.ReLU(), LAST.name),
        ((1, 49, 49, 49), (98, 98), nn.Conv2d(1, 1, 1), FIRST.name),
        ((1, 49, 49, 49), (98, 98), nn.Linear(49, 49), LAST.name),
        ((1, 16, 7, 11), (30, 45), nn.ReLU(), FIRST.name),  # patches of 4 pixels, the rest cut off
        ((1, 8, 4, 8), (8, 8), nn.MaxPool2d((2, 1)), FIRST.name),  # not in proportion, but pooled
        ((1, 5, 1, 1), (8, 8), nn.Conv2d(1, 1, 1), None),
        ((1, 65, 12), (32, 32), nn.ReLU(), "tokens 8 x 8 after 1 others"),  # no convolution at all
        ((1, 33, 12), (32, 64), nn.ReLU(), "tokens 4 x 8 after 1 others"),
        ((1, 31, 12), (32, 32), nn.ReLU(), "tokens 5 x 5 after 6 others"),
        ((1, 1, 12), (32, 32), nn.ReLU(), None),
        ((4, 16, 12), (32, 32), nn.ReLU(), None),  # windows, as attention in a Swin looks at them
        ((1, 12), (32, 32), nn.ReLU(), None),
    ],
)
def test_find_layout(
    shape: tuple[int, ...], size: tuple[int, int], parts: nn.Module, expected: str | None
) -> None:
    found = find_layout("layer", {"layer": [shape]}, {"layer": parts}, size)
    assert (found and found.name) == expected
    if found:
        turned = found.turn(torch.zeros(shape))
        assert turned.shape[:2] == (1, {FIRST.name: shape[1]}.get(found.name, shape[-1]))


def test_find_layout__tokens_lie_on_the_grid_of_the_patch_embedding() -> None:
    shapes = {"patches": [(1, 12, 3, 5)], "tokens": [(1, 17, 12)]}  # of 4 x 4, too, by number alone
    modules = {"patches": nn.Conv2d(3, 12, 8, 8), "tokens": nn.ReLU()}
    found = find_layout("tokens", shapes, modules, (31, 47))
    assert found is not None and found.name == "tokens 3 x 5 after 2 others"
    numbered = torch.arange(17.0).view(1, 17, 1).expand(1, 17, 12)
    assert found.turn(numbered)[0, 0].tolist() == torch.arange(2.0, 17.0).view(3, 5).tolist()


def test_draw_maps__of_a_network_with_channels_last_are_not_torn_apart() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 2, 2), torchvision.ops.Permute([0, 2, 3, 1]), nn.Linear(6, 5), nn.ReLU(),
        torchvision.ops.Permute([0, 3, 1, 2]), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    )  # fmt: skip
    images = random_images(2)
    drawn = coherency.draw_maps(network, images, CLASSES, layers=["2"], methods=["activation"])
    with torch.no_grad():
        expected = network[:3](images).sum(3)
    np.testing.assert_allclose(drawn["2", "activation"], expected, rtol=1e-5)
