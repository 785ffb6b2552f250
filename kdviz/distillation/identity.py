"""Say what a setting of a loss is, so that the same is known again in another process and no other is.

A function is what it does: its bytecode, constants and defaults, and whatever it takes from around it. Trying
it, as features are tried, would not do: a loss may branch on values, labels and rows that no trial has, and
two of them would pass for one. In return, another version of Python may know the same function no more.
"""

import builtins
import dis
import inspect
import json
from collections.abc import Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdviz.networks.hashing import fingerprint, fingerprint_tensors

_NAMED = (type, ModuleType, np.ufunc, np.dtype, torch.dtype, torch.device)  # are what they are called


def identify(value: Any, within: tuple[int, ...] = ()) -> Any:
    """Return a value ready for JSON: what is long by a hash, classes by name, functions by name and hash.

    Parameters
    ----------
    value
        Numbers, texts, tensors, arrays, functions, modules, and containers and objects made of them.
    within
        Addresses of what holds it, for functions that call themselves.

    Raises
    ------
    TypeError
        If it, or something it holds or uses, has nothing that tells it from others.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Tensor):
        return fingerprint_tensors({"tensor": value})
    if id(value) in within:
        return f"again, {len(within) - within.index(id(value))} up"
    within = (*within, id(value))
    if isinstance(value, partial):
        return [identify(part, within) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, Mapping):
        return {str(name): identify(entry, within) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [identify(entry, within) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted((identify(entry, within) for entry in value), key=json.dumps)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return fingerprint(f"array {value.dtype.str} {value.shape}", value.tobytes())
    if isinstance(value, (bytes, complex, range, slice, type(...))):
        return repr(value)
    if isinstance(value, _NAMED):
        return getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or str(value)
    if isinstance(value, nn.Module):
        return [repr(value), fingerprint_tensors(value.state_dict())]
    if isinstance(value, FunctionType):
        parts = json.dumps([identify(part, within) for part in _parts(value)])
        return f"{value.__qualname__} {fingerprint(parts)}"
    if isinstance(value, MethodType):
        return [identify(value.__func__, within), identify(value.__self__, within)]
    if inspect.isbuiltin(value) or inspect.ismethoddescriptor(value):
        return value.__qualname__
    if isinstance(value, CodeType):
        return [identify(part, within) for part in _parts_of_code(value)]
    if hasattr(value, "__dict__"):
        return [type(value).__qualname__, identify(vars(value), within)]
    raise TypeError(
        f"a loss depends on {value!r}, and nothing of it can be kept that tells it from others: let it use "
        "numbers, texts, arrays, tensors, functions, and objects made of them"
    )


def _parts(function: FunctionType) -> Iterator[Any]:
    """List what a function does and has by itself, and what it takes from around it.

    Functions of other modules, such as torch's, are known by their names.
    """
    yield from (function.__code__, function.__defaults__, function.__kwdefaults__)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # nothing has been put in yet
            yield "empty"
    for name in sorted(set(_list_globals(function.__code__))):
        value: Any = function.__globals__.get(name, getattr(builtins, name, None))
        is_foreign = inspect.isfunction(value) and value.__module__ != function.__module__
        yield [name, f"{value.__module__}.{value.__qualname__}" if is_foreign else value]


def _parts_of_code(code: CodeType) -> Iterator[Any]:
    yield from (code.co_code, code.co_exceptiontable, code.co_consts, code.co_names, code.co_varnames)
    yield from (code.co_freevars, code.co_cellvars, code.co_argcount, code.co_kwonlyargcount, code.co_flags)


def _list_globals(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _list_globals(constant)
