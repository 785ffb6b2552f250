"""Change the weights of a network and not its function: fold batch norms, move scale between two layers.

Every change is made on a copy, and :func:`prove_equal` says whether the copy still computes the same.

Symbols: ``B`` samples, ``C`` channels between the two layers of a pair.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from kdviz.coherency.pairs import NORMS, WEIGHTED, Pair, compute, shape_of, trace
from kdviz.networks.features import frozen, same_random_state, unwrap

Factor = float | Sequence[float] | Tensor


def rescale(network: nn.Module, pair: Pair, factor: Factor) -> nn.Module:
    """Divide a layer by a factor and multiply the next one by it, on a copy: the outputs stay the same.

    ``w1 / c, b1 / c, w2 * c``; ``b2`` stays, since what it is added to has its old scale again [1]_. The
    feature between the two is ``c`` times smaller.

    Parameters
    ----------
    network
        Left as it is.
    pair
        From :func:`find_pairs` of this network.
    factor
        ``c``: a positive number, or one for every channel between the layers, ``(C,)``. Powers of 2 make no
        rounding error.

    Returns
    -------
    nn.Module
        A rescaled copy, of the same dtype and mode.

    Raises
    ------
    ValueError
        If a factor is not positive and finite, their number is not that of the channels, or the pair does
        not fit the network.

    References
    ----------
    .. [1] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, section 3.2. Where the second bias is read as scaled too, the outputs
       change, which :func:`prove_equal` shows.

    Examples
    --------
    >>> import kdviz
    >>> from kdviz.coherency import find_pairs
    >>> images = kdviz.testing.random_images(2, size=8)
    >>> network = kdviz.testing.small_cnn(size=8)
    >>> pair = find_pairs(network, images).pairs[0]
    >>> prove_equal(network, rescale(network, pair, 4.0), images)
    0.0
    """
    factors = check_factor(pair, factor)
    rescaled = copy.deepcopy(unwrap(network))
    modules = dict(rescaled.named_modules())
    first: Any = modules.get(pair.first)
    second: Any = modules.get(pair.second)
    if (
        not {type(first), type(second)} <= {*WEIGHTED}
        or len(first.weight) != pair.channels
        or second.weight.shape[1] * getattr(second, "groups", 1) != pair.channels * pair.cells
    ):
        raise ValueError(f"{pair} with {pair.channels} channels is a pair of another network")
    down = factors.to(first.weight)
    up = down.repeat_interleave(pair.cells)  # flattened, a channel's inputs are neighbours
    with torch.no_grad():
        first.weight.div_(down.view(-1, *[1] * (first.weight.ndim - 1)))
        if first.bias is not None:
            first.bias.div_(down)
        by_group = second.weight.unflatten(0, (getattr(second, "groups", 1), -1))
        by_group.mul_(up.view(len(by_group), 1, -1, *[1] * (second.weight.ndim - 2)))
    return rescaled


def check_factor(pair: Pair, factor: Factor) -> Tensor:
    """Return one positive factor for every channel of a pair, ``(C,)``, float64.

    Raises
    ------
    ValueError
        As :func:`rescale`.
    """
    factors = torch.as_tensor(factor, dtype=torch.float64, device="cpu")
    if factors.shape not in ((), (pair.channels,)):
        raise ValueError(
            f"factor must be one number or {pair.channels}, one for each channel of {pair.first!r}; "
            f"got shape {tuple(factors.shape)}"
        )
    if not (torch.isfinite(factors) & (factors > 0)).all():
        raise ValueError(
            "factor must be positive and finite, because ReLU and max pooling pass no other factor; "
            f"got values from {float(factors.min()):g} to {float(factors.max()):g}"
        )
    return factors.expand(pair.channels)


def fold_batch_norm(network: nn.Module, inputs: Tensor) -> nn.Module:
    """Fold every batch norm into the layer before it, on a copy: in eval mode the outputs stay the same.

    Parameters
    ----------
    network
        Left as it is; must be one that ``torch.fx`` can trace.
    inputs
        Shape ``(B, ...)``: some inputs, on which the outputs are compared.

    Returns
    -------
    nn.Module
        A copy in eval mode. Where a convolution or linear layer alone feeds a batch norm, its weights hold
        both and an identity stands for the norm; every other norm stays.

    Raises
    ------
    ValueError
        As :func:`find_pairs` and :func:`prove_equal`.
    """
    network = unwrap(network)
    folded = copy.deepcopy(network).eval()
    if not any(type(module) in NORMS for module in network.modules()):
        return folded
    graph = trace(network, inputs)
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        norm: Any = folded.get_submodule(node.target) if node.op == "call_module" else None
        if type(norm) not in NORMS:
            continue
        before = node.args[0]
        layer: Any = folded.get_submodule(before.target) if before.op == "call_module" else None
        alone = len(before.users) == 1 and calls.count(before.target) == calls.count(node.target) == 1
        if type(layer) not in WEIGHTED or not alone or norm.running_mean is None:
            continue
        if isinstance(layer, nn.Linear) and len(shape_of(before)) > 2:
            continue  # the norm's channels are not the layer's features
        fuse: Any = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        folded.set_submodule(before.target, fuse(layer, norm))
        folded.set_submodule(node.target, nn.Identity())
    prove_equal(network, folded, inputs)
    return folded


def output_difference(network: nn.Module, other: nn.Module, inputs: Tensor) -> float:
    """Largest difference of any output in eval mode, as a share of the largest output.

    Both networks compute in their own precision, which must be that of the inputs, ``(B, ...)``.
    """
    outputs = []
    for one in (network, other):
        with same_random_state(one), frozen(one), torch.no_grad():
            outputs.append(compute(one, inputs).double())
    size = outputs[0].abs().max()
    difference = (outputs[0] - outputs[1]).abs().max()
    return float(difference / size) if difference else 0.0


def prove_equal(network: nn.Module, other: nn.Module, inputs: Tensor) -> float:
    """Compare what two networks compute, in double precision whatever theirs is.

    Parameters
    ----------
    network, other
        Left as they are; copies compute.
    inputs
        Shape ``(B, ...)``, such that the networks' features are alive.

    Returns
    -------
    float
        Largest difference of any output, as a share of the largest output.

    Raises
    ------
    ValueError
        If it is not a number, or larger than the root of the precision of the weights, because factors that
        are no powers of 2 round them: 3e-4 in float32, 1.5e-8 in float64. If a network does not compute in
        float64.
    """
    dtypes = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    tolerance = math.sqrt(max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0))
    difference = output_difference(in_double(network), in_double(other), inputs.double())
    if not difference <= tolerance:
        raise ValueError(
            f"the two networks are not the same function: their outputs differ by {difference:.2g} of the "
            f"largest output, more than {tolerance:.2g}"
        )
    return difference


def in_double(network: nn.Module) -> nn.Module:
    """Return a copy of a network in float64, or the network itself if that is its precision."""
    network = unwrap(network)
    precise = all(p.dtype == torch.float64 for p in network.parameters() if p.is_floating_point())
    return network if precise else copy.deepcopy(network).double()
