"""Attribution maps on the same units, and their scores."""

from functools import partial

from kdviz.schema.variables import EPOCH_SAMPLE, MAP, SAMPLE, Variable, register

_METHOD = "attribution_method"
SCORED = (_METHOD, *EPOCH_SAMPLE)
_attribution = partial(Variable, part="attribution")
_score = partial(Variable, part="result", may_be_nan=True)

register(
    _attribution("attribution_method", (_METHOD,), "str", "name of the attribution method"),
    _attribution(
        "attribution", (_METHOD, *MAP), "float32", "attribution map reduced to units", "1", "sign kept"
    ),
    _attribution("explained", SAMPLE, "int64", "class whose logit is explained"),
    _attribution("input_hash", SAMPLE, "str", "hash of the input explained"),
    # scores of maps, and what removing units or randomising weights does to them
    *(
        _score(name, SCORED, "float64", long_name, "1", comment)
        for name, long_name, comment in (
            ("pointing", "most important unit lies on the foreground", "of several, their share"),
            ("foreground_mass", "share of the positive importance that lies on the foreground", ""),
            ("auc", "chance that a foreground unit is more important than a background unit", ""),
            ("auc_of_size", "the same chance of absolute importance", ""),
            ("entropy_correlation", "rank correlation with minus the entropy over units", ""),
        )
    ),
    Variable(
        "foreground_share", SAMPLE, "float64", "share of the units on the foreground", "1", part="result"
    ),
    Variable("share", ("share",), "float64", "share of the units removed or put in", "1", part="result"),
    *(
        _score(name, dims, "float64", long_name)
        for curve, said in (
            ("deletion", "important units are removed"),
            ("insertion", "important units are put in"),
        )
        for name, dims, long_name in (
            (curve, (_METHOD, "sample", "share"), f"output of the class while {said}"),
            (f"{curve}_area", (_METHOD, "sample"), f"area under the output while {said}"),
        )
    ),
    Variable("stage", ("stage",), "str", "what of the network was randomised", part="result"),
    *(
        _score(f"similarity{end}", (_METHOD, "stage", "sample"), "float64", long_name, "1")
        for end, long_name in (
            ("", "rank correlation of the map with that of the trained network"),
            ("_of_sizes", "rank correlation of the absolute map with that of the trained network"),
        )
    ),
)
