"""A language model of characters: what comes next in a text, and texts that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.layers.cells import State
from rayloom_supervised.layers.recurrent import CellName, RecurrentStack
from rayloom_supervised.layers.vocabulary import Vocabulary
from rayloom_supervised.metrics import sequences as metrics
from rayloom_supervised.tasks.sample_options import number_option, whole_option

_TEMPERATURES = (1e-3, 1e3)
"""The coldest always writes the likeliest character; colder ones would divide logits out of the range of float32."""
_LONGEST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class CharacterModelConfig(AlgorithmConfig):
    """Settings of the language model."""

    cell: CellName = "lstm"
    """Recurrent cell."""
    embedding_size: Annotated[int, Ge(1)] = 32
    """Numbers that stand for a character."""
    cell_size: Annotated[int, Ge(1)] = 256
    """Units of each layer."""
    cell_layers: Annotated[int, Ge(1), Le(1_000)] = 1
    """Recurrent layers on top of each other."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of dropping a unit of a layer's output in training, for a whole window (Gal and Ghahramani 2016)."""
    burn_in: Annotated[int, Ge(0)] = 0
    """Characters at the start of each window that fill the memory and are not judged (unit: characters)."""
    places: bool = False
    """Tell the model how far into its window it is: for texts of a fixed form, of which each window is one."""


