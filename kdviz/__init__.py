"""See what knowledge distillation changed: knowledge points of teacher, student and baseline.

Public names are loaded on first use, so that looking at stored results needs no torch.
"""

import importlib
from types import ModuleType
from typing import Any

from kdviz.errors import MissingExtraError

__version__ = "0.1.0"

_HOME = {
    "attribute": "kdviz.attribution",
    "compare": "kdviz.analysis",
    "count_points": "kdviz.analysis",
    "derive_entropy": "kdviz.analysis",
    "explore": "kdviz.widgets",
    "find_points": "kdviz.analysis",
    "list_layers": "kdviz.networks",
    "measure": "kdviz.measuring",
    "measure_checkpoints": "kdviz.measuring",
    "measure_learning": "kdviz.analysis",
    "open_run": "kdviz.store",
    "weight_distance": "kdviz.training",
}
_MODULES = (
    "analysis",
    "attribution",
    "coherency",
    "distillation",
    "models",
    "networks",
    "papers",
    "render",
    "reports",
    "schema",
    "sources",
    "store",
    "studies",
    "testing",
    "training",
    "transfer",
    "unicam",
    "units",
    "widgets",
)

__all__ = ["__version__", *sorted(_HOME), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(_load(_HOME[name]), name)
    if name in _MODULES:
        return _load(f"kdviz.{name}")
    raise AttributeError(f"module 'kdviz' has no attribute {name!r}; public names: {', '.join(__all__)}")


def _load(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise MissingExtraError(f"{module} needs {error.name}: install kdviz[measure]") from error


def __dir__() -> list[str]:
    return __all__
