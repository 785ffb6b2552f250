"""Files of runs as they lie on the disk: to compare two runs, and to edit one by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def plain_files(path: Path) -> dict[str, bytes]:
    """Every file below a folder but locks and notes of who held them, without the moment a run was made."""
    files = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.name.endswith((".lock", ".lock.json")):
            content = file.read_bytes()
            if file.name == "zarr.json":
                node = json.loads(content)
                for name in ("created_at", "kdviz_checksum"):
                    node["attributes"].pop(name, None)
                content = json.dumps(node, sort_keys=True).encode()
            files[str(file.relative_to(path))] = content
    return files


def edit_node(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what zarr says of a group or an array, as somebody does who knows of no checksum."""
    node = json.loads(path.read_bytes())
    node["attributes"].pop("kdviz_checksum", None)
    change(node)
    path.write_text(json.dumps(node))
