"""Make the stored example ``layers.nc``: every layer of the finished teacher and of a baseline.

python data/runs/make_layers_run.py STUDY [FOLDER]

STUDY is the folder of ``kdviz demo --folder STUDY``, of which seed 0 is read. FOLDER keeps the run;
stopped, it continues there. Run ``data/make_checksums.py`` afterwards.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import kdviz
from kdviz import schema, units
from kdviz.models import PRESETS, build
from kdviz.sources import fashion_composites, find_data, normalise
from kdviz.studies import StudyPlan
from kdviz.studies.plans import BUILT_IN_TEACHERS
from kdviz.training import PLANS, TrainingRecord

TEACHER = BUILT_IN_TEACHERS["fashion-composites"]
TARGET = Path(__file__).with_name("layers.nc")
LAYERS = (
    "features.conv1",
    "features.conv2",
    "features.conv3",
    "features.conv4",
    "classifier.fc1",
    "classifier.fc2",
    "classifier.fc3",
)
SAMPLES = 12  # the first of those in fashion.nc
GRID = units.grid(16)


def main(study: Path, folder: Path) -> None:
    """Measure all layers at the last epoch and export."""
    torch.set_num_threads(1)
    plan = StudyPlan.load(study)
    last = plan.training.epochs
    images = fashion_composites("train").select(np.arange(SAMPLES))
    attrs = schema.make_attrs(
        dataset_id=images.source,
        architecture="small_vgg",
        input_fingerprint=images.fingerprint,
        config={
            "classes": list(images.classes),
            "layer_names": {layer.split(".")[-1]: layer for layer in LAYERS},
            "threshold": PRESETS["small_vgg"].threshold,
        },
    )
    run = kdviz.store.create_run(folder / "run.zarr", samples=images.describe(images.prepare()), attrs=attrs)
    baseline = TrainingRecord.open(study / "networks" / "baseline-s0")
    for network, role, checkpoint in (
        (
            "teacher",
            "teacher",
            {PLANS["image"]["teacher"].epochs: find_data(TEACHER)},
        ),
        ("baseline-s0", "baseline", {last: baseline.checkpoints[last]}),
    ):
        kdviz.measure_checkpoints(
            lambda: build("small_vgg", classes=len(images.classes), input_size=images.images.shape[1]),
            checkpoint,
            torch.from_numpy(normalise(images.images)),
            network=network,
            role=role,
            layers=LAYERS,
            units=GRID,
            store=run,
            foreground=images.masks,
            labels=images.labels,
            sample_ids=images.sample_ids,
            draws=4,
            details={"architecture": "small_vgg"},
        )
    run.export(TARGET, compact=True, overwrite=True)
    print(f"{TARGET.name}  {TARGET.stat().st_size / 2**20:.1f} MiB")
    print(f"SHA-256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    default = Path(tempfile.gettempdir()) / "kdviz-layers"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else default)
