"""Scenes with cues at known places, and networks made by hand of which each detects some of them."""

import torch
from torch import nn

SIZE, CELL = 16, 4  # images are of 4 x 4 cells, as the units
CUES = {
    "cross": [[-1, 1, -1], [1, 1, 1], [-1, 1, -1]],
    "ring": [[1, 1, 1], [1, -1, 1], [1, 1, 1]],
    "slash": [[-1, -1, 1], [-1, 1, -1], [1, -1, -1]],
}
PLACES = {"cross": (1, 1), "ring": (9, 9), "slash": (1, 9)}  # top left corners, each within a cell


def unit_of(cue):
    row, col = PLACES[cue]
    return row // CELL * (SIZE // CELL) + col // CELL


def draw_scenes(count, seed=0, places=PLACES):
    """Images with faint noise; in half of them, each by a coin of its own, is each cue; the coins by name."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.05 * torch.randn(count, 1, SIZE, SIZE, generator=generator)
    coins = {}
    for cue, (row, col) in places.items():
        coins[cue] = torch.rand(count, generator=generator) < 0.5
        size = coins[cue][:, None] * (0.95 + 0.1 * torch.rand(count, 1, generator=generator))
        images[:, 0, row : row + 3, col : col + 3] += size[..., None] * torch.tensor(CUES[cue])
    return images, coins


class Detectors(nn.Module):
    """One channel a cue, which is above zero where the cue is and nowhere else; logits of two classes."""

    def __init__(self, *cues, classes=2):
        super().__init__()
        self.conv = nn.Conv2d(1, len(cues), 3, padding=1)
        self.seen, self.head = nn.ReLU(), nn.Linear(len(cues), classes)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([CUES[cue] for cue in cues])[:, None])
            self.conv.bias.fill_(-6.0)  # a whole cue gives nine times its size
            nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, images):
        return self.head(self.seen(self.conv(images)).mean((2, 3)))
