"""The import rules of docs/architecture.md, enforced: every import is parsed, local ones included."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room is a module or package directly below kdviz. Rooms named here and not built yet have their place.
LEVELS = {
    "errors": 0,
    "schema": 0,
    "units": 1,
    "checkpoints": 1,
    "features": 1,
    "gain": 1,
    "entropy": 1,
    "points": 1,
    "papers": 1,
    "transfer": 1,
    "unicam": 1,
    "analysis": 2,
    "measuring": 2,
    "baselines": 2,
    "coherency": 2,
    "store": 2,
    "sources": 2,
    "models": 2,
    "training": 2,
    "testing": 2,
    "render": 3,
    "widgets": 4,
    "runs": 5,
    "cli": 5,
}

# Within a level, only these arrows; one that no import uses any more has to go.
ARROWS_INSIDE_A_LEVEL = {
    ("schema", "errors"),
    ("gain", "entropy"),
    ("gain", "features"),
    ("analysis", "store"),
    ("coherency", "analysis"),
    ("coherency", "baselines"),
    ("coherency", "measuring"),
    ("measuring", "store"),
    ("testing", "store"),
    ("baselines", "analysis"),
    ("baselines", "measuring"),
    ("cli", "runs"),
}

# Pictures know no analysis; moving a slider must not start a computation.
ONLY = {
    "render": {"errors", "schema"},
    "widgets": {"errors", "schema", "analysis", "render", "store"},
}

TORCH_ROOMS = {
    "checkpoints",
    "features",
    "gain",
    "baselines",
    "coherency",
    "transfer",
    "unicam",
    "measuring",
    "models",
    "training",
    "testing",
    "runs",
}

TOP = max(LEVELS.values())
LONGEST_MODULE = 600
TORCH_PACKAGES = {"torch", "torchvision", "captum", "safetensors"}


def read_modules() -> dict[str, str]:
    """Give the source of every module of the package by its dotted name; a package by its own name."""
    modules = {}
    for path in sorted((ROOT / "kdviz").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return modules


def imported_names(source: str) -> Iterator[str]:
    """Yield the dotted name of everything a source imports; what hides its target comes with a `?`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield f"?relative import in line {node.lineno}"
            else:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            yield f"?import by name in line {node.lineno}"


def room_of(module: str) -> str:
    """Give the room of a module: `store` for `kdviz.store.run`, empty for the package itself."""
    return f"{module}.".split(".")[1]


def find_arrows(modules: Mapping[str, str]) -> set[tuple[str, str]]:
    """Give the arrows between rooms as (importing, imported), those inside a room left out."""
    arrows = set()
    for module, source in modules.items():
        for name in imported_names(source):
            if name.split(".")[0] == "kdviz" and name != "kdviz.__version__":
                arrows.add((room_of(module), room_of(name)))
    return {(start, end) for start, end in arrows if start != end}


def find_faults(modules: Mapping[str, str]) -> list[str]:
    """List what breaks the rules: unknown rooms, arrows not allowed, hidden imports, stray torch."""
    faults = [f"kdviz.{room} has no level" for room in {room_of(name) for name in modules} - {"", *LEVELS}]
    for start, end in sorted(find_arrows(modules)):
        arrow = f"{start or 'kdviz'} -> {end or 'kdviz'}"
        if end == "" and LEVELS.get(start) == TOP:
            continue  # the top uses kdviz as its users do
        if end not in LEVELS:
            faults.append(f"{arrow}: import from a room, not from the package")
        elif start == "" and end != "errors":
            faults.append(f"{arrow}: the package imports its rooms on first use only, errors apart")
        elif start in ONLY and end not in ONLY[start]:
            faults.append(f"{arrow}: {start} may import {', '.join(sorted(ONLY[start]))} only")
        elif start not in TORCH_ROOMS and end in TORCH_ROOMS and LEVELS.get(start, 0) < TOP:
            faults.append(f"{arrow}: {start} is free of torch, {end} is not")
        elif start in LEVELS and LEVELS[end] > LEVELS[start]:
            faults.append(f"{arrow}: level {LEVELS[start]} imports level {LEVELS[end]}")
        elif start in LEVELS and LEVELS[end] == LEVELS[start] and (start, end) not in ARROWS_INSIDE_A_LEVEL:
            faults.append(f"{arrow}: not among the arrows inside level {LEVELS[start]}")
    for module, source in modules.items():
        for name in imported_names(source):
            if name.startswith("?") and module != "kdviz":
                faults.append(f"{module}: {name[1:]}")
            if (
                name.split(".")[0] in ("torch", "torchvision", "captum")
                and room_of(module) not in TORCH_ROOMS
            ):
                faults.append(f"{module}: imports {name}, only {', '.join(sorted(TORCH_ROOMS))} may")
    return sorted(faults)


