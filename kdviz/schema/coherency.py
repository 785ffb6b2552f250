"""What was compared while weights were rescaled without changing an output, one comparison a row."""

from functools import partial

from kdviz.schema.variables import Variable, register

_COMPARISON = ("comparison",)
_number = partial(Variable, dims=_COMPARISON, dtype="float64", part="result", may_be_nan=True)
_text = partial(Variable, dims=_COMPARISON, dtype="str", part="result")

_variables = (
    _text("audit_pair", long_name="layers between which scale was moved"),
    _text("audit_factor", long_name="factor: one for the layer, or one for every channel"),
    _text("audit_layer", long_name="layer at which the map was drawn, or input"),
    _text("audit_place", long_name="where that layer lies as seen from the pair"),
    _text("audit_method", long_name="kind of the map"),
    _number("audit_ratio", long_name="norm of the map after over that before", units="1"),
    _number("audit_cosine", long_name="cosine of the maps before and after", units="1"),
    _number("audit_rank_correlation", long_name="rank correlation of the maps before and after", units="1"),
    _number("audit_difference", long_name="largest difference of an entry", comment="of the entropy in nat"),
    _number("audit_jaccard", long_name="overlap of the knowledge points before and after", units="1"),
    _number("audit_n_fg", long_name="change of the number of points on the foreground", units="1"),
    _number("audit_n_bg", long_name="change of the number of points on the background", units="1"),
    Variable("audit_moved", _COMPARISON, "bool", "whether the map moved beyond rounding", part="result"),
    _number("audit_output_difference", long_name="largest change of an output, as a share of it", units="1"),
)
register(
    *_variables,
    Variable("audit_refused", (), "str", "why nothing of a network was compared", part="result"),
)

AUDITED = tuple(variable.name.removeprefix("audit_") for variable in _variables)
"""Columns of :func:`kdviz.coherency.audit`."""
