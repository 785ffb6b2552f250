"""PASCAL VOC 2012."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kdviz.arguments import name_some
from kdviz.errors import DataError
from kdviz.sources.corpora import Corpus, Item, read_marks, read_objects
from kdviz.sources.samples import Part
from kdviz.units.regions import MaskRule

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of `Voc2012` in the order of its labels."""

_LISTS = {"train": "train.txt", "held-out": "val.txt"}
_VOID = 255  # borders of objects


class Voc2012(Corpus):
    """Objects of 20 classes, each cropped at 1.2 times the width and height of its box; masks are exact.

    ``VOCtrainval_11-May-2012.tar`` (<http://host.robots.ox.ac.uk/pascal/VOC/voc2012/>) unpacks to
    ``VOCdevkit/VOC2012``; read are ``ImageSets/Segmentation``, ``Annotations``, ``JPEGImages`` and
    ``SegmentationObject``. Train and held-out are the images of ``train.txt`` and ``val.txt``. Every object
    of an annotation is a sample, but for those marked ``difficult``; its crop is clipped at the border of the
    image. The k-th object of an annotation is the value k of the mask, difficult ones counted: that is the
    foreground, 255 is void, other objects are background. Samples are named ``<image>-<k>``.

    References
    ----------
    .. [1] Everingham et al., "The PASCAL Visual Object Classes Challenge 2012 (VOC2012) Development Kit".
    .. [2] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, section 4.1, and its code: 1.2 times the box.
    """

    title: ClassVar[str] = "PASCAL VOC 2012"
    advice: ClassVar[str] = (
        "download VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/, unpack "
        "it whole and give the folder VOCdevkit/VOC2012"
    )
    index: ClassVar[tuple[str, ...]] = ("ImageSets/Segmentation",)
    usual: ClassVar[str] = "VOC2012"
    others: ClassVar[Mapping[str, str]] = {
        "ImageSets/Main": "PASCAL VOC without ImageSets/Segmentation, the lists of the segmentation task"
    }
    crop: ClassVar[float] = 1.2

    kind: Literal["voc2012"] = "voc2012"

    def find(self, root: Path, part: Part) -> tuple[tuple[str, ...], list[Item]]:
        """List the objects of a part in the order of its images."""
        lists = root / "ImageSets" / "Segmentation"
        listed = self.read_lines(lists / _LISTS[part], 1)
        if (both := lists / "trainval.txt").is_file():
            known, *parts = (
                [name for (name,) in self.read_lines(path, 1)]
                for path in (both, *(lists / file for file in _LISTS.values()))
            )
            self.compare(lists / "train.txt or val.txt", itertools.chain(*parts), known, both.name)
        annotations = [root / "Annotations" / f"{name}.xml" for (name,) in listed]
        self.require(root, annotations, "annotations")
        items = []
        for path in annotations:
            year, objects = read_objects(path, first=1)
            if year.startswith("VOC") and year != "VOC2012":
                raise DataError(f"folder (data.folder) {root} holds {year}, not VOC2012; {self.advice}")
            if strange := {found.name for found in objects} - {*VOC_CLASSES}:
                raise DataError(f"{path} names classes that VOC2012 has not: {name_some(sorted(strange))}")
            image = root / "JPEGImages" / f"{path.stem}.jpg"
            mask = root / "SegmentationObject" / f"{path.stem}.png"
            items += [
                Item(f"{path.stem}-{k}", VOC_CLASSES.index(found.name), image, found.box, mask, k)
                for k, found in enumerate(objects, start=1)
                if found.box.has_area and not found.difficult
            ]
        return VOC_CLASSES, items

    def mark(self, item: Item, width: int, height: int) -> NDArray[np.int8]:
        """Take the pixels of the object itself."""
        assert item.mask is not None
        return read_marks(item.mask, MaskRule(foreground=(item.shape,), void=(_VOID,)))
