"""MS COCO, the classes of most objects. Needs pycocotools, the extra ``coco``."""

import json
from array import array
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdviz.errors import DataError, MissingExtraError
from kdviz.sources.corpora import Box, Corpus, Item
from kdviz.sources.samples import Part

_YEARS = (2014, 2017)
_LARGEST = 10  # classes
_FOLDERS = {"train": "train", "held-out": "val"}


class CocoTopTen(Corpus):
    """Objects of the ten largest classes of MS COCO, each cropped at 1.2 times its box; masks are exact.

    From <https://cocodataset.org/#download>, of 2014 or 2017: ``annotations/instances_train<year>.json``,
    ``annotations/instances_val<year>.json``, and the images in ``train<year>`` and ``val<year>``. Train is
    ``train``, held-out is ``val``. Every object of these classes is a sample, but for crowds, for objects
    that are smaller than `min_area`, and for those without outline or box; the crop is clipped at the border
    of the image. The foreground is what its outline holds, other objects are background.

    The ten classes are those with most such objects in the training images, in the order of their numbers;
    the papers say ten largest classes and neither how counted nor how cropped, which here is as for
    `Voc2012`. By default objects below 32 x 32 pixels, small ones in the words of COCO, are left out:
    enlarged to 224 pixels they are blurs. The files of annotations are read whole, which for a moment takes a
    few GB. Samples are named ``<image>-<number of the annotation>``.

    References
    ----------
    .. [1] Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
    .. [2] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, section 4.2.
    """

    title: ClassVar[str] = "MS COCO"
    advice: ClassVar[str] = (
        "download train2014.zip, val2014.zip and annotations_trainval2014.zip, or those of 2017, from "
        "https://cocodataset.org/#download, unpack them into one folder and give that"
    )
    index: ClassVar[tuple[str, ...]] = tuple(f"annotations/instances_train{year}.json" for year in _YEARS)
    usual: ClassVar[str] = "coco"
    crop: ClassVar[float] = 1.2

    kind: Literal["coco"] = "coco"
    year: Literal[2014, 2017] | None = Field(default=None, description="2014 or 2017, where both are there")
    min_area: float = Field(default=32 * 32, ge=0, description="area of the smallest object, in pixels")

    def find(self, root: Path, part: Part) -> tuple[list[str], list[Item]]:
        """List the objects of a part in the order of the file."""
        _load_extra()  # missing, it is told before minutes of reading
        year = self._choose_year(root)
        trained = root / "annotations" / f"instances_train{year}.json"
        contents = self._read(trained)
        with _Damage(trained):
            counted = Counter(
                found["category_id"] for found in contents["annotations"] if self._counts(found)
            )
            largest = sorted(counted, key=lambda number: (-counted[number], number))[:_LARGEST]
            names = {kind["id"]: str(kind["name"]) for kind in contents["categories"]}
            labels = {number: label for label, number in enumerate(sorted(largest))}
            classes = [names[number] for number in labels]
        path = root / "annotations" / f"instances_{_FOLDERS[part]}{year}.json"
        contents = contents if path == trained else self._read(path)
        with _Damage(path):
            files = {
                image["id"]: root / f"{_FOLDERS[part]}{year}" / image["file_name"]
                for image in contents["images"]
            }
            items = []
            for found in contents["annotations"]:
                if found["category_id"] in labels and self._counts(found):
                    left, top, width, height = map(float, found["bbox"])
                    image, box = files[found["image_id"]], Box(left, top, left + width, top + height)
                    name, label = f"{image.stem}-{found['id']}", labels[found["category_id"]]
                    items.append(Item(name, label, image, box, shape=_pack(found["segmentation"])))
        return classes, items

    def mark(self, item: Item, width: int, height: int) -> NDArray[np.int8]:
        """Take what the outline holds."""
        masks = _load_extra()
        if isinstance(item.shape, dict):
            packed = item.shape
            if isinstance(packed["counts"], list):
                packed = masks.frPyObjects(packed, *packed["size"])
        else:
            packed = masks.merge(masks.frPyObjects([part.tolist() for part in item.shape], height, width))
        return masks.decode(packed).astype(np.int8)

    def _choose_year(self, root: Path) -> int:
        here = [year for year, name in zip(_YEARS, self.index, strict=True) if (root / name).exists()]
        if self.year is None and len(here) > 1:
            raise DataError(f"{root} holds MS COCO of 2014 and of 2017: set year (data.year) to one of them")
        if self.year not in (None, *here):
            raise DataError(
                f"{root} holds MS COCO of {here[0]}, year (data.year) is {self.year}; {self.advice}"
            )
        return self.year or here[0]

    def _read(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            raise self.miss(path)
        with _Damage(path):
            contents = json.loads(path.read_bytes())
            if not isinstance(contents, dict):
                raise TypeError("it holds no names and values")
            return contents

    def _counts(self, found: dict[str, Any]) -> bool:
        """Tell whether an object is a sample."""
        width, height = found["bbox"][2:]
        outline = found["segmentation"]
        drawn = isinstance(outline, dict) or any(len(part) >= 6 for part in outline)
        return not found["iscrowd"] and found["area"] >= self.min_area and width > 0 and height > 0 and drawn


class _Damage:
    """Say which file is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, (OSError, LookupError, TypeError, ValueError)):
            shown = f"{error} is missing" if isinstance(error, KeyError) else error
            raise DataError(f"{self.path} is damaged: {shown}; unpack the annotations again") from error


def _pack(outline: Any) -> Any:
    """Keep polygons in a tenth of the memory; what else there is stays."""
    if isinstance(outline, dict):
        return outline
    return tuple(array("d", part) for part in outline if len(part) >= 6)  # with 4 it would be a box


def _load_extra() -> Any:
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"MS COCO needs {error.name}: install kdviz[coco]") from None
    return mask
