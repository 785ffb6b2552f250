"""Losses of maps where channels come last, or positions are tokens, against maps turned by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import kdviz.models  # noqa: F401  (before torchvision: makes it importable beside a CPU build of torch)
from kdviz.distillation import LOGITS, AttentionTransfer, Hint, Outputs
from kdviz.errors import LayerError
from kdviz.training import TrainingPlan, train
from kdviz.training.reading import reader

torchvision = pytest.importorskip("torchvision")

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS, ROWS = torch.tensor([0, 2, 1]), torch.arange(3)


class Last(nn.Module):
    """A convolution whose output is turned to (B, 8, 8, K) by ``turned``, a layer without weights."""

    def __init__(self, channels, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, channels, 4, stride=4)
            self.turned = torchvision.ops.Permute([0, 2, 3, 1])
            self.mixed = nn.Linear(channels, channels)
            self.head = nn.Linear(channels, 3)

    def forward(self, images):
        return self.head(self.mixed(self.turned(self.conv(images))).mean((1, 2)))


def swin():
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=6, depths=[1, 1], num_heads=[2, 2], window_size=[2, 2], num_classes=3,
        stochastic_depth_prob=0.0,
    )  # fmt: skip


def vit():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=10, mlp_dim=12, num_classes=3
    )


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 5, 8, stride=8), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    )


def by_rows(tokens):
    """Give maps (B, K, 4, 4) of tokens (B, 17, K), the first of which is the class token."""
    maps = [[tokens[:, 1 + 4 * row + column] for column in range(4)] for row in range(4)]
    return torch.stack([torch.stack(columns, 2) for columns in maps], 2)


NETWORKS = {  # what makes it, a layer, and the map of what it gives
    "last": (lambda: Last(6, seed=1), "turned", lambda given: given.permute(0, 3, 1, 2)),
    "swin": (swin, "features.1", lambda given: given.permute(0, 3, 1, 2)),
    "vit": (vit, "encoder.layers.encoder_layer_0.ln_1", by_rows),
    "first": (convolutions, "0", lambda given: given),
}


def make(name, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[name][0]().double().eval()
        with torch.no_grad():
            for weight in network.parameters():  # heads of zeros
                weight.add_(0.2 * torch.randn_like(weight))
    return network


def pool(maps, size):
    """Cells are means of those that they cover, whose number they divide, or of themselves again."""
    (height, width), (rows, columns) = maps.shape[2:], size
    if rows > height:
        return maps.repeat_interleave(rows // height, 2).repeat_interleave(columns // width, 3)
    return maps.unflatten(3, (columns, width // columns)).unflatten(2, (rows, height // rows)).mean((3, 5))


def slopes_of(network, value):
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    found = torch.autograd.grad(value, weights, allow_unused=True)
    return [torch.zeros_like(w) if one is None else one for w, one in zip(weights, found, strict=True)]


def prepared(loss, student, teacher, images=IMAGES):
    """Return the loss, ready, and what it reads of both networks."""
    ours, theirs = reader(student, loss.layers, images), reader(teacher, loss.teacher_layers, images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        loss.prepare(ours(images[:1]), theirs(images[:1]), len(images), LABELS)
    with torch.no_grad():
        known = theirs(images)
    return loss, ours(images), known


def maps_of(networks, names):
    """Read the layers of both by plain hooks; turn them by hand."""
    found = []
    for network, name in zip(networks, names, strict=True):
        _, layer, turn = NETWORKS[name]
        kept = []
        hook = network.get_submodule(layer).register_forward_hook(
            lambda module, args, output, kept=kept: kept.append(output)
        )
        logits = network(IMAGES)
        hook.remove()
        found.append((turn(kept[0]), logits))
    return found


PAIRS = [("last", "first"), ("last", "last"), ("swin", "swin"), ("swin", "vit"), ("vit", "first"),
         ("first", "swin"), ("first", "vit")]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_hint__learns_from_maps_wherever_channels_lie(pair):
    student, teacher = (make(name, seed) for seed, name in enumerate(pair))
    loss, ours, theirs = prepared(Hint(*(NETWORKS[name][1] for name in pair)), student, teacher)
    told = slopes_of(student, loss(ours, theirs, LABELS, ROWS))
    (maps, logits), (wanted, _) = maps_of((student, teacher), pair)
    pooled = pool(maps, wanted.shape[2:])
    weights = dict(loss.parts.named_parameters())
    if weights:
        pooled = torch.einsum("oi,bihw->bohw", weights["weight"][:, :, 0, 0], pooled)
        pooled = pooled + weights["bias"][:, None, None]
    assert bool(weights) == (maps.shape[1:] != wanted.shape[1:])
    value = functional.cross_entropy(logits, LABELS) + (pooled - wanted.detach()).square().mean() / 2
    for one, other in zip(told, slopes_of(student, value), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_attention__looks_at_positions_wherever_channels_lie(pair):
    student, teacher = (make(name, seed) for seed, name in enumerate(pair))
    layers = [NETWORKS[name][1] for name in pair]
    loss, ours, theirs = prepared(AttentionTransfer(*layers, weight=10.0), student, teacher)
    told = slopes_of(student, loss(ours, theirs, LABELS, ROWS))
    (maps, logits), (wanted, _) = maps_of((student, teacher), pair)
    size = [min(ends) for ends in zip(maps.shape[2:], wanted.shape[2:], strict=True)]
    looks = [pool(one.square().sum(1, keepdim=True), size).flatten(1) for one in (maps, wanted.detach())]
    one, other = (look / look.square().sum(1, keepdim=True).sqrt() for look in looks)
    value = functional.cross_entropy(logits, LABELS) + 10 * (one - other).square().mean()
    for slope, expected in zip(told, slopes_of(student, value), strict=True):
        torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-10)


def test_as_map__of_one_cell_is_no_map_torn_apart():
    network = nn.Sequential(nn.Conv2d(3, 5, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    outputs = reader(network, ["1", LOGITS], IMAGES.float())(IMAGES.float())
    assert outputs.as_map("1").shape == (3, 5, 1, 1) and outputs.as_map(LOGITS) is None
    last = nn.Sequential(nn.Conv2d(3, 5, 32), torchvision.ops.Permute([0, 2, 3, 1]), nn.Flatten())
    outputs = reader(last, ["1"], IMAGES.float())(IMAGES.float())
    assert outputs.as_map("1").shape == (3, 5, 1, 1)


def test_as_map__of_what_is_no_image_has_four_axes_as_they_are():
    assert Outputs({"a": torch.zeros(2, 7, 9, 1)}).as_map("a").shape == (2, 7, 9, 1)
    assert Outputs({"a": torch.zeros(2, 7, 9)}).as_map("a") is None


class Turning(nn.Module):
    """Gives (B, 8, 8, 8) of images of 8 x 8, of which nothing says where the channels are."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 8, 1).double()
        self.opaque = nn.Module()
        self.opaque.forward = lambda images: nn.functional.conv2d(
            images, self.inner.weight, self.inner.bias
        ).movedim(1, -1)

    def forward(self, images):
        return self.opaque(images).mean((1, 2))


