"""Make ``import torchvision`` work beside a CPU-only torch.

A torchvision wheel built for CUDA cannot load its compiled operators beside a CPU build of torch, and its
import then dies with "operator torchvision::nms does not exist", although its networks and tensor
transforms need none of them. Declaring the schemas of the two operators that the import touches is enough.
The compiled operators themselves (``nms``, ``roi_align``, image codecs) stay unavailable.
"""

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# A library takes its declarations along when it is collected, so it lives as long as the process.
_library: torch.library.Library | None = None


def prepare_torchvision() -> None:
    """Import torchvision, declaring its operator schemas if the import fails without them.

    The import itself is the probe, because the real operators only appear while it runs: declaring them
    earlier would collide with a torchvision that works. An import that failed before this call does no
    harm; ``import torchvision`` succeeds afterwards in either order. Without torchvision nothing happens.
    """
    global _library
    try:
        import torchvision
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
    except RuntimeError as error:
        if _library is not None or "torchvision::" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            _library.define(schema)
        import torchvision  # noqa: F401
