"""Make the stored example ``finetuning.nc``: fine-tuning against training from scratch.

python data/runs/make_finetuning_run.py [FOLDER]

FOLDER keeps the networks and the run; a run that was stopped continues there. One thread, because the number
of threads changes the last bits. Run ``data/make_checksums.py`` afterwards.

Both networks train with the learning rates of the built-in images' baseline, 0.03 to 0.003. Three rates were
tried for each (last epoch; accuracy on held-out images of the new classes):

======================  ==========  =====  =====  ======  =====
first to last rate      network     accu.  ratio  D_mean  rho
======================  ==========  =====  =====  ======  =====
0.03 to 0.003 (kept)    fine-tuned  0.737  0.47   0.48    0.42
0.03 to 0.003 (kept)    scratch     0.656  0.51   0.53    0.53
0.01 to 0.001           fine-tuned  0.705  0.52   0.20    0.54
0.01 to 0.001           scratch     0.537  0.50   0.22    0.46
0.003 to 0.0003         fine-tuned  0.658  0.50   0.08    0.60
0.003 to 0.0003         scratch     0.428  0.30   0.05    0.31
======================  ==========  =====  =====  ======  =====

These are of the training that chose them; one on another processor ends at other figures (README.md). The
kept rates are the best of the three for both networks by accuracy. At the two smaller ones the fine-tuned
network keeps a larger share of its points (rho) than the one from scratch, at the kept one a smaller.
"""

import hashlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import kdviz
from kdviz import schema, units
from kdviz.models import PRESETS, build
from kdviz.sources import ImageSet, fashion_composites, normalise
from kdviz.training import PLANS, TrainingRecord, evaluate, train
from kdviz.training.distances import epoch_array

TARGET = Path(__file__).with_name("finetuning.nc")
LAYER = PRESETS["small_vgg"].layers["fc1"]
OLD, NEW = range(5), range(5, 10)  # classes to pretrain on, and to learn afterwards
NEW_COUNT = 2000  # training images of the new classes
SAMPLES = 30
EPOCHS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12)
SEED, OLD_SEED = 0, 100
GRID = units.grid(16)
PLAN = PLANS["image"]["baseline"].model_copy(update={"seed": SEED, "checkpoints": EPOCHS})


def main(folder: Path) -> None:
    """Pretrain, fine-tune and train from scratch, measure both, export."""
    torch.set_num_threads(1)
    everything, held_out = fashion_composites("train"), fashion_composites("held-out")
    old, new = _choose(everything, OLD), _choose(everything, NEW)
    new = new.select(np.arange(NEW_COUNT))
    validation = _as_tensors(_choose(held_out, NEW))
    pretrained = _build(OLD_SEED)
    old_plan = PLAN.model_copy(update={"seed": OLD_SEED, "checkpoints": (0, PLAN.epochs)})
    before = train(
        pretrained,
        *_as_tensors(old),
        folder=folder / "pretrained",
        plan=old_plan,
        tracked_layers=[],
        validation=_as_tensors(_choose(held_out, OLD)),
    )
    print(f"pretrained: {_last(before):.4f} on the old classes")

    measured = new.select(np.arange(SAMPLES))
    run = kdviz.store.create_run(
        folder / "run.zarr",
        samples=measured.describe(measured.prepare()),
        attrs=_run_attrs(measured),
    )
    for name, role, start in (
        ("finetuned", "student", _with_new_head(pretrained)),
        ("scratch", "baseline", _build(SEED)),
    ):
        untrained = evaluate(start, *validation)
        record = train(
            start,
            *_as_tensors(new),
            folder=folder / name,
            plan=PLAN,
            tracked_layers=[LAYER],
            validation=validation,
        )
        print(f"{name}: {_last(record):.4f} on the new classes")
        network = f"{name}-s{SEED}"
        details = {"training_seed": SEED, "architecture": "small_vgg", "accuracy": _last(record)}
        if role == "student":
            details["distillation_method"] = "none: fine-tuned from other classes"
        kdviz.measure_checkpoints(
            _build,
            {epoch: record.checkpoints[epoch] for epoch in EPOCHS},
            torch.from_numpy(normalise(measured.images)),
            network=network,
            role=role,
            layers=[LAYER],
            units=GRID,
            store=run,
            foreground=measured.masks,
            labels=measured.labels,
            sample_ids=measured.sample_ids,
            draws=4,
            details=details,
        )
        known = [untrained, *record.history["validation_accuracy"]]
        accuracies = epoch_array(
            "accuracy", [known[epoch] for epoch in EPOCHS], list(EPOCHS), definition="the network itself"
        )
        run.write_variable(network, LAYER, accuracies)
        run.write_variable(network, LAYER, record.weight_distance(LAYER))
    run.export(TARGET, compact=True, overwrite=True)
    print(f"{TARGET.name}  {TARGET.stat().st_size / 2**20:.1f} MiB")
    print(f"SHA-256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


def _choose(images: ImageSet, classes: range) -> ImageSet:
    """Keep some classes, numbered from 0."""
    chosen = images.select(np.flatnonzero(np.isin(images.labels, classes)))
    names = tuple(images.classes[label] for label in classes)
    return replace(chosen, labels=chosen.labels - classes.start, classes=names)


def _as_tensors(images: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(normalise(images.images)), torch.from_numpy(images.labels)


def _build(seed: int = SEED) -> nn.Module:
    return build("small_vgg", classes=len(NEW), input_size=48, seed=seed)


def _with_new_head(pretrained: nn.Module) -> nn.Module:
    """Keep the pretrained weights but for the logits, which start as those of the network from scratch."""
    network, logits = _build(), PRESETS["small_vgg"].layers["fc3"]
    kept = {name: value for name, value in pretrained.state_dict().items() if not name.startswith(logits)}
    network.load_state_dict(kept, strict=False)
    return network


def _run_attrs(images: ImageSet) -> dict[str, schema.Attribute]:
    return schema.make_attrs(
        dataset_id=f"{images.source}, classes {', '.join(images.classes)}",
        architecture="small_vgg",
        input_fingerprint=images.fingerprint,
        config={
            "classes": list(images.classes),
            "layer_names": {"fc1": LAYER},
            "threshold": PRESETS["small_vgg"].threshold,
            "train_count": NEW_COUNT,
        },
    )


def _last(record: TrainingRecord) -> float:
    return float(record.history["validation_accuracy"].iloc[-1])


if __name__ == "__main__":
    default = Path(tempfile.gettempdir()) / "kdviz-finetuning"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
