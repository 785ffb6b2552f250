"""Try a network on one or two samples before the long work, and say what is wrong in one sentence."""

from contextlib import suppress

import torch
from torch import Tensor

from kdviz.errors import TRYING, LayerError
from kdviz.measuring.settings import Settings
from kdviz.networks.features import Batch, FeatureReader, main_of, map_batch, put_main, to_device
from kdviz.networks.inputs import Inputs
from kdviz.networks.preparing import device_of, is_out_of_memory

_NEGLIGIBLE = 0.01  # of the squared feature change that the base noise makes
_SAME = 1e-4  # relative; a hundred times what other devices, threads and batches change in float32
_ROUNDING = 100  # times the precision of a feature: what other kernels for another batch may change


def try_network(reader: FeatureReader, inputs: Inputs, settings: Settings, epoch: int) -> dict[str, float]:
    """Run the network on a sample, twice, with noise, and beside what will share its passes.

    Parameters
    ----------
    reader
        Reads the layers of a frozen network.
    inputs
        What will be measured.
    settings
        Differences count beside what the base noise changes. If samples do not share passes, they need not
        be independent of each other.
    epoch
        For the messages.

    Returns
    -------
    dict
        By layer what `respond` gives.

    Raises
    ------
    LayerError
        As :meth:`FeatureReader.check`.
    TypeError
        If a layer computes in lower precision than float32.
    ValueError
        As :meth:`FeatureReader.enter`; or if the network takes inputs with their axes in another order, or a
        layer gives features that are not finite, that no gradient connects with the inputs, that differ
        between two passes of the same input, or that depend on the other samples of the batch.
    """
    sample = to_device(inputs.alone(0), device_of(reader.network))
    try:
        reader.check(sample)
        values = reader.enter(sample)
        inputs.units.index(tuple(values.shape[1:]), 0)
    except Exception as error:
        if not isinstance(error, LayerError) and not is_out_of_memory(error):
            _advise_to_turn(reader, inputs, sample, error)
        error.add_note(f"{TRYING}, of shape {inputs.shape}")
        raise
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values)
    noisy = values + settings.base_noise * noise
    clean, slopes = _differentiate(reader, values, sample)
    shaken, slopes_there = _differentiate(reader, noisy, sample)
    one_by_one = len(inputs.ids) == 1 and inputs.units.length(0) is None
    with torch.no_grad():
        again = beside = reader(values, sample)
        if settings.micro_batch > 1 and not one_by_one:
            pair = _put_beside(reader, inputs, torch.cat([values, noisy]), sample)
            beside = {layer: feature[:1] for layer, feature in reader(*pair).items()}
    for layer, feature in clean.items():
        change = _distance(shaken[layer], feature)
        rounding = _ROUNDING * torch.finfo(feature.dtype).eps
        allowed = _NEGLIGIBLE * change + rounding**2 * _distance(feature, torch.zeros_like(feature))
        found = (feature, shaken[layer], slopes[layer], slopes_there[layer])
        if not all(torch.isfinite(values).all() for values in found):
            raise ValueError(
                f"layer {layer!r} gives NaN or infinite features or gradients, with small noise or without, "
                f"at epoch {epoch}; if the training diverged, measure earlier epochs; beyond the root or "
                "the logarithm of zero, measure another layer, or the network without it"
            )
        if not _distance(again[layer], feature) <= allowed:  # NaN is another feature, too
            raise ValueError(
                f"layer {layer!r} gives another feature when the same input comes again, in eval mode too; "
                "switch off what is random or remembers in the forward pass, such as functional dropout "
                "without training=self.training"
            )
        if not _distance(beside[layer], feature) <= allowed:
            raise ValueError(
                f"the feature of layer {layer!r} depends on the other samples of the batch, as by batch norm "
                "without running statistics; measure every sample by itself, with max_batch=1"
            )
        known, count = _count_units(inputs, *found[2:]), int(inputs.samples["valid"].values[0].sum())
        if inputs.units.needs_entry and known < 2 <= count:
            raise ValueError(
                f"the feature of layer {layer!r} moves with {known} of the {count} words of a text: a token "
                "of a decoder, such as GPT-2 or Llama, sees no later one, so that the first knows itself "
                "alone; pass feature='last' or feature='mean', or, before the first attention, a later layer"
            )
        if change > allowed and not (slopes[layer].any() or slopes_there[layer].any()):
            raise ValueError(
                f"layer {layer!r} moves with the inputs but its gradient is zero, as beyond rounding or "
                "quantisation, so its gain says nothing; measure the network without it, or an earlier layer"
            )
    return {layer: _weigh(feature) for layer, feature in clean.items()}


