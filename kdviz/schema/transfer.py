"""Properties of a teacher and the networks compared with it, value by value of the samples."""

from functools import partial

from kdviz.schema.variables import SAMPLE, Variable, register

NETWORK = ("network",)
NETWORK_SAMPLE = ("network", "sample")

_result = partial(Variable, part="result")

register(
    _result("network", NETWORK, "str", "name of the network"),
    _result("role", NETWORK, "str", "teacher, independent or student"),
    # what networks answer
    _result("right", NETWORK_SAMPLE, "bool", "the network gives the sample's class"),
    _result("same_answer", NETWORK_SAMPLE, "bool", "the network gives the class that the teacher gives"),
    _result("domain", SAMPLE, "str", "where the sample comes from, or what was made of it"),
    _result("group", SAMPLE, "str", "group of the sample, such as one with few training samples"),
)
