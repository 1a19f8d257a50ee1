"""How many of the modes of stacked images a model draws: Metz et al. (2017), "Unrolled GANs", section 3.3.

samples --planes--> judge --class of each plane--> one of classes ** planes modes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import Algorithm, Budget, Evaluation, EvaluationConfig, Findings, Metric, UserError
from rayloom_generative.evaluation.sample_quality import drawn_images, judges_of

_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class StackedModesConfig(EvaluationConfig):
    """Settings of the count of modes."""

    samples: Annotated[int, Ge(1)] = 26_000
    """Samples that are looked at, of which the literature takes 26 for each of 1,000 modes."""


class StackedModes(Evaluation):
    """Counts the combinations of classes among samples of stacked images, as a judge reads them.

    For a model of the data set `stacked_images` that has a judge. The floor of the divergence, which is that of as many
    draws from the uniform distribution, is about (modes - 1) / (2 * samples). A judge's mistakes count as modes: what
    it says of held-out stacks stands beside.
    """

    Config = StackedModesConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "stack_accuracy_*": Metric(better="max", meaning="share of the held-out stacks that the judge reads right"),
        "stacked_modes_*": Metric(better="max", meaning="combinations of classes among the samples"),
        "stacked_divergence_*": Metric(
            better="min", unit="nats", meaning="of the samples' combinations from the uniform distribution"
        ),
    }

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Count in as many samples as the settings or the budget say."""
        label = policy.spec.get("label")
        if label is None or not isinstance(label.num_values, tuple):
            raise UserError("evaluate.import: StackedModes counts modes of stacked images; take that data set")
        count = self.config.samples if budget.count is None else budget.count
        samples = drawn_images(policy, count, torch.Generator().manual_seed(seed))
        held_out = self.context.data.validation.rows(torch.arange(len(self.context.data.validation)))
        metrics: dict[str, float] = {}
        for judge in judges_of(policy, "StackedModes"):
            device = judge.weights_hash.device

            def read(images: Tensor) -> Tensor:
                found = []
                for part in torch.split(images, _BATCH):
                    found.append(judge.look(part.to(device).float())[1].cpu())  # noqa: B023  called at once
                    budget.done()
                return torch.cat(found)

            covered, divergence = stacked_modes(read(samples), judge.classes)
            right = (read(held_out["image"] / 255) == held_out["label"]).all(1).double().mean()
            metrics[f"stack_accuracy_{judge.name}"] = float(right)
            metrics[f"stacked_modes_{judge.name}"] = float(covered)
            metrics[f"stacked_divergence_{judge.name}"] = float(divergence)
        return Findings(metrics)


def stacked_modes(classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return how many modes rows of classes [N, P], each below `count`, cover, and KL(rows || uniform) in nats."""
    planes = classes.shape[1]
    places = count ** torch.arange(planes, device=classes.device)
    shares = torch.bincount((classes * places).sum(1), minlength=count**planes).double() / len(classes)
    uniform = torch.tensor(float(count**planes), dtype=torch.float64).log()
    return (shares > 0).sum(), uniform + torch.special.xlogy(shares, shares).sum()
