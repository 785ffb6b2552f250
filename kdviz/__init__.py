"""See what knowledge distillation changed: knowledge points of teacher, student and baseline.

Public names are loaded on first use, so that looking at stored results needs no torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "compare": "kdviz.analysis",
    "count_points": "kdviz.analysis",
    "derive_entropy": "kdviz.analysis",
    "find_points": "kdviz.analysis",
    "list_layers": "kdviz.features",
    "measure": "kdviz.measuring",
    "measure_checkpoints": "kdviz.measuring",
    "measure_learning": "kdviz.analysis",
    "open_run": "kdviz.store",
    "weight_distance": "kdviz.training",
}
_MODULES = ("analysis", "models", "render", "schema", "sources", "testing", "training", "units")

__all__ = ["__version__", *sorted(_HOME), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"kdviz.{name}")
    raise AttributeError(f"module 'kdviz' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
