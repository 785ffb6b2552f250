"""Networks that differ in kind, small enough that long references take minutes, each briefly trained.

Weights are made on demand, on one thread, rounded to half precision and kept: small ones beside the
references, larger ones in ``runs/zoo``, which git ignores. On another machine training gives other weights,
for which stored references are no use; their fingerprint tells.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from benchmarks.problems import REFERENCES
from benchmarks.zoo.photographs import NAMES, SIDE, load_crops
from kdviz.files import write_bytes
from kdviz.models import cloud, text
from kdviz.models.cloud.levels import PointNet2
from kdviz.models.torchvision_shim import prepare_torchvision
from kdviz.networks.checkpoints import load_weights
from kdviz.networks.features import answer
from kdviz.sources import encode, find_data, furniture, movie_reviews, review_tokenizer

prepare_torchvision()

KEPT = REFERENCES / "zoo"
CACHE = Path(__file__).parents[2] / "runs" / "zoo"
TINY = 400_000  # bytes of weights that are kept beside the references
LENGTH = 96  # tokens
POINTS, BACKGROUND = 128, 64
Kind = Literal["image", "text", "cloud"]
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Specimen:
    """A kind of network.

    Attributes
    ----------
    make
        Builds it untrained.
    layers
        A middle and a last one, by these names, or one of them.
    relu
        Whether features are read after a ReLU, the default for images and clouds, or as they are.
    steps
        Batches of 32 in training.
    rate
        Largest learning rate.
    trained
        Built-in weights to take instead of training.
    entry
        Module after which noise enters.
    side
        Of images, pixels.
    """

    kind: Kind
    make: Callable[[], nn.Module]
    layers: dict[str, str]
    relu: bool = True
    steps: int = 200
    rate: float = 3e-3
    trained: str | None = None
    entry: str | None = None
    side: int = SIDE


def load_network(name: str) -> nn.Module:
    """Return one of `ZOO`, trained and frozen, training it if it is not there yet."""
    specimen = ZOO[name]
    network = _build(specimen)
    path = find_weights(name)
    if path is None:
        train(network, load_data(specimen, "train"), specimen, name)
        weights = {key: _halved(tensor) for key, tensor in network.state_dict().items()}
        size = sum(tensor.nbytes for tensor in weights.values())
        path = (KEPT if size <= TINY else CACHE) / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(weights))
    load_weights(network, path)
    return network.eval().requires_grad_(False)


def find_weights(name: str) -> Path | None:
    """Return where the weights of a network are, or None."""
    if built_in := ZOO[name].trained:
        return find_data(built_in)
    paths = [folder / f"{name}.safetensors" for folder in (KEPT, CACHE)]
    return next((path for path in paths if path.exists()), None)


def train(network: nn.Module, data: Data, specimen: Specimen, name: str) -> None:
    """Train for so many batches by AdamW, the rate rising and falling once, with one order for all."""
    torch.set_num_threads(1)
    inputs, labels = data
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=specimen.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, specimen.rate, total_steps=specimen.steps)
    network.train().requires_grad_(True)
    with torch.random.fork_rng(devices=[]):  # dropout
        torch.manual_seed(0)
        for _ in tqdm(range(specimen.steps), desc=f"training {name}", unit="batch"):
            rows = torch.randint(len(inputs), (32,), generator=generator)
            loss = nn.functional.cross_entropy(answer(network, inputs[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()


def find_accuracy(network: nn.Module, data: Data) -> float:
    """Return the share of samples that a network calls what they are."""
    inputs, labels = data
    with torch.no_grad():
        told = torch.cat([answer(network, part).argmax(1) for part in inputs.split(50)])
    return float((told == labels).double().mean())


def load_data(specimen: Specimen, split: str) -> Data:
    """Return what a network of a kind learns, or 150 or more held-out samples."""
    training = split == "train"
    if specimen.kind == "image":
        inputs, labels, _ = load_crops(split, 1200 if training else 150, specimen.side)
        return inputs, labels
    if specimen.kind == "text":
        texts = movie_reviews(split, count=4000 if training else 200)
        encoded = encode(texts, review_tokenizer(), length=LENGTH)
        return torch.from_numpy(encoded.ids), torch.from_numpy(texts.labels)
    clouds = furniture(split, count=550 if training else 165, points=POINTS, background=BACKGROUND)
    return torch.from_numpy(clouds.clouds[:]), torch.from_numpy(clouds.labels)


def _build(specimen: Specimen) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return specimen.make()


def _halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


# -- the kinds


def _convolutions(activation: Callable[[], nn.Module]) -> nn.Module:
    """Stack four strided convolutions and two linear layers, all followed by the same activation."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for at, (width, stride) in enumerate([(16, 2), (32, 2), (32, 1), (48, 2)], start=1):
        layers[f"conv{at}"] = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1)
        layers[f"act{at}"] = activation()
        channels = width
    layers["pool"] = nn.AvgPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(48 * (SIDE // 16) ** 2, 64)
    layers["act5"] = activation()
    layers["fc2"] = nn.Linear(64, len(NAMES))
    return nn.Sequential(layers)


def _vgg11_bn() -> nn.Module:
    from torchvision.models.vgg import VGG, make_layers

    narrow: Any = [16, "M", 24, "M", 32, 32, "M", 48, 48, "M", 48, 48, "M"]
    network = VGG(make_layers(narrow, batch_norm=True), num_classes=1, init_weights=False)
    network.avgpool = nn.Identity()
    network.classifier = nn.Sequential(nn.Linear(48 * 4, 128), nn.ReLU(), nn.Linear(128, len(NAMES)))
    return network


def _resnet(block: str, depths: list[int], narrower: int) -> nn.Module:
    """Make a torchvision ResNet with so many times fewer channels in its stages."""
    from torchvision.models import resnet

    class Narrow(resnet.ResNet):
        def _make_layer(self, block: Any, planes: int, *args: Any, **options: Any) -> nn.Sequential:
            return super()._make_layer(block, planes // narrower, *args, **options)

    network = Narrow(getattr(resnet, block), depths)
    network.fc = nn.Linear(network.fc.in_features // narrower, len(NAMES))
    return network


def _mobilenet_v2() -> nn.Module:
    from torchvision.models import MobileNetV2

    stages = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 2, 2]]
    return MobileNetV2(len(NAMES), width_mult=0.5, inverted_residual_setting=stages)


def _mobilenet_v3() -> nn.Module:
    from torchvision.models import mobilenet_v3_small

    network = mobilenet_v3_small(num_classes=len(NAMES), width_mult=0.25)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # theirs is for training that lasts ten times as long
    return network


def _efficientnet() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    stages = [
        MBConvConfig(1, 3, 1, 16, 8, 1),
        MBConvConfig(6, 3, 2, 8, 16, 1),
        MBConvConfig(6, 5, 2, 16, 24, 2),
        MBConvConfig(6, 3, 2, 24, 40, 1),
    ]
    return EfficientNet(stages, dropout=0.1, last_channel=160, num_classes=len(NAMES))


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    stages = [CNBlockConfig(24, 48, 2), CNBlockConfig(48, 96, 2), CNBlockConfig(96, None, 1)]
    return ConvNeXt(stages, layer_scale=0.1, num_classes=len(NAMES))


def _vit(side: int, patch: int) -> nn.Module:
    from torchvision.models import VisionTransformer

    size = {"image_size": side, "patch_size": patch, "num_layers": 3, "num_heads": 3}
    return VisionTransformer(**size, hidden_dim=48, mlp_dim=96, num_classes=len(NAMES))


def _swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    shape = {"patch_size": [4, 4], "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]}
    return SwinTransformer(**shape, window_size=[4, 4], num_classes=len(NAMES))  # type: ignore[arg-type]


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2Model

    tokenizer = review_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=LENGTH,
        n_embd=32,
        n_layer=3,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    encoder = GPT2Model(config)
    return text.TextNetwork(encoder, 2, pad=tokenizer.pad_token_id, pooling="last")


def _pointnet2() -> nn.Module:
    """Make a PointNet++ with fewer centres and neighbours, for clouds of fewer points than it asks for."""
    network = cloud.build("pointnet2", classes=11, width=0.25)
    assert isinstance(network, PointNet2)
    network.fewest = POINTS
    for level, centres in ((network.level1, 64), (network.level2, 32)):
        level.centres, level.neighbours = centres, 16
    return network


def _stages(prefix: str, middle: object, last: object) -> dict[str, str]:
    return {"middle": f"{prefix}{middle}", "last": f"{prefix}{last}"}


BERT = text.PRESETS["small_bert"]
VIT = {"middle": "encoder.layers.encoder_layer_1", "last": "encoder.ln"}
LARGE = 224  # pixels
ZOO = {  # the cheapest first, because references are made in this order
    "tanh": Specimen("image", partial(_convolutions, nn.Tanh), _stages("act", 3, 5), relu=False, steps=500),
    "gelu": Specimen("image", partial(_convolutions, nn.GELU), _stages("act", 3, 5), relu=False, steps=500),
    "vit": Specimen("image", partial(_vit, SIDE, 8), VIT, relu=False),
    "convnext": Specimen("image", _convnext, _stages("features.", 1, 5)),
    "bert": Specimen(
        "text",
        lambda: text.build("small_bert", classes=2, vocabulary=len(review_tokenizer()), length=LENGTH),
        {"middle": "encoder.encoder.layer.0.output", "last": "hidden"},
        relu=False,
        trained="runs/teacher-reviews.safetensors",
        entry=BERT.entry,
    ),
    "gpt2": Specimen(
        "text", _gpt2, {"middle": "encoder.h.1.ln_1", "last": "hidden"}, relu=False, entry="encoder.drop"
    ),
    "mobilenet_v2": Specimen("image", _mobilenet_v2, _stages("features.", 4, 8)),
    "swin": Specimen("image", _swin, {"middle": "features.1", "last": "norm"}, relu=False),
    "vgg11_bn": Specimen("image", _vgg11_bn, {"middle": "features.12", "last": "classifier.0"}),
    "resnet18": Specimen("image", partial(_resnet, "BasicBlock", [2, 2, 2, 2], 8), _stages("layer", 2, 4)),
    "efficientnet": Specimen("image", _efficientnet, _stages("features.", 3, 5)),
    "mobilenet_v3": Specimen("image", _mobilenet_v3, _stages("features.", 6, 12)),
    "resnet50": Specimen("image", partial(_resnet, "Bottleneck", [3, 4, 6, 3], 16), _stages("layer", 2, 4)),
    "pointnet": Specimen(
        "cloud",
        lambda: cloud.build("small_pointnet", classes=11),
        {"middle": "points", "last": "head.fc1"},
        trained="runs/teacher-furniture.safetensors",
    ),
    "dgcnn": Specimen(
        "cloud",
        lambda: cloud.build("dgcnn", classes=11, width=0.125),
        {"middle": "edges.1", "last": "head.fc1"},
        steps=150,
    ),
    "pointnet2": Specimen("cloud", _pointnet2, {"middle": "level2.layers", "last": "head.fc1"}, steps=600),
    # references of large images take an hour a layer, so one layer each
    "vit_224": Specimen("image", partial(_vit, LARGE, 16), {"middle": VIT["middle"]}, relu=False, side=LARGE),
    "resnet18_224": Specimen(
        "image", partial(_resnet, "BasicBlock", [2, 2, 2, 2], 8), {"middle": "layer2"}, side=LARGE
    ),
}
