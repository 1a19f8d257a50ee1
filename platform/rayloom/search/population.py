"""Many small runs trained as one vectorised model.

    K members: source.take -> rows [K, B] -> one traced gradient over stacked parameters [K, ...] -> each member's step

Runs of the same network that differ in numbers alone spend their time between operators, K times. Here the parameters
of all members are rows of one tensor, and one `vmap` of the gradient serves all of them. It is traced once into a
graph of batched operators (`make_fx`), which spares vmap's own overhead in every step. A member otherwise remains what
it is alone: it has its own source, schedule, optimiser state, metrics, evaluations and checkpoints, and its numbers
equal those of the run alone up to rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from rayloom.config.schema import RunConfig, flatten
from rayloom.contract import Algorithm, Batch, Loss
from rayloom.datasets.dataset import Dataset
from rayloom.errors import UserError
from rayloom.learner.phase import PhaseLearner
from rayloom.runs.learner_role import Advance, load_run_dataset
from rayloom.runs.schedule import Schedule
from rayloom.search.population_members import MemberRole

aten = torch.ops.aten
_FREE = ("seed", "name", "output", "tracking", "search", "learner.optimizer")
"""Keys in which members may differ, besides the algorithm's `population_fields`."""
_FIXED = ("learner.optimizer.kind", "learner.optimizer.import")
_FOLD = 256
_ALONE = "or set search.population to 1"


def check_population(configs: Sequence[RunConfig]) -> None:
    """Raise UserError when these runs cannot train together. Loads no data."""
    first = configs[0]
    algorithm = first.algorithm_class()
    if algorithm.population_fields is None:
        raise UserError(
            f"algorithm.import: {algorithm.__name__} cannot train as a population; set search.population to 1"
        )
    trees = [flatten(config.to_tree()) for config in configs]
    free = (*_FREE, *(f"algorithm.{name}" for name in algorithm.population_fields))
    for tree in trees[1:]:
        # Another kind of component has other settings too; it is the kind that must agree.
        for key in sorted(trees[0].keys() | tree.keys(), key=lambda key: (not _chooses_component(key), key)):
            ours, theirs = trees[0].get(key), tree.get(key)
            if ours != theirs and (key in _FIXED or not _inside(key, free)):
                raise UserError(
                    f"{key}: the trials of a population must agree, but have {ours!r} and {theirs!r}; "
                    f"give it one value, {_ALONE}"
                )
    _check_engine(first)
    for name, allowed in algorithm.population_requires.items():
        key = f"algorithm.{name}"
        imported = trees[0].get(f"{key.rpartition('.')[0]}.import") if name.endswith(".kind") else None
        if key not in trees[0] and imported is None:
            continue  # a kind of component that has no such setting
        value = trees[0].get(key, imported)
        if value not in allowed:
            fitting = " or ".join(str(choice) for choice in allowed)
            raise UserError(f"algorithm.{name}: a population needs {fitting}, not {value}; change it, {_ALONE}")


def _chooses_component(key: str) -> bool:
    return key.rpartition(".")[2] in ("kind", "import")


def _check_engine(config: RunConfig) -> None:
    learner, cluster = config.learner, config.cluster
    found = {
        "source.kind": (config.source_class().kind, "dataset"),
        "learner.compile": (learner.compile is True, False),
        "learner.precision": (learner.precision, "float32"),
        "learner.count": (learner.count, 1),
        "learner.accumulate": (learner.accumulate, 1),
        "cluster.learner": (cluster.learner, "driver"),
        "cluster.evaluator": (cluster.evaluator, "driver"),
    }
    for key, (value, needed) in found.items():
        if value != needed:
            raise UserError(f"{key}: a population needs {needed}, not {value}; change it, {_ALONE}")


