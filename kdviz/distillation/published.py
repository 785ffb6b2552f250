"""The weights that a paper used for its pairs of networks, as arguments of the losses.

From Ojha et al., "What Knowledge Gets Distilled in Knowledge Distillation?", NeurIPS 2023, appendix 9.
"""

from typing import Any

from kdviz.arguments import one_of

_METHODS = ("kl", "hint", "crd")
_WEIGHTS = {  # of labels and of the method, for each of them
    "resnet50-resnet18": ((0.5, 0.5), (1, 5), (1, 0.8)),
    "vgg19-vgg11": ((1, 0.2), (1, 0.5), (1, 0.8)),
    "vgg19-resnet18": ((0.9, 0.1), (1, 0.2), (1, 1.2)),
    "vit_b_32-resnet18": ((1, 0.2), (1, 1), (1, 0.2)),
    "swin_b-swin_t": ((0.1, 0.9), (1, 1), (1, 0.8)),
    "stylized-resnet50-resnet18-low": ((0.1, 0.9), (1, 0.2), (1, 0.8)),  # kl as printed: looks swapped
    "stylized-resnet50-resnet18-high": ((0.9, 0.1), (1, 100), (1, 1.2)),
    "color-resnet50-resnet18": ((0.5, 0.5), (1, 5), (1, 0.8)),
    "resnet50-resnet18-without-crops": ((0.5, 0.5), (1, 0.2), (1, 0.8)),
    "mnist": ((0.1, 0.9), (1, 2), (1, 0.1)),
}
_FURTHER: dict[tuple[str, str], dict[str, Any]] = {
    ("mnist", "kl"): {"temperature": 8.0},
    ("mnist", "crd"): {"temperature": 0.1, "negatives": 32},
}
PAIRS = tuple(_WEIGHTS)
"""Pairs of teacher and student whose weights are known."""


def published(pair: str, method: str) -> dict[str, Any]:
    """Return the published arguments of a loss, such as ``KL(**published("resnet50-resnet18", "kl"))``.

    Parameters
    ----------
    pair
        Teacher and student, one of `PAIRS`.
    method
        ``"kl"``, ``"hint"`` or ``"crd"``.

    Returns
    -------
    dict
        ``class_weight``, ``weight``, and what else is not the default.

    Raises
    ------
    ValueError
        If a pair or method is not in the table; it names those that are.

    References
    ----------
    .. [1] Ojha et al., NeurIPS 2023, appendix 9.

    Examples
    --------
    >>> published("mnist", "kl")
    {'class_weight': 0.1, 'weight': 0.9, 'temperature': 8.0}
    """
    weights = _WEIGHTS[one_of("pair", pair, PAIRS)][_METHODS.index(one_of("method", method, _METHODS))]
    return dict(zip(("class_weight", "weight"), map(float, weights), strict=True)) | _FURTHER.get(
        (pair, method), {}
    )