def _advise_to_turn(reader: FeatureReader, inputs: Inputs, sample: Batch, error: Exception) -> None:
    """Say how to turn inputs that a network fails on, if it takes them turned, such as coordinates first."""
    given = turned = main_of(sample, inputs.main)
    for move in ((-1, 1), (1, -1)) if given.ndim > 2 else ():
        turned = given.movedim(*move)
        if turned.shape == given.shape:
            continue
        with suppress(Exception):  # which it does not take either
            reader.check(put_main(sample, inputs.main, turned))
            break
    else:
        return
    came, taken = (f"(B, {', '.join(map(str, one.shape[1:]))})" for one in (given, turned))
    of_cloud = f"; units.cloud({inputs.units.count}) without axis fits both"
    raise ValueError(
        f"the network takes inputs {taken}, not {came}: pass inputs.movedim{move}"
        f"{of_cloud if inputs.units.modality == 'cloud' else ''}"
    ) from error


def respond(reader: FeatureReader, inputs: Inputs) -> dict[str, float]:
    """Return one number of every layer's feature of the first sample, without noise.

    Another network has another number, as has one of the same weights and other code. It is a weighted mean
    of absolute values, which rounding on other devices moves as little as the values themselves.
    """
    sample = to_device(inputs.alone(0), device_of(reader.network))
    with torch.no_grad():
        return {layer: _weigh(feature) for layer, feature in reader(reader.enter(sample), sample).items()}


def is_same_response(ours: float, theirs: float) -> bool:
    """Whether two numbers of `respond` may be of one network, on other devices and in other batches."""
    return abs(ours - theirs) <= _SAME * max(abs(ours), abs(theirs))


def _weigh(feature: Tensor) -> float:
    sizes = feature.double().cpu().flatten().abs()
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(len(sizes), generator=generator, dtype=torch.float64).exp()
    return float(weights @ sizes / weights.sum())


def _differentiate(
    reader: FeatureReader, values: Tensor, given: Batch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the features of a sample and the gradient of each, its entries weighted at random."""
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
            start = "the inputs" if reader.entry is None else f"the output of entry {reader.entry!r}"
            raise ValueError(
                f"no gradient connects layer {layer!r} with {start}; take out what cuts it (no_grad, "
                "inference_mode, detach, quantised layers), or choose another layer"
            )
        slopes[layer] = slope
    return {layer: feature.detach() for layer, feature in features.items()}, slopes


def _count_units(inputs: Inputs, *slopes: Tensor) -> int:
    """Count the units of the first sample on which one of the slopes is not zero."""
    index = inputs.units.index(tuple(slopes[0].shape[1:]), 0)
    felt = torch.stack([slope[0] != 0 for slope in slopes]).any(0).cpu().numpy()
    return len({*index[felt].tolist()} - {-1})


def _put_beside(reader: FeatureReader, inputs: Inputs, itself: Tensor, sample: Batch) -> tuple[Tensor, Batch]:
    """Put the first sample beside another one, or, where it shares passes with itself only, `itself` twice.

    Not beside noise alone: attention over a batch would pass over that.
    """
    if inputs.units.length(0) is not None:
        twice = map_batch(sample, lambda tensor: torch.cat([tensor, tensor]))
        return itself, twice
    others = (at for at, name in enumerate(inputs.hashes) if name != inputs.hashes[0])
    pair = to_device(inputs.take([0, next(others, 1)]), itself.device)
    return reader.enter(pair), pair


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).square().mean(dtype=torch.float64))
