"""Scores and maps of what students have apart, against values by hand."""

import numpy as np
import pytest

from kdviz import analysis, schema


def scores(student, seed):
    rng = np.random.default_rng(seed)
    shape = (2, 1, 1)
    values = {}
    for name, more in (("rs", (3,)), ("rs_distilled", ()), ("rs_residual", ()), ("fss", (3,))):
        values[name] = rng.random((*shape, *more))
        values[f"{name}_low"], values[f"{name}_high"] = values[name] - 0.1, values[name] + 0.2
    return schema.build(
        values,
        coords={
            "layer": ("layer", ["conv", "fc1"]), "base_layer": ["conv", "fc1"], "epoch": [4],
            "input": ["plain"],
            "network": [student, "alone-s1", "big"],
            "pair": ["student-base", "student-teacher", "base-teacher"],
        },
        attrs={"student": student, "base": "alone-s1", "teacher": "big"},
    )  # fmt: skip


def test_tabulate_relevance__has_every_score_by_role():
    results = [scores("student-kl-s1", 0), scores("student-hint-s1", 1)]
    table = analysis.tabulate_relevance(results)
    assert len(table) == 2 * 2 * 8 and table["kind"].unique().tolist() == ["student-kl", "student-hint"]
    rows = table.set_index(["student", "layer", "score"])
    for ds in results:
        name = ds.attrs["student"]
        at = ds.isel(epoch=0, input=0, layer=1)
        expected = {
            "rs student": at["rs"][0], "rs base": at["rs"][1], "rs teacher": at["rs"][2],
            "rs distilled": at["rs_distilled"], "rs residual": at["rs_residual"],
            "fss student-base": at["fss"][0], "fss student-teacher": at["fss"][1],
            "fss base-teacher": at["fss"][2],
        }  # fmt: skip
        for score, value in expected.items():
            row = rows.loc[name, "fc1", score]
            assert row["value"] == float(value)
            assert (row["value_low"], row["value_high"]) == pytest.approx(
                (float(value) - 0.1, float(value) + 0.2)
            )


def test_tabulate_relevance__of_nothing_is_empty():
    assert analysis.tabulate_relevance([]).empty


def test_as_attributions__are_two_methods_of_one_layer():
    maps = np.random.default_rng(0).random((2, 1, 3, 4)).astype(np.float32)
    foreground = np.array([[1, 1, 0, 0]] * 3, bool)
    ds = schema.build(
        {"distilled": maps, "residual": 2 * maps, "foreground": foreground},
        coords={
            "layer": ("layer", ["conv", "late"]), "base_layer": ["conv", "late"], "epoch": [4],
            "sample": list("abc"), "unit": range(4), "row": [0, 0, 1, 1], "col": [0, 1, 0, 1],
        },
        attrs={"modality": "image"},
    )  # fmt: skip
    last = analysis.as_attributions(ds)
    assert last["attribution_method"].values.tolist() == ["distilled", "residual"]
    np.testing.assert_array_equal(last["attribution"].values, np.stack([maps[1], 2 * maps[1]]))
    first = analysis.as_attributions(ds, layer="conv")
    np.testing.assert_array_equal(first["attribution"].sel(attribution_method="residual"), 2 * maps[0])
    mass = analysis.score_attributions(first)["foreground_mass"].sel(attribution_method="distilled", epoch=4)
    np.testing.assert_allclose(mass, maps[0, 0, :, :2].sum(1) / maps[0, 0].sum(1), rtol=1e-6)
    with pytest.raises(KeyError):
        analysis.as_attributions(ds, layer="fc1")
