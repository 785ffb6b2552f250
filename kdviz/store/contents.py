"""What a run is to hold, listed in the run itself, and what of that is missing.

The list is the attribute ``contents`` of ``/points``, as JSON: ``{group: about}`` for every layer
``points/<network>/<layer>`` and every result. About a layer it says, where there is something to say, which
further ``variables`` it is to have, and which network its own is a ``repeat_of``. A study lists its whole
plan before it measures, other callers what they begin, as they begin it. A run of an older kdviz has no
list: it is to hold what is there, and is listed so when it is written to.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdviz.arguments import name_some
from kdviz.schema import MEASURED

MADE = ("epoch", "quartile", "noise_unit", "clean_response")  # of a layer, with it or beside its blocks
Contents = Mapping[str, Mapping[str, Any]]
_COMMANDS = {
    "attribution": "attribute",
    "coherency": "coherency",
    "transfer": "transfer",
    **dict.fromkeys(("unicam", "unicam-scores", "unicam-progress"), "unicam"),
}


def join_contents(listed: Contents, more: Contents) -> dict[str, dict[str, Any]]:
    """Add to a list; variables of a layer are joined."""
    found = {name: dict(about) for name, about in listed.items()}
    for name, about in more.items():
        one = found.setdefault(name, {}) | dict(about)
        if variables := {*found[name].get("variables", ()), *about.get("variables", ())}:
            one["variables"] = sorted(variables)
        found[name] = one
    return found


def dump_contents(contents: Contents) -> str:
    """Write a list as it is stored."""
    return json.dumps(contents, sort_keys=True)


def networks_file(path: Path) -> Path:
    """Return where ``kdviz measure RUN --network`` remembers what the run at `path` was measured from."""
    return path.with_name(f"{path.name.removesuffix('.zarr')}-networks.json")


def how_to_continue(path: Path, group: str, variable: str = "") -> str:
    """Name what measures or writes a group of the run at `path`, or a variable, again or the rest of it."""
    study = path.parent if path.name == "run.zarr" and (path.parent / "study.yaml").is_file() else None
    if not path.is_dir():
        return "an export of the whole run"
    own = f"{path} --network ..." if networks_file(path).is_file() else None
    if group.startswith("points/"):
        if study or variable in ("", *MADE, *MEASURED):
            asked = study or own
            return f"kdviz measure {asked}" if asked else "the same call of kdviz.measure_checkpoints"
        return "Run.write_variable"
    if group == "points":
        return f"measuring again, after {path} is removed,"
    command, asked = _COMMANDS.get(group.split("/")[0]), study or own
    return f"kdviz {command} {asked}" if asked and command else "Run.write_result(..., overwrite=True)"


def describe_gaps(lacks: Mapping[str, str], path: Path) -> str:
    """Say in one sentence what of a run is missing, and how to go on; nothing if it is whole.

    Parameters
    ----------
    lacks
        For every listed group what it lacks: nothing, ``"all"`` or a few words.
    path
        Of the run.
    """
    layers: dict[str, dict[str, str]] = {}
    results: dict[str, str] = {}
    for group, lack in lacks.items():
        if group.startswith("points/"):
            _, network, layer = group.split("/")
            layers.setdefault(network, {})[layer] = lack
        else:
            results[group] = lack
    missing = [name for name, found in layers.items() if {*found.values()} == {"all"}]
    begun = {name: found for name, found in layers.items() if name not in missing and any(found.values())}
    said = []
    if missing:
        said.append(f"{len(missing)} of {len(layers)} networks missing: {name_some(missing)}")
    if begun:
        parts = [f"{name} ({_describe(found)})" for name, found in begun.items()]
        said.append(f"{len(begun)} of {len(layers)} networks unfinished: {name_some(parts)}")
    gone = [name for name, lack in results.items() if lack]
    if gone:
        said.append(f"{len(gone)} of {len(results)} results missing: {name_some(gone)}")
    order = sorted(lacks, key=lambda group: not group.startswith("points/"))
    ways = dict.fromkeys(how_to_continue(path, group) for group in order if lacks[group])
    return f"incomplete: {'; '.join(said)}; continue with {', then '.join(ways)}" if said else ""


def _describe(layers: Mapping[str, str]) -> str:
    return ", ".join(f"{layer}: {lack}" for layer, lack in layers.items() if lack)
