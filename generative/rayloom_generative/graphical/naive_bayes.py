"""Naive Bayes: features that are independent given the class, learnt by counting. Duda and Hart (1973); Bishop (2006),
section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Gathered, Metric, Rule, Spec, UserError
from rayloom_generative.fields import data_field, drawn, size_of, unit_range


@dataclass(frozen=True, kw_only=True)
class NaiveBayesConfig(AlgorithmConfig):
    """Settings of naive Bayes."""

    likelihood: Literal["bernoulli", "categorical", "gaussian"] = "bernoulli"
    """p(feature | class): a bit, one of `levels` values, or a normal number."""
    smoothing: Annotated[float, Gt(0)] = 1.0
    """Added to every count (Laplace) of the likelihoods bernoulli and categorical."""
    threshold: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Of bernoulli: features above it are 1; images are scaled to 0..1 before."""
    levels: Annotated[int, Ge(2)] = 17
    """Of categorical: the range 0..1 is rounded to so many equally spaced values."""
    variance_smoothing: Annotated[float, Ge(0)] = 1e-9
    """Of gaussian: share of the largest feature's variance that is added to all variances."""


class ClassScores(nn.Module):
    """Maps raw examples [B, ...] to log p(x, c), [B, C] in float32: logits of the classes."""

    def __init__(self, model: NaiveBayes) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor) -> Tensor:
        """Return [B, C]."""
        return self.model.joint_log_probability(self.model.features(data)).float()


