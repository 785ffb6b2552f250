"""The import rules of docs/architecture.md, enforced: every import is parsed, local ones included."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A room is a module or package directly below kdviz; here stands which rooms each may import. Rooms that are
# named here and not built yet have their place.
GROUND = {"errors", "arguments", "stopping", "files", "schema", "units"}
MEASURED = GROUND | {"networks", "entropy", "points", "store", "analysis"}
ROOMS: dict[str, set[str]] = {
    # ground
    "errors": set(),
    "arguments": {"errors"},
    "stopping": set(),
    "files": {"errors", "stopping"},
    "schema": {"errors", "arguments"},
    "units": {"errors", "arguments"},
    "papers": {"errors", "arguments"},
    "architectures": set(),
    "wording": set(),
    # subjects
    "networks": GROUND,
    "sources": GROUND,
    "models": GROUND | {"architectures"},
    # engines
    "entropy": {"errors", "arguments"},
    "points": {"errors", "arguments"},
    "gain": GROUND | {"networks", "entropy"},
    "distillation": GROUND | {"networks"},
    # kept
    "store": GROUND,
    "analysis": GROUND | {"wording", "entropy", "points", "store", "papers"},
    "render": {"errors", "arguments", "files", "schema", "wording"},
    "widgets": {"errors", "arguments", "files", "schema", "analysis", "render", "store"},
    # rooms
    "measuring": GROUND | {"networks", "gain", "entropy", "store"},
    "training": GROUND | {"networks", "models", "distillation"},
    "attribution": MEASURED | {"measuring"},
    "coherency": MEASURED | {"measuring", "attribution"},
    "transfer": MEASURED | {"models", "measuring", "attribution"},
    "unicam": MEASURED | {"measuring", "attribution", "transfer"},
    "testing": GROUND,
    # top; the two of them that write reports and read commands use kdviz as its users do
    "studies": MEASURED
    | {"papers", "architectures", "sources", "models", "gain", "distillation", "training", "measuring"}
    | {"attribution", "coherency", "transfer", "unicam"},
    "reports": GROUND | {"analysis", "render", "store", ""},
    "cli": {"errors", "arguments", "stopping", "files", "studies", "reports", ""},
    "__main__": {"stopping", "cli"},
}

TORCH_ROOMS = {
    "networks",
    "gain",
    "distillation",
    "measuring",
    "training",
    "attribution",
    "coherency",
    "transfer",
    "unicam",
    "models",
    "testing",
    "studies",
}

LONGEST_MODULE = 600
TORCH_PACKAGES = {"torch", "torchvision", "captum", "safetensors"}


def read_modules() -> dict[str, str]:
    """Return the source of every module of the package by its dotted name; a package by its own name."""
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
    """Return the room of a module: `store` for `kdviz.store.run`, empty for the package itself."""
    return f"{module}.".split(".")[1]


def find_arrows(modules: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return the arrows between rooms as (importing, imported), those inside a room left out."""
    arrows = set()
    for module, source in modules.items():
        for name in imported_names(source):
            if name.split(".")[0] == "kdviz" and name != "kdviz.__version__":
                arrows.add((room_of(module), room_of(name)))
    return {(start, end) for start, end in arrows if start != end}


def find_faults(modules: Mapping[str, str]) -> list[str]:
    """List what breaks the rules: unknown rooms, arrows not allowed, hidden imports, stray torch."""
    faults = [f"kdviz.{room} is in no table" for room in {room_of(name) for name in modules} - {"", *ROOMS}]
    for start, end in sorted(find_arrows(modules)):
        if start == "" and end != "errors":
            faults.append(f"kdviz -> {end}: the package imports its rooms on first use only, errors apart")
        elif start in ROOMS and end not in ROOMS[start]:
            allowed = ", ".join(sorted(room or "kdviz" for room in ROOMS[start])) or "nothing"
            faults.append(f"{start} -> {end or 'kdviz'}: {start} may import {allowed}")
    for module, source in modules.items():
        for name in imported_names(source):
            if name.startswith("?") and module != "kdviz":
                faults.append(f"{module}: {name[1:]}")
            if name.split(".")[0] in TORCH_PACKAGES and room_of(module) not in TORCH_ROOMS:
                faults.append(f"{module}: imports {name}, only {', '.join(sorted(TORCH_ROOMS))} may")
    return sorted(faults)


def import_graph(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Return for every module the modules it imports; a package stands for names that are no module."""
    graph: dict[str, set[str]] = {}
    for module, source in modules.items():
        targets = {name if name in modules else name.rpartition(".")[0] for name in imported_names(source)}
        graph[module] = targets & modules.keys() - {module, "kdviz"}
    return graph


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter at the root of the repository."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


# -- the package


def test_imports__follow_the_table() -> None:
    assert find_faults(read_modules()) == []


def test_table__has_no_circle() -> None:
    order = list(TopologicalSorter({room: allowed - {""} for room, allowed in ROOMS.items()}).static_order())
    assert {*order} == {*ROOMS}
    assert order.index("networks") < order.index("gain") < order.index("measuring") < order.index("studies")


def test_table__keeps_torch_out_of_what_only_looks() -> None:
    for room in ROOMS.keys() - TORCH_ROOMS - {"reports", "cli", "__main__"}:
        assert not ROOMS[room] & TORCH_ROOMS, room


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
        if module != "kdviz" and room_of(module) not in TORCH_ROOMS | {"reports", "cli", "__main__"}
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


def test_architecture_page__names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:ground|subjects|engines|kept|rooms|top) \| (.+?) \|", page, re.MULTILINE)
    assert {room for rooms in rows for room in re.findall("`(.+?)`", rooms)} == {*ROOMS}


# -- the checker itself: each wrong source is named, the right ones pass


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        (
            "kdviz.points",
            "from kdviz.analysis import compare",
            "points -> analysis: points may import arguments, errors",
        ),
        (
            "kdviz.points",
            "def f():\n    import kdviz.store.run",
            "points -> store: points may import arguments, errors",
        ),
        (
            "kdviz.store.run",
            "from kdviz import gain",
            "store -> gain: store may import arguments, errors, files, schema, stopping, units",
        ),
        (
            "kdviz.widgets.views",
            "from kdviz.measuring import measure",
            "widgets -> measuring: widgets may import analysis, arguments, errors, files, render, schema, "
            "store",
        ),
        (
            "kdviz.arguments",
            "import kdviz",
            "arguments -> kdviz: arguments may import errors",
        ),
        (
            "kdviz",
            "from kdviz.schema import validate",
            "kdviz -> schema: the package imports its rooms on first use only, errors apart",
        ),
        ("kdviz.utils", "", "kdviz.utils is in no table"),
        ("kdviz.store.run", "from . import layout", "kdviz.store.run: relative import in line 1"),
        (
            "kdviz.cli",
            "import importlib\nimportlib.import_module('kdviz.studies')",
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
        "kdviz.gain": "import torch\nfrom kdviz.networks import FeatureReader",
        "kdviz.widgets.views": "from kdviz import render\nfrom kdviz.widgets.state import Selection",
        "kdviz.cli": "import kdviz\ndef f():\n    from kdviz.studies import Study",
    }
    assert find_faults(allowed) == []


def test_import_graph__shows_a_cycle_through_a_local_import() -> None:
    modules = {
        "kdviz.store.run": "from kdviz.store.files import plain",
        "kdviz.store.files": "def f():\n    from kdviz.store import run",
    }
    with pytest.raises(CycleError):
        list(TopologicalSorter(import_graph(modules)).static_order())
