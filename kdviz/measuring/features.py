"""Say what a feature is by what it does, so that the same is known again in another process and no other is.

A name does not tell one lambda from another, nor does a memory address last. So a callable is given invented
outputs of the layer, of its true shape, and its answer is hashed.
"""

import copy
import functools
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kdviz.networks.features import Batch, Feature, FeatureReader
from kdviz.networks.hashing import fingerprint

_DIGITS = {torch.float64: 9}  # that do not depend on threads and devices; of others, 3
_LOOKS = 4  # weighted sums of an answer that are hashed
_SCALES = (1000.0, 100.0, 10.0, 1.0, 0.1, 0.01, 0.001)  # of the invented outputs: bounds are reached


def name_feature(feature: Feature) -> str:
    """Return the name of a feature that a reader knows: of a function or method, else of its class."""
    if isinstance(feature, functools.partial):
        return f"partial of {name_feature(feature.func)}"
    if isinstance(feature, str):
        return feature
    if inspect.isbuiltin(feature):
        return feature.__name__
    return getattr(feature, "__qualname__", type(feature).__qualname__)


def identify_feature(reader: FeatureReader, layer: str, feature: Feature, sample: Batch) -> str:
    """Return the name of a feature and, of a callable, a short hash of what it does with a layer's outputs.

    It is computed in float64 on the CPU, on outputs invented there, and rounded: the same on every device. A
    feature that holds weights of its own gets outputs in the layer's precision and on its device.

    Parameters
    ----------
    reader
        Reads a frozen network; only shapes are taken from it, not its weights.
    layer
        Whose output the feature gets.
    feature
        As for :class:`FeatureReader`.
    sample
        One sample, as the network takes it.
    """
    if not callable(feature):
        return feature
    answers: list[Any] = []

    def answer(output: Any) -> Tensor:
        for scale in _SCALES:
            try:
                answers.append(feature(_invent(output, scale, torch.float64, torch.device("cpu"))))
            except Exception:
                answers.append(feature(_invent(output, scale)))
        return torch.zeros(1)

    FeatureReader(reader.network, [layer], answer, reader.entry)(reader.enter(sample), sample)
    return f"{name_feature(feature)} {_hash(answers)}"


def _invent(
    output: Any, scale: float, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Any:
    """Replace the tensors of an output by seeded ones, small and large, of the same shapes."""
    generator = torch.Generator().manual_seed(0)

    def replace(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            if not leaf.is_floating_point():
                return torch.zeros_like(leaf, device=device)
            values = torch.randn(2, *leaf.shape, generator=generator, dtype=torch.float64)
            return (scale * values[0] * values[1].exp()).to(
                leaf.device if device is None else device, dtype or leaf.dtype
            )
        if hasattr(leaf, "__dict__") and not callable(leaf):
            leaf = copy.copy(leaf)
            vars(leaf).update({name: pytree.tree_map(replace, value) for name, value in vars(leaf).items()})
        return leaf

    return pytree.tree_map(replace, output)


def _hash(answers: list[Any]) -> str:
    """Hash the size of every answer and some weighted sums of it, rounded; undefined entries count as 0."""
    told: list[Any] = []
    for answer in answers:
        if not isinstance(answer, Tensor):
            return "unknown"  # the trial refuses it
        digits = _DIGITS.get(answer.dtype, 3)
        values = answer.detach().cpu().flatten().double().nan_to_num(0.0, 1e9, -1e9)
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(_LOOKS, len(values), generator=generator, dtype=torch.float64)
        told += [len(values), *(f"{look:.{digits - 1}e}" for look in weights @ values)]
    return fingerprint(str(told), digits=8)
