"""Make the folder that the tutorial on words and points starts from, run it there, and keep its pictures.

python docs/make_words_and_points.py FOLDER

The networks are trained by plain PyTorch, as a reader's would be: a teacher, a student that copies the
teacher's soft labels, and a baseline that sees the true ones.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from kdviz import models, sources  # models also makes torchvision importable beside a CPU build of torch

DOCS = Path(__file__).resolve().parent
TUTORIAL = DOCS / "tutorials" / "words_and_points.md"
PICTURES = ("words", "clouds", "clouds_app")
WIDEST = 1300  # pixels
OBJECT, AROUND, BATCH = 384, 192, 32
Network = Callable[[Tensor], Tensor]


def read_code() -> list[str]:
    """Return the code blocks of the tutorial."""
    return re.findall(
        r"^```python\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def make_encoder() -> nn.Module:
    """Build a small encoder with a classifier on top, from the same initial weights every time."""
    assert models  # before transformers, which imports torchvision
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(sources.review_tokenizer()),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        num_labels=2,
    )
    return BertForSequenceClassification(config)


def make_point_network() -> nn.Module:
    """Build the network that stands on the page, from the same initial weights every time."""
    (block,) = (code for code in read_code() if "class PointNet" in code)
    names: dict[str, Any] = {}
    exec(block, names)
    torch.manual_seed(0)
    return names["PointNet"](classes=len(sources.FURNITURE_CLASSES))


def train(
    network: nn.Module,
    answer: Network,
    inputs: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    soft: bool = False,
) -> nn.Module:
    """Train a network on labels, or on another network's logits."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        network.train()
        for chosen in torch.randperm(len(inputs), generator=order).split(BATCH):
            logits = answer(inputs[chosen])
            if soft:
                loss = functional.kl_div(
                    logits.log_softmax(1),
                    targets[chosen].log_softmax(1),
                    log_target=True,
                    reduction="batchmean",
                )
            else:
                loss = functional.cross_entropy(logits, targets[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def make_words(folder: Path, *, teacher_texts: int, texts: int, epochs: int) -> None:
    """Leave a tokenizer and two checkpoints each of a student and a baseline, as the Trainer does."""
    from transformers import BertTokenizerFast

    pieces = sources.find_data("review_vocabulary.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)})
    reviews = sources.encode(sources.movie_reviews(count=teacher_texts), tokenizer, length=48)
    inputs, labels = torch.from_numpy(reviews.ids), torch.from_numpy(reviews.texts.labels)

    def answer_with(network: nn.Module) -> Network:
        return lambda ids: network(ids, attention_mask=(ids != tokenizer.pad_token_id).long()).logits

    def save(network: nn.Module, role: str, step: int) -> None:
        place = folder / role / f"checkpoint-{step}"
        network.save_pretrained(place)
        tokenizer.save_pretrained(place)

    teacher = make_encoder()
    train(teacher, answer_with(teacher), inputs, labels, epochs=epochs)
    with torch.no_grad():
        copied = torch.cat([answer_with(teacher)(part) for part in inputs[:texts].split(256)])
    for role, targets in (("student", copied), ("baseline", labels[:texts])):
        network = make_encoder()
        save(network, role, 0)
        train(network, answer_with(network), inputs[:texts], targets, epochs=epochs, soft=role == "student")
        save(network, role, epochs * -(-texts // BATCH))


def make_points(
    folder: Path, *, shown: int, teacher_clouds: int, clouds: int, epochs: int, points: int, around: int
) -> None:
    """Leave clouds to measure on, and two checkpoints each of a student and a baseline."""
    size = {"points": points, "background": around}
    seen = sources.furniture("held-out", count=shown, **size)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "clouds.npz",
        xyz=seen.clouds[:],
        on_object=seen.masks[:],
        label=seen.labels,
        classes=seen.classes,
        name=seen.sample_ids,
    )
    many = sources.furniture("train", count=teacher_clouds, **size)
    inputs, labels = torch.from_numpy(many.clouds[:]).transpose(1, 2), torch.from_numpy(many.labels)
    teacher = make_point_network()
    train(teacher, teacher, inputs, labels, epochs=epochs)
    with torch.no_grad():
        copied = torch.cat([teacher(part) for part in inputs[:clouds].split(64)])
    for role, targets in (("student", copied), ("baseline", labels[:clouds])):
        network = make_point_network()
        (folder / role).mkdir(exist_ok=True)
        torch.save(network.state_dict(), folder / role / "epoch_000.pt")
        train(network, network, inputs[:clouds], targets, epochs=epochs, soft=role == "student")
        torch.save(network.state_dict(), folder / role / f"epoch_{epochs:03d}.pt")


def make_meshes(folder: Path) -> None:
    """Write a few solids as OFF files, in the folders of ModelNet40."""
    square = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    sides = [(k, (k + 1) % 4) for k in range(4)]
    for name, height in (("low", 0.5), ("high", 2.0)):
        pyramid = [*((x, y, 0) for x, y in square), (0, 0, height)]
        box = [(x, y, z) for z in (0, height) for x, y in square]
        for kind, vertices, faces in (
            ("pyramid", pyramid, [(0, 1, 2, 3), *((a, b, 4) for a, b in sides)]),
            ("box", box, [(0, 1, 2, 3), (4, 5, 6, 7), *((a, b, b + 4, a + 4) for a, b in sides)]),
        ):
            lines = ["OFF", f"{len(vertices)} {len(faces)} 0", *(" ".join(map(str, xyz)) for xyz in vertices)]
            lines += [" ".join(map(str, (len(face), *face))) for face in faces]
            place = folder / kind / "test"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.off").write_text("\n".join(lines) + "\n", encoding="ascii")


def main(folder: Path) -> None:
    """Train, run the tutorial as it stands, and copy its pictures into the documentation."""
    if not (folder / "points").exists():
        make_words(folder / "words", teacher_texts=8000, texts=2000, epochs=4)
        make_meshes(folder / "meshes")
        make_points(
            folder / "points",
            shown=11,
            teacher_clouds=1320,
            clouds=440,
            epochs=20,
            points=OBJECT,
            around=AROUND,
        )
    os.chdir(folder)
    names: dict[str, Any] = {}
    for block in read_code():
        print(block)
        exec(block, names)
    names["app"].save("clouds_app.png")
    for name in PICTURES:
        with Image.open(f"{name}.png") as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((WIDEST, 2 * WIDEST))
        picture.save(DOCS / "images" / f"your_own_{name}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
