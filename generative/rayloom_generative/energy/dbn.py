"""Deep belief network: Hinton, Osindero and Teh (2006), "A fast learning algorithm for deep belief nets"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt, MinLen
from torch import Tensor, nn

from rayloom.contract import (
    Algorithm,
    Batch,
    Figure,
    Gathered,
    Loss,
    Metric,
    Phase,
    Progress,
    Rule,
    Spec,
    Table,
    UserError,
)
from rayloom_generative.energy.binary_data import Binarize, bits, mean_bits
from rayloom_generative.energy.partition import PartitionConfig, check_partition, find_log_partition, random_bits
from rayloom_generative.energy.pictures import filters
from rayloom_generative.equations.densities import bernoulli_log_density
from rayloom_generative.evaluation.annealed_importance_sampling import base_biases
from rayloom_generative.fields import data_field, drawn, originals_above, size_of, unit_range
from rayloom_generative.networks.restricted_boltzmann import Draw, RestrictedBoltzmannMachine

Size = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class DBNConfig(PartitionConfig):
    """Settings of the deep belief network."""

    hidden_sizes: Annotated[tuple[Size, ...], MinLen(1)] = (128, 128)
    """Hidden bits of each machine, from the data upwards."""
    gibbs_steps: Size = 1
    """Steps up and down in each update, the k of CD-k."""
    learning_rate: Annotated[float, Gt(0)] = 0.1
    """Step size when a machine begins."""
    final_learning_rate: Annotated[float, Ge(0)] | None = None
    """Step size when its turn ends, to which it falls in a line; null: constant."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Share of the last change that the next one repeats."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """L2 penalty on the machines' weights."""
    fine_tuning: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Last share of the run, in which the layers become a classifier of the field label; the generative model is then
    no longer one. 0: never."""
    binarize: Binarize = "dynamic"
    """dynamic draws each pixel's bit anew whenever an image is read, with the grey value as its probability; threshold
    compares it with one half."""
    sample_sweeps: Size = 1000
    """Gibbs sweeps of the highest machine before a sample goes down."""


class DBN(Algorithm):
    """Restricted Boltzmann machines, each of which learns the hidden bits of the one below by contrastive divergence.

    They take turns over the run in equal parts; then, if asked, a classifier on top is trained by the gradient through
    all layers. The model's highest two layers are a machine without direction, and what is below is generated from
    them. log p(v) has the lower bound of Salakhutdinov and Murray (2008), section 4: the entropy of the code plus its
    expected log-probability, by one code per example. Departures: no up-down algorithm after the greedy layers.
    """

    Config = DBNConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy of the labels while fine-tuning"),
        "reconstruction": Metric(better="min", meaning="squared error through all layers, summed over the bits"),
        "machine_reconstruction": Metric(better="min", meaning="squared error of the machine that learns"),
        "accuracy": Metric(better="max", meaning="share of the labels that are right"),
        "nll_bound_*_bits": Metric(
            better="min", unit="nats", meaning="bound on -log p(v), by the method and of the bits in its name"
        ),
        "log_partition_*": Metric(unit="nats", meaning="log Z of the highest machine, and its standard error"),
        "ais_effective_chains": Metric(better="max", meaning="Kish's effective number of annealed chains"),
    }
    base: Tensor

    def __init__(self, config: DBNConfig, spec: Spec) -> None:
        """Build the machines for the field `image` [C, H, W] or `point` [D], with values in 0..1."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        self.shape = example.shape
        sizes = (size_of(example), *config.hidden_sizes)
        check_partition(config, *sizes[-2:])
        self.machines = nn.ModuleList(RestrictedBoltzmannMachine(*pair) for pair in pairwise(sizes))
        self.register_buffer("base", torch.zeros(sizes[0]))
        if config.fine_tuning:
            if "label" not in spec:
                raise UserError("algorithm.fine_tuning: the data have no field label to learn; set it to 0")
            self.head = nn.Linear(sizes[-1], spec["label"].categories)

    def machine(self, number: int) -> RestrictedBoltzmannMachine:
        """Return a machine, counted from the data upwards."""
        machine = self.machines[number]
        assert isinstance(machine, RestrictedBoltzmannMachine)
        return machine

    def initialize(self, data: Table | None) -> None:
        """Set the lowest visible biases to the log-odds of the data."""
        assert data is not None
        self.base.copy_(base_biases(mean_bits(data, self.field, self.config.binarize)))
        self.machine(0).visible_bias.copy_(self.base)

    def position(self, progress: Progress) -> float:
        """Return how many machines have had their turn, with the part of the present one's that is over."""
        machines = len(self.machines)
        share: float = progress.fraction / (1 - self.config.fine_tuning)
        return min(share, 1.0) * machines

    def is_turn(self, number: int, progress: Progress) -> bool:
        """Return whether machine `number` learns; their count stands for fine-tuning."""
        last = len(self.machines) - (0 if self.config.fine_tuning else 1)
        return number == min(int(self.position(progress)), last)

    def phases(self) -> list[Phase | Rule]:
        """Return a rule for each machine and, if asked, the phase of fine-tuning."""
        steps: list[Phase | Rule] = []
        for number in range(len(self.machines)):
            gather, change = partial(self.gather, number), partial(self.change, number)
            when = partial(self.is_turn, number)
            steps.append(Rule(f"machine_{number}", gather, change, self.machine(number).state_tensors(), when=when))
        if self.config.fine_tuning:
            machines = map(self.machine, range(len(self.machines)))
            tuned = [value for machine in machines for value in (machine.weight, machine.hidden_bias)]
            when = partial(self.is_turn, len(self.machines))
            steps.append(Phase("fine_tuning", self.loss, (*tuned, *self.head.parameters()), when=when))
        return steps

    def prepare(self, trajectory: Batch) -> Batch:
        """Add `bits` [B, D] for the machines and `grey` [B, D], their probabilities, for the classifier."""
        drawn_bits = bits(trajectory[self.field], self.config.binarize, self.noise)
        dynamic = self.config.binarize == "dynamic"
        grey = unit_range(trajectory[self.field]).flatten(1) if dynamic else drawn_bits
        return {**trajectory, "bits": drawn_bits, "grey": grey}

    def code(self, visible: Tensor, depth: int, draw: Draw) -> Tensor:
        """Return bits of layer `depth` [B, H] drawn upwards from visible bits [B, D]; layer 0 are those themselves."""
        for number in range(depth):
            visible = draw(self.machine(number).up(visible))
        return visible

    def probabilities(self, visible: Tensor) -> Tensor:
        """Return the probabilities of the highest layer [B, H], each layer fed those of the one below."""
        for number in range(len(self.machines)):
            visible = self.machine(number).up(visible)
        return visible

    def gather(self, number: int, batch: Batch) -> Gathered:
        """Return the sums of the statistics of a machine's data minus those of chains that start there."""
        machine = self.machine(number)
        data = self.code(batch["bits"], number, self.noise.bernoulli)
        dreamt, probability = machine.gibbs(data, self.config.gibbs_steps, self.noise.bernoulli)
        model = machine.statistics(dreamt)
        sums = {name: value - model[name] for name, value in machine.statistics(data).items()}
        return Gathered(sums, {"machine_reconstruction": (probability - data).square().sum(1)})

    def change(self, number: int, sums: dict[str, Tensor], count: float) -> None:
        """Let a machine climb."""
        config, rate = self.config, self.config.learning_rate
        if config.final_learning_rate is not None:
            rate += (config.final_learning_rate - rate) * min(1.0, self.position(self.progress) - number)
        gradient = {name: value / count for name, value in sums.items()}
        self.machine(number).climb(gradient, rate, config.momentum, config.weight_decay)

    def logits(self, batch: Batch) -> Tensor:
        """Return the classifier's logits [B, C]."""
        logits: Tensor = self.head(self.probabilities(batch["grey"]))
        return logits

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy of the labels [B]."""
        return Loss(F.cross_entropy(self.logits(batch), batch["label"], reduction="none"))

    def log_bound(self, visible: Tensor) -> Tensor:
        """Return a bound on log p(v) + log Z of the highest machine, [B], by one code drawn with torch's generator."""
        bound = torch.zeros(len(visible), device=visible.device)
        for number in range(len(self.machines) - 1):
            machine = self.machine(number)
            above = machine.up(visible)
            code = torch.bernoulli(above)
            below = code @ machine.weight.T + machine.visible_bias
            entropy = -(torch.special.xlogy(above, above) + torch.special.xlogy(1 - above, 1 - above)).sum(1)
            bound = bound + bernoulli_log_density(visible, below) + entropy
            visible = code
        return bound - self.machine(len(self.machines) - 1).free_energy(visible)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the reconstruction's error, what `summarize` needs and, if fine-tuned, the accuracy, [B]."""
        error = (self.reconstruct(batch["bits"]) - batch["bits"]).square().sum(1)
        found = {"reconstruction": error}
        if self.config.fine_tuning:
            found["accuracy"] = (self.logits(batch).argmax(1) == batch["label"]).float()
        if self.config.partition != "none":
            top = self.code(batch["bits"], len(self.machines) - 1, torch.bernoulli)
            found |= {"_log_bound": self.log_bound(batch["bits"]), "_top": top}
        return found

    def reconstruct(self, visible: Tensor) -> Tensor:
        """Return probabilities [B, D] after all layers up and down without draws."""
        return self._downwards(self.probabilities(visible), len(self.machines))

    def _downwards(self, code: Tensor, depth: int) -> Tensor:
        for number in reversed(range(depth)):
            code = self.machine(number).down(code)
        return code

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return the bound on -log p(v), with the highest machine's log Z found once for the whole split."""
        if self.config.partition == "none":
            return {}, {}
        base = base_biases(outputs["_top"].mean(0))
        log_partition, metrics = find_log_partition(self.config, self.machine(len(self.machines) - 1), base)
        assert log_partition is not None
        name = f"nll_bound_{self.config.partition}_{self.config.binarize}_bits"
        return {**metrics, name: log_partition - outputs["_log_bound"].double().mean()}, {}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return the lowest filters and, of images, reconstructions."""
        shown = {"filters": filters(self.machine(0).weight, self.shape)}
        if self.field == "image":
            originals = batch["bits"][:32]
            rebuilt = self.reconstruct(originals)
            shown["reconstructions"] = originals_above(
                originals.reshape(-1, *self.shape), rebuilt.reshape(-1, *self.shape)
            )
        return shown

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw bits of the highest machine by Gibbs sweeps, then downwards; of images show the last probabilities."""
        draw = partial(random_bits, generator=generator)
        depth = len(self.machines) - 1
        with torch.no_grad():
            start = draw(torch.sigmoid(self.base).expand(count, -1))
            visible, probability = self.machine(depth).gibbs(
                self.code(start, depth, draw), self.config.sample_sweeps, draw
            )
            for number in reversed(range(depth)):
                probability = self.machine(number).down(visible)
                visible = draw(probability)
        return drawn((probability if self.field == "image" else visible).reshape(-1, *self.shape))
