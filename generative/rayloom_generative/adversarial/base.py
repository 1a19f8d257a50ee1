"""What all generative adversarial networks share: two networks, their phases, their pictures and their alarms.

codes --generator--> fakes --critic--> scores      critic phase: data against fakes, `critic_steps` times
                                                   generator phase: towards higher scores, once
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from rayloom.contract import (
    AlgorithmConfig,
    Batch,
    Component,
    Figure,
    Loss,
    Metric,
    Phase,
    Spec,
    TensorSpec,
    UserError,
)
from rayloom_generative.adversarial.alarms import Alarm, dead_critic, divergence, mode_collapse
from rayloom_generative.equations.adversarial import WALK_STEPS, arc, round_trip
from rayloom_generative.evaluation.diversity import relative_diversity
from rayloom_generative.evaluation.judged import JudgedConfig, JudgedModel
from rayloom_generative.evaluation.known_modes import KnownModes, known_modes
from rayloom_generative.evaluation.mode_quality import mode_quality
from rayloom_generative.fields import check_unit_range, check_walk, data_field, drawn, shown_latents, unit_range
from rayloom_generative.layers.spectral_norm import add_spectral_norm, iterate_spectral_norms
from rayloom_generative.networks.adversarial import CRITICS, GENERATORS, build_part
from rayloom_supervised.layers.batch_norm import GlobalBatchNorm, couples_examples

Size = Annotated[int, Ge(1)]
Rate = Annotated[float, Gt(0)]

_log = logging.getLogger(__name__)
_SHOWN_ROWS, _SHOWN_POINTS, _ARC_STEPS = 8, 1000, 8


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(JudgedConfig):
    """Settings that all generative adversarial networks have."""

    latent_size: Size = 64
    """Standard normal inputs of the generator."""
    generator: Annotated[Component, GENERATORS] = field(default_factory=GENERATORS.component)
    """What maps codes to examples."""
    critic: Annotated[Component, CRITICS] = field(default_factory=CRITICS.component)
    """What scores examples: the critic, or the discriminator's logit."""
    critic_steps: Size = 1
    """Steps of the critic before each step of the generator."""
    betas: tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]] | None = None
    """Decay of Adam's moments for both networks; null: what learner.optimizer says."""
    generator_learning_rate: Rate | None = None
    """Of the generator's optimiser; null: that of learner.optimizer. Two different rates are the two time scales of
    Heusel et al. (2017)."""
    critic_learning_rate: Rate | None = None
    """Of the critic's optimiser; null: that of learner.optimizer."""
    spectral_norm: bool = False
    """Divide every weight of the critic by its largest singular value (Miyato et al. 2018)."""
    average: Annotated[float, Ge(0), Lt(1)] | None = None
    """Decay of an exponential moving average of the generator's weights, which then gives all samples, pictures and
    evaluations (Yazici et al. 2019); null: none. It is smaller over the first updates."""
    known_modes: KnownModes = "none"
    """Evaluations count the modes of this data set, which must have its default geometry."""


