"""LeNet-5 as it was published: LeCun, Bottou, Bengio and Haffner (1998), section II.B.

    32x32 --C1 5x5--> 6@28x28 --S2--> 6@14x14 --C3 table--> 16@10x10 --S4--> 16@5x5 --C5--> 120 --F6--> 84 --RBF--> 10

156 + 12 + 1,516 + 32 + 48,120 + 10,164 = 60,000 trainable parameters, and prototypes that are not trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayloom.contract import UserError

SIDE = 32
CONNECTIONS = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip
"""Table I: the maps of S2 that each map of C3 sees."""
_BITMAP = (12, 7)
_DIGITS = (
    (".#####.", "##...##", "##...##", "##...##", "##...##", "##...##", "##...##", "##...##", ".#####."),
    ("...##..", "..###..", ".####..", "...##..", "...##..", "...##..", "...##..", "...##..", ".######"),
    (".#####.", "##...##", ".....##", "....##.", "...##..", "..##...", ".##....", "##.....", "#######"),
    (".#####.", "##...##", ".....##", ".....##", "..####.", ".....##", ".....##", "##...##", ".#####."),
    ("....##.", "...###.", "..####.", ".##.##.", "##..##.", "#######", "....##.", "....##.", "....##."),
    ("#######", "##.....", "##.....", "######.", ".....##", ".....##", ".....##", "##...##", ".#####."),
    ("..####.", ".##....", "##.....", "######.", "##...##", "##...##", "##...##", "##...##", ".#####."),
    ("#######", ".....##", "....##.", "....##.", "...##..", "...##..", "..##...", "..##...", "..##..."),
    (".#####.", "##...##", "##...##", "##...##", ".#####.", "##...##", "##...##", "##...##", ".#####."),
    (".#####.", "##...##", "##...##", "##...##", ".######", ".....##", ".....##", "....##.", ".####.."),
)
"""Drawings of the digits, 7 wide and 9 high; they lie in the middle of bitmaps of 7x12."""


def squash(activation: Tensor) -> Tensor:
    """Return 1.7159 tanh(2 a / 3), which takes 1 to 1 (equation 6 and appendix A of the paper)."""
    return 1.7159 * torch.tanh(2 / 3 * activation)


class Subsampling(nn.Module):
    """f(w * sum of each 2x2 block + b) with a trainable w and b for each map: [B, C, H, W] -> [B, C, H/2, W/2]."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(maps).uniform_(-1.2, 1.2))  # 2.4 over a fan-in of 4, times 2
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, images: Tensor) -> Tensor:
        """Return the squashed maps."""
        total = 4 * F.avg_pool2d(images, 2)
        return squash(total * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1))


class TableConvolution(nn.Module):
    """A convolution whose maps see only some of the input maps; what is not connected has no parameter."""

    def __init__(self, inputs: int, connections: tuple[tuple[int, ...], ...], size: int) -> None:
        super().__init__()
        self._inputs, self._outputs, self._size = inputs, len(connections), size
        places = [output * inputs + seen for output, all_seen in enumerate(connections) for seen in all_seen]
        fan_in = torch.tensor([len(all_seen) * size * size for all_seen in connections for _ in all_seen])
        bound = (2.4 / fan_in).view(-1, 1).sqrt()
        self.weight = nn.Parameter(torch.empty(len(places), size * size).uniform_(-1, 1) * bound)
        self.bias = nn.Parameter(torch.zeros(len(connections)))
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H - size + 1, W - size + 1]."""
        places: Tensor = self.get_buffer("places")
        dense = self.weight.new_zeros(self._outputs * self._inputs, self._size**2).index_copy(0, places, self.weight)
        return F.conv2d(images, dense.view(self._outputs, self._inputs, self._size, self._size), self.bias)


class Prototypes(nn.Module):
    """Radial basis functions: minus the squared distance of a code [B, 84] to each class's prototype, [B, outputs].

    With the cross-entropy of these scores the loss is the paper's equation 9 without the constant for rubbish:
    y_label + log sum_i exp(-y_i).
    """

    codes: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("codes", prototype_codes(outputs))

    def forward(self, code: Tensor) -> Tensor:
        """Return the scores."""
        return -(code.unsqueeze(1) - self.codes).square().sum(2)


def prototype_codes(outputs: int) -> Tensor:
    """Return codes [outputs, 84] of -1 and 1: bitmaps of the digits for ten classes, else words that differ widely."""
    height, width = _BITMAP
    if outputs == len(_DIGITS):
        codes = -torch.ones(outputs, height, width)
        for code, rows in zip(codes, _DIGITS, strict=True):
            for y, row in enumerate(rows, start=1):
                for x, sign in enumerate(row):
                    if sign == "#":
                        code[y, x] = 1
        return codes.flatten(1)
    generator = torch.Generator().manual_seed(outputs)
    return torch.randint(0, 2, (outputs, height * width), generator=generator) * 2.0 - 1.0


class LeNet51998(nn.Module):
    """The network of the paper, for images of one channel and at most 32x32, which lie in the middle of 32x32."""

    def __init__(self, shape: tuple[int, int, int], outputs: int) -> None:
        """Build; UserError for other images."""
        super().__init__()
        channels, height, width = shape
        if channels != 1 or max(height, width) > SIDE:
            raise UserError(
                f"algorithm.network: lenet5_1998 needs images of one channel and at most {SIDE}x{SIDE}, not {shape}; "
                "use lenet5"
            )
        top, left = (SIDE - height) // 2, (SIDE - width) // 2
        self._padding = (left, SIDE - width - left, top, SIDE - height - top)
        self.c1 = nn.Conv2d(1, 6, 5)
        self.s2 = Subsampling(6)
        self.c3 = TableConvolution(6, CONNECTIONS, 5)
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        for layer in (self.c1, self.c5, self.f6):
            fan_in = layer.weight[0].numel()
            # The paper draws from +-2.4 / fan-in, so that sums stay small; the root keeps their variance instead.
            bound = (2.4 / fan_in) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # all three have one
        self.output = Prototypes(outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map standardised images [B, 1, H, W] to scores [B, outputs]."""
        padded = F.pad(images, self._padding, mode="replicate")
        maps = self.s2(squash(self.c1(padded)))
        maps = self.s4(squash(self.c3(maps)))
        code = squash(self.f6(squash(self.c5(maps)).flatten(1)))
        scores: Tensor = self.output(code)
        return scores
