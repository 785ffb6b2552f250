"""What needs the network: gains, and the solution at which they were measured."""

from functools import partial

from kdviz.schema.variables import EPOCH_SAMPLE, MAP, METHODS, Variable, measured_number, register

_QUARTILES = ("epoch", "sample", "quartile")
_LINEARITY = (
    "1 where the gain explains all, where only the path was asked for the probe gain; belongs to the "
    "solution it was measured at"
)
_LOSS = "feature change at the solution over the feature variance"
_PER_QUARTILE = "linearity with noise on one quartile of the gains, of one draw each and so rough"

_number = measured_number
_maybe = partial(measured_number, may_be_nan=True)
_other = partial(Variable, part="measured")

register(
    Variable("quartile", ("quartile",), "int64", "quartile of the gains", comment="1 to 4, 1 the smallest"),
    _number(
        "gain",
        MAP,
        "gain of the unit",
        "1",
        "mean-squared feature change per unit of squared input noise; of all parts (unit_size) together",
    ),
    _maybe(
        "gain_error", MAP, "standard error of the gain", "1", "0 where the gain is exact, NaN where unknown"
    ),
    _number(
        "entropy",
        MAP,
        "conditional entropy of the unit given the feature",
        "nat",
        "high: the layer discards the unit",
    ),
    _maybe(
        "entropy_error",
        MAP,
        "standard error of the entropy",
        "nat",
        "of chance, to first order; NaN where unknown",
    ),
    _number(
        "noise_scale",
        MAP,
        "standard deviation of noise the feature tolerates",
        "1",
        "in normalised input units",
    ),
    _number(
        "feature_variance",
        EPOCH_SAMPLE,
        "mean-squared feature change under the base noise",
        "1",
        "measured forward-only at base_noise",
    ),
    _maybe("feature_loss", EPOCH_SAMPLE, _LOSS, "1", "NaN for a feature that never changes"),
    _maybe(
        "linearity", EPOCH_SAMPLE, "measured over predicted feature change at the solution", "1", _LINEARITY
    ),
    _maybe("linearity_quartile", _QUARTILES, _PER_QUARTILE, "1", "first quartile: smallest gains"),
    _other(
        "method",
        EPOCH_SAMPLE,
        "int8",
        "how the sample was measured",
        comment="-1 is not measured",
        flags=METHODS,
    ),
    _other("converged", EPOCH_SAMPLE, "bool", "the calibration was met"),
    _other(
        "zero_gain", EPOCH_SAMPLE, "int32", "number of valid units of zero gain", "1", "-1 is not measured"
    ),
)