class AdversarialModel(JudgedModel):
    """Base of the generative adversarial networks; subclasses define the two losses of scores.

    Codes are fields of the prepared batch: the losses are functions of their batch. With batch norm in a network its
    statistics are those of the global batch, so that several learners repeat one; the critic then sees data and fakes
    apart, as is usual for it.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AdversarialConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "diversity": Metric(meaning="mean distance of two samples as a share of that of two examples"),
        "good_fraction": Metric(better="max", meaning="share of the samples that are close to a mode"),
        "modes_covered": Metric(better="max", meaning="modes with a good sample"),
        "mode_divergence": Metric(better="min", unit="nats", meaning="of the good samples' modes from the uniform"),
        "alarm_*": Metric(better="min", meaning="1 where an evaluation looks like this failure"),
    }
    eager = False
    """Whether the losses may be neither compiled nor computed in bfloat16."""
    conditions = 0
    """Numbers beside the code and the example that both networks see."""
    columns = 8
    """Samples in one row of a picture."""

    def __init__(self, config: Any, spec: Spec) -> None:
        """Build critic and generator for the field `image` [C, H, W] or `point` [D]."""
        super().__init__(config, spec)
        self.field, self.example = data_field(spec)
        inputs = config.latent_size + self.conditions
        self.generator = build_part("generator", config.generator, inputs, self.example)
        self.critic = build_part("critic", config.critic, self._critic_input())
        self.initialize_networks()
        if config.spectral_norm:
            add_spectral_norm(self.critic)
        self._share_statistics()
        self._couples = {"critic": couples_examples(self.critic), "generator": couples_examples(self.generator)}
        self.averaged: nn.Module | None = None
        if config.average is not None:
            self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self._modes, self._mode_deviation = known_modes(config.known_modes)
        if self._modes is not None and self.example.shape != (2,):
            raise UserError(f"algorithm.known_modes: {config.known_modes} lies in the plane; set known_modes to none")
        self.take_on_judges(config, spec)
        self._told: set[str] = set()

    def _critic_input(self) -> TensorSpec:
        """Return what the critic sees: the conditions are further channels of images and coordinates of points."""
        first, *others = self.example.shape
        return TensorSpec(shape=(first + self.conditions, *others), dtype=self.example.dtype)

    def initialize_networks(self) -> None:
        """Draw other weights than the networks have begun with; nothing by default."""

    def _share_statistics(self) -> None:
        # A closure and no bound method, which a copy of the network would take the whole algorithm with.
        def total(tensor: Tensor) -> Tensor:
            return self.sum_over_learners(tensor)

        for layer in self.modules():
            if isinstance(layer, GlobalBatchNorm):
                layer.total = total

    # --- learning --------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        """Return the critic's phase and the generator's."""
        # Batch norm changes buffers, in whichever phase its network is run: both networks run in both.
        fixed = not self.eager and not any(self._couples.values())
        shared: dict[str, Any] = {"compilable": fixed, "autocast": not self.eager}
        config, constrain = self.config, self.constrain if self.constrains else None
        critic, generator = tuple(self.critic.parameters()), tuple(self.generator.parameters())
        return [
            Phase(
                "critic",
                self.critic_loss,
                critic,
                self._optimizer(config.critic_learning_rate),
                repeat=config.critic_steps,
                after_step=constrain,
                **shared,
            ),
            Phase(
                "generator", self.generator_loss, generator, self._optimizer(config.generator_learning_rate), **shared
            ),
        ]

    def _optimizer(self, learning_rate: float | None) -> dict[str, Any]:
        settings = {"betas": self.config.betas, "learning_rate": learning_rate}
        return {name: value for name, value in settings.items() if value is not None}

    @property
    def constrains(self) -> bool:
        """Whether `constrain` has anything to do."""
        return bool(self.config.spectral_norm)

    def constrain(self) -> None:
        """Bring the critic back into its set after each of its steps."""
        if self.config.spectral_norm:
            iterate_spectral_norms(self.critic)

    def prepare(self, trajectory: Batch) -> Batch:
        """Scale images to -1..1 and draw codes for both phases, [B, L] each."""
        self.check_judges()
        raw = trajectory[self.field]
        if self.field == "image" and self.progress.updates == 0:  # later it would make every step wait for the device
            check_unit_range(raw)
        data = 2 * unit_range(raw) - 1 if self.field == "image" else raw
        # The generator's phase reuses the critic's last batch, so that it needs codes of its own.
        codes = self.noise.normal(len(data), 2, self.config.latent_size)
        return {**trajectory, self.field: data, "code": codes[:, 0], "generator_code": codes[:, 1]}

    def generate(self, generator: nn.Module, code: Tensor, batch: Batch) -> Tensor:
        """Return the examples [B, ...] that a generator makes of codes [B, L] under the batch's conditions."""
        fakes: Tensor = generator(code)
        return fakes

    def score(self, examples: Tensor, batch: Batch) -> Tensor:
        """Return the critic's scores [B] of examples [B, ...] under the batch's conditions."""
        scores: Tensor = self.critic(examples)
        return scores

    def scores(self, real: Tensor, fake: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the scores of data and of fakes, [B] each, in one pass where that is the same."""
        if self._couples["critic"]:
            return self.score(real, batch), self.score(fake, batch)
        twice = {name: torch.cat((value, value)) for name, value in batch.items() if name == "label"}
        both = self.score(torch.cat((real, fake)), twice)
        return both[: len(real)], both[len(real) :]

    def critic_loss(self, batch: Batch) -> Loss:
        """Return the critic's loss [B]; fakes carry no gradient."""
        real = batch[self.field]
        with torch.no_grad():
            fake = self.generate(self.generator, batch["code"], batch)
        return self.loss_of_critic(real, fake, batch)

    def generator_loss(self, batch: Batch) -> Loss:
        """Return the generator's loss [B]."""
        fake = self.generate(self.generator, batch["generator_code"], batch)
        return Loss(self.loss_of_generator(self.score(fake, batch)))

    def loss_of_critic(self, real: Tensor, fake: Tensor, batch: Batch) -> Loss:
        """Return the critic's loss [B] of data against fakes, [B, ...] each."""
        raise NotImplementedError(f"{type(self).__name__} must define its losses of scores")

    def loss_of_generator(self, scores: Tensor) -> Tensor:
        """Return the generator's loss [B] of its fakes' scores [B]."""
        raise NotImplementedError(f"{type(self).__name__} must define its losses of scores")

    def after_update(self, update: int) -> None:
        """Let the averaged generator follow, faster over the first updates, when all weights are still far off."""
        if self.averaged is None:
            return
        decay = min(self.config.average, (1 + update) / (10 + update))
        for mean, weight in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)
        for kept, buffer in zip(self.averaged.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(buffer)

    # --- judging ---------------------------------------------------------------------------------------------------

    @property
    def sampler(self) -> nn.Module:
        """The generator of all samples and pictures: the averaged one where there is one."""
        return self.generator if self.averaged is None else self.averaged

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the critic finds on held-out data [B], and data, samples and scores for `summarize`."""
        real = batch[self.field]
        fake = self.generate(self.sampler, batch["code"], batch)
        real_scores, fake_scores = self.score(real, batch), self.score(fake, batch)
        kept = {"_data": real, "_generated": fake, "_real_score": real_scores, "_fake_score": fake_scores}
        return {**self.metrics_of_scores(real_scores, fake_scores), **kept}

    def metrics_of_scores(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Return metrics [B] of the scores of held-out data and of samples, [B] each."""
        raise NotImplementedError(f"{type(self).__name__} must define its losses of scores")

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return diversity, coverage of known modes and alarms; the scores' histogram and what alarms say."""
        samples, real, fake = outputs["_generated"], outputs["_real_score"], outputs["_fake_score"]
        found = {"diversity": relative_diversity(samples, outputs["_data"])}
        covered, modes = None, 0
        if self._modes is not None:
            quality = mode_quality(samples, self._modes.to(samples.device), self._mode_deviation)
            found |= quality._asdict()
            covered, modes = float(quality.modes_covered), len(self._modes)
        alarms = [
            mode_collapse(self.progress.updates, float(found["diversity"]), covered, modes),
            dead_critic(real, fake),
            divergence(float(found["diversity"]), real, fake),
            *self.alarms(outputs),
        ]
        for alarm in alarms:
            found[f"alarm_{alarm.name}"] = torch.tensor(float(alarm.raised))
        scores = Figure("histogram", torch.stack((real, fake)), labels=("data", "samples"), axes=("score", "examples"))
        return found, {"scores": scores, **self._tell([alarm for alarm in alarms if alarm.raised])}

    def alarms(self, outputs: dict[str, Tensor]) -> list[Alarm]:
        """Return further alarms for what `evaluate` returned over the whole split."""
        return []

    def _tell(self, raised: list[Alarm]) -> dict[str, Figure]:
        """Warn of each alarm once, and return all that are raised as a text."""
        for alarm in raised:
            if alarm.name not in self._told:
                self._told.add(alarm.name)
                _log.warning("update %d, %s", self.progress.updates, alarm)
        return {"alarms": Figure("text", text="\n".join(map(str, raised)))} if raised else {}

    # --- pictures --------------------------------------------------------------------------------------------------

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return samples from the same codes at every call, points before held-out ones, images also on arcs."""
        data = batch[self.field]
        count = _SHOWN_ROWS * self.columns if self.field == "image" else _SHOWN_POINTS
        codes = shown_latents(count, self.config.latent_size, data.device)
        rows = torch.arange(count, device=data.device)
        samples = self.visible(self.generate(self.sampler, codes, self.conditions_of(rows)))
        if self.field == "point":
            return {"samples": drawn(samples, data[:_SHOWN_POINTS], animate=True)}
        ends = codes[: 2 * _SHOWN_ROWS].chunk(2)
        codes = arc(ends[0], ends[1], _ARC_STEPS).transpose(0, 1).flatten(0, 1)
        on_arcs = self.generate(
            self.sampler, codes, self.conditions_of(rows[:_SHOWN_ROWS].repeat_interleave(_ARC_STEPS))
        )
        return {
            "samples": Figure("images", samples, columns=self.columns, animate=True),
            "interpolations": Figure("images", self.visible(on_arcs), columns=_ARC_STEPS),
        }

    def conditions_of(self, rows: Tensor) -> Batch:
        """Return what the generator sees beside its code in pictures, for rows [B] (int64) of a picture."""
        return {}

    def visible(self, samples: Tensor) -> Tensor:
        """Return samples in the range of pictures: images in 0..1, points as they are."""
        return (samples + 1) / 2 if self.field == "image" else samples

    def sample(self, count: int, generator: torch.Generator, *, walk: bool = False) -> Figure:
        """Draw images in 0..1 or points; with `walk` an animation from each image to the next and back to the first."""
        return self.shown_samples(count, generator, {}, walk)

    @torch.no_grad()
    def shown_samples(self, count: int, generator: torch.Generator, conditions: Batch, walk: bool) -> Figure:
        """Return samples under conditions [count, ...]; on a walk each of these holds until the next image."""
        check_walk(walk, self.field)
        code = torch.randn(count, self.config.latent_size, generator=generator, device=generator.device)
        if walk:
            code = round_trip(code, WALK_STEPS)
            conditions = {name: value.repeat_interleave(WALK_STEPS, 0) for name, value in conditions.items()}
        samples = self.visible(self.generate(self.sampler, code.to(next(self.parameters()).device), conditions))
        return Figure("animation", samples) if walk else drawn(samples)
