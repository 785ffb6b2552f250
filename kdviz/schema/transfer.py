"""Properties of a teacher and the networks compared with it, value by value of the samples."""

from functools import partial

from kdviz.schema.variables import SAMPLE, Variable, measured_number, register

NETWORK = ("network",)
NETWORK_SAMPLE = ("network", "sample")

_result = partial(Variable, part="result")
_number = partial(measured_number, part="result", may_be_nan=True)

register(
    _result("network", NETWORK, "str", "name of the network"),
    _result("role", NETWORK, "str", "teacher, independent or student"),
    # what networks answer
    _result("right", NETWORK_SAMPLE, "bool", "the network gives the sample's class"),
    _result("same_answer", NETWORK_SAMPLE, "bool", "the network gives the class that the teacher gives"),
    _result("domain", SAMPLE, "str", "where the sample comes from, or what was made of it"),
    _result("group", SAMPLE, "str", "group of the sample, such as one with few training samples"),
    # where networks look
    _number(
        "cam_similarity",
        NETWORK_SAMPLE,
        "cosine of the network's Grad-CAM and the teacher's",
        "1",
        "NaN where one of them is zero everywhere",
    ),
    _number(
        "closer_map",
        NETWORK_SAMPLE,
        "share of independent networks farther from the teacher's Grad-CAM",
        "1",
        "ties count as neither; NaN where there are but ties, or nothing to compare with",
    ),
    # how they are fooled
    _result("attacked", ("attacked",), "str", "name of the network that images were made against"),
    _number(
        "fooled",
        ("attacked", "network", "sample"),
        "the image changes the class that the network gives",
        "1",
        "NaN where it leaves the class that the attacked network gives",
    ),
    _number(
        "fooled_by_teacher",
        NETWORK_SAMPLE,
        "the image made against the teacher changes the network's class",
        "1",
        "NaN where it leaves the class that the teacher gives",
    ),
)
