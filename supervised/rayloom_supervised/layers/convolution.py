"""The convolution of mathematics, whose kernel is flipped, beside torch's cross-correlation."""

from __future__ import annotations

from torch import Tensor, nn


class TrueConvolution2d(nn.Conv2d):
    """Convolve [B, C, H, W] with flipped kernels (equations 145 to 151 of Qiu's text of 2015).

    Arguments, shapes and errors are those of `torch.nn.Conv2d`; its outputs come with kernels turned by 180 degrees.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return the convolved maps."""
        convolved: Tensor = self._conv_forward(maps, self.weight.flip((2, 3)), self.bias)
        return convolved
