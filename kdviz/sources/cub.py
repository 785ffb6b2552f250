"""Caltech-UCSD Birds-200-2011."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kdviz.errors import DataError
from kdviz.sources.corpora import Corpus, Item, read_marks
from kdviz.sources.samples import Part, advise
from kdviz.units.regions import MaskRule

_BY_IMAGE = ("image_class_labels.txt", "train_test_split.txt")
_MAJORITY = 128  # of grey values that count annotators from 0, none, to 255, all


class Cub(Corpus):
    """Birds of 200 species: whole images, the foreground is the segmentation mask.

    ``CUB_200_2011.tgz`` (<https://data.caltech.edu/records/65de6-vp158>) holds ``images.txt``,
    ``classes.txt``, ``image_class_labels.txt``, ``train_test_split.txt`` and ``images/<class>/<name>.jpg``.
    ``segmentations.tgz`` (<https://data.caltech.edu/records/w9d68-gec53>) comes apart and holds
    ``segmentations/<class>/<name>.png``; it belongs beside the folder or into it. Masks are grey, which is
    taken for the share of several annotators who saw the bird in a pixel: foreground is 128 or more, what the
    majority saw. That reading of the greys is ours, not checked against a document of the authors.
    Train and held-out are the official split, 5,994 and 5,794 images. Nothing is cropped, as in the papers,
    so bounding boxes are not read. Samples are named ``<class>/<name>``.

    References
    ----------
    .. [1] Wah, Branson, Welinder, Perona and Belongie, "The Caltech-UCSD Birds-200-2011 Dataset", Technical
       Report CNS-TR-2011-001, California Institute of Technology.
    .. [2] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, section 4.1: masks as foreground.
    """

    title: ClassVar[str] = "CUB-200-2011"
    advice: ClassVar[str] = (
        "download CUB_200_2011.tgz from https://data.caltech.edu/records/65de6-vp158 and segmentations.tgz "
        "from https://data.caltech.edu/records/w9d68-gec53, unpack both whole, side by side, and give the "
        "folder CUB_200_2011"
    )
    index: ClassVar[tuple[str, ...]] = ("images.txt",)
    usual: ClassVar[str] = "CUB_200_2011"
    others: ClassVar[Mapping[str, str]] = {"lists/files.txt": "CUB-200 of 2010, which has no masks"}

    kind: Literal["cub200"] = "cub200"

    def find(self, root: Path, part: Part) -> tuple[list[str], list[Item]]:
        """List the images of a part by their numbers."""
        places = [place / "segmentations" for place in (root, *root.parents[:2])]
        masks = next((place for place in places if place.is_dir() and any(place.glob("*/*.png"))), None)
        if masks is None:
            raise DataError(
                f"{root} has no masks: no segmentations/<class>/<name>.png in it or beside it"
                f"{advise(places[1], self.advice)}"
            )
        names, images = (dict(self.read_lines(root / file, 2)) for file in ("classes.txt", "images.txt"))
        known = {file: dict(self.read_lines(root / file, 2)) for file in _BY_IMAGE}
        labels, items = {number: label for label, number in enumerate(names)}, []
        for file in _BY_IMAGE:
            self.compare(root / "images.txt", images, known[file], file)
            self.compare(root / file, known[file], images, "images.txt")
        for number, name in images.items():
            species, split = (known[file][number] for file in _BY_IMAGE)
            if split not in ("0", "1") or species not in labels:
                raise DataError(
                    f"image {number} of {root} has class {species!r} and split {split!r}; allowed: a number "
                    "of classes.txt, and 0 or 1; unpack these files again"
                )
            if (split == "1") == (part == "train"):
                mask = (masks / name).with_suffix(".png")
                sample = Path(name).with_suffix("").as_posix()
                items.append(Item(sample, labels[species], root / "images" / name, mask=mask))
        return list(names.values()), items

    def mark(self, item: Item, width: int, height: int) -> NDArray[np.int8]:
        """Take what the majority of annotators took for the bird."""
        assert item.mask is not None
        return read_marks(item.mask, MaskRule(threshold=_MAJORITY))
