"""What follows from gains in closed form: points, counts, the learning path and comparisons."""

from kdviz.schema.variables import EPOCH, EPOCH_SAMPLE, MAP, SAMPLE, Variable, register

register(
    Variable(
        "background_entropy",
        EPOCH,
        "float32",
        "mean entropy of the background units",
        "nat",
        "NaN without background units",
        "derived",
        may_be_nan=True,
    ),
    Variable(
        "knowledge_point",
        MAP,
        "bool",
        "unit is a knowledge point",
        comment="entropy lies below the background mean by more than the threshold",
        part="derived",
    ),
    Variable(
        "uncertain",
        MAP,
        "bool",
        "unit is too close to the threshold to call",
        comment="within 2 standard errors of the threshold",
        part="derived",
    ),
    Variable(
        "weight_distance",
        EPOCH,
        "float32",
        "cumulated movement of the weights",
        "1",
        "attribute `definition` says how it was summed",
        "derived",
    ),
    Variable(
        "accuracy",
        EPOCH,
        "float32",
        "share of held-out samples classified correctly",
        "1",
        "attribute `definition` says by which network; NaN where unknown",
        "derived",
        may_be_nan=True,
    ),
    Variable(
        "noise_unit",
        EPOCH,
        "float32",
        "size of one unit of noise in the network's own numbers",
        "1",
        "root mean square of the output that noise is added to; absent where noise falls on the input",
        "derived",
    ),
    Variable(
        "sample_background_entropy",
        EPOCH_SAMPLE,
        "float32",
        "mean entropy of the background units of the sample",
        "nat",
        part="derived",
        may_be_nan=True,
    ),
)

# Each also as ``_low`` and ``_high``: its range over every way of deciding the uncertain units.
_COUNTS = {
    "n_fg": ("int64", "knowledge points on the foreground"),
    "n_bg": ("int64", "knowledge points on the background"),
    "fg_ratio": ("float64", "share of the knowledge points that lie on the foreground"),
}
_RHO = "share of all foreground points ever met that is kept"
_RESULTS = (
    ("n_without_points", EPOCH, "int64", "samples without any knowledge point, whose fg_ratio counts as 0"),
    ("n_uncertain", EPOCH_SAMPLE, "int64", "units too close to the threshold to call"),
    ("n_union", SAMPLE, "int64", "foreground points ever met"),
    ("distance", SAMPLE, "float64", "weight distance to the peak of foreground points"),
    ("d_mean", (), "float64", "mean weight distance to the peak of foreground points"),
    ("d_var", (), "float64", "variance of the weight distance to the peak (printed as D_std)"),
    ("d_std", (), "float64", "standard deviation of the weight distance to the peak"),
    ("rho_floor", (), "float64", "overlap of the final points of two measurements"),
    ("rho_repeat", (), "float64", "rho of the repetition"),
    ("n_fg_repeat", (), "float64", "final n_fg of the repetition"),
)
_ENDS = ("", "_low", "_high")
for _end in _ENDS:
    for _name, (_dtype, _long) in _COUNTS.items():
        _mean = f"{_long}, mean over samples"
        register(
            Variable(f"{_name}{_end}", EPOCH_SAMPLE, _dtype, _long, "1", part="result"),
            Variable(f"{_name}_mean{_end}", EPOCH, "float64", _mean, "1", part="result"),
        )
    register(
        Variable(f"rho{_end}", SAMPLE, "float64", _RHO, "1", part="result"),
        Variable(f"rho_mean{_end}", (), "float64", f"{_RHO}, mean over samples", "1", part="result"),
    )
register(
    *(Variable(name, dims, dtype, long, "1", part="result") for name, dims, dtype, long in _RESULTS),
    Variable(
        "peak_epoch", SAMPLE, "int64", "first epoch with the most foreground points", "epoch", part="result"
    ),
    Variable("dropped", MAP, "bool", "foreground point tried and dropped", part="result"),
    # comparisons
    Variable("metric", ("metric",), "str", "metric of the papers", part="result"),
    Variable("seed", ("seed",), "int64", "training seed", part="result"),
    Variable("hypothesis", ("metric",), "str", "hypothesis that the metric speaks for", part="result"),
    Variable(
        "supporting_sign", ("metric",), "int64", "sign of the difference that speaks for it", part="result"
    ),
    Variable("student_name", ("seed",), "str", "network on the student's side", part="result"),
    Variable("baseline_name", ("seed",), "str", "network on the baseline's side", part="result"),
)
for _side in ("student", "baseline", "teacher", "difference"):
    _long = "student minus baseline" if _side == "difference" else f"metric of the {_side}"
    _values = {"": _long, "_low": f"{_long}, lower limit", "_high": f"{_long}, upper limit"}
    _values |= {f"_uncertain{end}": f"{_long}, range over the uncertain units" for end in _ENDS[1:]}
    register(
        *(
            Variable(f"{_side}{end}", ("metric", "seed"), "float64", long, part="result", may_be_nan=True)
            for end, long in _values.items()
        )
    )
