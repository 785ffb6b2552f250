"""What must hold for any valid dataset: bounds, order, permutation, and the way through files and back."""

import itertools
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import slow_metrics

from kdviz import analysis, schema
from kdviz.entropy import NOISE_RATIO_LIMITS, invert_descent, solve
from kdviz.errors import DegenerateWarning, SchemaError
from kdviz.schema import METHODS, QUARTILES, VARIABLES
from kdviz.store import create_run, open_run

pytestmark = pytest.mark.filterwarnings("ignore::kdviz.errors.DegenerateWarning")
SAME_EVERY_TIME = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
FEW, MANY = settings(SAME_EVERY_TIME, max_examples=12), settings(SAME_EVERY_TIME, max_examples=40)

GRID = 64  # entropies are multiples of 1/64 nat, and thresholds lie between them
MAP = ("epoch", "sample", "unit")


@st.composite
def networks(draw: st.DrawFn) -> xr.Dataset:
    """Entropies with errors, masks, padding and weight distances; every sample has a background unit."""
    n_epochs, n_samples, n_units = (draw(st.integers(low, 5)) for low in (2, 1, 2))
    shape = (n_epochs, n_samples, n_units)
    entropy = draw(hnp.arrays(np.int64, shape, elements=st.integers(-4 * GRID, -2 * GRID))) / GRID
    error = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 8))) / GRID
    valid = draw(hnp.arrays(bool, shape[1:])) | (np.arange(n_units) == 0)
    foreground = draw(hnp.arrays(bool, shape[1:])) & valid & (np.arange(n_units) > 0)
    moved = draw(hnp.arrays(np.int64, n_epochs, elements=st.integers(0, 9)))
    moved[0] = 0
    return xr.Dataset(
        {
            "entropy": (MAP, np.where(valid, entropy, np.nan).astype("float32")),
            "entropy_error": (MAP, np.where(valid, error, np.nan).astype("float32")),
            "foreground": (MAP[1:], foreground),
            "valid": (MAP[1:], valid),
            "weight_distance": ("epoch", np.cumsum(moved).astype("float32")),
        },
        coords={
            "epoch": np.arange(n_epochs),
            "sample": [f"s{k}" for k in range(n_samples)],
            "unit": np.arange(n_units),
        },
    )


thresholds = st.integers(0, GRID).map(lambda steps: (steps + 0.37) / GRID)


@MANY
@given(networks(), thresholds)
def test_count_points__counts_lie_within_their_ranges_and_masks(ds: xr.Dataset, threshold: float) -> None:
    counts = analysis.count_points(analysis.find_points(ds, threshold=threshold))
    inside = (ds["foreground"] & ds["valid"]).sum("unit")
    outside = (~ds["foreground"] & ds["valid"]).sum("unit")
    for name, most in (("n_fg", inside), ("n_bg", outside), ("fg_ratio", 1)):
        low, value, high = (counts[f"{name}{end}"] for end in ("_low", "", "_high"))
        within = (low >= 0) & (low <= value) & (value <= high) & (high <= most)
        assert (within | (value.isnull() & low.isnull() & high.isnull())).all()
    empty = (counts["n_fg"] + counts["n_bg"] == 0).sum("sample")
    assert (counts["n_without_points"] == empty).all()
    assert (counts["fg_ratio"].isnull().sum("sample") == empty).all()
    np.testing.assert_allclose(counts["fg_ratio_mean"], counts["fg_ratio"].mean("sample"))


@MANY
@given(networks(), thresholds, thresholds)
def test_count_points__larger_threshold_never_counts_more(ds: xr.Dataset, one: float, other: float) -> None:
    few, many = (analysis.find_points(ds, threshold=b) for b in sorted((one, other), reverse=True))
    assert not (few["knowledge_point"] & ~many["knowledge_point"]).any()
    assert (
        analysis.measure_learning(few)["n_union"].values <= analysis.measure_learning(many)["n_union"].values
    ).all()


@MANY
@given(networks(), thresholds, st.randoms(use_true_random=False))
def test_analyses__do_not_depend_on_the_order_of_samples_and_units(ds, threshold, random) -> None:
    samples = random.sample(range(ds.sizes["sample"]), ds.sizes["sample"])
    units = random.sample(range(ds.sizes["unit"]), ds.sizes["unit"])
    mixed = ds.isel(sample=samples, unit=units).assign_coords(unit=ds["unit"].values)
    ours, theirs = (analysis.find_points(one, threshold=threshold) for one in (ds, mixed))
    assume(
        float(abs(ours["background_entropy"] - theirs["background_entropy"]).max()) == 0
    )  # rounding of sums
    one, other = (analysis.count_points(found).sel(sample=ds["sample"]) for found in (ours, theirs))
    for name in ("n_fg", "n_bg", "n_uncertain", "fg_ratio"):
        np.testing.assert_array_equal(one[name].values, other[name].values)
    one, other = (analysis.measure_learning(found).sel(sample=ds["sample"]) for found in (ours, theirs))
    for name in ("peak_epoch", "distance", "n_union", "rho", "rho_low", "rho_high"):
        np.testing.assert_array_equal(one[name].values, other[name].values)


