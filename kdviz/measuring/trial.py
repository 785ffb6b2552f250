"""Try a network on one or two samples before the long work, and say what is wrong in one sentence."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdviz.errors import LayerError
from kdviz.features import FeatureReader, unwrap
from kdviz.measuring.inputs import Inputs, layout_hint

_NEGLIGIBLE = 0.01  # of the squared feature change that the base noise makes
_ROUNDING = 100  # times the precision of a feature: what other kernels for another batch may change
_NO_MEMORY = re.compile("not enough memory|can't allocate memory|out of memory", re.IGNORECASE)


def prepare_network(network: nn.Module, device: str | torch.device | None = None) -> nn.Module:
    """Refuse a network whose parameters and buffers allow no measurement; give its plain self.

    Parameters
    ----------
    network
        As it came, compiled or not.
    device
        If it lies on another one, a copy there is given; None leaves it where it is.

    Raises
    ------
    ValueError
        If it is not initialised, holds no values, was made for inference only or is spread over devices, or
        if the device is not there.
    TypeError
        If it is of lower precision than float32.
    """
    network = unwrap(network)
    for name, tensor in _tensors_of(network).items():
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"the network is not initialised: {name!r} has no shape yet; run the network once on a batch"
            )
        if tensor.device.type == "meta":
            raise ValueError(
                f"the network holds no values: {name!r} is on the meta device; call "
                "network.to_empty(device='cpu') and load weights"
            )
        if tensor.is_floating_point() and torch.finfo(tensor.dtype).bits < 32:
            raise TypeError(
                f"the network is {tensor.dtype} ({name!r}), too coarse for the small noise of a measurement; "
                "pass network.float(), and inputs that are no token ids as float32 too"
            )
        if tensor.is_inference():
            raise ValueError(
                f"{name!r} was made under torch.inference_mode() and lets no gradient pass; make or load the "
                "network outside of it"
            )
    network = network if device is None else _on_device(network, device)
    devices = sorted({str(tensor.device) for tensor in _tensors_of(network).values()})
    if len(devices) > 1:
        raise ValueError(
            f"the network is spread over {', '.join(devices)}; move it to one, such as with "
            f"network.to({devices[0]!r})"
        )
    return network


def _tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _on_device(network: nn.Module, device: str | torch.device) -> nn.Module:
    try:
        wanted = torch.empty(0, device=device).device  # "cuda" becomes the current one, "cuda:0"
    except (RuntimeError, AssertionError, TypeError) as error:
        reason, _, _ = str(error).partition("\n")
        raise ValueError(f"device {device!r} cannot be used here: {reason}") from error
    if wanted.type == "meta":
        raise ValueError("device 'meta' cannot be used here: it holds no values")
    places = {tensor.device for tensor in _tensors_of(network).values()} or {torch.device("cpu")}
    same = all(at.type == wanted.type and (at.type == "cpu" or at.index == wanted.index) for at in places)
    return network if same else copy.deepcopy(network).to(wanted)


def device_of(network: nn.Module) -> torch.device:
    """Give the device of a network's parameters and buffers, the CPU if it has none."""
    return next((tensor.device for tensor in _tensors_of(network).values()), torch.device("cpu"))


