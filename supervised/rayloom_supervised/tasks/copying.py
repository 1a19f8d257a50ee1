"""The copy task: a sequence of bits is read to its end and then repeated from memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.layers.external_memory import Head, read, write
from rayloom_supervised.layers.padding import inside
from rayloom_supervised.layers.recurrent import RecurrentStack
from rayloom_supervised.metrics import sequences as metrics

_LENGTHS = (5, 10, 20, 40, 80)
_EACH = 4  # sequences of each length in the curve
_EMPTY = 1e-6  # what every number of a memory is before anything is written


@dataclass(frozen=True, kw_only=True)
class CopierConfig(AlgorithmConfig):
    """Settings of the copier."""

    memory: Literal["external", "lstm"] = "external"
    """external: a neural Turing machine; lstm: an LSTM alone, to compare with."""
    controller_size: Annotated[int, Ge(1)] = 100
    """Units of the controller, a layer of tanh, or of the LSTM."""
    places: Annotated[int, Ge(3)] = 128
    """Places of the external memory."""
    place_size: Annotated[int, Ge(1)] = 20
    """Numbers in each place."""


class TuringMachine(nn.Module):
    """A neural Turing machine with a feed-forward controller, one head that reads and one that writes (2014).

    Departures: weightings start at the first place, and the memory at one small number, which trains fastest and most
    surely of the beginnings that Collier and Beel (2018) compare.
    """

    def __init__(self, inputs: int, outputs: int, controller_size: int, places: int, place_size: int) -> None:
        """Build for inputs [B, T, inputs] and outputs [B, T, outputs]."""
        super().__init__()
        self.places, self.place_size = places, place_size
        self.controller = nn.Linear(inputs + place_size, controller_size)
        self.reader, self.writer = Head(controller_size, place_size), Head(controller_size, place_size)
        self.change = nn.Linear(controller_size, 2 * place_size)
        self.output = nn.Linear(controller_size + place_size, outputs)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs [B, T, outputs], and where was written and read at each time [B, T, places]."""
        batch = len(inputs)
        memory = inputs.new_full((batch, self.places, self.place_size), _EMPTY)
        first = (torch.arange(self.places, device=inputs.device) == 0).to(inputs.dtype)
        reading = writing = first.expand(batch, -1)
        seen = torch.zeros_like(memory[:, 0])
        outputs, written, looked = [], [], []
        for given in inputs.unbind(1):
            controller = torch.tanh(self.controller(torch.cat((given, seen), dim=1)))
            erase, add = self.change(controller).chunk(2, dim=1)
            writing = self.writer(controller, memory, writing)
            memory = write(memory, writing, torch.sigmoid(erase), torch.tanh(add))
            reading = self.reader(controller, memory, reading)
            seen = read(memory, reading)
            outputs.append(self.output(torch.cat((controller, seen), dim=1)))
            written.append(writing)
            looked.append(reading)
        return torch.stack(outputs, dim=1), torch.stack(written, dim=1), torch.stack(looked, dim=1)


