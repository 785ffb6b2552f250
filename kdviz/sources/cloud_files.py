"""ModelNet40, or meshes in the same folders, with backgrounds attached."""

import functools
import hashlib
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdviz.arguments import name_some, one_of, whole_number
from kdviz.errors import DataError, KdvizWarning
from kdviz.sources.cloud import PIECES, CloudSet, CloudSource, attach_backgrounds, fit_unit_sphere
from kdviz.sources.meshes import MESH_SUFFIXES, read_mesh
from kdviz.sources.samples import AbsolutePath, OwnSource, Part, advise, check_folder, find_classes, is_hidden

_FOLDERS = {"train": ("train",), "held-out": ("test",), "all": ("train", "test")}
_MODELNET40 = 40  # classes
_ADVICE = (
    "download ModelNet40.zip from https://modelnet.cs.princeton.edu, unpack it whole and give the folder "
    "ModelNet40, or one that holds <class>/train/<name>.off and <class>/test/<name>.off likewise"
)


class ModelNet40(OwnSource, CloudSource):
    """Meshes in the folders of ModelNet40, as `read_modelnet40` reads them."""

    kind: Literal["modelnet40"] = "modelnet40"
    folder: AbsolutePath = Field(description="folder with one folder of meshes a class")

    def read(self) -> CloudSet:
        """Find all meshes."""
        return self._find("all")

    def load(self, part: Part) -> CloudSet:
        """Find the meshes in the folders of a part."""
        return self._find(part)

    def _find(self, split: str) -> CloudSet:
        return read_modelnet40(self.folder, split, points=self.points, background=self.background)


def read_modelnet40(
    root: str | Path,
    split: str = "train",
    *,
    count: int | None = None,
    points: int = 1024,
    background: int = 500,
    seed: int = 0,
) -> CloudSet:
    """Read ModelNet40, or any meshes in the same folders, and attach backgrounds as `furniture` does.

    Meshes lie at ``root/<class>/train/<name>.off`` and ``root/<class>/test/<name>.off``
    (<https://modelnet.cs.princeton.edu>), or end in ``.obj``, ``.ply`` or ``.stl``, see `read_mesh`. Every
    mesh is sampled uniformly by area, with twice the points that a view needs, and put into the unit sphere.
    Only the meshes needed are read, and their points kept: about 25 kB each.

    Parameters
    ----------
    root
        Folder with one folder per class, or the one around it; labels follow their names, sorted.
    split
        ``"train"``; ``"held-out"``: the folders ``test``; or ``"all"``: both, one of which may be missing.
    count
        How many clouds, classes taking turns; by default as many that every mesh comes at least once.
    points, background, seed
        As in `furniture`; `points` at least 2 and without upper limit.

    Returns
    -------
    CloudSet
        Identifiers are ``<class>/<name>-<view>``, of all ``<class>/<folder>/<name>-<view>``.

    Raises
    ------
    ValueError
        If an argument is outside what is said above.
    DataError
        If a folder is missing or holds no meshes, there is one class only; on reading, if a mesh is damaged.
    MissingExtraError
        If trimesh is not installed.

    Warns
    -----
    KdvizWarning
        If a folder by the name of ModelNet holds other than 40 classes.
    """
    one_of("split", split, _FOLDERS)
    whole_number("points", points, 2)
    whole_number("background", background)
    root = Path(root)
    check_folder("root (data.folder, --clouds)", root, _ADVICE)
    root = _locate(root)
    labels = find_classes(root)
    if root.name.lower().startswith("modelnet") and len(labels) != _MODELNET40:
        message = f"{root} holds {len(labels)} classes, ModelNet40 has {_MODELNET40}: those there are taken"
        warnings.warn(message, KdvizWarning, stacklevel=2)
    folders = _FOLDERS[split]
    meshes = [
        [
            path
            for folder in folders
            for path in sorted((root / label / folder).glob("*"))
            if path.suffix.lower() in MESH_SUFFIXES and not is_hidden(path)
        ]
        for label in labels
    ]
    empty = [
        f"{label}/{' or '.join(folders)}" for label, paths in zip(labels, meshes, strict=True) if not paths
    ]
    if empty:
        kinds = ", ".join(MESH_SUFFIXES)
        raise DataError(f"{root} holds no meshes ({kinds}) in {name_some(empty)}{advise(root, _ADVICE)}")
    if background and len(labels) < 2:
        raise DataError(
            f"{root} holds one class, {labels[0]}, and backgrounds are drawn from others; {_ADVICE}"
        )
    sampled = 2 * max(points, -(-background // PIECES))

    @functools.cache
    def read_surface(label: int, item: int) -> NDArray[np.float32]:
        path = meshes[label][item]
        key = int.from_bytes(hashlib.sha256(path.stem.encode()).digest()[:8], "big")
        return fit_unit_sphere(read_mesh(path).sample(sampled, seed=key)).astype(np.float32)

    return attach_backgrounds(
        [[_name(path, whole=split == "all") for path in paths] for paths in meshes],
        read_surface,
        classes=labels,
        split=split,
        count=count,
        points=points,
        background=background,
        seed=seed,
        source=f"meshes of {root.name}",
    )


def _name(mesh: Path, *, whole: bool) -> str:
    """Name a mesh by class and file and, of the `whole` tree, the folder: both may have files of a name."""
    label, folder, _ = mesh.parts[-3:]
    return "/".join([label, *([folder] if whole else []), mesh.stem])


def _locate(root: Path) -> Path:
    """Find the folder of the classes: the one given, or the only one in it that is such a folder."""
    places = [root, *(path for path in sorted(root.glob("*/")) if not is_hidden(path))]
    found = [place for place in places for name in _FOLDERS["all"] if any(place.glob(f"*/{name}"))]
    if root not in found and len(set(found)) != 1:
        raise DataError(f"root (data.folder, --clouds) {root} holds no <class>/train{advise(root, _ADVICE)}")
    return root if root in found else found[0]
