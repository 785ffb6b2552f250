"""Write golden_run_v3.nc: the smallest run that holds every part of schema version 3.

Run as ``python tests/data/make_golden_run.py``. Keep the file of an older version when the schema moves on.
"""

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

from kdviz import schema
from kdviz.store import create_run

CREATED = {"created_at": "2026-01-01T00:00:00+00:00"}
EPOCHS = [0, 10]


def golden_samples() -> xr.Dataset:
    """Two samples of four units; the second has only three."""
    return xr.Dataset(
        {
            "valid": (("sample", "unit"), np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)),
            "foreground": (("sample", "unit"), np.array([[1, 1, 0, 0], [0, 1, 0, 0]], bool)),
            "void": (("sample", "unit"), np.array([[0, 0, 0, 1], [0, 0, 0, 0]], bool)),
            "unit_size": (("sample", "unit"), np.array([[4, 2, 4, 2], [4, 2, 4, 0]], np.int32)),
        },
        coords={
            "sample": ["cat-1", "dög-2"],
            "unit": np.arange(4),
            "label": ("sample", [3, 5]),
            "split": ("sample", ["test", "test"]),
            "row": ("unit", [0, 0, 1, 1]),
            "col": ("unit", [0, 1, 0, 1]),
        },
    )


def golden_block(epoch: int) -> xr.Dataset:
    """Quarters and halves only, so that every value is exact in float32."""
    samples = golden_samples()
    gain = xr.DataArray(
        np.arange(8, dtype="float32").reshape(1, 2, 4) / 4 + epoch,
        dims=("epoch", "sample", "unit"),
        coords={"epoch": [epoch], "sample": samples["sample"].values, "unit": samples["unit"].values},
    ).where(samples["valid"].drop_vars(["row", "col", "label", "split"]))
    per_sample = gain.isel(unit=0, drop=True) * 0 + 1
    quartile = xr.DataArray(np.array([0.5, 1.0, 1.5, 2.0], "float32"), dims="quartile")
    return xr.Dataset(
        {
            "gain": gain,
            "gain_error": gain / 2,
            "entropy": gain - 4,
            "entropy_error": gain / 8,
            "noise_scale": gain + 0.5,
            "feature_variance": per_sample * 2,
            "feature_loss": per_sample / 4,
            "linearity": per_sample,
            "linearity_quartile": per_sample * quartile,
            "method": per_sample.astype("int8"),
            "converged": per_sample.astype(bool),
            "zero_gain": per_sample.astype("int32"),
        }
    )


def golden_attribution() -> xr.Dataset:
    """One signed map of one sample that is not among the samples of the run."""
    return xr.Dataset(
        {
            "attribution": (
                ("attribution_method", "epoch", "sample", "unit"),
                np.array([[[[-1.0, 0.0, 0.5, 2.0]]]], "float32"),
            )
        },
        coords={
            "attribution_method": ["gradient"],
            "epoch": [10],
            "sample": ["bird-3"],
            "unit": np.arange(4),
        },
    )


def main(path: Path) -> None:
    """Make the run in a temporary folder and export it to `path`."""
    with tempfile.TemporaryDirectory() as folder:
        shared = schema.make_attrs(dataset_id="golden", modality="image") | CREATED
        run = create_run(Path(folder) / "golden.zarr", samples=golden_samples(), attrs=shared)
        attrs = (
            schema.make_attrs(network_role="student", seed=7, base_noise=0.01, config={"probes": 64})
            | CREATED
        )
        run.create_group("student-fc1-s0", "features.7", epochs=EPOCHS, attrs=attrs, block=2)
        for epoch_index, block_index in run.missing("student-fc1-s0", "features.7"):
            block = golden_block(EPOCHS[epoch_index])
            run.write_block("student-fc1-s0", "features.7", epoch_index, block_index, block)
        distance = xr.DataArray(
            np.array([0.0, 1.5], "float32"),
            dims="epoch",
            coords={"epoch": EPOCHS},
            name="weight_distance",
            attrs={"definition": "sum of relative steps"},
        )
        run.write_variable("student-fc1-s0", "features.7", distance)
        run.write_result("attribution/student-fc1-s0", golden_attribution())
        run.export(path, overwrite=True)


if __name__ == "__main__":
    main(Path(__file__).with_name("golden_run_v3.nc"))
