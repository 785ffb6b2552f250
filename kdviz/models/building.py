"""What all builders share: checks of arguments, the head, and weights that depend on the seed alone."""

from collections import OrderedDict
from collections.abc import Callable, Collection

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdviz.arguments import one_of, positive_number, whole_number


def check_arguments(
    name: str, known: Collection[str], *, width: float = 1.0, dropout: float | None = None, **counts: int
) -> None:
    """Refuse an unknown name, a factor that is not positive, no probability, and counts below 1.

    Raises
    ------
    ValueError
        If one of them comes.
    """
    one_of("name", name, known)
    for argument, count in counts.items():
        whole_number(argument, count, least=1)
    positive_number("width", width)
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")


def make_head(
    layer: Callable[[int, int], nn.Module],
    in_features: int,
    hidden: tuple[int, ...],
    classes: int,
    dropout: tuple[float, ...] = (0.0, 0.0),
    slope: float = 0.0,
) -> nn.Sequential:
    """Make hidden layers ``fc1`` and ``fc2``, and ``fc3``, which gives the logits.

    Parameters
    ----------
    layer
        What the hidden layers are, such as ``nn.Linear``.
    in_features, hidden, classes
        Widths; `hidden` of ``fc1`` and ``fc2``.
    dropout
        Probabilities after ``fc1`` and ``fc2``.
    slope
        Of the activation below 0: 0 is a ReLU.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (width, probability) in enumerate(zip(hidden, dropout, strict=True), start=1):
        layers[f"fc{index}"] = layer(in_features, width)
        layers[f"relu{index}"] = nn.LeakyReLU(slope) if slope else nn.ReLU()
        layers[f"drop{index}"] = nn.Dropout(probability)
        in_features = width
    layers["fc3"] = nn.Linear(in_features, classes)
    return nn.Sequential(layers)


def set_dropout(network: nn.Module, dropout: float | None) -> None:
    """Set the probability of every dropout layer, unless it is None."""
    for module in network.modules():
        if isinstance(module, nn.Dropout) and dropout is not None:
            module.p = dropout


@torch.no_grad()
def draw_weights(network: nn.Module, seed: int, std: float | None = None) -> None:
    """Draw all weights on the CPU, so that a seed means the same on any device; normalisations start neutral.

    Parameters
    ----------
    network
        On the meta device, its tensors are made first.
    seed
        Same seed, same weights.
    std
        Of fully connected layers and embeddings; None: Kaiming-normal (fan-in). Convolutions are
        Kaiming-normal (fan-out), biases 0.
    """
    if any(tensor.is_meta for tensor in network.state_dict().values()):
        network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, (nn.Linear, nn.Embedding)) and std is not None:
            nn.init.normal_(module.weight, std=std, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        elif isinstance(module, (_BatchNorm, nn.LayerNorm)):
            module.reset_parameters()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
