"""Find the user's function that builds a network. It is called: only what is typed may name it."""

import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn


def find_factory(network: str) -> tuple[Callable[[], nn.Module], nn.Module]:
    """Return what builds a network, and one that it built.

    Parameters
    ----------
    network
        ``module:function`` of a function without arguments; modules in the current folder are found.

    Raises
    ------
    ValueError
        If there is no such function, or it builds no network.
    """
    import kdviz.models  # noqa: F401 - makes torchvision importable beside a CPU build of torch

    here = str(Path.cwd())
    sys.path[:0] = [] if here in sys.path else [here]
    try:
        factory: Any = pkgutil.resolve_name(network)
        made = factory()
        if not isinstance(made, nn.Module):
            raise TypeError(f"it returns a {type(made).__name__}")
    except Exception as error:  # the function may do anything
        raise ValueError(
            f"--network is {network!r}; allowed: module:function of a function without arguments that builds "
            f"the network, its module in this folder or installed ({type(error).__name__}: {error})"
        ) from error
    return factory, made
