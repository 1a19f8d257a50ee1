"""Examples that are changed a little so that a classifier errs: the fast gradient sign method.

    x' = clip(x + epsilon * range * sign(dL(x, y) / dx))

Goodfellow, Shlens and Szegedy (2015), "Explaining and harnessing adversarial examples", section 4; epsilon is a share
of the pixels' range, and L the cross-entropy. For a linear model of two classes no change of this size does more harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le, MinLen
from torch import Tensor, nn

from rayloom.contract import (
    Algorithm,
    Budget,
    Evaluation,
    EvaluationConfig,
    EvaluationContext,
    Figure,
    Findings,
    Metric,
    UserError,
)

_SHOWN = 8


def fast_gradient_sign(module: nn.Module, images: Tensor, label: Tensor, change: float, top: float) -> Tensor:
    """Return images [B, C, H, W], float32 in 0 to `top`, changed by `change` at every pixel against their `label` [B].

    `module` maps such images to logits [B, K].
    """
    inputs = images.to(torch.float32).detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(module(inputs).float(), label, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
    changed: Tensor = (inputs.detach() + change * gradient.sign()).clamp(0, top)
    return changed


@dataclass(frozen=True, kw_only=True)
class AdversarialExamplesConfig(EvaluationConfig):
    """Settings of the attack."""

    epsilons: Annotated[tuple[Annotated[float, Gt(0), Le(1)], ...], MinLen(1)] = (0.01, 0.03, 0.1, 0.3)
    """Changes of a pixel, as shares of the pixels' range."""
    split: Literal["validation", "test"] = "validation"
    """Held-out data."""
    batch_size: Annotated[int, Gt(0)] = 500
    """Examples at a time."""


class AdversarialExamples(Evaluation):
    """Measures the accuracy of a classifier of images under the fast gradient sign method, and draws what misled it.

    `rayloom evaluate RUN evaluate.import=rayloom_supervised.analysis.adversarial_examples:AdversarialExamples`
    """

    Config = AdversarialExamplesConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(better="max", meaning="of the images as they are"),
        "accuracy_at_*": Metric(better="max", meaning="of images that were changed by this share of the range"),
    }

    def __init__(self, config: AdversarialExamplesConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        if context.data is None or "image" not in context.data.spec or "label" not in context.data.spec:
            raise UserError("evaluate.import: AdversarialExamples needs labelled images; this run's source has none")

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Return the accuracies, their curve and the first images that are changed."""
        module = self._classifier(policy)
        table, spec = getattr(self.context.data, self.config.split), self.context.data.spec["image"]
        top = 255.0 if spec.dtype == torch.uint8 else 1.0
        device, changes = next(policy.parameters()).device, (0.0, *self.config.epsilons)
        rows, hits = torch.arange(min(budget.count or len(table), len(table))), []
        shown: list[Tensor] = []
        for part in torch.split(rows, self.config.batch_size):
            batch = {name: value.to(device) for name, value in table.rows(part).items()}
            label = batch["label"]
            images = [fast_gradient_sign(module, batch["image"], label, e * top, top) for e in changes]
            hits.append(torch.stack([(module(changed).argmax(1) == label).float() for changed in images], 1).cpu())
            shown = shown or [changed[:_SHOWN].cpu() / top for changed in images]
            budget.done()
        accuracy = torch.cat(hits).mean(0).tolist()
        named = {f"accuracy_at_{epsilon:g}": value for epsilon, value in zip(changes[1:], accuracy[1:], strict=True)}
        return Findings({"accuracy": accuracy[0], **named}, self._figures(changes, accuracy, shown))

    def _classifier(self, policy: Algorithm) -> nn.Module:
        """Return what maps images to a logit for each class; UserError where the model has no such module."""
        module, spec = policy.inference_module(), self.context.data.spec
        if module is not None and policy.inference_input() == "image":
            image = torch.zeros((1, *spec["image"].shape), device=next(policy.parameters()).device)
            found = module(image)
            if isinstance(found, Tensor) and found.shape == (1, spec["label"].categories):
                return module
        raise UserError(f"evaluate.import: {type(policy).__name__} is no classifier of images; evaluate one")

    def _figures(self, changes: tuple[float, ...], accuracy: list[float], shown: list[Tensor]) -> dict[str, Figure]:
        axes = ("change, as a share of the range", "accuracy")
        curve = Figure("curves", torch.tensor([accuracy]), labels=("accuracy",), x=torch.tensor(changes), axes=axes)
        images: Any = torch.cat(shown)
        return {"accuracy_by_change": curve, "changed_images": Figure("images", images, columns=len(shown[0]))}
