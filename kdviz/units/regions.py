"""Masks as they come: which of their values are the object, which the background, and which neither.

The one place where masks are understood. What it returns are *marks*: 1 on the object, 0 beside it, and -1,
void, where nobody says: borders, ignored regions. Void units belong to neither side.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdviz.arguments import name_some

Marks = NDArray[np.bool_] | NDArray[np.int8]
"""Bool, or, where something is void, int8: 1 on the object, 0 beside it, -1 void."""

_BORDER = 255  # the value of pixels that belong to no class, by convention
_FEW = 64  # class numbers beside that are below
_RARE = 16  # so many times fewer pixels are noise around an object of 255, and no class


@dataclass(frozen=True)
class MaskRule:
    """What the values of masks mean.

    Attributes
    ----------
    foreground
        Values of the object; void and background are the others.
    void
        Values of neither side.
    threshold
        The smallest value of the object, instead of `foreground`.

    Raises
    ------
    ValueError
        If both `foreground` and `threshold` are given, or a value is foreground and void.
    """

    foreground: tuple[float, ...] = ()
    void: tuple[float, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.foreground and self.threshold is not None:
            raise ValueError("masks are read by foreground values or by a threshold; pass one of them")
        if both := {*self.foreground} & {*self.void}:
            raise ValueError(f"the values {sorted(both)} are foreground and void; allowed: one of both")

    def settle(self, values: NDArray, counts: NDArray[np.int64], name: str) -> "MaskRule":
        """Return a rule that says what is the object, by the values that masks hold where this does not.

        Parameters
        ----------
        values, counts
            Every value of the masks, increasing, and how often it comes.
        name
            What to call the masks in a message.

        Raises
        ------
        ValueError
            If the values look like none of the kinds listed at `read_mask`.
        """
        if self.foreground or self.threshold is not None:
            return self
        rest = ~np.isin(values, self.void)
        found = _recognise(values[rest], counts[rest])
        if found is None:
            shown = name_some(f"{value:g}" for value in values.astype(float).tolist())
            raise ValueError(
                f"{name} the values {shown}: a trimap, classes, instances or a soft mask; say what "
                "they mean, of arrays with kdviz.units.read_mask: foreground=[1], void=[3] for a trimap of "
                "object 1 and border 3, threshold=1 where all above 0 is the object, threshold=128 for a "
                "soft mask"
            )
        return MaskRule(found.foreground, (*self.void, *found.void), found.threshold)

    def mark(self, mask: NDArray) -> NDArray[np.int8]:
        """Return the marks of a mask of any shape."""
        on = np.isin(mask, self.foreground) if self.threshold is None else mask >= self.threshold
        return np.where(np.isin(mask, self.void), -1, on).astype(np.int8)


def read_mask(
    mask: ArrayLike,
    *,
    foreground: Collection[float] | float = (),
    void: Collection[float] | float = (),
    threshold: float | None = None,
) -> Marks:
    """Read masks of any values: what is the object, the background, and neither.

    Without `foreground` and `threshold` the values of all masks together must be of one of these kinds:

    - bool, or 0 and one other value, such as 1 or 255: that is the object;
    - from 0 to 1, floating point: the object is 0.5 or more;
    - -1, 0 and 1: -1 is void, as in the result;
    - class numbers below 64, 0 among them or a single one, and 255: 255 is void, as in PASCAL VOC, all but 0
      the object, which has a sixteenth of the pixels of 255 at least;
    - from 0 to 255 (or 65535) with most of them near the ends, such as masks with soft edges or compressed
      as JPEG: the object is 128 (32768) or more.

    Others, such as trimaps and numbers of instances, are asked for.

    Parameters
    ----------
    mask
        Any shape, numbers or bool.
    foreground
        The value of the object, or several.
    void
        The value of what belongs to neither side, or several.
    threshold
        The smallest value of the object.

    Returns
    -------
    ndarray
        Same shape: bool, True on the object; or, where something is void, int8: 1, 0, and -1 for void.

    Raises
    ------
    ValueError
        If values are of no known kind, not finite, or the arguments contradict each other.

    Examples
    --------
    >>> from kdviz import units
    >>> units.read_mask([[1, 2, 3]], foreground=1, void=3).tolist()
    [[1, 0, -1]]
    """
    array = np.asarray(mask)
    given = MaskRule(as_tuple(foreground), as_tuple(void), threshold)
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise ValueError(f"masks hold NaN, infinite values or no numbers ({array.dtype})")
    if array.dtype.kind == "b" and given == MaskRule():
        return array
    marks = given.settle(*np.unique(array, return_counts=True), name="masks hold").mark(array)
    return marks if (marks < 0).any() else marks > 0


def as_tuple(values: Collection[float] | float) -> tuple[float, ...]:
    """Sort the values given, or the one."""
    return tuple(sorted(values)) if isinstance(values, Collection) else (values,)


def _recognise(values: NDArray, counts: NDArray[np.int64]) -> MaskRule | None:
    """Tell the kind of masks by their values, see `read_mask`; None for no known one."""
    known = {*values.tolist()}
    low, high = min(known, default=0), max(known, default=0)
    if known <= {-1, 0, 1}:
        return MaskRule((1,), (-1,) if -1 in known else ())
    if low >= 0 and high <= 1:
        return MaskRule(threshold=0.5)
    if low < 0 or (values != np.rint(values)).any():
        return None
    top = _BORDER if high <= _BORDER else 65535
    others = sorted(known - {0, top})
    if not others or (not known - {0, high} and 0 in known):
        return MaskRule((high,))
    on, border = (counts[np.isin(values, some)].sum() for some in (others, [_BORDER]))
    if high == _BORDER and others[-1] < _FEW and _RARE * on >= border and (0 in known or len(others) == 1):
        return MaskRule(tuple(others), (_BORDER,))
    end = (top + 1) // 8
    near = {"low": values < end, "high": values > top - end}
    middle = counts[~near["low"] & ~near["high"]].sum()
    soft_ends = (near["high"] & (values < top)).any()
    if soft_ends and middle <= min(counts[side].sum() for side in near.values()):
        return MaskRule(threshold=(top + 1) / 2)
    return None
