"""Make the folder that the tutorial starts from, run the tutorial in it, and keep its picture.

python docs/make_tutorial.py FOLDER

The networks are trained by plain PyTorch, as a reader's would be: a teacher, a student that copies the
teacher's soft labels, and a baseline that sees the true ones.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from kdviz import models, sources  # models also makes torchvision importable beside a CPU build of torch

DOCS = Path(__file__).parent
TUTORIAL = DOCS / "tutorials" / "your_own_checkpoints.md"
CLASSES = ("bag", "pullover", "sneaker", "trouser")
SIZE, TEMPERATURE, BATCH = 64, 2.0, 32


def make_network() -> nn.Module:
    """Build the network of the tutorial, from the same initial weights every time."""
    assert models  # before torchvision
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18(num_classes=len(CLASSES))


def choose_images(split: str, count: int) -> sources.ImageSet:
    """Compose `count` images of the tutorial's classes."""
    labels = [sources.FASHION_CLASSES.index(name) for name in CLASSES]
    images = sources.fashion_composites(split, count=-(-count * 10 // len(CLASSES)), canvas=SIZE)
    return images.select([k for k, label in enumerate(images.labels) if label in labels][:count])


def write_images(folder: Path, images: sources.ImageSet) -> None:
    """Write an image folder with masks: ``images/<class>/<name>.jpg`` and ``masks/<class>/<name>.png``."""
    for k, name in enumerate(images.sample_ids):
        kind = images.classes[images.labels[k]]
        for tree, suffix, pixels in (
            ("images", "jpg", images.images[k]),
            ("masks", "png", images.masks[k].astype("uint8") * 255),
        ):
            (folder / tree / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / tree / kind / f"{name}.{suffix}", quality=95)


def train(
    images: sources.ImageSet,
    epochs: int,
    *,
    teacher: nn.Module | None = None,
    folder: Path | None = None,
    suffix: str = ".pt",
) -> nn.Module:
    """Train a network and save it before the first and after every epoch."""
    network = make_network()
    inputs = torch.from_numpy(sources.normalise(images.images))
    labels = torch.tensor([CLASSES.index(images.classes[label]) for label in images.labels])
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    order = torch.Generator().manual_seed(0)
    _save(network, folder, 0, suffix)
    for epoch in range(1, epochs + 1):
        network.train()
        for chosen in torch.randperm(len(inputs), generator=order).split(BATCH):
            soft = None
            if teacher is not None:
                with torch.no_grad():
                    soft = teacher(inputs[chosen])
            loss = _loss(network(inputs[chosen]), labels[chosen], soft)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        _save(network, folder, epoch, suffix)
    return network.eval()


def make_folder(folder: Path, *, shown: int, images: int, teacher_images: int, epochs: int) -> None:
    """Fill a folder with images, masks and the checkpoints of a student and a baseline."""
    write_images(folder, choose_images("held-out", shown))
    few = choose_images("train", images)
    teacher = train(choose_images("train", teacher_images), epochs)
    train(few, epochs, teacher=teacher, folder=folder / "student", suffix=".pt")
    train(few, epochs, folder=folder / "baseline", suffix=".safetensors")


def read_code() -> list[str]:
    """Return the code blocks of the tutorial."""
    return re.findall(
        r"^```python\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def _loss(logits: Tensor, labels: Tensor, soft: Tensor | None) -> Tensor:
    if soft is None:
        return functional.cross_entropy(logits, labels)
    ours = functional.log_softmax(logits / TEMPERATURE, 1)
    theirs = functional.log_softmax(soft / TEMPERATURE, 1)
    return TEMPERATURE**2 * functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def _save(network: nn.Module, folder: Path | None, epoch: int, suffix: str) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch_{epoch:03d}{suffix}"
    (torch.save if suffix == ".pt" else save_file)(network.state_dict(), path)


def main(folder: Path) -> None:
    """Train, run the tutorial as it stands, and copy its picture into the documentation."""
    if not (folder / "baseline").exists():
        make_folder(folder, shown=16, images=600, teacher_images=2400, epochs=6)
    os.chdir(folder)
    names: dict[str, object] = {}
    for block in read_code():
        print(block)
        exec(block, names)
    shutil.copy("points.jpg", DOCS / "images" / "your_own_checkpoints.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