def _inside(key: str, prefixes: Iterable[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


class _LossModule(nn.Module):
    """Gives `torch.func.functional_call` a forward to call: the phase's loss, on the algorithm that owns it."""

    def __init__(self, owner: Algorithm, loss: Callable[[Batch], Loss]) -> None:
        super().__init__()
        self.owner = owner
        self._loss = loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self._loss(batch)
        if loss.count is not None:
            raise UserError("Loss.count: a population cannot divide by it; set search.population to 1")
        # The share that PhaseLearner.step descends, with one learner.
        objective = PhaseLearner.objective(loss, batch, loss.per_example.shape[0])
        return objective, {"loss": loss.per_example.detach(), **loss.metrics}


_Key = tuple[tuple[str, torch.Size], ...]
_Graph = Callable[..., Sequence[Tensor]]


class _Stack:
    """The parameters and gradients of some members as rows of two tensors [K, P], and the graph over them."""

    def __init__(self, indices: Sequence[int], roles: Sequence[MemberRole]) -> None:
        self.indices = list(indices)
        learners = [role.learner for role in roles]
        self._algorithm = learners[0].algorithm
        phase = learners[0].member
        like = phase.flat.flat.data
        self.values = like.new_zeros(len(roles), len(like))
        self.gradients = torch.zeros_like(self.values)
        for learner, values, gradient in zip(learners, self.values, self.gradients, strict=True):
            learner.member.move(values, gradient)
        self._module = _LossModule(self._algorithm, phase.phase.loss)
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        assert len(names) == len(phase.flat.windows) and not list(self._module.buffers()), (
            "a population needs an algorithm without buffers whose one phase has all of its parameters"
        )
        self._names = [names[id(parameter)] for parameter in phase.flat.parameters]
        self._parameters = [self._window(self.values, *window) for window in phase.flat.windows]
        self._targets = [self._window(self.gradients, *window) for window in phase.flat.windows]
        configs = [role.config.algorithm for role in roles]
        self._numbers = {
            name: torch.tensor([float(getattr(config, name)) for config in configs], device=like.device)
            for name in sorted(self._algorithm.population_fields or ())
            if len({getattr(config, name) for config in configs}) > 1
        }
        self._graphs: dict[_Key, tuple[_Graph, list[str]]] = {}
        self._roles = list(roles)
        self._pending: dict[str, list[Tensor]] = {}
        self._pending_group: list[int] = []

    def clip(self, limit: float | None) -> Tensor | None:
        """Scale every row's gradient to at most `limit`, as PhaseLearner does; return the norms [K] before."""
        if limit is None:
            return None
        norms: Tensor = torch.linalg.vector_norm(self.gradients, dim=1)
        self.gradients.mul_((limit / (norms + 1e-6)).clamp_(max=1.0)[:, None])
        return norms

    def record(self, group: list[int], outputs: Mapping[str, Tensor]) -> None:
        """Keep metrics [K, B] or [K] for the members in `group` until `deliver`, without touching each of them."""
        if group != self._pending_group:
            self.deliver()
            self._pending_group = group
        for name, value in outputs.items():
            self._pending.setdefault(name, []).append(value)
        if len(next(iter(self._pending.values()))) >= _FOLD:
            self.deliver()

    def deliver(self) -> None:
        """Add what `record` kept to the members' own sums."""
        for name, values in self._pending.items():
            table = torch.cat([value.reshape(len(self.indices), -1).float() for value in values], dim=1)
            totals = table.sum(dim=1, dtype=torch.float64).tolist()
            for index, role, total in zip(self.indices, self._roles, totals, strict=True):
                if index in self._pending_group:
                    role.learner.sums.add_sum(name, total, table.shape[1])
        self._pending = {}

    @staticmethod
    def _window(rows: Tensor, offset: int, shape: torch.Size) -> Tensor:
        return rows[:, offset : offset + shape.numel()].view(len(rows), *shape)

    def differentiate(self, batch: Batch) -> dict[str, Tensor]:
        """Write every row's gradient for its batch, stacked [K, B, ...]; return losses and metrics [K, B] or [K]."""
        key = tuple((name, value.shape) for name, value in batch.items())
        graph, names = self._graphs.get(key) or self._trace(key, batch)
        outputs = graph(*self._parameters, *self._numbers.values(), *batch.values())
        count = len(self._targets)
        torch._foreach_copy_(self._targets, list(outputs[:count]))
        return dict(zip(names, outputs[count:], strict=True))

    def _trace(self, key: _Key, batch: Batch) -> tuple[_Graph, list[str]]:
        names: list[str] = []
        inputs = [*self._parameters, *self._numbers.values(), *batch.values()]

        def stacked(*tensors: Tensor) -> list[Tensor]:
            rest = iter(tensors)
            parameters, numbers, fields = (
                {n: next(rest) for n in group} for group in (self._names, self._numbers, batch)
            )
            gradients, (_, outputs) = torch.vmap(torch.func.grad_and_value(self._propose, has_aux=True))(
                parameters, numbers, fields
            )
            names[:] = list(outputs)
            return [*(gradients[name] for name in self._names), *outputs.values()]

        with torch.enable_grad():
            graph = make_fx(stacked)(*inputs)
        _simplify(graph)
        self._graphs[key] = (graph, names)
        return self._graphs[key]

    def _propose(
        self, parameters: dict[str, Tensor], numbers: dict[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one member's objective and outputs, with its numbers in the config."""
        algorithm = self._algorithm
        config = algorithm.config
        algorithm.config = replace(config, **numbers)
        try:
            proposed: tuple[Tensor, dict[str, Tensor]] = torch.func.functional_call(self._module, parameters, (batch,))
            return proposed
        finally:
            algorithm.config = config


class Population:
    """Runs that train in lockstep as one model. Used by one thread.

    A run's numbers depend on its companions in rounding alone; equal populations give equal bits.
    """

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        """Build the members; UserError as of `check_population`, and as of every single run."""
        check_population(configs)
        torch.set_num_threads(configs[0].learner.threads)
        datasets = _load_datasets(configs)
        self.roles = [MemberRole(config, data, self._deliver) for config, data in zip(configs, datasets, strict=True)]
        """The members' roles, in the order of `configs`."""
        augmented = any(getattr(config.source, "augment", ()) for config in configs)
        resident = all(role.source.resident for role in self.roles)
        self._alike = resident and not augmented and all(dataset is datasets[0] for dataset in datasets)
        self._dropped: set[int] = set()
        self._stack = _Stack(range(len(configs)), self.roles)
        self._max_norm = configs[0].learner.max_grad_norm

    def advance(self, schedules: Mapping[int, Schedule], pause_s: float = math.inf) -> dict[int, Advance]:
        """Update the members named, in lockstep, until one of them has something due or has spent its budget.

        Returns what became due by member, without those for whom nothing did; nothing at all after `pause_s` seconds,
        which changes nothing in the runs.
        """
        assert schedules and not self._dropped & schedules.keys(), "name members that are there"
        resume_at = time.monotonic() + pause_s
        self._leave_dropped_behind()
        before = {index: self.roles[index].refresh(schedule) for index, schedule in schedules.items()}
        while True:
            with torch.no_grad():
                self._update(list(schedules))
            advances: dict[int, Advance] = {}
            for index, schedule in schedules.items():
                after = self.roles[index].refresh(schedule)
                due, exhausted = schedule.due(before[index], after), schedule.exhausted(after)
                if due or exhausted:
                    advances[index] = Advance(after, due, exhausted)
            if advances or time.monotonic() > resume_at:
                return advances

    def drop(self, index: int) -> None:
        """Train a member no more; its role stays readable until `close`."""
        self._dropped.add(index)

    def close(self) -> None:
        """Close the roles of all members."""
        for role in self.roles:
            role.close()

    def _deliver(self) -> None:
        self._stack.deliver()

    def _leave_dropped_behind(self) -> None:
        """Give those who train on rows of their own once half of the rows are idle; tracing anew costs some updates."""
        staying = [index for index in self._stack.indices if index not in self._dropped]
        if 2 * len(staying) > len(self._stack.indices):
            return
        self._stack.deliver()
        for index in self._stack.indices:
            member = self.roles[index].learner.member
            if index in self._dropped:  # on its own again, so that the old rows can be freed
                member.move(torch.empty_like(member.flat.flat.data), torch.zeros_like(member.flat.gradient))
        self._stack = _Stack(staying, [self.roles[index] for index in staying])

    def _update(self, indices: Sequence[int]) -> None:
        """Update these members once; an epoch's last batch may be smaller for some than for others."""
        if self._alike:
            taken = {index: self.roles[index].source.take() for index in indices}
            sizes = {index: len(rows) for index, rows in taken.items()}
        else:
            drawn = {index: self.roles[index].source.next() for index in indices}
            sizes = {index: len(next(iter(batch.values()))) for index, batch in drawn.items()}
        for size in sorted(set(sizes.values())):
            group = [index for index in indices if sizes[index] == size]
            # Idle rows repeat somebody's batch; nobody reads what comes of it.
            filled = [index if index in group else group[0] for index in self._stack.indices]
            if self._alike:
                batch = self._gather([taken[index] for index in filled])
            else:
                batch = _stacked([drawn[index] for index in filled])
            self._descend(group, batch)

    def _gather(self, rows: list[Tensor]) -> Batch:
        """Fetch and prepare the rows of all members at once; `prepare` works row by row and is alike for all."""
        role = self.roles[0]
        prepared = role.algorithm.prepare(role.source.gather(torch.cat(rows)))
        return {name: value.view(len(rows), -1, *value.shape[1:]) for name, value in prepared.items()}

    def _descend(self, group: list[int], batch: Batch) -> None:
        outputs = self._stack.differentiate(batch)
        norms = self._stack.clip(self._max_norm)
        if norms is not None:
            outputs["gradient_norm"] = norms
        self._stack.record(group, outputs)
        for index in group:
            self.roles[index].learner.finish()


def _simplify(module: fx.GraphModule) -> None:
    """Take out the operators that vmap leaves behind and that do nothing: they take a tenth of a step."""
    graph, same = module.graph, {aten.view.default, aten._unsafe_view.default, aten.expand.default}
    operators = [node.target for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    if not any(operator._schema.is_mutable for operator in operators):  # in-place ones need every copy
        for node in graph.nodes:
            idle = node.target in same or (node.target is aten.mul.Scalar and node.args[1] == 1)
            returned = any(user.op == "output" for user in node.users)  # must not become an alias of an input
            if idle and not returned and _alike(node.meta["val"], node.args[0].meta["val"]):
                node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()
    module.recompile()


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _stacked(batches: Sequence[Batch]) -> Batch:
    return {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]}


def _load_datasets(configs: Sequence[RunConfig]) -> list[Dataset]:
    """Load each member's data; those that are equal, as real data are for all seeds, share one memory."""
    by_seed: dict[int, Dataset] = {}
    for config in configs:
        if config.seed not in by_seed:
            dataset = load_run_dataset(config)
            assert dataset is not None
            if any(part.ragged for part in dataset.spec.values()):
                raise UserError(
                    f"source.dataset: the sequences of {dataset.name} are of unequal length, which a population cannot "
                    f"train on; set search.population to 1"
                )
            by_seed[config.seed] = next((known for known in by_seed.values() if _equal(known, dataset)), dataset)
    return [by_seed[config.seed] for config in configs]


def _equal(one: Dataset, other: Dataset) -> bool:
    return one.spec == other.spec and one.digest == other.digest
