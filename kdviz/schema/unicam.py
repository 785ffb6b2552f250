"""What a student has that a base has not, and the reverse: maps of units, and scores of layers."""

from functools import partial

from kdviz.schema.variables import EPOCH_SAMPLE, MAP, Variable, measured_number, register

_number = partial(measured_number, part="result", may_be_nan=True)
_score = partial(Variable, dtype="float64", units="1", part="result", may_be_nan=True)
_CASE = ("epoch", "input")
_SIDES = (("distilled", "student", "base"), ("residual", "base", "student"))

register(
    Variable("base_layer", (), "str", "layer of the base that is compared with the student's", part="result"),
    # maps; of variant A they have the scale of the features, not the unit 1 of B
    *(
        _number(f"{side}{end}", dims, long_name, "1", comment)
        for side, own, other in _SIDES
        for end, dims, long_name, comment in (
            ("", MAP, f"where the {own} sees what the {other} does not", "mean over batches, never negative"),
            ("_deviation", MAP, f"standard deviation over batches of {side}", "NaN of a single batch"),
            (
                "_magnitude",
                EPOCH_SAMPLE,
                f"largest value of the map of {side}, before it is reduced to units",
                "",
            ),
            ("_share", EPOCH_SAMPLE, f"share of the {own}'s squared distances that the {other}'s leave", ""),
        )
    ),
    # scores, each with its interval
    Variable("input", ("input",), "str", "what the networks see: plain or perturbed samples", part="result"),
    Variable(
        "pair", ("pair",), "str", "two networks by what they are: student, base or teacher", part="result"
    ),
    *(
        _score(f"{name}{end}", dims, long_name=f"{long_name}{limit}")
        for name, dims, long_name in (
            ("rs", (*_CASE, "network"), "relevance: squared distance correlation with the classes"),
            ("rs_distilled", _CASE, "relevance of what the student has and the base has not"),
            ("rs_residual", _CASE, "relevance of what the base has and the student has not"),
            ("fss", (*_CASE, "pair"), "feature similarity: squared distance correlation of two networks"),
            ("rs_ahead", _CASE, "rs_distilled less rs_residual"),
            ("fss_ahead", _CASE, "likeness of student and teacher less that of base and teacher"),
        )
        for end, limit in (("", ""), ("_low", ", lower limit"), ("_high", ", upper limit"))
    ),
)