@pytest.mark.parametrize("make_loss", [Hint, AttentionTransfer])
def test_layout__that_cannot_be_known_is_asked_for_before_training(tmp_path, make_loss):
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def learn(**layouts):
        plan = TrainingPlan(epochs=1, batch_size=4, learning_rate=0.01)
        loss, labels = make_loss("opaque", **layouts), torch.arange(4)
        return train(
            Turning(), images, labels, teacher=Turning(), loss=loss, folder=tmp_path / "run", plan=plan,
            progress=False,
        )  # fmt: skip

    def turn(output):
        return output.movedim(-1, 1)

    known = r"layer 'opaque' gives \(1, 8, 8, 8\), of which axes are the channels cannot be known; pass "
    for given, argument in (({}, "layout="), ({"layout": turn}, "teacher_layout=")):
        with pytest.raises(LayerError, match=known + argument):
            learn(**given)
    with pytest.raises(LayerError, match=r"teacher_layout turns what layer 'opaque' gives, .* to \(1, 512\)"):
        learn(layout=turn, teacher_layout=lambda output: output.flatten(1))
    with pytest.raises(TypeError, match=r"layout must be a function from what a layer gives .*, got 'last'"):
        learn(layout="last")
    assert not (tmp_path / "run").exists()
    assert len(learn(layout=turn, teacher_layout=turn).history) == 1


def test_layout__given_decides_what_a_channel_is():
    ours = {"a": torch.zeros(1, 2, 3, 4), LOGITS: torch.zeros(1, 3)}
    loss = Hint("a", layout=lambda output: output.movedim(-1, 1), teacher_layout=lambda output: output)
    loss.prepare(Outputs(ours), Outputs({"a": torch.zeros(1, 6, 5, 5)}), 3, LABELS)
    assert np.prod(loss.parts.weight.shape) == 4 * 6
    assert loss.describe()["layout"] != loss.describe()["teacher_layout"]


def test_hint__of_tokens_on_no_grid_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"\(9, 4\) of the student to \(7, 4\) .* or pass layout=, a function"
    ):
        Hint("a").prepare(
            Outputs({"a": torch.zeros(1, 9, 4)}), Outputs({"a": torch.zeros(1, 7, 4)}), 3, LABELS
        )
