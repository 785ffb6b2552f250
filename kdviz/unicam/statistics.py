"""What two networks share of how they see samples, by distance correlation, and what one has of its own.

All is told from distances between samples, so that networks may differ in features, and in how many there
are. The estimates are free of bias; the biased ones come close to 1 for wide features of few samples,
whatever these are [1]_.

Symbols: ``n`` samples, ``D`` entries of a feature, ``...`` any leading dimensions.

References
----------
.. [1] Szekely and Rizzo, "The distance correlation t-test of independence in high dimension", JMVA 2013,
   section 2.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kdviz.transfer.representation import FEWEST, u_centred

__all__ = [
    "EPSILON",
    "FEWEST",
    "class_prototypes",
    "correlation",
    "distances",
    "inner",
    "u_centred",
    "without",
]

EPSILON = 1e-18  # under the root, as published
_ROUNDING = 1e-14  # of the squared length of rows: less is what rounding leaves between equal ones
_NOTHING = 1e-8  # of the squared length of a table: less is what rounding leaves of one that is removed


def distances(features: Tensor, *, block: int = 2**14) -> Tensor:
    """Return the Euclidean distances between all samples, ``(..., n, n)``, float64, differentiable.

    Parameters
    ----------
    features
        Flattened, ``(..., n, D)``, any floating-point dtype.
    block
        Columns turned to float64 at once.

    Returns
    -------
    Tensor
        ``sqrt(d^2 + 1e-18)`` [1]_; between equal rows, such as on the diagonal, that is 1e-9 with a gradient
        of zero.

    Notes
    -----
    Beside the features, memory is that of `block` columns and of a few tables ``(n, n)``; with gradients, of
    the features in float64.

    References
    ----------
    .. [1] Zhen et al., "On the Versatile Uses of Partial Distance Correlation in Deep Learning", ECCV 2022,
       published code, on which the code of UniCAM (Adhane et al., WACV 2025) is built.
    """
    count = features.shape[-2]
    products = features.new_zeros((*features.shape[:-1], count), dtype=torch.float64)
    for some in features.split(block, -1):
        columns = some.double()
        columns = columns - columns.mean(-2, keepdim=True)  # far from zero, squares would be lost
        products = products + columns @ columns.mT
    own = products.diagonal(dim1=-2, dim2=-1)
    sums = own[..., :, None] + own[..., None, :]
    squares = sums - 2 * products
    return (squares.masked_fill(squares <= _ROUNDING * sums, 0) + EPSILON).sqrt()


def inner(p: Tensor, q: Tensor) -> Tensor:
    """Return the inner product ``(...)`` of U-centred tables ``(..., n, n)``: an unbiased covariance [1]_.

    References
    ----------
    .. [1] Szekely and Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of
       Statistics 2014.
    """
    count = p.shape[-1]
    return (p * q).sum((-2, -1)) / (count * (count - 3))


def correlation(p: Tensor, q: Tensor) -> Tensor:
    """Return the bias-corrected squared distance correlation ``(...)`` of U-centred tables ``(..., n, n)``.

    It is 1 for features that differ by shift, rotation and scale, 0 on average and of either sign for
    independent ones, and NaN where one table is zero: all samples are the same to it.

    References
    ----------
    .. [1] Szekely and Rizzo 2014; the FSS and RS of UniCAM (Adhane et al., WACV 2025).
    """
    return inner(p, q) / (inner(p, p) * inner(q, q)).sqrt()


def without(p: Tensor, q: Tensor) -> Tensor:
    """Return the part of U-centred tables `p` that is orthogonal to `q`, ``(..., n, n)``.

    Of the student's table, the base's removed, that is what was distilled; of the base's, the student's
    removed, the residual [1]_. Where less than 1e-8 of `p`, squared, is left, that is rounding: all is zero.

    References
    ----------
    .. [1] Adhane et al., "On Explaining Knowledge Distillation", WACV 2025, step 6 of the algorithm; Szekely
       and Rizzo 2014.
    """
    own = inner(q, q).clamp(min=torch.finfo(q.dtype).tiny)
    left = p - (inner(p, q) / own)[..., None, None] * q
    nothing = inner(left, left) <= _NOTHING * inner(p, p)
    return left.masked_fill(nothing[..., None, None], 0)


def class_prototypes(features: Tensor, labels: Tensor, classes: int | None = None) -> Tensor:
    """Return a direction for each class, such as of image embeddings, for the argument `truth` of others.

    Parameters
    ----------
    features
        ``(n, D)``.
    labels
        ``(n,)``, int64, classes from 0; none may be without a sample.
    classes
        How many there are; by default one more than the largest label.

    Returns
    -------
    Tensor
        ``(classes, D)``, of length 1: the mean over a class of features of length 1.

    Raises
    ------
    ValueError
        If a class has no sample, or a label lies beyond `classes`.
    """
    labels = labels.to(features.device)
    counts = labels.bincount(minlength=classes or 0)
    if classes is not None and len(counts) > classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {len(counts) - 1}")
    if not counts.all():
        raise ValueError(f"class {int(counts.argmin())} has no sample, so no prototype")
    unit = normalize(features.flatten(1).double(), dim=1)
    return normalize(unit.new_zeros(len(counts), unit.shape[1]).index_add(0, labels, unit), dim=1)
