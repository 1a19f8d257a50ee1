"""How likely held-out data are under a model with codes, by many codes for each example: Burda et al. (2016).

-log p(x) <= -E log (1/K) sum_k p(x, z_k) / q(z_k|x),   z_k from q(z|x): tighter with every further code
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, MinLen
from torch import Tensor

from rayloom.contract import (
    Algorithm,
    Budget,
    Evaluation,
    EvaluationConfig,
    EvaluationContext,
    Findings,
    Metric,
    UserError,
)

Size = Annotated[int, Ge(1)]
_AT_ONCE = 500
"""Codes of each example whose weights are kept at a time."""


@dataclass(frozen=True, kw_only=True)
class ImportanceBoundConfig(EvaluationConfig):
    """Settings of the bounds."""

    codes: Annotated[tuple[Size, ...], MinLen(1)] = (1, 5, 50, 5000)
    """Numbers of codes, a bound for each; the smaller ones take the first of the same codes."""
    examples: Size | None = None
    """Held-out examples, evenly spread over the split; null: all."""
    split: Literal["validation", "test"] = "validation"
    """Held-out data; the test set is for the last word only."""
    batch_size: Size = 200
    """Examples at a time."""


class ImportanceBound(Evaluation):
    """Bounds the log-likelihood of held-out data by importance weights, with as many codes as are asked for.

    For a model with `log_weights(batch, count)` [count, B] and `bound_name(count)`, as the VAE. The bits of a
    dynamically binarised example are drawn once, and their entropy (`least_nats`) stands beside the bounds: a smaller
    one would be a mistake.
    """

    Config = ImportanceBoundConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "nll_iw*": Metric(better="min", unit="nats", meaning="importance-weighted bound on -log p(x)"),
        "nll_iw*_error": Metric(unit="nats", meaning="its standard error over the examples"),
        "grey_bound_iw*": Metric(better="min", unit="nats", meaning="the same of grey pixels, which is no likelihood"),
        "least_nats": Metric(unit="nats", meaning="entropy of the bits that are drawn: no bound can lie below it"),
        "grey_bound_iw*_error": Metric(unit="nats", meaning="its standard error over the examples"),
    }

    def __init__(self, config: ImportanceBoundConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        if context.data is None:
            raise UserError("evaluate.import: ImportanceBound needs a data set, and this run's source has none")

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Return the bounds over the split, or over as many examples as the settings or the budget say."""
        model: Any = policy
        if not (hasattr(model, "log_weights") and hasattr(model, "bound_name")):
            raise UserError(
                f"evaluate.import: {type(policy).__name__} has no likelihood that ImportanceBound could bound; "
                "evaluate a VAE, or compare samples with SampleQuality"
            )
        table = getattr(self.context.data, self.config.split)
        count = budget.count or self.config.examples or len(table)
        rows = torch.linspace(0, len(table) - 1, min(count, len(table))).long()
        device = next(policy.parameters()).device
        found: list[Tensor] = []
        least: list[Tensor] = []
        for part in torch.split(rows, self.config.batch_size):
            batch = {name: value.to(device) for name, value in table.rows(part).items()}
            found.append(self._bounds(model, policy.prepare(batch), budget))
            if hasattr(model, "least_nats") and (entropy := model.least_nats(batch)) is not None:
                least.append(entropy)
        bounds = torch.cat(found, 1)
        metrics = {"least_nats": float(torch.cat(least).mean())} if least else {}
        for codes, bound in zip(self.config.codes, bounds, strict=True):
            metrics[model.bound_name(codes)] = float(bound.mean())
            metrics[f"{model.bound_name(codes)}_error"] = float(bound.std(correction=0)) / math.sqrt(len(bound))
        return Findings(metrics)

    def _bounds(self, model: Any, batch: Any, budget: Budget) -> Tensor:
        """Return the bound of each number of codes on -log p of each example, [len(codes), B]."""
        ends = sorted(set(self.config.codes))
        total: Tensor | None = None
        found: dict[int, Tensor] = {}
        done = 0
        for end in ends:
            while done < end:
                taken = min(_AT_ONCE, end - done)
                summed = model.log_weights(batch, taken).double().logsumexp(0)
                total = summed if total is None else torch.logaddexp(total, summed)
                done += taken
                budget.done()
            assert total is not None
            found[end] = math.log(end) - total
        return torch.stack([found[codes] for codes in self.config.codes])
