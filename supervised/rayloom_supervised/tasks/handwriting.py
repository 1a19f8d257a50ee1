"""Handwriting: a recurrent network foretells the pen, and writes by being fed what it has drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from rayloom.contract import (
    Algorithm,
    AlgorithmConfig,
    Batch,
    Figure,
    Loss,
    Metric,
    Phase,
    Spec,
    Table,
    UserError,
)
from rayloom_supervised.analysis.next_point import GaussianNextPoint, fit_next_point
from rayloom_supervised.layers.cells import State
from rayloom_supervised.layers.mixture_density import PenDensity, pen_density, pen_outputs
from rayloom_supervised.layers.padding import inside
from rayloom_supervised.layers.recurrent import CellName, RecurrentStack
from rayloom_supervised.layers.strokes import draw_strokes
from rayloom_supervised.networks.convolutional import ConvolutionalNetwork
from rayloom_supervised.tasks.sample_options import number_option

_READER_SIDE, _PICTURE_SIDE = 28, 56
_PENS, _END = 3, 2
_BEGIN = _PENS
"""What the pen did before the first point."""
_STRONGEST = 100.0
"""Bias of a sample: standard deviations go with exp(-bias)."""


@dataclass(frozen=True, kw_only=True)
class HandwriterConfig(AlgorithmConfig):
    """Settings of the handwriter."""

    cell: CellName = "lstm"
    """Recurrent cell."""
    cell_size: Annotated[int, Ge(1)] = 128
    """Units of a layer."""
    cell_layers: Annotated[int, Ge(1), Le(1_000)] = 1
    """Layers on top of each other."""
    components: Annotated[int, Ge(1)] = 10
    """Gaussians of the mixture."""
    embedding_size: Annotated[int, Ge(1)] = 32
    """Numbers that stand for the character to be written, where the data name it."""
    reader: bool = False
    """Also train a network that reads pictures of the true characters, and let it read what is written."""
    bias: Annotated[float, Ge(0)] = 0.5
    """How much evaluations prefer likely points (0: as they are) when they write for the reader."""
    extent: Annotated[float, Ge(1)] = 124.0
    """Side of the square that pictures show, in the data's units; the pen begins in its middle."""


class Written(NamedTuple):
    """What a pen did, for B characters of at most L points."""

    offset: Tensor
    """[B, L, 2], in the data's units."""
    pen: Tensor
    """[B, L]."""
    length: Tensor
    """[B]; one that was not ended has L points."""


