"""Replace folders: a writer killed at any moment leaves the old or the new, and readers see one of them.

A folder has to move away before another can take its name. Until that is done, or after a kill in between,
what it was is read under the name that it moved to.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kdviz.files import beside

PARTIAL = ".partial"  # what zarr appends to files being written, and we to folders and exports
REPLACED = f".old{PARTIAL}"  # appended to a folder that is making way for a new one

_Found = TypeVar("_Found")


def replace_folder(new: Path, target: Path) -> None:
    """Move the finished folder `new` to `target`."""
    old = beside(target, REPLACED)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def sweep(path: Path) -> None:
    """Remove what a killed writer left under temporary names; put back what it had only half replaced."""
    for old in list(path.rglob(f"*{REPLACED}")):
        target = old.with_name(old.name.removesuffix(REPLACED))
        if not target.exists():
            old.rename(target)
    for leftover in list(path.rglob(f"*{PARTIAL}")):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)  # it may have lain in a folder just removed


def find_folder(folder: Path) -> Path:
    """Return the folder itself, or what it was if it is half replaced."""
    old = beside(folder, REPLACED)
    return old if old.exists() and not folder.exists() else folder


def list_folders(folder: Path) -> dict[str, Path]:
    """List what lies in a folder by name, without what is being written; half replaced, as it was."""
    found = {child.name: child for child in folder.iterdir()}
    half = {name.removesuffix(REPLACED): found[name] for name in found if name.endswith(REPLACED)}
    return half | {name: child for name, child in found.items() if not name.endswith(PARTIAL)}


def read_unchanged(folder: Path, read: Callable[[], _Found]) -> _Found:
    """Read from a folder, and again as long as something in it was replaced meanwhile."""
    while True:
        before = _identify(folder)
        try:
            found = read()
        except Exception:
            if _identify(folder) == before:
                raise
        else:
            if _identify(folder) == before:
                return found


def _identify(folder: Path) -> dict[Path, tuple[int, int]]:
    """Tell a folder and what lies in it from others of the same names; nothing in a part of a file."""
    found, folder = {}, find_folder(folder)
    try:
        for path in (folder, *folder.iterdir()):
            status = path.stat()
            found[path] = (status.st_ino, status.st_mtime_ns)
    except OSError:  # gone in this moment: another state than those before and after
        pass
    return found
