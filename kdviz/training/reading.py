"""Read what a loss asks of a network, batch by batch or, of what is frozen, once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdviz.distillation import LOGITS, Outputs
from kdviz.networks import check_layers, device_of, frozen, read_layers, resolve_layers
from kdviz.networks.layouts import finder
from kdviz.training.plans import TrainingPlan

_MAX_CACHED_BYTES = 2**30  # outputs of more than this are computed again for every batch

Read = Callable[[Tensor], Outputs]


def reader(network: nn.Module, layers: Sequence[str], inputs: Tensor) -> Read:
    """Check layers; return the function from a batch to what a loss reads, running no layer beyond."""
    named = [layer for layer in layers if layer != LOGITS]
    names = resolve_layers(network, named) + [LOGITS] * (LOGITS in layers)
    with frozen(network):
        check_layers(network, inputs[:1].to(device_of(network)), names)
    are_images = inputs.ndim == 4 and inputs.is_floating_point()
    layouts = finder(network, inputs[:1]) if are_images else None
    return lambda batch: Outputs(read_layers(network, batch, names), layouts)


def apply(read: Read, owner: nn.Module, inputs: Tensor, batch_size: int | None = None) -> Outputs:
    """Read a part of the network `owner` in eval mode, without gradients; the result lies on the CPU."""
    device = device_of(owner)
    with frozen(owner), torch.no_grad():
        batches = [read(batch.to(device)) for batch in inputs.split(batch_size or len(inputs))]
        joined = {name: torch.cat([batch[name].cpu() for batch in batches]) for name in batches[0]}
        return Outputs(joined, batches[0].layouts)


def recall(
    read: Read, owner: nn.Module, inputs: Tensor, plan: TrainingPlan
) -> Callable[[Tensor, Tensor], Outputs]:
    """Return the function from a batch and its rows to what `apply` gives, on the batch's device.

    If nothing is augmented and memory allows, it is computed here once and for all.
    """
    one = apply(read, owner, inputs[:1])
    size = sum(tensor.numel() * tensor.element_size() for tensor in one.values()) * len(inputs)
    known = None if plan.augment or size > _MAX_CACHED_BYTES else apply(read, owner, inputs, plan.batch_size)

    def give(batch: Tensor, rows: Tensor) -> Outputs:
        if known is not None:
            return Outputs({name: known[name][rows].to(batch.device) for name in known}, known.layouts)
        with frozen(owner), torch.no_grad():
            return read(batch)

    return give
