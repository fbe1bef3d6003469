"""The network that measures a card's centering, to a fraction of a pixel.

B = batch, C = channels, H = height, W = width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

BANDS = 8  # into which a side without its corners is divided
REACH = 4  # borders are within 1 / REACH of the scan's shorter side
WIDTHS = (16, 16, 16)
TAPS = 5  # of a convolution; each has twice the dilation of the one before


class BorderNetwork(nn.Module):
    """Counts the border pixels along lines from the outside inwards.

    One point of centering is a few tenths of a pixel of a scan, and cards lie at a slight angle. So the scan
    is neither scaled down nor averaged as a whole: each of eight bands of a side is averaged along the
    border.
        That
    removes noise, and blurs an edge at an angle of one degree by half a pixel. The same convolutions along
    the averaged lines of all four sides classify every pixel as border or not.
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
        """Centering (B, 2) of normalised images (B, C, H, W).

        The left border's percentage of left and right together, and the top border's of top and bottom.
        """
        rows, columns = averaged(images, self._rows), averaged(images.transpose(2, 3), self._columns)
        lines = [rows, rows.flip(3), columns, columns.flip(3)]  # from left, right, top, bottom
        is_border = self.layers(torch.cat([line[..., : self._reach] for line in lines])).float().sigmoid()
        widths = is_border.sum(dim=3).mean(dim=(1, 2)).view(len(lines), -1)  # (4, B)
        left, right, top, bottom = widths
        return 100 * torch.stack([left / (left + right), top / (top + bottom)], dim=1)


def middle(size: int) -> slice:
    """The middle of a side without its corners, `BANDS` bands long."""
    length = size // (BANDS + 2) * BANDS
    start = (size - length) // 2
    return slice(start, start + length)


def averaged(lines: torch.Tensor, middle: slice) -> torch.Tensor:
    """The means (B, C, `BANDS`, W) over the bands in the middle of the lines (B, C, H, W)."""
    return functional.avg_pool2d(lines[:, :, middle], ((middle.stop - middle.start) // BANDS, 1))
