"""Make ``import torchvision`` work beside a CPU-only torch.

A torchvision wheel built for CUDA cannot load its compiled operators beside a CPU build of torch, and its
import then dies with "operator torchvision::nms does not exist", although its networks and tensor
transforms need none of them. Declaring the schemas of the two operators that the import touches is enough.
The compiled operators themselves (``nms``, ``roi_align``, image codecs) stay unavailable.
"""

import logging

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# A library takes its declarations along when it is collected, so it lives as long as the process.
_library: torch.library.Library | None = None


def prepare_torchvision() -> tuple[str, ...]:
    """Import torchvision, declaring its operator schemas if the import fails without them.

    The import itself is the probe, because the real operators only appear while it runs: declaring them
    earlier would collide with a torchvision that works. An import that failed before this call does no
    harm; ``import torchvision`` succeeds afterwards in either order. Without torchvision nothing happens.

    Returns
    -------
    tuple of str
        Names of the operators declared by this call; empty where torchvision works or is not installed.
    """
    global _library
    try:
        import torchvision
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        return ()
    except RuntimeError as error:
        missing = tuple(name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name))
        if not missing or "torchvision::" not in str(error):
            raise
    else:
        return ()
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        _library.define(_SCHEMAS[name])
    import torchvision  # noqa: F401

    logging.getLogger(__name__).info("declared torchvision operators %s: they cannot be loaded", missing)
    return missing