class Handwriter(Algorithm):
    """Recurrent network with mixture density outputs (Graves 2013, section 4), with or without a given character.

    Departures: what the pen does is one of three (down, up, end of the character; Ha and Eck 2018), so that writing
    ends by itself; a character is one input at every point and not a window that slides over a text; no peepholes, and
    without skip connections. Densities are those of offsets divided by their standard deviation in the training data.
    Means are over points. Every evaluation also tells how much better the points are foretold than by a Gaussian
    regression on the last point (`margin`).

    With `reader` a convolutional network learns to read pictures of the training characters by a phase of its own; the
    writer learns nothing from it. `legible`: how often it reads the right character in what was written.
    """

    Config = HandwriterConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        **{
            f"{prefix}nats_per_point": Metric(better="min", unit="nats", meaning="-log density of a point")
            for prefix in ("", "write/")
        },
        "gaussian_nats_per_point": Metric(better=None, unit="nats", meaning="the same of the Gaussian regression"),
        "margin": Metric(better="max", unit="nats", meaning="how much less a point costs than by the regression"),
        "legible": Metric(better="max", meaning="share of written characters that the reader reads"),
        "readable": Metric(better="max", meaning="share of true held-out characters that the reader reads"),
        "read/accuracy": Metric(better="max", meaning="share of training characters that the reader reads"),
        "ended": Metric(better="max", meaning="share of written characters that end by themselves"),
        "loss": Metric(better="min", unit="nats"),
    }

    def __init__(self, config: HandwriterConfig, spec: Spec) -> None:
        """Build for the ragged fields `offset` [L, 2] and `pen` [L], with or without `label`."""
        super().__init__(config, spec)
        if any(name not in spec or not spec[name].ragged for name in ("offset", "pen")):
            raise UserError(f"source.dataset: a handwriter needs the ragged fields offset and pen, not {sorted(spec)}")
        self.names = spec["label"].labels if "label" in spec else ()
        if config.reader and not self.names:
            raise UserError("algorithm.reader: there is nothing to read without the field label")
        classes = spec["label"].categories if "label" in spec else 0
        self.character = nn.Embedding(classes, config.embedding_size) if classes else None
        inputs = 2 + _PENS + 1 + (config.embedding_size if classes else 0)
        self.memory = RecurrentStack(config.cell, inputs, config.cell_size, config.cell_layers)
        self.head = nn.Linear(config.cell_size, pen_outputs(config.components, _PENS))
        # Means begin apart, all over the place: equal Gaussians would stay equal.
        nn.init.normal_(self.head.bias.detach()[config.components : 3 * config.components])
        reading = (1, _READER_SIDE, _READER_SIDE)
        self.reader = ConvolutionalNetwork(reading, classes, (16, 32), (64,)) if config.reader else None
        self.register_buffer("spread", torch.ones(2))
        self.register_buffer("regression_weights", torch.zeros(_PENS + 1, 2, 3, dtype=torch.float64))
        self.register_buffer("regression_covariances", torch.eye(2, dtype=torch.float64).repeat(_PENS + 1, 1, 1))
        self.register_buffer("regression_pen", torch.full((_PENS + 1, _PENS), 1 / _PENS, dtype=torch.float64))

    def initialize(self, data: Table | None) -> None:
        """Measure the spread of the training offsets, and fit the regression to compare with."""
        if data is None:
            return
        parts = []
        for batch in data.batches(1000):
            valid = inside(batch["offset_length"], batch["offset"].shape[1])
            last, last_pen = _before(batch["offset"], batch["pen"])
            parts.append([part[valid] for part in (last, last_pen, batch["offset"], batch["pen"])])
        last, last_pen, offset, pen = (torch.cat(part) for part in zip(*parts, strict=True))
        spread = offset.double().square().mean(dim=0).sqrt()
        fitted = fit_next_point(last / spread, last_pen, offset / spread, pen, _PENS)
        self.get_buffer("spread").copy_(spread)
        for name, found in zip(("weights", "covariances", "pen"), fitted, strict=True):
            self.get_buffer(f"regression_{name}").copy_(found)

    def phases(self) -> list[Phase]:
        """Return the writer's phase and, with a reader, that of the reader."""
        writer = [part for part in (self.character, self.memory, self.head) if part is not None]
        parameters = tuple(parameter for part in writer for parameter in part.parameters())
        phases = [Phase("write", self.loss, parameters, compilable=False)]
        if self.reader is not None:
            phases.append(Phase("read", self.reading_loss, tuple(self.reader.parameters()), compilable=False))
        return phases

    def loss(self, batch: Batch) -> Loss:
        """Return -log density [B] summed over each character's points, and how many those are."""
        nats = -self._log_steps(batch).sum(dim=1)
        return Loss(nats, {"nats_per_point": nats.detach()}, count=batch["offset_length"].to(nats.dtype))

    def reading_loss(self, batch: Batch) -> Loss:
        """Return the reader's cross-entropy [B] on pictures of the true characters."""
        assert self.reader is not None
        true = Written(batch["offset"], batch["pen"], batch["offset_length"])
        logits = self.reader(self.draw(true, _READER_SIDE))
        losses = F.cross_entropy(logits, batch["label"], reduction="none")
        return Loss(losses, {"accuracy": (logits.detach().argmax(dim=1) == batch["label"]).to(losses.dtype)})

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Return sums over points with their number ([B], [B]), and what the reader reads [B]."""
        count = batch["offset_length"]
        nats, peer = -self._log_steps(batch).sum(dim=1), -self._log_steps_of_regression(batch).sum(dim=1)
        found: dict[str, Tensor | tuple[Tensor, Tensor]] = {
            "nats_per_point": (nats, count),
            "gaussian_nats_per_point": (peer, count),
            "margin": (peer - nats, count),
        }
        if self.reader is None:
            return found
        label = batch["label"]
        true = Written(batch["offset"], batch["pen"], count)
        written = self.write(len(label), self._generator(), label=label, bias=self.config.bias)
        for name, pages in (("readable", true), ("legible", written)):
            found[name] = (self.reader(self.draw(pages, _READER_SIDE)).argmax(dim=1) == label).to(nats.dtype)
        last = written.pen.gather(1, written.length[:, None] - 1).squeeze(1)
        found["ended"] = (last == _END).to(nats.dtype)
        return found

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show characters of the data and the same ones as the network writes them."""
        few = {name: value[:32] for name, value in batch.items()}
        true = Written(few["offset"], few["pen"], few["offset_length"])
        count = len(true.length)
        written = self.write(count, self._generator(), label=few.get("label"), bias=self.config.bias)
        return {
            name: Figure("images", self.draw(pages, _PICTURE_SIDE).cpu(), columns=8)
            for name, pages in (("data", true), ("written", written))
        }

    @torch.no_grad()
    def sample(
        self, count: int, generator: torch.Generator, *, bias: float | None = None, text: str | None = None
    ) -> Figure:
        """Write `count` characters, or the given `text` as often; a higher `bias` writes more cleanly.

        `bias` is that of the config if not given. Without a text characters are drawn at random.
        """
        bias = number_option("bias", self.config.bias if bias is None else bias, 0, _STRONGEST)
        device = self.head.weight.device
        if text is None:
            chosen = torch.randint(max(1, len(self.names)), (count,), generator=generator, device=device)
            pages, columns = self.write(count, generator, label=chosen if self.names else None, bias=bias), 8
        else:
            text = str(text)  # on a command line 42 is a number
            unknown = [character for character in text if character not in self.names]
            if unknown or not text:
                known = "".join(self.names) or "none"
                raise UserError(f"sample: text must have characters that were learnt ({known}), not {text!r}")
            numbers = torch.tensor([self.names.index(character) for character in text] * count, device=device)
            pages, columns = self.write(len(numbers), generator, label=numbers, bias=bias), len(text)
        return Figure("images", self.draw(pages, _PICTURE_SIDE).cpu(), columns=columns)

    @torch.no_grad()
    def write(
        self, count: int, generator: torch.Generator, *, label: Tensor | None = None, bias: float = 0.0
    ) -> Written:
        """Write `count` characters, those of `label` [B] where characters are named; at most as long as the longest."""
        weight = self.head.weight
        last, pen = weight.new_zeros(count, 2), torch.full((count,), _BEGIN, device=weight.device)
        states, offsets, pens = None, [], []
        for _ in range(self.spec["offset"].shape[0]):
            density, states = self._foretell(last[:, None], pen[:, None], label, states, bias)
            # One that has ended goes on, but nobody looks.
            last, pen = PenDensity(*(part[:, 0] for part in density)).sample(generator)
            offsets.append(last)
            pens.append(pen)
        written = torch.stack(pens, dim=1)
        before_end = ((written == _END).cumsum(dim=1) == 0).sum(dim=1)
        length = (before_end + 1).clamp(max=written.shape[1])
        return Written(torch.stack(offsets, dim=1) * self.get_buffer("spread"), written, length)

    def draw(self, pages: Written, side: int) -> Tensor:
        """Return pictures [B, 1, side, side] in 0..1, white on black."""
        offset = pages.offset.to(self.head.weight.dtype)
        return draw_strokes(offset, pages.pen, pages.length, side, self.config.extent)

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.head.weight.device).manual_seed(0)

    def _foretell(
        self, last: Tensor, last_pen: Tensor, label: Tensor | None, states: list[State] | None, bias: float = 0.0
    ) -> tuple[PenDensity, list[State]]:
        """Return the densities of the points after scaled offsets [B, L, 2] and pens [B, L], and the states."""
        states_of_pen = torch.arange(_PENS + 1, device=last.device)
        inputs = [last, (last_pen[:, :, None] == states_of_pen).to(last.dtype)]
        if self.character is not None and label is not None:
            inputs.append(self.character(label)[:, None].expand(-1, last.shape[1], -1))
        found, after = self.memory(torch.cat(inputs, dim=2), None, states)
        return pen_density(self.head(found), self.config.components, bias), after

    def _log_steps(self, batch: Batch) -> Tensor:
        """Return the log-density [B, L] of every true point after the true ones before it, 0 for padding."""
        offset, pen, valid = self._real(batch)
        density, _ = self._foretell(*_before(offset, pen), batch.get("label"), None)
        return density.log_step(offset, pen).masked_fill(~valid, 0)

    def _log_steps_of_regression(self, batch: Batch) -> Tensor:
        """Return the same of the Gaussian regression."""
        offset, pen, valid = self._real(batch)
        model = GaussianNextPoint(*(self.get_buffer(f"regression_{name}") for name in GaussianNextPoint._fields))
        last, last_pen = _before(offset, pen)
        flat = model.log_step(
            last.flatten(0, 1).double(), last_pen.flatten(), offset.flatten(0, 1).double(), pen.flatten()
        )
        return flat.view_as(pen).masked_fill(~valid, 0).to(offset.dtype)

    def _real(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return scaled offsets [B, L, 2] and pens [B, L], 0 for padding, and where there is none [B, L]."""
        valid = inside(batch["offset_length"], batch["offset"].shape[1])
        offset = batch["offset"].to(self.head.weight.dtype) / self.get_buffer("spread").to(self.head.weight.dtype)
        return offset.masked_fill(~valid[:, :, None], 0), batch["pen"].masked_fill(~valid, 0), valid


def _before(offset: Tensor, pen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the offsets [B, L, 2] and pens [B, L] before each point; at first the pen has none of these."""
    return F.pad(offset[:, :-1], (0, 0, 1, 0)), F.pad(pen[:, :-1], (1, 0), value=_BEGIN)
