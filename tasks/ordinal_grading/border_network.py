"""The network that measures a card's centering, to a fraction of a pixel.

B = batch, C = channels, H = height, W = width, R = pixels looked at from the scan's side inwards.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

BANDS = 8  # that a side without its corners is cut into
REACH = 4  # borders lie within this part of the scan's shorter side
WIDTHS = (16, 16, 16)
TAPS = 5  # of a convolution; each has twice the dilation of the one before


class BorderNetwork(nn.Module):
    """Counts along lines from outside inwards how many pixels are border.

    A point of centering is some tenths of a pixel of a scan, and the card lies askew, so the scan is neither
    reduced nor averaged whole: each of eight bands of a side is averaged along the border, which takes the
    noise away and blurs an edge that is a degree askew by half a pixel. The same convolutions along the lines
    that are left say of every pixel of all four sides whether it is border.
    """

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = input_shape
        self._rows, self._columns = middle(height), middle(width)
        self._reach = min(height, width) // REACH
        layers: list[nn.Module] = []
        for number, (before, filters) in enumerate(pairwise((channels, *WIDTHS))):
            dilation = 2**number
            padding = TAPS // 2 * dilation
            layers += [
                nn.Conv2d(
                    before, filters, (1, TAPS), padding=(0, padding), dilation=(1, dilation), bias=False
                ),
                nn.BatchNorm2d(filters),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Of normalised images (B, C, H, W) the left border's percentage of left and right together, and the
        top one's of top and bottom: (B, 2).
        """
        rows, columns = averaged(images, self._rows), averaged(images.transpose(2, 3), self._columns)
        lines = [rows, rows.flip(3), columns, columns.flip(3)]  # from left, right, top, bottom
        is_border = self.layers(torch.cat([line[..., : self._reach] for line in lines])).float().sigmoid()
        widths = is_border.sum(dim=3).mean(dim=(1, 2)).view(len(lines), -1)  # (4, B)
        left, right, top, bottom = widths
        return 100 * torch.stack([left / (left + right), top / (top + bottom)], dim=1)


def middle(size: int) -> slice:
    """The middle of a side, which is `BANDS` bands long; corners lie outside of it."""
    length = size // (BANDS + 2) * BANDS
    start = (size - length) // 2
    return slice(start, start + length)


def averaged(lines: torch.Tensor, middle: slice) -> torch.Tensor:
    """The means (B, C, `BANDS`, W) over the bands in the middle of the lines (B, C, H, W)."""
    return functional.avg_pool2d(lines[:, :, middle], ((middle.stop - middle.start) // BANDS, 1))
