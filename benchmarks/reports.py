"""What every benchmark ends in: a table on the terminal and a file of numbers."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import kdviz
from benchmarks.problems import RESULTS


def show_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of equal keys below a title."""
    table = pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.4g}")
    print(f"\n{title}\n{table}", flush=True)


def write_result(
    name: str, settings: Mapping[str, Any], results: Mapping[str, Any], folder: Path | None = None
) -> Path:
    """Write settings, facts of the machine and results as ``NAME.json``; give its path."""
    path = (RESULTS if folder is None else folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {"machine": describe_machine(), "results": results, "settings": settings}
    path.write_text(json.dumps(contents, indent=1, sort_keys=True, default=_plain) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}", flush=True)
    return path


def describe_machine() -> dict[str, Any]:
    """Name what the numbers may depend on, besides the settings."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "kdviz": kdviz.__version__,
        "processor": _processor(),
        "python": platform.python_version(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in facts if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _plain(value: object) -> Any:
    """Turn what NumPy gives into what JSON can hold, floats to six significant digits."""
    if isinstance(value, np.floating):
        return float(f"{value:.6g}")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} cannot be written as JSON")
