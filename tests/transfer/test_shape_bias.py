"""Decisions for shape or texture, against tables of answers."""

import numpy as np
import pytest

from kdviz import transfer


@pytest.mark.parametrize("max_batch", [3, 64])
def test_shape_bias__is_what_the_tables_say(tables, numbered, labels, max_batch):
    """Answers 0 1 2 0 1 2 0 0 and 0 1 2 0 2 1 1 1 to shapes 0 1 2 0 1 2 0 1 and textures 1 2 0 2 2 0 1 2."""
    ds = transfer.shape_bias(
        tables, numbered, labels, textures=np.array([1, 2, 0, 2, 2, 0, 1, 2]), teacher="teacher",
        independent="alone", max_batch=max_batch, progress=False,
    )  # fmt: skip
    assert ds["decision"].sel(network="teacher").values.tolist() == [0, 0, 0, 0, 0, 0, 0, 2]
    assert ds["decision"].sel(network="alone").values.tolist() == [0, 0, 0, 0, 1, 2, 1, 0]
    assert ds["decision"].attrs["flag_meanings"] == "shape texture neither"
    np.testing.assert_array_equal(ds["shape_decision"].sel(network="alone"), [1, 1, 1, 1, 0, np.nan, 0, 1])
    np.testing.assert_allclose(ds["shape_decision"].mean("sample"), [1.0, 5 / 7, 6 / 7])
    assert ds["texture"].values.tolist() == [1, 2, 0, 2, 2, 0, 1, 2]
    assert ds.attrs["headline"] == "shape_decision"


def test_shape_bias__says_what_is_wrong(tables, numbered, labels):
    def ask(textures):
        transfer.shape_bias(tables, numbered, labels, textures=textures, teacher="teacher", progress=False)

    with pytest.raises(ValueError, match=r"textures must be 8 integers, got shape \(2,\)"):
        ask([1, 2])
    with pytest.raises(ValueError, match=r"textures must lie in 0..2, the networks' classes, got 0..3"):
        ask([3, *(labels[1:] + 1) % 3])
    with pytest.raises(
        ValueError, match=r"textures must be of another class than the shape, .* samples 1, 3"
    ):
        ask([1, 1, 0, 0, 2, 0, 1, 2])