@MANY
@given(networks(), thresholds, st.integers(-2 * GRID, 2 * GRID))
def test_find_points__adding_a_constant_to_all_entropies_changes_nothing(ds, threshold, shift) -> None:
    moved = ds.assign(entropy=ds["entropy"] + np.float32(shift / GRID))
    ours, theirs = (analysis.find_points(one, threshold=threshold) for one in (ds, moved))
    margin = abs(ours["entropy"] - (ours["background_entropy"] - threshold))
    assume(not bool((margin < 2e-6).any()))  # background means are not multiples of 1/64: leave out near ties
    for name in ("knowledge_point", "uncertain"):
        change = ours[name] != theirs[name]
        if name == "uncertain":  # likewise at two errors from the cutoff
            change &= abs(margin - 2 * ds["entropy_error"]) > 2e-6
        assert not change.any()


@MANY
@given(networks(), thresholds, st.sampled_from(["undefined", "published"]))
def test_measure_learning__equals_the_slow_replica_and_keeps_its_bounds(
    ds: xr.Dataset, threshold: float, no_points: str
) -> None:
    found = analysis.find_points(ds, threshold=threshold, no_points=no_points)
    learning = analysis.measure_learning(found)
    slow = slow_metrics.metrics(
        ds["entropy"].values.tolist(),
        ds["foreground"].values.tolist(),
        ds["valid"].values.tolist(),
        range(ds.sizes["sample"]),
        threshold=threshold,
        epochs=ds["epoch"].values.tolist(),
        distance=ds["weight_distance"].values.tolist(),
        published=no_points == "published",
    )
    counts = analysis.count_points(found).isel(epoch=-1)
    got = {name: learning[name].item() for name in ("d_mean", "d_var", "d_std")}
    got |= {name: counts[f"{name}_mean"].item() for name in ("n_fg", "n_bg", "fg_ratio")}
    got["rho"] = learning["rho_mean"].item()
    assert got == pytest.approx(slow, abs=1e-9, nan_ok=True)
    low, rho, high = (learning[name].values for name in ("rho_low", "rho", "rho_high"))
    without = np.isnan(rho)
    assert without.sum() == (0 if no_points == "published" else learning["n_without_union"])
    assert ((low >= 0) & (low <= rho) & (rho <= high) & (high <= 1))[~without].all()
    path = ds["weight_distance"].values
    if np.isnan(got["d_mean"]):
        assert learning["n_without_peak"] == ds.sizes["sample"]
        return
    assert path.min() <= got["d_mean"] <= path.max() + 1e-6
    assert -1e-9 <= got["d_var"] <= (np.ptp(path) / 2) ** 2 + 1e-6  # of numbers within that range


@MANY
@given(networks(), thresholds)
def test_measure_learning__union_grows_and_dropped_points_fill_it(ds: xr.Dataset, threshold: float) -> None:
    found = analysis.find_points(ds, threshold=threshold)
    unions = [
        analysis.measure_learning(found.isel(epoch=slice(end)))["n_union"].values
        for end in range(2, ds.sizes["epoch"] + 1)
    ]
    assert all((after >= before).all() for before, after in itertools.pairwise(unions))
    learning = analysis.measure_learning(found)
    held = (found["knowledge_point"] & ds["foreground"]).isel(epoch=-1).sum("unit")
    np.testing.assert_array_equal(learning["n_union"], held + learning["dropped"].isel(epoch=-1).sum("unit"))


# -- entropies

gain_ratios = hnp.arrays(
    np.float64, st.integers(2, 12), elements=st.floats(-4, 2).map(lambda power: 10.0**power)
)


@MANY
@given(gain_ratios, st.floats(0.05, 0.6), st.floats(2, 12))
def test_solve__calibrates_falls_with_the_gain_and_is_inverted(ratio, calibration, weight) -> None:
    solution = solve(ratio, calibration=calibration, weight=weight)
    noise = solution.noise_ratio
    assert ((noise >= NOISE_RATIO_LIMITS[0]) & (noise <= NOISE_RATIO_LIMITS[1])).all()
    assert (np.diff(noise[np.argsort(ratio)]) <= 1e-12).all()
    assume(bool(solution.converged))
    assert np.log(noise).mean() == pytest.approx(calibration, abs=1e-9)
    again = solve(invert_descent(noise, solution.time, weight=weight), calibration=calibration, weight=weight)
    # where s^2 hardly depends on r, rounding of s^2 is magnified in r but not in what comes back
    np.testing.assert_allclose(again.noise_ratio, noise, rtol=1e-7)


@MANY
@given(gain_ratios, st.floats(0.05, 0.6), st.integers(0, 5), st.sampled_from(["descent", "optimum"]))
def test_solve__order_of_units_does_not_matter(ratio, calibration, seed, solver) -> None:
    order = np.random.default_rng(seed).permutation(len(ratio))
    one, other = (solve(r, calibration=calibration, solver=solver).noise_ratio for r in (ratio[order], ratio))
    np.testing.assert_allclose(one, other[order], rtol=1e-9)  # sums are rounded in another order


# -- the contract

