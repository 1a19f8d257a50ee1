"""Judges a model's samples in the features of classifiers that the platform has trained: distances and coverage.

    data, samples, noise --policy.judges--> features --> Fréchet and kernel distance, precision and recall
                                            classes  --> which of the data's classes the samples have

Every distance stands beside its floor (training against held-out data) and its ceiling (noise against held-out data).
The judge's hash is part of every name, because numbers of different judges cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import (
    Algorithm,
    Budget,
    Evaluation,
    EvaluationConfig,
    EvaluationContext,
    Figure,
    Findings,
    Metric,
    Spec,
    Table,
    UserError,
)
from rayloom_generative.evaluation.class_coverage import class_coverage
from rayloom_generative.evaluation.distances import frechet_distance, kernel_distance, nearest, precision_and_recall
from rayloom_generative.evaluation.judge import Judge
from rayloom_generative.fields import originals_above, unit_range

_BATCH = 500
_SHOWN = 32
_FEWEST = 50  # features of fewer examples say nothing


@dataclass(frozen=True, kw_only=True)
class SampleQualityConfig(EvaluationConfig):
    """Settings of the comparison of samples with data."""

    samples: Annotated[int, Ge(50)] = 2_000
    """Most examples of each kind that are compared: samples, training data, held-out data, noise."""
    split: Literal["validation", "test"] = "validation"
    """Held-out data; the test set is for the last word only."""
    neighbors: Annotated[int, Ge(1)] = 3
    """k of precision and recall."""


class SampleQuality(Evaluation):
    """Fréchet and kernel distance of samples to held-out images, precision, recall, classes, nearest training images.

    For a model of images that has a judge (`algorithm.judge`, `inputs.judge`), or two of different families. The
    features are not those of an Inception network: the numbers are no FID and no KID, and compare models under one
    judge only.
    """

    Config = SampleQualityConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "frechet_*_floor": Metric(meaning="of training data to held-out data"),
        "frechet_*_ceiling": Metric(meaning="of noise to held-out data"),
        "frechet_*": Metric(better="min", meaning="squared Fréchet distance in the judge's features"),
        "kernel_*_floor": Metric(meaning="of training data to held-out data"),
        "kernel_*_ceiling": Metric(meaning="of noise to held-out data"),
        "kernel_*": Metric(better="min", meaning="squared kernel distance in the judge's features"),
        "precision_*": Metric(better="max", meaning="share of the samples among the data"),
        "recall_*": Metric(better="max", meaning="share of the data among the samples"),
        "classes_*_divergence": Metric(
            better="min", unit="nats", meaning="of the samples' classes, as the judge reads them, from the data's"
        ),
        "classes_*": Metric(
            better="max", meaning="share of the classes that the samples have, as the judge reads them"
        ),
    }

    def __init__(self, config: SampleQualityConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        spec: Spec = {} if context.data is None else context.data.spec
        if "image" not in spec or len(spec["image"].shape) != 3:
            raise UserError("evaluate.import: SampleQuality judges images, and this run's data have none")

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Compare as many samples as the settings or the budget say, in the features of every judge."""
        judges = judges_of(policy, "SampleQuality")
        data, device = self.context.data, judges[0].weights_hash.device
        wanted = self.config.samples if budget.count is None else max(_FEWEST, budget.count)
        count = min(wanted, len(getattr(data, self.config.split)))
        generator = torch.Generator().manual_seed(seed)
        samples = drawn_images(policy, count, generator).to(device)
        train = _images(data.train, self.config.samples).to(device)
        held_out = _images(getattr(data, self.config.split), count).to(device)
        noise = torch.rand(held_out.shape, generator=generator).to(device)
        compared = {"samples": samples, "train": train, "held_out": held_out, "noise": noise}
        metrics: dict[str, float] = {}
        figures: dict[str, Figure] = {}
        rows = []
        for judge in judges:
            seen = {name: _seen(judge, images, budget) for name, images in compared.items()}
            features = {name: each[0] for name, each in seen.items()}
            covered = class_coverage(seen["samples"][1], seen["held_out"][1], judge.classes)
            found = self._compare(features)
            found |= {"classes_": float(covered.share), "classes_divergence": float(covered.divergence)}
            metrics |= {name.replace("_", f"_{judge.name}_", 1).rstrip("_"): value for name, value in found.items()}
            rows.append(list(found.values()))
            if judge is judges[0]:
                closest = nearest(features["samples"][:_SHOWN], features["train"])
                figures["nearest_training_images"] = originals_above(samples[:_SHOWN].cpu(), train[closest].cpu())
        columns = tuple(name.strip("_").replace("_", " ") for name in found)
        titles = tuple(judge.title for judge in judges)
        figures["sample_quality"] = Figure("table", torch.tensor(rows), labels=titles, column_labels=columns)
        return Findings(metrics, figures)

    def _compare(self, features: Mapping[str, Tensor]) -> dict[str, float]:
        """Return what one judge finds; its name comes behind the first word."""
        held_out, samples = features["held_out"], features["samples"]
        # As many as there are of the others: the fewer examples, the larger the distance.
        train = features["train"][:: max(1, len(features["train"]) // len(held_out))][: len(held_out)]
        found: dict[str, float] = {}
        for name, distance in (("frechet", frechet_distance), ("kernel", kernel_distance)):
            found[f"{name}_"] = float(distance(samples, held_out))
            found[f"{name}_floor"] = float(distance(train, held_out))
            found[f"{name}_ceiling"] = float(distance(features["noise"], held_out))
        coverage = precision_and_recall(held_out, samples, self.config.neighbors)
        return found | {f"{name}_": float(value) for name, value in coverage._asdict().items()}


def judges_of(policy: Algorithm, evaluation: str) -> tuple[Judge, ...]:
    """Return the judges that a model carries; UserError where there are none."""
    judges: tuple[Judge, ...] = getattr(policy, "judges", ())
    if not judges:
        raise UserError(
            f"evaluate.import: {evaluation} needs a judge, and this {type(policy).__name__} has none; "
            "train it with algorithm.judge and inputs.judge"
        )
    return judges


def drawn_images(policy: Algorithm, count: int, generator: torch.Generator) -> Tensor:
    """Return samples [count, C, H, W] in 0..1."""
    figure = policy.sample(count, generator)
    if figure.kind != "images" or figure.data is None:
        raise UserError(f"{type(policy).__name__}.sample draws no images, which can be judged")
    return figure.data.detach()


def _images(table: Table, count: int) -> Tensor:
    """Return images [N, C, H, W] in 0..1 of a split, evenly spread over it, `count` at most."""
    rows = torch.linspace(0, len(table) - 1, min(count, len(table))).long()
    return unit_range(table.rows(rows)["image"])


def _seen(judge: Judge, images: Tensor, budget: Budget) -> tuple[Tensor, Tensor]:
    """Return the judge's features [N, F] and the class [N] of each image; of stacked ones of every plane [N * P]."""
    features, classes = [], []
    for part in torch.split(images, _BATCH):
        found = judge.look(part)
        features.append(found[0])
        classes.append(found[1].flatten())
        budget.done()
    return torch.cat(features), torch.cat(classes)
