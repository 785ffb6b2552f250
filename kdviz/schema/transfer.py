"""Properties of a teacher and the networks compared with it, value by value of the samples."""

from functools import partial

from kdviz.schema.variables import SAMPLE, Variable, measured_number, register

PLAIN = "as they are"  # the domain of the samples themselves
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
        "ties and maps that are zero count as neither; NaN where there is but that, or none to compare with",
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
    # how sure they are
    _result("predicted", NETWORK_SAMPLE, "int64", "class that the network gives"),
    _number("certainty", NETWORK_SAMPLE, "largest probability that the network gives to a class", "1"),
    _number(
        "shared_probability",
        NETWORK_SAMPLE,
        "sum over classes of the smaller of the network's probability and the teacher's",
        "1",
    ),
    _number(
        "divergence",
        NETWORK_SAMPLE,
        "divergence (Kullback-Leibler) of the teacher's probabilities from the network's",
        "nat",
    ),
    _number(
        "error_consistency",
        NETWORK,
        "kappa (Cohen) of being right where the teacher is",
        "1",
        "NaN where both are always right, or both always wrong",
    ),
    _number(
        "error_consistency_error",
        NETWORK,
        "standard error of error_consistency",
        "1",
        "jackknife over samples",
    ),
    _number("calibration_error", NETWORK, "expected calibration error", "1"),
)

# what they know of the parts of a sample
register(
    _result("side", ("side",), "str", "foreground, background, or the ratio of points on the foreground"),
    _number(
        "points_share",
        ("side", *NETWORK_SAMPLE),
        "share of the units of a side that are knowledge points, or of the points that lie on the foreground",
        "1",
        "after the last epoch; NaN without such units, or points",
    ),
)

# what changed samples, and samples of two classes, are answered
_CHANGE, _CHANGE_LEVEL = ("change",), ("change", "level")

register(
    _result("change", _CHANGE, "str", "what samples are changed by"),
    _result("level", ("level",), "int64", "step of the strength; at 0 nothing is changed"),
    _result("strength", _CHANGE_LEVEL, "float64", "how much samples are changed", comment="in strength_unit"),
    _result("strength_unit", _CHANGE, "str", "what a strength is"),
    _result(
        "unchanged", (*_CHANGE_LEVEL, *NETWORK_SAMPLE), "bool", "the answer stays when the sample is changed"
    ),
    _result("texture", SAMPLE, "int64", "class that the texture is of"),
    _result(
        "decision",
        NETWORK_SAMPLE,
        "int8",
        "class that the network gives",
        flags=("shape", "texture", "neither"),
    ),
    _number(
        "shape_decision",
        NETWORK_SAMPLE,
        "the shape's class is given, of answers that are the shape's or the texture's",
        "1",
        "NaN for neither",
    ),
    # where their boundaries lie
    _result(
        "label_map",
        ("network", "triplet", "plane_row", "plane_col"),
        "int64",
        "class at a point of the plane",
    ),
    _result("corner_sample", ("triplet", "corner"), "str", "name of a sample that spans the plane"),
    _number(
        "corner_row",
        ("triplet", "corner"),
        "row of the sample in the plane, a whole number at its points",
        "1",
    ),
    _number("corner_col", ("triplet", "corner"), "column of the sample in the plane", "1"),
    _number(
        "boundary_overlap",
        ("network", "triplet"),
        "mean over classes of the intersection over union of the regions of the network and of the teacher",
        "1",
    ),
    _number(
        "boundary_agreement", ("network", "triplet"), "share of the plane with the class of the teacher", "1"
    ),
    # how alike their stages are
    _result(
        "network_stage", ("network_stage",), "int64", "position of a stage of a network, from its input on"
    ),
    _result("teacher_stage", ("teacher_stage",), "int64", "position of a stage of the teacher"),
    _result(
        "stage_layer",
        ("network", "network_stage"),
        "str",
        "name of the layer that ends the stage; empty for logits",
    ),
    _number(
        "cka",
        ("network", "network_stage", "teacher_stage"),
        "linear centred kernel alignment of two stages",
        "1",
        "debiased; NaN where a stage gives the same for all samples",
    ),
    _number(
        "cka_pseudo_value",
        ("network", "batch"),
        "jackknife pseudo-value, of leaving out the batch, of the mean alignment of corresponding stages",
        "1",
        "NaN where a stage gives the same for all samples",
    ),
)