class NaiveBayes(Algorithm):
    """Class frequencies p(c) and, for each class, independent features, counted in one pass over the data.

    References: as in the module. The estimates are those of scikit-learn's BernoulliNB, CategoricalNB and GaussianNB.
    Tables are float64: rare values have tiny probabilities, and variances are differences of sums.
    """

    Config = NaiveBayesConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="-log p(c|x)"),
        "accuracy": Metric(better="max"),
        "error": Metric(better="min", meaning="1 - accuracy"),
        "nll": Metric(better="min", unit="nats", meaning="-log p(x) of the features, as bits, levels or densities"),
    }

    log_prior: Tensor
    mean: Tensor
    variance: Tensor
    log_table: Tensor

    def __init__(self, config: NaiveBayesConfig, spec: Spec) -> None:
        """Make tables for the field `image` [C, H, W] or `point` [D] and `label`; UserError where there is none."""
        super().__init__(config, spec)
        if "label" not in spec or not isinstance(spec["label"].num_values, int):
            raise UserError(f"source.dataset: naive Bayes needs the field label, not only {sorted(spec)}")
        self.field, example = data_field(spec)
        if self.field == "point" and config.likelihood == "categorical":
            raise UserError("algorithm.likelihood: points have no levels between 0 and 1; use gaussian or bernoulli")
        self.shape = example.shape
        self.num_classes, self.size = spec["label"].categories, size_of(example)
        uniform = torch.full((self.num_classes,), -math.log(self.num_classes), dtype=torch.float64)
        self.register_buffer("log_prior", uniform)
        if config.likelihood == "gaussian":
            self.register_buffer("mean", torch.zeros(self.num_classes, self.size, dtype=torch.float64))
            self.register_buffer("variance", torch.ones(self.num_classes, self.size, dtype=torch.float64))
        else:
            levels = self._levels()
            table = torch.full((self.num_classes, self.size, levels), -math.log(levels), dtype=torch.float64)
            self.register_buffer("log_table", table)

    def _levels(self) -> int:
        return 2 if self.config.likelihood == "bernoulli" else self.config.levels

    def phases(self) -> list[Rule]:
        """Return the one rule: count over a pass."""
        return [Rule("count", self.gather, self.set_tables, tuple(self.buffers()), over="epoch")]

    def features(self, data: Tensor) -> Tensor:
        """Return raw examples [B, ...] as bits or levels [B, D] (int64), or as numbers [B, D] (float64)."""
        flat = unit_range(data).flatten(1)
        config: NaiveBayesConfig = self.config
        if config.likelihood == "gaussian":
            return flat.double()
        if config.likelihood == "bernoulli":
            return (flat > config.threshold).long()
        return (flat.clamp(0, 1) * (config.levels - 1)).round().long()

    def prepare(self, trajectory: Batch) -> Batch:
        """Replace the data by their features [B, D]."""
        return {**trajectory, self.field: self.features(trajectory[self.field])}

    def joint_log_probability(self, features: Tensor) -> Tensor:
        """Return log p(x, c) for features [B, D], [B, C]."""
        if self.config.likelihood == "gaussian":
            distance = (features[:, None] - self.mean).square() / self.variance
            terms = -0.5 * (distance + self.variance.log() + math.log(2 * math.pi))
        else:
            # [B, C, D]: the table's entry at each feature's value.
            terms = self.log_table.expand(len(features), -1, -1, -1).gather(3, features[:, None, :, None].expand(
                -1, self.num_classes, -1, 1)).squeeze(3)  # fmt: skip
        joint: Tensor = self.log_prior + terms.sum(2)
        return joint

    def gather(self, batch: Batch) -> Gathered:
        """Return the counts of classes and features, or the sums of numbers and squares in each class."""
        features, member = batch[self.field], self._members(batch["label"])
        sums = {"class": member.sum(0)}
        if self.config.likelihood == "gaussian":
            sums |= {"first": member.T @ features, "second": member.T @ features.square()}
        else:
            hot = nn.functional.one_hot(features, self._levels()).double()
            sums["value"] = torch.einsum("bc,bdk->cdk", member, hot)
        return Gathered(sums, self._measured(batch))

    def _members(self, label: Tensor) -> Tensor:
        return nn.functional.one_hot(label, self.num_classes).double()

    def set_tables(self, sums: dict[str, Tensor], count: float) -> None:
        """Set the tables to the relative frequencies; classes without examples keep what they had."""
        members, seen = sums["class"], sums["class"] > 0
        self.log_prior.copy_((members / count).log())
        if self.config.likelihood == "gaussian":
            size = members.clamp(min=1)[:, None]
            mean = sums["first"] / size
            overall = sums["first"].sum(0) / count
            spread = sums["second"].sum(0) / count - overall.square()
            variance = (sums["second"] / size - mean.square()).clamp(min=0)
            variance = variance + self.config.variance_smoothing * spread.max()
            self.mean[seen] = mean[seen]
            # A feature that never varies, without smoothing: a density that is finite.
            self.variance[seen] = variance.clamp(min=torch.finfo(torch.float64).tiny)[seen]
        else:
            smoothed = sums["value"] + self.config.smoothing
            self.log_table.copy_((smoothed / smoothed.sum(2, keepdim=True)).log())

    def _measured(self, batch: Batch) -> dict[str, Tensor]:
        joint, label = self.joint_log_probability(batch[self.field]), batch["label"]
        evidence = joint.logsumexp(1)
        accuracy = (joint.argmax(1) == label).double()
        loss = evidence - joint.gather(1, label[:, None])[:, 0]
        return {"loss": loss, "accuracy": accuracy, "error": 1 - accuracy, "nll": -evidence}

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log p(c|x), accuracy, error and -log p(x), [B] each."""
        return self._measured(batch)

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return, of images, the mean of each class and samples."""
        if self.field != "image":
            return {}
        means = self.class_means().reshape(-1, *self.shape).float().clamp(0, 1)
        return {"class_means": Figure("images", means), "samples": self.sample(64, torch.Generator().manual_seed(0))}

    def class_means(self) -> Tensor:
        """Return the mean of each feature in each class, [C, D]."""
        if self.config.likelihood == "gaussian":
            return self.mean
        values = torch.linspace(0, 1, self._levels(), dtype=torch.float64, device=self.log_table.device)
        return self.log_table.exp() @ values

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw classes from p(c) and examples from p(x|c)."""
        device = self.log_prior.device
        label = torch.multinomial(self.log_prior.exp().cpu(), count, replacement=True, generator=generator).to(device)
        if self.config.likelihood == "gaussian":
            noise = torch.randn(count, self.size, generator=generator, dtype=torch.float64).to(device)
            values = self.mean[label] + self.variance[label].sqrt() * noise
        else:
            chance = self.log_table[label].exp().flatten(0, 1).cpu()
            level = torch.multinomial(chance, 1, generator=generator).view(count, self.size).to(device)
            values = level.double() / (self._levels() - 1)
        examples = values.float().reshape(-1, *self.shape)
        return drawn(examples.clamp(0, 1) if self.field == "image" else examples)

    def inference_module(self) -> nn.Module:
        """Return the module that maps raw examples to log p(x, c) [B, C]; it shares the tables."""
        return ClassScores(self)

    def inference_input(self) -> str:
        """Return the field that is modelled."""
        return self.field
