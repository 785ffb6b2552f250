"""ModelNet40, or meshes in the same folders, with backgrounds attached."""

import functools
import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdviz.arguments import name_some, one_of, whole_number
from kdviz.errors import DataError
from kdviz.sources.cloud import PIECES, CloudSet, CloudSource, attach_backgrounds, fit_unit_sphere
from kdviz.sources.meshes import MESH_SUFFIXES, read_mesh
from kdviz.sources.samples import PARTS, AbsolutePath, Part, check_folder, find_classes

_FOLDERS = {"train": "train", "held-out": "test"}


class ModelNet40(CloudSource):
    """Meshes in the folders of ModelNet40, as `read_modelnet40` reads them."""

    kind: Literal["modelnet40"] = "modelnet40"
    folder: AbsolutePath = Field(description="folder with one folder of meshes a class")

    def load(self, part: Part) -> CloudSet:
        """Find the meshes of a part."""
        check_folder("folder (--clouds)", self.folder)
        return read_modelnet40(self.folder, part, points=self.points, background=self.background)


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
        Folder with one folder per class; labels follow their names, sorted.
    split
        ``"train"``, or ``"held-out"``: the folders ``test``.
    count
        How many clouds, classes taking turns; by default as many that every mesh comes at least once.
    points, background, seed
        As in `furniture`; `points` at least 2 and without upper limit.

    Returns
    -------
    CloudSet
        Identifiers are ``<class>/<name>-<view>``.

    Raises
    ------
    ValueError
        If an argument is outside what is said above.
    DataError
        If a folder is missing or holds no meshes, or a mesh is damaged.
    MissingExtraError
        If trimesh is not installed.
    """
    one_of("split", split, PARTS)
    whole_number("points", points, 2)
    whole_number("background", background)
    root = Path(root)
    labels = find_classes(root)
    meshes = [
        sorted(
            path
            for path in (root / label / _FOLDERS[split]).glob("*")
            if path.suffix.lower() in MESH_SUFFIXES
        )
        for label in labels
    ]
    empty = [f"{label}/{_FOLDERS[split]}" for label, paths in zip(labels, meshes, strict=True) if not paths]
    if empty:
        raise DataError(f"{root} holds no meshes ({', '.join(MESH_SUFFIXES)}) in {name_some(empty)}")
    sampled = 2 * max(points, -(-background // PIECES))

    @functools.cache
    def read_surface(label: int, item: int) -> NDArray[np.float32]:
        path = meshes[label][item]
        key = int.from_bytes(hashlib.sha256(path.stem.encode()).digest()[:8], "big")
        return fit_unit_sphere(read_mesh(path).sample(sampled, seed=key)).astype(np.float32)

    return attach_backgrounds(
        [[f"{path.parts[-3]}/{path.stem}" for path in paths] for paths in meshes],
        read_surface,
        classes=labels,
        split=split,
        count=count,
        points=points,
        background=background,
        seed=seed,
        source=f"meshes of {root.name}",
    )
