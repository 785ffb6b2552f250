"""Small pictures of the inputs, stored with a run so that it can be looked at without the data."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from kdviz.arguments import as_bytes
from kdviz.networks.inputs import Inputs

LONGEST_SIDE = 128  # pixels


def draw_inputs(inputs: Inputs) -> NDArray[np.uint8] | None:
    """Turn image inputs into pictures: stretched to 0..255, and shrunk to at most 128 pixels a side.

    One range for all: the smallest value becomes 0, the largest 255, so that pictures can be compared, while
    absolute brightness and colours are those of the normalisation.

    Returns
    -------
    ndarray or None
        Shape ``(B, h, w, C)``, uint8; None unless these are images of 1 or 3 channels.
    """
    if len(inputs.shape) != 3 or inputs.shape[0] not in (1, 3):
        return None
    channels, height, width = inputs.shape
    low, high = inputs.limits
    scale = 255 / (high - low) if high > low else 0.0
    shrink = max(1.0, max(height, width) / LONGEST_SIDE)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    pictures = np.empty((len(inputs.ids), size[1], size[0], channels), np.uint8)
    for row, picture in enumerate(pictures):
        image = inputs.read([row])[0].numpy()
        pixels = np.rint((image - low) * scale).astype(np.uint8).transpose(1, 2, 0)
        drawn = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
        picture[:] = np.asarray(drawn.resize(size, Image.Resampling.BOX)).reshape(picture.shape)
    return pictures


def check_pictures(thumbnails: ArrayLike, count: int) -> NDArray[np.uint8]:
    """Check the user's own pictures of `count` inputs and give them a channel axis.

    Raises
    ------
    ValueError
        If they are not ``(B, H, W, 3)`` or ``(B, H, W)``, uint8, or ``(B, C, H, W)`` of 0 to 1.
    """
    array = as_bytes(thumbnails)
    shaped = array[..., None] if array.ndim == 3 else array
    if shaped.ndim != 4 or len(shaped) != count or shaped.shape[3] not in (1, 3) or array.dtype != np.uint8:
        raise ValueError(
            f"thumbnails must have shape ({count}, H, W, 3) or ({count}, H, W) and be uint8, or "
            f"({count}, 3, H, W) of 0 to 1, got "
            f"{array.shape} and {array.dtype}"
        )
    return shaped
