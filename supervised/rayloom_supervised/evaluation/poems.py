"""Judges a language model of quatrains: against counts of n-grams, by their form, and by their rhymes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt

from rayloom.contract import (
    Algorithm,
    Budget,
    Evaluation,
    EvaluationConfig,
    EvaluationContext,
    Figure,
    Findings,
    Metric,
    Table,
    UserError,
)
from rayloom.datasets.tables import RowTable
from rayloom_supervised.data.poems import BEGIN, LINES, is_quatrain
from rayloom_supervised.data.rhymes import rhymes
from rayloom_supervised.metrics.kneser_ney import KneserNey
from rayloom_supervised.tasks.language_model import CharacterModel

_BATCH = 256
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class PoemEvaluationConfig(EvaluationConfig):
    """Settings of the evaluation of poems."""

    split: Literal["validation", "test"] = "validation"
    """Held-out poems; the test set is for the last word only."""
    order: Annotated[int, Ge(1)] = 4
    """Tokens in a gram of the model of counts."""
    poems: Annotated[int, Ge(1)] = 500
    """Poems that are written and judged."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Below 1 the model writes what it thinks likely more often."""


class PoemEvaluation(Evaluation):
    """The perplexity of held-out poems, that of a model of n-grams with Kneser and Ney's smoothing, form and rhyme.

    A poem rhymes when its second and fourth line end with different characters that rhyme today; where the tables know
    one of them not, it is not counted. Sounds have changed since the Tang: `rhyme_true` is the held-out poems' share,
    and `rhyme_chance` that of their last lines beside other poems' second ones.
    """

    Config = PoemEvaluationConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy of a character"),
        "bits_per_character": Metric(better="min", unit="bits"),
        "perplexity": Metric(better="min", meaning="exp of the mean cross-entropy of a character"),
        "perplexity_kneser_ney": Metric(meaning="that of the n-gram model, of the same characters"),
        "form": Metric(better="max", meaning="share of written poems with four lines of the right length"),
        "rhyme": Metric(better="max", meaning="share of written poems that rhyme"),
        "rhyme_true": Metric(meaning="share of held-out poems that rhyme"),
        "rhyme_chance": Metric(meaning="share of pairs of lines from different held-out poems that rhyme"),
    }

    def __init__(self, config: PoemEvaluationConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        spec = {} if context.data is None else context.data.spec
        if "next_token" not in spec or BEGIN not in spec["token"].labels or spec["token"].shape[0] % LINES:
            raise UserError("evaluate.import: PoemEvaluation judges poems; use the data set poems")
        self._labels: tuple[str, ...] = spec["token"].labels
        self._length: int = spec["token"].shape[0]
        self._by_counts: float | None = None

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Judge as many poems as the settings or the budget say."""
        if not isinstance(policy, CharacterModel):
            raise UserError(f"evaluate.import: PoemEvaluation judges a CharacterModel, not {type(policy).__name__}")
        table: Table = getattr(self.context.data, self.config.split)
        device = policy.head.weight.device
        nats = count = 0.0
        for batch in table.batches(_BATCH):
            losses, counts = policy.evaluate({name: value.to(device) for name, value in batch.items()})["loss"]
            nats, count = nats + float(losses.sum()), count + float(counts.sum())
            budget.done()
        if self._by_counts is None:
            self._by_counts = self._counted(table)
            budget.done()
        generator = torch.Generator(device).manual_seed(seed)
        asked = budget.count or self.config.poems
        written = policy.write(asked, generator, self.config.temperature, self._length, BEGIN)
        budget.done()
        mean, line = nats / count, self._length // LINES - 1
        right = [is_quatrain(poem, line) for poem in written]
        held_out = self._texts(table)
        metrics = {
            "loss": mean,
            "bits_per_character": mean / math.log(2),
            "perplexity": math.exp(mean),
            "perplexity_kneser_ney": self._by_counts,
            "form": sum(right) / len(right),
            "rhyme": rhyming(_ends(written)),
            "rhyme_true": rhyming(_ends(held_out)),
            "rhyme_chance": rhyming(_strangers(_ends(held_out))),
        }
        return Findings(metrics, {"poems": Figure("text", text="\n".join(written[:_SHOWN]))})

    def _counted(self, table: Table) -> float:
        """Return the perplexity of a split by counts of the training poems."""
        begin = self._labels.index(BEGIN)
        model = KneserNey(_rows(self.context.data.train), self.config.order, len(self._labels), begin)
        rows = _rows(table)
        return math.exp(sum(model.nats(row) for row in rows) / (len(rows) * self._length))

    def _texts(self, table: Table) -> list[str]:
        return ["".join(self._labels[number] for number in row) for row in _rows(table)]


def rhyming(ends: Sequence[tuple[str, str]]) -> float:
    """Return the share of pairs of characters that differ and rhyme, among those whose rhymes are known; 0 of none."""
    table = rhymes()
    known = [(one, other) for one, other in ends if one in table and other in table]
    return sum(one != other and table[one] == table[other] for one, other in known) / max(1, len(known))


def _ends(poems: Sequence[str]) -> list[tuple[str, str]]:
    """Return the last characters of the second and of the fourth line."""
    return [(poem[len(poem) // 2 - 2], poem[-2]) for poem in poems]


def _strangers(ends: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return each poem's first end beside the next poem's second one."""
    return [(one, ends[number - 1][1]) for number, (one, _) in enumerate(ends)]


def _rows(table: Any) -> list[list[int]]:
    assert isinstance(table, RowTable)
    rows: list[list[int]] = table.rows(torch.arange(len(table)))["next_token"].tolist()
    return rows