SIZES = {"channel": 3, "quartile": QUARTILES}
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@st.composite
def datasets(draw: st.DrawFn, part: tuple[str, ...] = ("samples", "measured", "derived")) -> xr.Dataset:
    """Any choice of the contract's variables with any legal values."""
    sizes = {
        dim: draw(st.integers(1, 3)) for dim in ("epoch", "sample", "unit", "y_pixel", "x_pixel")
    } | SIZES
    optional = [v.name for v in VARIABLES.values() if v.part in part and v.name != v.dims[0]]
    chosen = draw(st.lists(st.sampled_from(optional), unique=True, max_size=6))
    names = draw(st.lists(text.filter(bool), min_size=sizes["sample"], max_size=sizes["sample"], unique=True))
    coords = {"sample": names, "unit": np.arange(sizes["unit"]), "quartile": np.arange(1, QUARTILES + 1)}
    if any("epoch" in VARIABLES[name].dims for name in chosen):
        coords["epoch"] = np.cumsum([draw(st.integers(0, 3)), *[2] * (sizes["epoch"] - 1)])
    valid = np.ones((sizes["sample"], sizes["unit"]), bool)
    if "valid" in chosen:
        valid = draw(hnp.arrays(bool, valid.shape))
    ds = xr.Dataset(coords=coords)
    for name in chosen:
        spec = VARIABLES[name]
        shape = tuple(sizes[dim] for dim in spec.dims)
        legal = {
            "b": st.booleans(),
            "i": st.integers(-1, len(METHODS) - 1),
            "u": st.integers(0, 255),
            "f": st.floats(width=32, allow_nan=spec.may_be_nan),
            "s": text,
        }[spec.dtype[0]]
        values = draw(hnp.arrays(object if spec.dtype == "str" else spec.dtype, shape, elements=legal))
        if spec.dtype == "bool" and spec.dims[-2:] == ("sample", "unit"):
            values = values & valid
        ds[name] = (spec.dims, valid if name == "valid" else values)
    return ds


@MANY
@given(datasets())
def test_annotate__of_a_valid_dataset_is_valid_and_changes_no_value(ds: xr.Dataset) -> None:
    schema.validate(ds)
    annotated = schema.annotate(ds)
    schema.validate(annotated)
    assert annotated.equals(ds) and annotated.attrs["schema_version"] == schema.SCHEMA_VERSION
    assert schema.annotate(annotated).identical(annotated)


@MANY
@given(datasets(), st.data())
def test_validate__names_the_one_thing_that_was_changed(ds: xr.Dataset, data: st.DataObject) -> None:
    inner = [str(name) for name in ds.data_vars if ds[name].dims != (name,)]
    assume(inner)
    name = data.draw(st.sampled_from(inner))
    array = ds[name]
    kind = data.draw(st.sampled_from(["dims", "dtype", "missing", "attribute"]))
    if kind == "dims":
        wrong = ds.assign({name: ((*array.dims[:-1], "elsewhere"), array.values)})
        said = f"variable '{name}' has dims"
    elif kind == "dtype":
        wrong = ds.assign({name: (array.dims, np.full(array.shape, 1j))})
        said = f"variable '{name}' has dtype complex128, must be {VARIABLES[name].dtype}"
    elif kind == "missing":
        wrong, said = ds.drop_vars(name), f"variable '{name}' is missing"
    else:
        wrong = ds.assign({name: array.assign_attrs({"odd one": 1})})
        said = f"variable '{name}': attribute name 'odd one'"
    with pytest.raises(SchemaError) as error:
        schema.validate(wrong, require=inner)
    assert [fault for fault in str(error.value).split("\n  - ")[1:] if said in fault]


@FEW
@given(datasets())
def test_store__gives_back_any_valid_dataset_in_both_formats(ds: xr.Dataset) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder) / "run.zarr", samples=ds[["sample", "unit"]])
        run.write_result("any/thing", ds)
        for opened in (run, open_run(run.export(Path(folder) / "run.nc"))):
            got = opened.result("any/thing")
            assert set(got.variables) == set(ds.variables)
            for name, array in ds.variables.items():
                spec = VARIABLES[str(name)]
                assert got[name].dims == array.dims
                if spec.dtype == "str":
                    assert got[name].values.tolist() == array.values.tolist()
                else:
                    assert got[name].dtype == spec.dtype
                    assert got[name].values.tobytes() == array.values.astype(spec.dtype).tobytes()


@MANY
@given(networks())
def test_compare__a_network_with_itself_is_no_difference(ds: xr.Dataset) -> None:
    found = analysis.find_points(ds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        result = analysis.compare(student=found, baseline=found, resamples=3)
    too_short = int((ds["epoch"] > 0).sum()) < 2  # for a path
    of_path = result["metric"].isin(analysis.PATH_METRICS)
    undefined = (result["left_out"] == ds.sizes["sample"]) | (of_path & too_short)
    assert ((result["difference"] == 0) ^ undefined).all()
    for metric in ("fg_ratio", "rho"):
        assert 0 <= result["student"].sel(metric=metric).item() <= 1 or undefined.sel(metric=metric)