class Copier(Algorithm):
    """Repeats sequences of any length (Graves, Wayne and Danihelka 2014, section 4.1); means are over bits.

    What is given: the bits, then a mark in a channel of its own, then zeros for as long as the bits were.
    """

    Config = CopierConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="binary cross-entropy of a bit"),
        "bit_error": Metric(better="min", meaning="share of wrong bits"),
    }

    def __init__(self, config: CopierConfig, spec: Spec) -> None:
        """Build for the ragged field `pattern` [L, width]."""
        super().__init__(config, spec)
        if "pattern" not in spec or not spec["pattern"].ragged or len(spec["pattern"].shape) != 2:
            raise UserError(f"source.dataset: a copier needs the ragged field pattern [L, width], not {sorted(spec)}")
        width, size = spec["pattern"].shape[1], config.controller_size
        self.machine: TuringMachine | None = None
        if config.memory == "external":
            self.machine = TuringMachine(width + 1, width, size, config.places, config.place_size)
        else:
            self.recurrent = RecurrentStack("lstm", width + 1, size)
            self.head = nn.Linear(size, width)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("copy", self.loss, tuple(self.parameters()), compilable=False)]

    def loss(self, batch: Batch) -> Loss:
        """Return the binary cross-entropy [B] summed over each sequence's bits, and how many those are."""
        losses, wrong, count = self._judged(batch)
        return Loss(losses, {"bit_error": wrong}, count=count)

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Return sums over bits with their number ([B], [B])."""
        losses, wrong, count = self._judged(batch)
        return {"loss": (losses, count), "bit_error": (wrong, count)}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show how well longer and longer sequences are copied, and where the machine writes and reads while it copies
        the first one (figures 4 and 6 of the paper)."""
        curve = self._generalization(batch["pattern"].shape[2], batch["pattern"].device)
        if self.machine is None:
            return {"bit_error_by_length": curve}
        length = int(batch["pattern_length"][0])
        given = copy_inputs(batch["pattern"][:1, :length], batch["pattern_length"][:1])
        _, written, looked = self.machine(given)
        return {
            "bit_error_by_length": curve,
            "writing": Figure("matrix", written[0, : length + 1].T),
            "reading": Figure("matrix", looked[0, length + 1 :].T),
        }

    def _generalization(self, width: int, device: torch.device) -> Figure:
        """Return the share of wrong bits of sequences of each of `_LENGTHS`, the same ones at all times."""
        chance = torch.Generator().manual_seed(0)
        patterns = torch.randint(2, (_EACH, max(_LENGTHS), width), generator=chance).float().to(device)
        wrong, count = [], []
        for length in _LENGTHS:
            batch = {"pattern": patterns[:, :length], "pattern_length": torch.full((_EACH,), length, device=device)}
            _, errors, bits = self._judged(batch)
            wrong.append(errors.sum())
            count.append(bits.sum())
        lengths = torch.tensor(_LENGTHS)
        return metrics.by_length(torch.stack(wrong).cpu(), torch.stack(count).cpu(), lengths, "bit error")

    def logits(self, batch: Batch) -> Tensor:
        """Return those of the copied bits [B, L, width]: what comes out after the mark of each sequence."""
        pattern, lengths = batch["pattern"], batch["pattern_length"]
        given = copy_inputs(pattern, lengths)
        outputs = self.head(self.recurrent(given)[0]) if self.machine is None else self.machine(given)[0]
        places = lengths[:, None] + 1 + torch.arange(pattern.shape[1], device=lengths.device)
        copied: Tensor = outputs.gather(1, places[:, :, None].expand(-1, -1, outputs.shape[2]))
        return copied

    def _judged(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return summed cross-entropies, wrong bits and the number of bits, each [B]."""
        pattern, lengths = batch["pattern"], batch["pattern_length"]
        logits = self.logits(batch)
        real = inside(lengths, pattern.shape[1])[:, :, None]
        pattern = pattern.masked_fill(~real, 0)
        losses = F.binary_cross_entropy_with_logits(logits, pattern, reduction="none") * real
        wrong = ((logits.detach() > 0) != (pattern > 0.5)) & real
        return losses.sum(dim=(1, 2)), wrong.sum(dim=(1, 2)).float(), (lengths * pattern.shape[2]).float()


def copy_inputs(pattern: Tensor, lengths: Tensor) -> Tensor:
    """Return what the machine is given [B, 2 L + 1, width + 1] for patterns [B, L, width] of true lengths [B]."""
    longest = pattern.shape[1]
    given = F.pad(pattern.masked_fill(~inside(lengths, longest)[:, :, None], 0), (0, 1, 0, longest + 1))
    mark = (torch.arange(2 * longest + 1, device=lengths.device) == lengths[:, None]).to(pattern.dtype)
    return torch.cat((given[:, :, :-1], mark[:, :, None]), dim=2)