def find_unused_arrows(modules: Mapping[str, str]) -> set[tuple[str, str]]:
    """Give the listed arrows that no import uses."""
    return ARROWS_INSIDE_A_LEVEL - find_arrows(modules)


def import_graph(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Give for every module the modules it imports; a package stands for names that are no module."""
    graph: dict[str, set[str]] = {}
    for module, source in modules.items():
        targets = {name if name in modules else name.rpartition(".")[0] for name in imported_names(source)}
        graph[module] = targets & modules.keys() - {module, "kdviz"}
    return graph


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter at the root of the repository."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


# -- the package


def test_imports__go_from_left_to_right_only() -> None:
    assert find_faults(read_modules()) == []


def test_imports__listed_arrows_are_used() -> None:
    assert find_unused_arrows(read_modules()) == set()


def test_imports__no_cycle_between_modules() -> None:
    order = list(TopologicalSorter(import_graph(read_modules())).static_order())
    assert order.index("kdviz.errors") < order.index("kdviz.schema") < order.index("kdviz.store.run")


@pytest.mark.parametrize("room", ["gain", "entropy", "points", "store", "analysis"])
def test_room__never_asks_which_modality_it_is(room: str) -> None:
    """No class of units and no string of the code (docstrings are not code) says what kind of input it is."""
    classes = {"modality", "Grid", "Tokens", "Cloud"}
    here = f"kdviz.{room}"
    sources = {name: text for name, text in read_modules().items() if f"{name}.".startswith(f"{here}.")}
    sources.pop("kdviz.analysis.coarsening", None)  # merges cells of a grid
    assert sources
    for name, text in sources.items():
        tree = ast.parse(text)
        said = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        said |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        strings = {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        found = said & classes | strings & {
            "modality",
            "unit_kind",
            "image",
            "text",
            "cloud",
            "token",
            "words",
        }
        assert not found, f"{name}: {found}"


def test_module__is_short_enough_to_read() -> None:
    lines = {module: source.count("\n") for module, source in read_modules().items()}
    too_long = {module: count for module, count in lines.items() if count > LONGEST_MODULE}
    assert too_long == {}, "make each a package with the same public names"


def test_module__name_says_its_subject() -> None:
    names = {part for module in read_modules() for part in module.split(".")}
    assert names & {"utils", "util", "helpers", "common", "misc"} == set()


def test_package__loads_nothing_heavy() -> None:
    code = "import kdviz, sys; print({'torch', 'numpy', 'xarray', 'pandas'} & set(sys.modules))"
    result = run_python(code)
    assert (result.returncode, result.stdout.strip()) == (0, "set()"), result.stderr


def test_viewing_rooms__leave_torch_unloaded() -> None:
    viewing = [
        module
        for module in read_modules()
        if module != "kdviz" and room_of(module) not in TORCH_ROOMS and LEVELS[room_of(module)] < TOP
    ]
    needed = {"analysis", "store", "schema", "units", "entropy", "points", "sources"}
    assert needed <= {room_of(module) for module in viewing}
    result = run_python(f"import {', '.join(viewing)}, sys; print('torch' in sys.modules)")
    assert (result.returncode, result.stdout.strip()) == (0, "False"), result.stderr


def test_public_names__all_exist() -> None:
    code = "import kdviz; print([name for name in kdviz.__all__ if not hasattr(kdviz, name)])"
    result = run_python(code)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_public_names__hold_what_the_notebooks_import() -> None:
    code = "import kdviz; print(kdviz.papers.__name__, kdviz.store.__name__)"
    result = run_python(code)
    assert (result.returncode, result.stdout.strip()) == (0, "kdviz.papers kdviz.store"), result.stderr


def test_architecture_page__shows_these_levels() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.+?) \|", page, re.MULTILINE)
    shown = {room: int(level) for level, rooms in rows for room in re.findall("`(.+?)`", rooms)}
    assert shown == LEVELS


# -- the checker itself: each wrong source is named, the right ones pass


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("kdviz.points", "from kdviz.analysis import compare", "points -> analysis: level 1 imports level 2"),
        ("kdviz.points", "def f():\n    import kdviz.store.run", "points -> store: level 1 imports level 2"),
        ("kdviz.units", "from kdviz import points", "units -> points: not among the arrows inside level 1"),
        ("kdviz.store.run", "from kdviz import gain", "store -> gain: store is free of torch, gain is not"),
        (
            "kdviz.render",
            "from kdviz.points import average_units",
            "render -> points: render may import errors, schema only",
        ),
        (
            "kdviz.widgets.views",
            "from kdviz.measuring import measure",
            "widgets -> measuring: widgets may import analysis, errors, render, schema, store only",
        ),
        ("kdviz.store.run", "import kdviz", "store -> kdviz: import from a room, not from the package"),
        (
            "kdviz.cli",
            "from kdviz import measure",
            "cli -> measure: import from a room, not from the package",
        ),
        (
            "kdviz",
            "from kdviz.schema import validate",
            "kdviz -> schema: the package imports its rooms on first use only, errors apart",
        ),
        ("kdviz.utils", "", "kdviz.utils has no level"),
        ("kdviz.store.run", "from . import layout", "kdviz.store.run: relative import in line 1"),
        (
            "kdviz.cli",
            "import importlib\nimportlib.import_module('kdviz.runs')",
            "kdviz.cli: import by name in line 2",
        ),
    ],
)
def test_find_faults__names_what_is_wrong(module: str, source: str, fault: str) -> None:
    assert find_faults({module: source}) == [fault]


@pytest.mark.parametrize(
    "source", ["import torch", "import torch.nn as nn", "def f():\n    from torch import nn"]
)
def test_find_faults__names_torch_in_a_viewing_room(source: str) -> None:
    (fault,) = find_faults({"kdviz.points": source})
    assert fault.startswith("kdviz.points: imports torch")


def test_find_faults__accepts_what_is_allowed() -> None:
    allowed = {
        "kdviz": "import importlib\nimportlib.import_module('kdviz.store')",
        "kdviz.schema": "from kdviz import __version__\nfrom kdviz.errors import SchemaError",
        "kdviz.gain": "import torch\nfrom kdviz.features import FeatureReader",
        "kdviz.widgets.views": "from kdviz import render\nfrom kdviz.widgets.state import Selection",
        "kdviz.cli": "import kdviz\ndef f():\n    from kdviz.measuring import measure",
    }
    assert find_faults(allowed) == []


def test_find_unused_arrows__names_an_arrow_nobody_needs() -> None:
    modules = read_modules() | {"kdviz.schema": ""}
    assert find_unused_arrows(modules) == {("schema", "errors")}


def test_import_graph__shows_a_cycle_through_a_local_import() -> None:
    modules = {
        "kdviz.store.run": "from kdviz.store.files import plain",
        "kdviz.store.files": "def f():\n    from kdviz.store import run",
    }
    with pytest.raises(CycleError):
        list(TopologicalSorter(import_graph(modules)).static_order())
