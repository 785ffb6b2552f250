"""How alike the stages of two networks are: centred kernel alignment.

Symbols: ``M`` networks, ``S`` stages, ``n`` samples of a minibatch, ``k`` minibatches.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kdviz.arguments import whole_number
from kdviz.errors import LayerError
from kdviz.networks.features import NO_TENSOR, Batch, check_layers, frozen, resolve_layers, rows_at, rows_of
from kdviz.networks.reading import InputsLike
from kdviz.transfer.question import Options, Question, ask, beside, flatten
from kdviz.transfer.stages import LOGITS, find_stages, thin

MOST = 7  # stages, unless layers are named
FEWEST = 4  # samples of which the estimate is defined

_ROUNDING = 1e-20  # of the squared kernel: less is what rounding leaves of a constant


def representation(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    layers: Mapping[str, Sequence[str | nn.Module]] | None = None,
    minibatch: int = 64,
    seed: int = 0,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Compare what the stages of each network make of the samples with what those of the teacher make.

    The measure is linear centred kernel alignment (CKA): 1 for features that differ by rotation and scale, 0
    for such as know nothing of each other [1]_. It is debiased: minibatch by minibatch the unbiased estimate
    of the Hilbert-Schmidt independence criterion is taken, and the means over minibatches are divided [2]_.

    Parameters
    ----------
    networks, inputs, labels, **options
        As for :func:`kdviz.transfer.ask`. Features of texts include those of padding.
    layers
        By the name of each network as many layers, from its input on, the empty name for its logits; those at
        one position correspond. By default up to seven stages that :func:`kdviz.transfer.stages.find_stages`
        finds, as many of each network, those of deeper ones left out evenly.
    minibatch
        Samples of one estimate at most, 4 or more, drawn without replacement. Unlike `max_batch`, the samples
        whose features are held at once, it belongs to the result, though it hardly changes it.
    seed
        Of what samples come together.

    Returns
    -------
    Dataset
        ``cka`` ``(network, network_stage, teacher_stage)``, and the headline ``cka_pseudo_value`` ``(network,
        batch)``: the jackknife pseudo-values, minibatch by minibatch, of the mean over corresponding stages.
        Their mean is its estimate, free of bias to first order, and their standard deviation over the root of
        their number its standard error; the value itself is the mean of the diagonals of ``cka``. Both are
        NaN where a stage gives the same for all samples, and the attribute ``note`` says which.
        ``stage_layer`` ``(network, network_stage)`` names the layers.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As :func:`kdviz.transfer.ask`; if there are fewer than four samples, or `layers` are not as many of
        every network.
    LayerError
        If a network has no such layer, or it gives no tensor with a row for each sample.

    Notes
    -----
    Where `minibatch` is ``b`` times `max_batch`, features are computed ``(b + 1) / 2`` times.

    References
    ----------
    .. [1] Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, Eq. (4).
    .. [2] Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, Eqs. (2) and (3).
    """
    minibatch, seed = whole_number("minibatch", minibatch, FEWEST), whole_number("seed", seed)
    question = ask(networks, inputs, labels, **options)
    count = len(question.labels)
    if count < FEWEST:
        raise ValueError(f"representation needs {FEWEST} samples or more, got {count}")
    stages = _name_stages(question, networks, layers)
    at = list(question.networks).index(question.teacher)

    def look(batch: Batch, classes: Tensor, rows: Sequence[int]) -> dict[str, NDArray]:
        kernels = torch.stack(
            [
                u_centred(_multiply(question, name, batch, layers)).flatten(1)
                for name, layers in stages.items()
            ]
        )
        kernels /= math.sqrt(len(rows) * (len(rows) - 3))  # so that inner products are the criterion
        return {
            "cross": (kernels @ kernels[at].T)[..., None].numpy(),
            "own": kernels.square().sum(2)[..., None].numpy(),
        }

    batches = min(math.ceil(count / minibatch), count // FEWEST)
    drawn = np.array_split(np.random.default_rng(seed).permutation(count), batches)
    found = question.walk(look, "representation", [sorted(rows.tolist()) for rows in drawn])
    cross, own = found["cross"], found["own"]
    cka = _align(cross.sum(-1, keepdims=True), own.sum(-1, keepdims=True), at)
    value = _mean_of_stages(cka)
    if batches > 1:
        left_out = _mean_of_stages(
            _align(cross.sum(-1, keepdims=True) - cross, own.sum(-1, keepdims=True) - own, at)
        )
        value = batches * value - (batches - 1) * left_out
    constant = [
        f"{stages[name][stage] or 'logits'} of {name}"
        for name, row in zip(question.networks, own.sum(-1), strict=True)
        for stage in np.flatnonzero(row == 0)
    ]
    positions = np.arange(cka.shape[1])
    return question.build(
        "representation",
        "cka_pseudo_value",
        {"cka": cka[..., 0], "cka_pseudo_value": value},
        {"network_stage": positions, "teacher_stage": positions, "stage_layer": list(stages.values())},
        f"the same for all samples: {', '.join(constant)}" if constant else "",
        minibatch=minibatch,
        seed=seed,
    )


def _name_stages(
    question: Question,
    networks: Mapping[str, nn.Module],
    layers: Mapping[str, Sequence[str | nn.Module]] | None,
) -> dict[str, list[str]]:
    """Name as many layers of each network as given: those said, or stages that are found."""
    if layers is not None and set(layers) != set(question.networks):
        told = ", ".join(layers) or "none"
        raise ValueError(
            f"layers must be given of each of {', '.join(question.networks)}, got those of {told}"
        )
    batch, _ = question.source.read([0, 1])
    stages = {}
    for (name, network), given in zip(question.networks.items(), networks.values(), strict=True):
        inputs = beside(batch, network)
        with frozen(network):
            stages[name] = (
                find_stages(network, inputs)
                if layers is None
                else check_rows(network, inputs, _name(given, layers[name]))
            )
    counts = {name: len(found) for name, found in stages.items()}
    if layers is None:
        return {name: thin(found, min(MOST, *counts.values())) for name, found in stages.items()}
    if len(set(counts.values())) > 1 or not min(counts.values()):
        told = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ValueError(f"layers must be as many of each network, one or more, got {told}")
    return stages


def _name(network: nn.Module, layers: Sequence[str | nn.Module]) -> list[str]:
    return [layer if layer == LOGITS else resolve_layers(network, [layer])[0] for layer in layers]


def check_rows(network: nn.Module, inputs: Batch, names: list[str]) -> list[str]:
    """Return names of layers, all of which give a row for each sample, or refuse them."""
    count = rows_of(inputs)
    with frozen(network):
        shapes = check_layers(network, inputs, names)
    for name, shape in shapes.items():
        if shape[:1] != (count,):
            raise LayerError(
                f"layer {name!r} gives no row for each sample, but {shape or NO_TENSOR} of {count}"
            )
    return names


def _multiply(question: Question, name: str, batch: Batch, layers: Sequence[str]) -> Tensor:
    """Return the products of the features of all pairs of samples, ``(S, n, n)``, some samples at once."""
    count, together = rows_of(batch), question.max_batch
    cuts = [slice(start, start + together) for start in range(0, count, together)]

    def read(rows: slice) -> list[Tensor]:
        return [*question.see(name, rows_at(batch, rows), dict.fromkeys(layers, flatten)).values()]

    products = torch.zeros(len(layers), count, count, dtype=torch.float64)
    for number, rows in enumerate(cuts):
        own = read(rows)
        for cols in cuts[: number + 1]:
            others = own if cols == rows else read(cols)
            for table, one, other in zip(products, own, others, strict=True):
                product = (one.double() @ other.double().T).cpu()
                table[rows, cols], table[cols, rows] = product, product.T
    return products


def u_centred(tables: Tensor) -> Tensor:
    """Return tables of pairs ``(..., n, n)`` such that rows and columns sum to zero, the diagonal left out.

    Their inner products, times ``1 / (n * (n - 3))``, are unbiased: of distances the squared distance
    covariance [1]_, of kernels the criterion [2]_ of which CKA is made. A table of which all pairs are the
    same, but for rounding, is zero. The diagonal is that of zeros.

    Parameters
    ----------
    tables
        Symmetric, ``n`` 4 or more, float64.

    References
    ----------
    .. [1] Szekely and Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of
       Statistics 2014.
    .. [2] Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, Eq. (3).
    """
    count = tables.shape[-1]
    diagonal = torch.eye(count, dtype=torch.bool, device=tables.device)
    off = tables.masked_fill(diagonal, 0)
    rows = off.sum(-1, keepdim=True) / (count - 2)
    centred = off - rows - rows.mT + off.sum((-2, -1), keepdim=True) / ((count - 1) * (count - 2))
    centred = centred.masked_fill(diagonal, 0)
    left, whole = (table.square().sum((-2, -1), keepdim=True) for table in (centred, off))
    return centred.masked_fill(left <= _ROUNDING * whole, 0)


def _align(cross: NDArray, own: NDArray, teacher: int) -> NDArray[np.float64]:
    """Return CKA ``(M, S, S, k)`` of such criteria, and of those of stages with themselves ``(M, S, k)``."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return cross / np.sqrt(own[:, :, None] * own[teacher])


def _mean_of_stages(cka: NDArray) -> NDArray[np.float64]:
    """Return the mean over corresponding stages, ``(M, k)``."""
    return np.diagonal(cka, axis1=1, axis2=2).mean(-1)