class CharacterModel(Algorithm):
    """A recurrent network over truncated windows (Graves 2013); gradients end where a window begins.

    Departure: windows are shuffled, so that the memory is not carried from one to the next (`StreamModel` does that).
    Instead the first `burn_in` characters of each only fill it: with a data set's stride of length - burn_in every
    character is judged once, after at least `burn_in` others.
    """

    Config = CharacterModelConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy of a character"),
        "bits_per_character": Metric(better="min", unit="bits"),
        "perplexity": Metric(better="min", meaning="exp of the mean cross-entropy of a character"),
        "accuracy": Metric(better="max", meaning="share of characters that were thought likeliest"),
    }

    def __init__(self, config: CharacterModelConfig, spec: Spec) -> None:
        """Build the model for the fields `token` and `next_token` [L]."""
        super().__init__(config, spec)
        if "token" not in spec or "next_token" not in spec:
            raise UserError(
                f"source.dataset: a language model needs the fields token and next_token, not {sorted(spec)}; use the "
                "kind python-source or documents"
            )
        if config.burn_in >= spec["token"].shape[0]:
            raise UserError(f"algorithm.burn_in: leave some of a window's {spec['token'].shape[0]} characters to judge")
        self.labels = spec["token"].labels
        self.vocabulary = Vocabulary(self.labels)
        self.embedding = nn.Embedding(spec["token"].categories, config.embedding_size)
        self.places = nn.Embedding(spec["token"].shape[0], config.embedding_size) if config.places else None
        self.memory = RecurrentStack(config.cell, config.embedding_size, config.cell_size, config.cell_layers)
        self.head = nn.Linear(config.cell_size, spec["token"].categories)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("predict", self.loss, tuple(self.parameters()), compilable=False)]

    def logits(self, token: Tensor) -> Tensor:
        """Return those of what comes after each character of `token` [B, L]: [B, L, V]."""
        return self.read(token, None)[0]

    def read(self, token: Tensor, memory: list[State] | None, place: int = 0) -> tuple[Tensor, list[State]]:
        """Return the logits [B, L, V] of what comes after each character of `token` [B, L], and the memory then.

        `memory` is the one before the first character, which stands at `place` of its window; None: empty.
        """
        vectors = self.embedding(token)
        if self.places is not None:
            vectors = vectors + self.places.weight[place : place + token.shape[1]]
        outputs, after = self.memory(vectors, None, memory, self._drop)
        return self.head(self._drop(outputs)), after

    def loss(self, batch: Batch) -> Loss:
        """Return the summed cross-entropy [B] of the judged characters, and how many those are."""
        losses, right, count = self._judge(self.logits(batch["token"]), batch)
        measured = {"bits_per_character": metrics.bits(losses.detach()), "accuracy": right}
        return Loss(losses, measured, count=count)

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Return sums over the judged characters with their number ([B], [B])."""
        losses, right, count = self._judge(self._held_out_logits(batch["token"]), batch)
        return {
            "loss": (losses, count),
            "bits_per_character": (metrics.bits(losses), count),
            "accuracy": (right, count),
            "_nats": losses,
            "_count": count,
        }

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return the perplexity of the whole split."""
        return {"perplexity": metrics.perplexity(outputs["_nats"], outputs["_count"])}, {}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show a text that the model writes, the same one for equal weights."""
        if not self.labels:
            return {}
        return {"sample": self.sample(1, torch.Generator(self.head.weight.device).manual_seed(0))}

    def sample(
        self, count: int, generator: torch.Generator, *, temperature: float = 1.0, length: int = 200, prompt: Any = None
    ) -> Figure:
        """Write `count` texts of `length` characters after `prompt`; below 1, `temperature` prefers likely ones.

        Without a prompt they begin after a line break, or after the first character where the text has no such thing.
        """
        start = str(prompt)  # on a command line 42 is a number
        if prompt is None:
            start = "\n" if "\n" in self.labels else next((name for name in self.labels if len(name) == 1), "")
        written = self.write(count, generator, temperature, length, start)
        return Figure("text", text="\n--------\n".join(start + text for text in written))

    @torch.no_grad()
    def write(self, count: int, generator: torch.Generator, temperature: float, length: int, prompt: str) -> list[str]:
        """Return what the model writes after `prompt`: `count` texts of `length` characters, none of them unknown.

        UserError for a prompt with characters that have no number, and for a text that is longer than a window where
        the model is told its `places`.
        """
        if not self.labels:
            raise UserError("sample: bytes have no names; train on tokens: characters")
        temperature = number_option("temperature", temperature, *_TEMPERATURES)
        length = whole_option("length", length, 1, _LONGEST)
        numbers = {label: number for number, label in enumerate(self.labels)}
        unknown = next((character for character in prompt if character not in numbers), None)
        if not prompt:
            raise UserError("sample: prompt must have at least one character")
        if unknown is not None:
            raise UserError(f"sample: prompt has the character {unknown!r}, which the training text does not have")
        if self.places is not None and len(prompt) + length - 1 > len(self.places.weight):
            raise UserError(f"sample: a text has {len(self.places.weight)} characters at most; lower length")
        device = self.head.weight.device
        unnamed = torch.tensor([len(label) != 1 for label in self.labels], device=device)
        token = torch.tensor([[numbers[character] for character in prompt]] * count, device=device)
        states, written, place = None, [], 0
        for _ in range(length):
            logits, states = self.read(token, states, place)
            place += token.shape[1]
            probability = torch.softmax(logits[:, -1].masked_fill(unnamed, -torch.inf) / temperature, dim=1)
            token = torch.multinomial(probability, 1, generator=generator)
            written.append(token)
        rows = torch.cat(written, dim=1).tolist()
        return ["".join(self.labels[number] for number in row) for row in rows]

    def inference_module(self) -> nn.Module:
        """Return what maps characters [B, L] to the logits of what comes after each [B, L, V]."""
        return _Reader(self)

    def inference_input(self) -> str:
        """Return the field of the characters' numbers."""
        return "token"

    def _drop(self, outputs: Tensor) -> Tensor:
        """Return a layer's outputs [B, L, size] without those units of each row that are dropped in training."""
        if not (self.training and self.config.dropout):
            return outputs
        kept = self.noise.uniform(len(outputs), outputs.shape[2]) >= self.config.dropout
        dropped: Tensor = outputs * kept[:, None] / (1 - self.config.dropout)
        return dropped

    def _held_out_logits(self, token: Tensor) -> Tensor:
        """Return the logits [B, L, V] by which windows `token` [B, L] are judged."""
        return self.logits(token)

    def _judge(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return summed cross-entropies, right predictions and the number of judged characters, each [B]."""
        logits = logits[:, self.config.burn_in :]
        true = batch["next_token"][:, self.config.burn_in :]
        # A softmax over neighbouring numbers takes a third of the time that one over the rows of [B, V, L] does.
        each = F.cross_entropy(logits.flatten(0, 1), true.flatten(), reduction="none")
        losses = each.view(true.shape).sum(dim=1)
        right = (logits.detach().argmax(dim=2) == true).sum(dim=1).to(losses.dtype)
        return losses, right, torch.full_like(right, true.shape[1])


class _Reader(nn.Module):
    """The deployed part of a language model."""

    def __init__(self, model: CharacterModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: Tensor) -> Tensor:
        """Map characters [B, L] to logits [B, L, V]."""
        return self.model.logits(token)
