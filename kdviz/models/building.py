"""What all builders share: checks of their arguments, and weights that depend on the seed alone."""

from collections.abc import Collection

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


def set_dropout(network: nn.Module, dropout: float | None) -> int:
    """Give every dropout layer this probability, unless it is None; return how many there are."""
    layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    for layer in layers:
        layer.p = layer.p if dropout is None else dropout
    return len(layers)


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