def dtype_of(network: nn.Module) -> torch.dtype | None:
    """Give the precision of a network's parameters, or None if it has none."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)


def try_network(reader: FeatureReader, inputs: Inputs, base_noise: float, together: int, epoch: int) -> None:
    """Run the network on a sample, twice, with noise, and beside another sample.

    Parameters
    ----------
    reader
        Reads the layers of a frozen network.
    inputs
        What will be measured.
    base_noise
        ``tau0``: differences count beside what this noise changes.
    together
        Samples that will share a pass; if it is one, they need not be independent of each other.
    epoch
        For the messages.

    Raises
    ------
    LayerError
        As :meth:`FeatureReader.check`.
    TypeError
        If a layer computes in lower precision than float32.
    ValueError
        As :meth:`FeatureReader.enter`; or if a layer gives features that are not finite, that no gradient
        connects with the inputs, that differ between two passes of the same input, or that depend on the
        other samples of the batch.
    """
    device = device_of(reader.network)
    _, first = next(inputs.batches(range(len(inputs.ids)), 1))
    sample = first.to(device)
    try:
        reader.check(sample)
        values = reader.enter(sample)
        inputs.units.index(tuple(values.shape[1:]), 0)
    except Exception as error:
        if not isinstance(error, LayerError):
            hint = layout_hint(inputs.tensor)
            error.add_note(
                f"while trying the network on one sample, of shape {tuple(sample.shape[1:])}{hint}"
            )
        raise
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values)
    noisy = values + base_noise * noise
    clean, slopes = _differentiate(reader, values, sample)
    shaken, slopes_there = _differentiate(reader, noisy, sample)
    with torch.no_grad():
        again = reader(values, sample)
        beside = clean
        if together > 1 and inputs.units.length(0) is None:
            beside = _read_beside_another(reader, inputs, device)
        elif together > 1:
            both = reader(torch.cat([values, noisy]), torch.cat([sample, sample]))
            beside = {layer: feature[:1] for layer, feature in both.items()}
    for layer, feature in clean.items():
        if not torch.isfinite(feature).all():
            raise ValueError(
                f"layer {layer!r} gives NaN or infinite features at epoch {epoch}; most likely the training "
                "diverged: look at its loss, and measure earlier epochs or train with a smaller learning rate"
            )
        found = (shaken[layer], slopes[layer], slopes_there[layer])
        if not all(torch.isfinite(values).all() for values in found):
            raise ValueError(
                f"layer {layer!r} gives NaN or infinite features or gradients under small noise, as behind "
                "the root or the logarithm of zero; measure another layer, or the network without it"
            )
        change = _distance(shaken[layer], feature)
        rounding = _ROUNDING * torch.finfo(feature.dtype).eps
        allowed = _NEGLIGIBLE * change + rounding**2 * _distance(feature, torch.zeros_like(feature))
        if _distance(again[layer], feature) > allowed:
            raise ValueError(
                f"layer {layer!r} gives another feature when the same input comes again, in eval mode too; "
                "switch off what is random or remembers in the forward pass, such as functional dropout "
                "without training=self.training"
            )
        if _distance(beside[layer], feature) > allowed:
            raise ValueError(
                f"the feature of layer {layer!r} depends on the other samples of the batch, as by batch norm "
                "without running statistics; measure every sample by itself, with max_batch=1"
            )
        if change > allowed and not (slopes[layer].any() or slopes_there[layer].any()):
            raise ValueError(
                f"layer {layer!r} moves with the inputs but its gradient is zero, as behind rounding or "
                "quantisation, so its gain says nothing; measure the network without it, or an earlier layer"
            )


def _differentiate(
    reader: FeatureReader, values: Tensor, given: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Give the features of a sample and the gradient of each, its entries weighted at random."""
    values = values.clone().requires_grad_(True)
    features = reader(values, given)
    slopes = {}
    for layer, feature in features.items():
        if feature.is_floating_point() and torch.finfo(feature.dtype).bits < 32:
            raise TypeError(
                f"layer {layer!r} computes in {feature.dtype}, which is too coarse for the small noise of a "
                "measurement; measure outside of torch.autocast"
            )
        slope = None
        if feature.requires_grad:
            weights = torch.randn(feature.shape, generator=torch.Generator().manual_seed(1)).to(feature)
            (slope,) = torch.autograd.grad(feature, values, weights, retain_graph=True, allow_unused=True)
        if slope is None:
            start, other = "the inputs", "a layer before it"
            if reader.entry is not None:
                start, other = f"the output of entry {reader.entry!r}", "a layer behind the entry"
            raise ValueError(
                f"no gradient connects layer {layer!r} with {start}; take out what cuts it (no_grad, "
                f"inference_mode, detach, quantised layers), or choose {other}"
            )
        slopes[layer] = slope
    return {layer: feature.detach() for layer, feature in features.items()}, slopes


def _read_beside_another(reader: FeatureReader, inputs: Inputs, device: torch.device) -> dict[str, Tensor]:
    """Read the first sample in one batch with one that differs from it."""
    others = (at for at, name in enumerate(inputs.hashes) if name != inputs.hashes[0])
    pair = inputs.tensor[[0, next(others, 0)]].to(device)
    return {layer: feature[:1] for layer, feature in reader(reader.enter(pair), pair).items()}


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).square().mean(dtype=torch.float64))


@contextmanager
def memory_advice(together: int, stored: bool) -> Iterator[None]:
    """Turn running out of memory into the advice to take fewer samples at once.

    Raises
    ------
    MemoryError
        Instead of what torch raises on the CPU and on accelerators.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _NO_MEMORY.search(str(error))):
            raise
        smaller = (
            f"pass a smaller max_batch, such as {together // 2}"
            if together > 1
            else "measure fewer layers at once, with fewer probes or on smaller images"
        )
        kept = "; what is in the store stays: the same call goes on behind it" if stored else ""
        reason, _, _ = str(error).partition("\n")
        raise MemoryError(
            f"out of memory with {together} samples in one pass; {smaller}{kept} ({reason})"
        ) from error
