"""The data contract: every kind of fault is found, named and listed with the others."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from kdviz import schema
from kdviz.errors import SchemaError


def measured_dataset() -> xr.Dataset:
    maps = ("epoch", "sample", "unit")
    return xr.Dataset(
        {
            "gain": (maps, np.ones((2, 3, 4), "float32")),
            "method": (("epoch", "sample"), np.zeros((2, 3), "int8")),
            "valid": (("sample", "unit"), np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], bool)),
        },
        coords={"epoch": [0, 5], "sample": ["a", "b", "c"], "unit": np.arange(4)},
        attrs=schema.make_attrs(network="student", seed=3),
    )


def faults_of(ds: xr.Dataset, require: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(SchemaError) as caught:
        schema.validate(ds, require=require)
    return str(caught.value).split("\n  - ")[1:]


def test_validate__accepts_a_ragged_measured_dataset() -> None:
    ds = measured_dataset()
    ds["gain"] = ds["gain"].where(ds["valid"])
    schema.validate(ds, require=("gain", "valid"))


def test_validate__lists_all_faults_at_once() -> None:
    ds = measured_dataset().assign_coords(epoch=[5, 0], sample=["a", "b", "a"])
    ds["entropy"] = (("sample", "epoch", "unit"), np.ones((3, 2, 4), "float32"))
    ds["foreground"] = (("sample", "unit"), np.ones((3, 4), "int64"))
    ds.attrs |= {"schema_version": 7, "flag": True}
    assert faults_of(ds, require=("gain", "noise_scale")) == [
        "schema_version is 7; kdviz 0.1.0 knows version 3",
        "dataset: attribute 'flag' is a bool; allowed: str, int, float (write structures as one JSON string)",
        "variable 'noise_scale' is missing",
        "coordinate 'epoch' is [5, 0], must be 0 or more and increase",
        "coordinate 'sample' repeats 'a'",
        "variable 'entropy' has dims (sample, epoch, unit), must be (epoch, sample, unit)",
        "variable 'foreground' has dtype int64, must be bool",
    ]


def test_validate__counts_nan_only_at_valid_units() -> None:
    ds = measured_dataset()
    ds["gain"][:, 2, 3] = np.nan  # padded
    schema.validate(ds)
    ds["gain"][1, 0, 1] = np.nan
    assert faults_of(ds) == ["variable 'gain' is NaN at 1 valid entries"]


def test_validate__allows_nan_where_a_quantity_may_be_undefined() -> None:
    ds = measured_dataset()
    ds["gain_error"] = ds["gain"] * np.nan
    ds["linearity"] = (("epoch", "sample"), np.full((2, 3), np.nan, "float32"))
    schema.validate(ds)


def test_validate__refuses_true_on_padded_units() -> None:
    ds = measured_dataset()
    ds["foreground"] = (("sample", "unit"), np.ones((3, 4), bool))
    assert faults_of(ds) == ["variable 'foreground' is True at 3 padded units"]


@pytest.mark.parametrize(
    ("coords", "fault"),
    [
        ({"epoch": [3, 3]}, "coordinate 'epoch' is [3, 3], must be 0 or more and increase"),
        ({"epoch": [-1, 0]}, "coordinate 'epoch' is [-1, 0], must be 0 or more and increase"),
        ({"epoch": [0.0, 1.0]}, "variable 'epoch' has dtype float64, must be int64"),
        ({"sample": [0, 1, 2]}, "variable 'sample' has dtype int64, must be str"),
        ({"unit": [1, 2, 3, 4]}, "coordinate 'unit' must run from 0 to 3"),
    ],
)
def test_validate__refuses_bad_coordinates(coords: dict[str, list[float]], fault: str) -> None:
    assert faults_of(measured_dataset().assign_coords(coords)) == [fault]


def test_validate__refuses_a_dimension_without_coordinate() -> None:
    assert faults_of(measured_dataset().drop_vars("unit")) == ["dimension 'unit' has no coordinate 'unit'"]


def test_validate__refuses_an_unknown_method_code() -> None:
    ds = measured_dataset()
    ds["method"][0, 0] = 2
    assert faults_of(ds) == ["variable 'method' has codes 0 to 2, allowed: -1 to 1"]


@pytest.mark.parametrize("value", [None, True, [1, 2], {"a": 1}, np.array([1.0]), 2**63, "a\0b", "\ud800"])
def test_validate__refuses_attributes_that_files_would_change(value: object) -> None:
    ds = measured_dataset()
    ds["gain"].attrs["mark"] = value
    (fault,) = faults_of(ds)
    assert fault.startswith("variable 'gain': attribute 'mark'")


@pytest.mark.parametrize("name", ["_FillValue", "coordinates", "a b", "", "9a", "a/b"])
def test_validate__refuses_attribute_names_with_a_meaning_to_the_format(name: str) -> None:
    ds = measured_dataset()
    ds.attrs[name] = "x"
    assert faults_of(ds) == [f"dataset: attribute name {name!r} cannot be stored; use a plain ASCII word"]


@pytest.mark.parametrize("config", ["", "[1]", "{", 3])
def test_validate__refuses_a_config_that_is_no_json_object(config: object) -> None:
    ds = measured_dataset()
    ds.attrs["config"] = config
    assert faults_of(ds) == ["attribute 'config' is not a JSON object"]


def test_validate__refuses_another_schema() -> None:
    ds = measured_dataset()
    ds.attrs["schema"] = "other"
    assert faults_of(ds) == ["attribute 'schema' is 'other', not 'kdviz'"]


def test_validate__leaves_unknown_variables_to_their_owner() -> None:
    schema.validate(measured_dataset().assign(mine=("anything", [1.5, np.nan])))


def test_annotate__writes_the_contract_and_keeps_the_rest() -> None:
    ds = measured_dataset()
    ds["gain"].attrs = {"probes": 64, "units": "wrong"}
    annotated = schema.annotate(ds)
    assert annotated["gain"].attrs == {
        "probes": 64,
        "units": "1",
        "long_name": "gain of the unit",
        "comment": "mean-squared feature change per unit of squared input noise; of all parts (unit_size) "
        "together",
    }
    assert annotated["method"].attrs["flag_values"] == "0 1"
    assert annotated["method"].attrs["flag_meanings"] == "gain path"
    assert annotated["epoch"].attrs["long_name"] == "completed training epochs"
    assert ds["gain"].attrs == {"probes": 64, "units": "wrong"}
    assert ds["method"].attrs == {}
    schema.validate(annotated)


def test_make_attrs__writes_config_sorted_and_time_in_utc() -> None:
    attrs = schema.make_attrs(network_role="student", seed=0, config={"b": [1], "a": None})
    assert datetime.fromisoformat(str(attrs.pop("created_at"))).tzinfo == UTC
    assert attrs == {
        "schema": "kdviz",
        "schema_version": 3,
        "kdviz_version": "0.1.0",
        "network_role": "student",
        "seed": 0,
        "config": '{"a": null, "b": [1]}',
    }


def test_make_attrs__stamps_the_present_moment() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    created = datetime.fromisoformat(str(schema.make_attrs()["created_at"]))
    assert before <= created <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": 2**64}, "attribute 'seed' is 18446744073709551616, beyond 64 bits"),
    ],
)
def test_make_attrs__refuses_bad_values(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schema.make_attrs(**values)  # type: ignore[arg-type]


def test_make_attrs__refuses_a_misspelt_name() -> None:
    with pytest.raises(TypeError, match="netwrok"):
        schema.make_attrs(netwrok="student")  # type: ignore[call-arg]


values = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=5), values | st.lists(values, max_size=3), max_size=3))
def test_make_attrs__config_comes_back_from_json(config: dict[str, object]) -> None:
    assert json.loads(str(schema.make_attrs(config=config)["config"])) == config


def test_variables__are_consistent() -> None:
    for name, variable in schema.VARIABLES.items():
        assert name == variable.name
        assert variable.long_name and variable.long_name[0].islower()
        value = np.asarray(variable.missing, None if variable.dtype == "str" else variable.dtype)
        assert variable.dtype == "str" or value.dtype == variable.dtype
    assert schema.MEASURED == (
        *("gain", "gain_error", "entropy", "entropy_error", "noise_scale", "feature_variance"),
        *("feature_loss", "linearity", "linearity_quartile", "method", "converged", "zero_gain"),
    )
    assert set(schema.SAMPLES) >= {"sample", "unit", "valid", "foreground"}
    assert "epoch" not in schema.SAMPLES


def test_validate__refuses_what_is_no_dataset() -> None:
    with pytest.raises(TypeError, match="a Dataset is needed, got a dict"):
        schema.validate({"conv": measured_dataset()})  # type: ignore[arg-type]


def test_build__names_dims_and_attributes_are_those_of_the_contract() -> None:
    ds = schema.build({"n_union": [1, 2]}, coords={"sample": ["a", "b"]}, attrs={"layer": "fc1"})
    assert ds["n_union"].dims == ("sample",) and ds["n_union"].attrs == schema.VARIABLES["n_union"].attrs
    assert ds["sample"].attrs["long_name"] == "sample identifier"
    assert ds.attrs == {"layer": "fc1", "schema": "kdviz", "schema_version": schema.SCHEMA_VERSION}
    schema.validate(ds)
    with pytest.raises(KeyError, match="n_unoin"):
        schema.build({"n_unoin": [1, 2]})


def test_register__refuses_a_name_that_is_taken() -> None:
    with pytest.raises(ValueError, match="'gain' is in the contract already"):
        schema.register(schema.Variable("gain", (), "float32", "another gain"))


def test_validate__takes_layers_in_front() -> None:
    ds = measured_dataset()
    several = ds.copy()
    for name in ("gain", "entropy"):
        if name in ds:
            several[name] = ds[name].expand_dims(layer=["fc1", "fc2"])
    schema.validate(several, require=("gain",))
    several["gain"] = several["gain"].transpose(..., "layer")
    assert "must be (epoch, sample, unit)" in faults_of(several)[0]
