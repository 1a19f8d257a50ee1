"""The flipped convolution against SciPy, and against torch's cross-correlation with the kernel turned."""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import convolve2d

from rayloom_supervised.layers.convolution import TrueConvolution2d


def test_it_is_scipys_convolution() -> None:
    layer = TrueConvolution2d(2, 3, (3, 2)).double()
    maps = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    kernels, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    for image, found in zip(maps.numpy(), layer(maps).detach().numpy(), strict=True):
        for kernel, offset, output in zip(kernels, bias, found, strict=True):
            parts = (convolve2d(channel, part, mode="valid") for channel, part in zip(image, kernel, strict=True))
            np.testing.assert_allclose(output, sum(parts) + offset)


def test_with_turned_kernels_it_is_torchs_dilated_and_strided_layer() -> None:
    options = {"stride": 2, "padding": 2, "dilation": 2}
    layer, correlation = TrueConvolution2d(2, 4, 3, **options), torch.nn.Conv2d(2, 4, 3, **options)
    with torch.no_grad():
        correlation.weight.copy_(layer.weight.rot90(2, (2, 3)))
        correlation.bias.copy_(layer.bias)
    maps = torch.randn(2, 2, 9, 8)
    assert torch.allclose(layer(maps), correlation(maps), atol=1e-6)
    assert not torch.allclose(correlation(maps), torch.nn.Conv2d.forward(layer, maps), atol=1e-2)
