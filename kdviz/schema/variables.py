"""What a variable is, and the one list of them: `VARIABLES`, to which every room adds its own."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Attribute = str | int | float
Part = Literal["samples", "measured", "derived", "attribution", "result"]

METHODS = ("gain", "path")  # position = code of the variable `method`
QUARTILES = 4
BLOCK = 16  # samples measured and written at once; part of what a stored run is, so not a setting
# dtype -> NumPy kinds accepted in memory; widths may differ there, the store writes the exact dtype.
KINDS = {
    "bool": "b", "int8": "iu", "int32": "iu", "int64": "iu", "uint8": "u", "float32": "f", "float64": "f",
    "str": "UOT",
}  # fmt: skip

EPOCH = ("epoch",)
SAMPLE = ("sample",)
UNIT = ("unit",)
SAMPLE_UNIT = ("sample", "unit")
EPOCH_SAMPLE = ("epoch", "sample")
MAP = ("epoch", "sample", "unit")


@dataclass(frozen=True)
class Variable:
    """What one variable of the contract must look like.

    Attributes
    ----------
    name, dims
        The only name, and the only dimensions in the only order.
    dtype
        As stored: a NumPy name, or ``"str"``. In memory the kind counts, not the width.
    long_name, units, comment
        Written to the variable's attributes by `annotate`; ``units`` is the physical measure, empty for none.
    part
        ``samples`` (shared by all networks of a run), ``measured``, ``derived``, ``attribution``, or
        ``result`` (what an analysis returns).
    may_be_nan
        Whether NaN is a legal value at a valid unit: the quantity may be unknown or undefined there.
    flags
        Names of the codes 0, 1, ... of an enumeration; code -1 stands for not measured.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    long_name: str
    units: str = ""
    comment: str = ""
    part: Part = "samples"
    may_be_nan: bool = False
    flags: tuple[str, ...] = ()

    @property
    def attrs(self) -> dict[str, Attribute]:
        """Attributes to write; empty ones are left out."""
        attrs: dict[str, Attribute] = {
            "long_name": self.long_name,
            "units": self.units,
            "comment": self.comment,
        }
        if self.flags:
            # CF wants a number array here; the contract allows flat values only, so both are word lists.
            attrs["flag_values"] = " ".join(str(code) for code in range(len(self.flags)))
            attrs["flag_meanings"] = " ".join(self.flags)
        return {name: value for name, value in attrs.items() if value != ""}

    @property
    def missing(self) -> bool | int | float | str:
        """Value that stands for "not measured", which is NaN, -1, 0 (unsigned), False or an empty string."""
        by_kind: dict[str, bool | int | float | str] = {"b": False, "i": -1, "u": 0, "f": np.nan, "U": ""}
        return by_kind[KINDS[self.dtype][0]]


def measured_number(
    name: str,
    dims: tuple[str, ...],
    long_name: str,
    units: str,
    comment: str = "",
    part: Part = "measured",
    may_be_nan: bool = False,
) -> Variable:
    """Describe a float32, as which everything measured or derived from it is stored."""
    return Variable(name, dims, "float32", long_name, units, comment, part, may_be_nan)


VARIABLES: dict[str, Variable] = {}


def register(*variables: Variable) -> None:
    """Add variables to the contract: the names under which a room returns or stores its numbers.

    Raises
    ------
    ValueError
        If a name is taken.
    """
    for variable in variables:
        if variable.name in VARIABLES:
            raise ValueError(f"variable {variable.name!r} is in the contract already")
        VARIABLES[variable.name] = variable
