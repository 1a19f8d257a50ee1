"""Judges a language model of characters as a compressor: bits a character, beside those that xz takes."""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import (
    Algorithm,
    Budget,
    Evaluation,
    EvaluationConfig,
    EvaluationContext,
    Findings,
    Metric,
    Table,
    UserError,
)
from rayloom.datasets.text import WindowTable
from rayloom_supervised.layers.cells import State
from rayloom_supervised.tasks.language_model import CharacterModel

_PRESET = 6
_LARGEST_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class CompressionConfig(EvaluationConfig):
    """Settings of the comparison with xz."""

    split: Literal["validation", "test"] = "validation"
    """Held-out text; the test set is for the last word only."""
    piece: Annotated[int, Ge(1)] = 128
    """Characters that are read at a time, and after each of which the weights may adapt (unit: characters)."""
    adapt: Annotated[float, Ge(0)] = 0.0
    """Learning rate of dynamic evaluation (0.1 is a good one): after each piece the weights of a copy follow its
    gradient, as xz learns from what it has packed; 0: they stay as they are."""


class Compression(Evaluation):
    """Reads a held-out text from its start to its end with one memory, and lets xz pack the same characters.

    Dynamic evaluation is that of Mikolov et al. (2010) and Krause et al. (2018) with plain gradient steps, of a norm
    of at most 1 before the learning rate. A piece is judged before anything is learnt from it, so that the bits are
    those of an adaptive arithmetic coder. `xz_after_training` is how much longer xz's output becomes when the text is
    appended to the training text (xz -6 finds what lies up to eight million characters back).
    """

    Config = CompressionConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy of a character, the weights fixed"),
        "bits_per_character": Metric(better="min", unit="bits", meaning="of the held-out text, the weights fixed"),
        "bits_per_character_adapted": Metric(better="min", unit="bits", meaning="with dynamic evaluation"),
        "xz_alone": Metric(unit="bits", meaning="bits a character that xz -6 takes for the held-out text"),
        "xz_after_training": Metric(unit="bits", meaning="bits a character that it adds to the training text"),
        "below_xz_alone": Metric(better="max", meaning="share of xz_alone that the model saves"),
        "below_xz_after_training": Metric(better="max", meaning="share of xz_after_training that the model saves"),
    }

    def __init__(self, config: CompressionConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        data = context.data
        if data is None or "next_token" not in data.spec or not data.spec["token"].labels:
            raise UserError("evaluate.import: Compression judges models of characters; use the data set python-source")
        if not all(_consecutive(table) for table in (data.train, getattr(data, config.split))):
            raise UserError("source.dataset.stride: xz reads a text once; leave stride out")
        self._labels = [label if len(label) == 1 else "?" for label in data.spec["token"].labels]
        self._packed: tuple[float, float] | None = None

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Read the whole split, once more if the weights adapt."""
        if not isinstance(policy, CharacterModel):
            raise UserError(f"evaluate.import: Compression judges a CharacterModel, not {type(policy).__name__}")
        tokens = _text(getattr(self.context.data, self.config.split))
        nats = _nats(policy, tokens, self.config.piece, 0.0, budget)
        bits = best = nats / math.log(2)
        metrics = {"loss": nats, "bits_per_character": bits}
        if self.config.adapt:
            best = _nats(_copy(policy), tokens, self.config.piece, self.config.adapt, budget) / math.log(2)
            metrics["bits_per_character_adapted"] = best
        if self._packed is None:
            self._packed = self._by_xz(tokens[1:])
            budget.done()
        alone, after = self._packed
        metrics |= {"xz_alone": alone, "xz_after_training": after}
        return Findings({**metrics, "below_xz_alone": 1 - best / alone, "below_xz_after_training": 1 - best / after})

    def _by_xz(self, tokens: Tensor) -> tuple[float, float]:
        """Return the bits a character that xz takes for a text alone, and after the training text."""
        held_out, before = self._bytes(tokens), self._bytes(_text(self.context.data.train))
        longer = _packed_bits(before + held_out) - _packed_bits(before)
        return _packed_bits(held_out) / len(tokens), longer / len(tokens)

    def _bytes(self, tokens: Tensor) -> bytes:
        return "".join([self._labels[number] for number in tokens.tolist()]).encode()


def _nats(model: CharacterModel, tokens: Tensor, piece: int, rate: float, budget: Budget) -> float:
    """Return the mean cross-entropy of a text [L + 1] by a model whose weights follow the gradient if `rate` > 0."""
    device = model.head.weight.device
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    memory: list[State] | None = None
    total = 0.0
    for token, true in zip(torch.split(tokens[:-1], piece), torch.split(tokens[1:], piece), strict=True):
        with torch.set_grad_enabled(rate > 0):
            logits, memory = model.read(token[None].to(device), memory)
            loss = F.cross_entropy(logits[0].float(), true.to(device))
        total += float(loss) * len(true)
        if rate > 0:
            memory = [tuple(part.detach() for part in state) for state in memory]
            _descend(weights, torch.autograd.grad(loss, weights, allow_unused=True), rate)
        budget.done()
    return total / (len(tokens) - 1)


@torch.no_grad()
def _descend(weights: Sequence[Tensor], gradients: tuple[Tensor | None, ...], rate: float) -> None:
    """Move the weights against a gradient whose norm is cut to one."""
    found = [(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for _, gradient in found]))
    step = rate * (_LARGEST_NORM / norm).clamp(max=1.0)
    for weight, gradient in found:
        weight -= step * gradient


def _copy(model: CharacterModel) -> CharacterModel:
    """Return a model with the same weights, in evaluation mode but for its memory.

    cuDNN has no gradient of a recurrent layer in evaluation mode; the layers have no dropout of their own.
    """
    copied = type(model)(model.config, model.spec).to(model.head.weight.device)
    copied.load_state_dict(model.state_dict())
    copied.eval().memory.train()
    return copied


def _consecutive(table: Table) -> bool:
    return isinstance(table, WindowTable) and table.consecutive


def _text(table: Table) -> Tensor:
    """Return the text of windows that follow each other: their characters and the one after the last, [L + 1]."""
    assert isinstance(table, WindowTable)
    windows = table.rows(torch.arange(len(table)))
    return torch.cat((windows["token"].flatten(), windows["next_token"][-1, -1:]))


def _packed_bits(text: bytes) -> int:
    return 8 * len(lzma.compress(text, preset=_PRESET))
