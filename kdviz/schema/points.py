"""What follows from gains in closed form: points, counts, the learning path and comparisons."""

from functools import partial

from kdviz.schema.variables import EPOCH, EPOCH_SAMPLE, MAP, SAMPLE, Variable, measured_number, register

_derived = partial(Variable, part="derived")
_number = partial(measured_number, part="derived")
_maybe = partial(_number, may_be_nan=True)
_result = partial(Variable, part="result")
_undefined = partial(_result, comment="NaN without points to tell it from", may_be_nan=True)

_BELOW = "entropy lies below the background mean by more than the threshold"
_ADDED = "root mean square of the output that noise is added to; absent where noise falls on the input"
_RESPONSE = "tells a network from another with the same weights; NaN where measured by an older kdviz"
_ACCURACY = "held-out ones unless `definition` says which; it names the network, too; NaN where unknown"
_OF_THE_SAMPLE = "mean entropy of the background units of the sample"
_CLOSE = "within 2 standard errors of the threshold"

register(
    _maybe(
        "background_entropy",
        EPOCH,
        "mean entropy of the background units",
        "nat",
        "NaN without background units",
    ),
    _derived("knowledge_point", MAP, "bool", "unit is a knowledge point", comment=_BELOW),
    _derived("uncertain", MAP, "bool", "unit is too close to the threshold to call", comment=_CLOSE),
    _number(
        "weight_distance",
        EPOCH,
        "cumulated movement of the weights",
        "1",
        "attribute `definition` says how it was summed",
    ),
    _maybe("accuracy", EPOCH, "share of samples classified correctly", "1", _ACCURACY),
    _maybe("noise_unit", EPOCH, "size of one unit of noise in the network's own numbers", "1", _ADDED),
    _maybe("clean_response", EPOCH, "mean size of the first sample's feature, weighted", "1", _RESPONSE),
    _maybe("sample_background_entropy", EPOCH_SAMPLE, _OF_THE_SAMPLE, "nat"),
)

# Each also as ``_low`` and ``_high``: its range over every way of deciding the uncertain units.
_COUNTS = {
    "n_fg": ("int64", "knowledge points on the foreground"),
    "n_bg": ("int64", "knowledge points on the background"),
    "fg_ratio": ("float64", "share of the knowledge points that lie on the foreground"),
}
_RHO = "share of all foreground points ever met that is kept"
_RESULTS = (
    ("n_without_points", EPOCH, "int64", "samples without any knowledge point"),
    ("n_uncertain", EPOCH_SAMPLE, "int64", "units too close to the threshold to call"),
    ("n_union", SAMPLE, "int64", "foreground points ever met"),
    ("n_without_union", (), "int64", "samples that never had a foreground point"),
    ("n_without_peak", (), "int64", "samples that had no foreground point after epoch 0"),
)
_DISTANCES = (
    ("distance", SAMPLE, "weight distance to the peak of foreground points"),
    ("d_mean", (), "mean weight distance to the peak of foreground points"),
    ("d_var", (), "variance of the weight distance to the peak (printed as D_std)"),
    ("d_std", (), "standard deviation of the weight distance to the peak"),
)
_ENDS = ("", "_low", "_high")
for _end in _ENDS:
    for _name, (_dtype, _long) in _COUNTS.items():
        _mean, _maybe_none = f"{_long}, mean over samples", _dtype == "float64"
        register(
            _result(f"{_name}{_end}", EPOCH_SAMPLE, _dtype, _long, "1", may_be_nan=_maybe_none),
            _result(f"{_name}_mean{_end}", EPOCH, "float64", _mean, "1", may_be_nan=_maybe_none),
        )
    register(
        _undefined(f"rho{_end}", SAMPLE, "float64", _RHO, "1"),
        _undefined(f"rho_mean{_end}", (), "float64", f"{_RHO}, mean over samples", "1"),
    )
register(
    *(_undefined(name, dims, "float64", long, "1") for name, dims, long in _DISTANCES),
    *(_result(name, dims, dtype, long, "1") for name, dims, dtype, long in _RESULTS),
    _undefined("peak_epoch", SAMPLE, "float64", "first epoch with the most foreground points", "epoch"),
    _result("dropped", MAP, "bool", "foreground point tried and dropped"),
    # comparisons
    _result("metric", ("metric",), "str", "metric of the papers"),
    _result("seed", ("seed",), "int64", "training seed"),
    _result("hypothesis", ("metric",), "str", "hypothesis that the metric speaks for"),
    _result("supporting_sign", ("metric",), "int64", "sign of the difference that speaks for it"),
    _result("left_out", ("metric", "seed"), "int64", "samples undefined in student or baseline, left out"),
    _result("student_name", ("seed",), "str", "network on the student's side"),
    _result("baseline_name", ("seed",), "str", "network on the baseline's side"),
)
for _side in ("student", "baseline", "teacher", "difference"):
    _long = "student minus baseline" if _side == "difference" else f"metric of the {_side}"
    _values = {"": _long, "_low": f"{_long}, lower limit", "_high": f"{_long}, upper limit"}
    register(
        *(
            _result(f"{_side}{end}", ("metric", "seed"), "float64", long, may_be_nan=True)
            for end, long in _values.items()
        )
    )
