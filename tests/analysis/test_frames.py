"""One table of a whole run: its rows are what the public functions say of each sample."""

import numpy as np
import pandas as pd
import pytest
from explored_runs import EPOCHS, MODULES, NAMES, add_network, find, make_run

import kdviz
from kdviz import analysis
from kdviz.store import create_run, describe

COLUMNS = (
    "network role method distilled_layer training_seed repeat_of layer epoch sample label class entropy_mean "
    "entropy_std n_fg n_bg fg_ratio uncertain accuracy weight_distance"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("frames") / "run.zarr", pictures=False)
    for layer in MODULES:
        add_network(run, "teacher", "teacher", layer, epochs=(9,))
    add_network(run, "student-fc1-s3", "student", "fc1", seed=3)
    add_network(run, "baseline-s3", "baseline", "fc1", seed=3, finished=2)
    add_network(run, "late", "baseline", "fc2", seed=4, finished=0)
    return describe(run, accuracy={"student-fc1-s3": {0: 0.25, 5: 0.75}})


def test_to_dataframe__has_a_row_for_every_network_layer_epoch_and_sample(run):
    table = analysis.to_dataframe(run)
    assert table.columns.tolist() == COLUMNS
    rows = table.groupby(["network", "layer"])["epoch"].unique().map(list).to_dict()
    assert rows == {
        ("baseline-s3", "fc1"): [0, 2],  # what is measured so far
        ("student-fc1-s3", "fc1"): [*EPOCHS],
        ("teacher", "fc1"): [9],
        ("teacher", "fc2"): [9],
    }
    assert (
        len(table) == 7 * len(NAMES) and not table.duplicated(["network", "layer", "epoch", "sample"]).any()
    )
    one = table[table["network"] == "student-fc1-s3"]
    alike = ["role", "method", "distilled_layer", "training_seed", "repeat_of"]
    assert one[alike].drop_duplicates().values.tolist() == [["student", "", "fc1", 3, ""]]
    assert one["label"].tolist() == [0, 1, 0, 1, 1] * 3
    assert one["class"].tolist() == ["bird", "cat", "bird", "cat", "cat"] * 3
    assert one["accuracy"].fillna(-1).unique().tolist() == [0.25, -1, 0.75]
    np.testing.assert_allclose(one["weight_distance"], np.repeat(np.sqrt(EPOCHS), 5), rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"threshold": 0.1, "solver": "optimum"}])
def test_to_dataframe__counts_and_entropies_are_those_of_each_sample(run, options):
    settings = analysis.Settings(**options) if options else None
    table = analysis.to_dataframe(run.path, settings).set_index(["network", "layer", "epoch", "sample"])
    for network, layer, epoch in (("student-fc1-s3", "fc1", 2), ("teacher", "fc2", 9)):
        points = find(run, network, layer, **options)
        counts = kdviz.count_points(points)
        for at, sample in enumerate(NAMES):
            row = table.loc[network, layer, epoch, sample]
            here = points["entropy"].sel(epoch=epoch).values[at]
            assert row["entropy_mean"] == pytest.approx(here.mean(), abs=1e-5)
            assert row["entropy_std"] == pytest.approx(here.std(), abs=1e-5)
            for name, count in (("n_fg", "n_fg"), ("n_bg", "n_bg"), ("uncertain", "n_uncertain")):
                assert row[name] == counts[count].sel(epoch=epoch, sample=sample)
            np.testing.assert_equal(
                row["fg_ratio"], float(counts["fg_ratio"].sel(epoch=epoch, sample=sample))
            )
    assert table["n_fg"].sum() > 0 < table["n_bg"].sum()


def test_to_dataframe__without_masks_labels_and_padding(tmp_path):
    """Entropies of the units that there are; all else is missing, in columns of the same kinds."""
    bare = make_run(tmp_path / "masked.zarr", masks=False, pictures=False)
    samples = bare.samples.drop_vars("label").assign_attrs(config="{}")
    samples["valid"][0, 3:] = False
    run = create_run(tmp_path / "run.zarr", samples=samples)
    attrs = bare.attrs | {"network_role": "student", "base_noise": 0.01, "weight": 7.0, "seed": 0}
    names = ("gain", "gain_error", "feature_variance", "method")
    run.create_group("n", "fc1", epochs=[4], attrs=attrs, block=5, variables=names)
    gain = np.ones((1, 5, 16), np.float32)
    gain[0, 0, :3], gain[0, 0, 3:] = [1, 4, 9], np.nan
    run.write_block(
        "n",
        "fc1",
        0,
        0,
        samples[["valid"]]
        .assign_coords(epoch=[4])
        .assign(
            gain=(("epoch", "sample", "unit"), gain),
            gain_error=(("epoch", "sample", "unit"), 0 * gain),
            feature_variance=(("epoch", "sample"), np.full((1, 5), 1e-3, np.float32)),
            method=(("epoch", "sample"), np.zeros((1, 5), np.int8)),
        ),
    )
    table = analysis.to_dataframe(run, analysis.Settings(solver="optimum"))
    assert table.columns.tolist() == COLUMNS and table["sample"].tolist() == NAMES
    assert (
        table[["label", "n_fg", "n_bg", "fg_ratio", "uncertain", "accuracy", "weight_distance"]]
        .isna()
        .all(axis=None)
    )
    assert table["class"].tolist() == [""] * 5
    # by the optimum entropies are -log(gain) / 2 + constant, of a mean of -2.8 nat
    np.testing.assert_allclose(table["entropy_mean"], -2.8, atol=1e-3)
    spread = np.log([1, 2, 3]).std()
    np.testing.assert_allclose(table["entropy_std"], [spread, 0, 0, 0, 0], atol=1e-6)
    whole = analysis.to_dataframe(kdviz.sources.find_data("runs/finetuning.nc"))
    assert (
        whole[COLUMNS]
        .dtypes.drop(["accuracy", "weight_distance"])
        .equals(table.dtypes.drop(["accuracy", "weight_distance"]))
    )
    assert isinstance(whole, pd.DataFrame) and not whole["n_fg"].isna().any()
