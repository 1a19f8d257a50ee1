"""An author's mistakes, found in the first update and told in one sentence that names the method and the field.

Everything here runs once for each phase or rule, before any work can be lost; it may wait for the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rayloom.contract import Algorithm, Batch, Gathered, Loss, Phase, Rule
from rayloom.errors import UserError


def rows_of(batch: Batch) -> int:
    """Return the number of examples of a batch."""
    return len(next(iter(batch.values())))


def name_of(method: Any) -> str:
    """Return how messages call a method: "VAE.loss"."""
    return str(getattr(method, "__qualname__", None) or method).split("<locals>.")[-1]


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}" if value.ndim else "a scalar tensor"
    if value is None:
        return "nothing"
    kind = type(value).__name__
    return f"a NumPy {kind}" if type(value).__module__ == "numpy" else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


# --- phases --------------------------------------------------------------------------------------------------------


def check_phases(algorithm: Algorithm, phases: Any) -> list[Phase | Rule]:
    """Return what `phases()` returned as a list."""
    where = f"{type(algorithm).__name__}.phases()"
    if isinstance(phases, Phase | Rule):
        raise UserError(
            f"{where} returns one {type(phases).__name__}; return a list of them: [{type(phases).__name__}(...)]"
        )
    if not isinstance(phases, Sequence) or isinstance(phases, str):
        raise UserError(f"{where} returns {_kind(phases)}; return a list of Phase and Rule")
    if not phases:
        raise UserError(f"{where} returns an empty list; an algorithm needs at least one Phase or Rule")
    for phase in phases:
        if not isinstance(phase, Phase | Rule):
            raise UserError(f"{where} returns a list with {_kind(phase)}; it may hold only Phase and Rule")
    repeated = [name for name, times in Counter(phase.name for phase in phases).items() if times > 1]
    if repeated:
        raise UserError(f"{where} returns more than one phase named {repeated[0]!r}; give each a name of its own")
    own = {id(tensor) for tensor in (*algorithm.parameters(), *algorithm.buffers())}
    for phase in phases:
        if isinstance(phase, Phase):
            _check_phase(where, phase, own)
        else:
            _check_rule(where, phase, phases, own)
    return list(phases)


def _check_phase(where: str, phase: Phase, own: set[int]) -> None:
    told = f"{where}: phase {phase.name!r}"
    _check_times(told, phase)
    _check_tensors(f"{told}: parameters", phase.parameters, own)
    for parameter in phase.parameters:
        if not isinstance(parameter, nn.Parameter) or not parameter.requires_grad or not parameter.is_floating_point():
            raise UserError(f"{told}: parameters holds {_kind(parameter)} that takes no gradient; leave it out")
    trained = {id(parameter) for parameter in phase.parameters}
    if len(trained) != len(phase.parameters):
        raise UserError(f"{told}: parameters names a parameter twice; name each once")
    grouped = [id(parameter) for members, _ in phase.groups for parameter in members]
    if len(set(grouped)) != len(grouped) or not set(grouped) <= trained:
        raise UserError(
            f"{told}: groups must be disjoint parts of parameters; name each parameter in one group at most"
        )


def _check_rule(where: str, rule: Rule, phases: Sequence[Phase | Rule], own: set[int]) -> None:
    told = f"{where}: rule {rule.name!r}"
    _check_times(told, rule)
    _check_tensors(f"{told}: changes", rule.changes, own)
    if rule.over not in ("batch", "epoch"):
        raise UserError(f'{told}: over is {rule.over!r}; it must be "batch" or "epoch"')
    if rule.over == "epoch":
        if rule.every != 1:
            raise UserError(f"{told}: every is {rule.every}, but a rule over an epoch sees every batch; remove every")
        if len(phases) > 1 and any(phase.repeat > 1 for phase in phases):
            raise UserError(
                f"{told}: with repeat in a phase beside it a rule over an epoch misses batches; remove repeat"
            )


def _check_times(told: str, phase: Phase | Rule) -> None:
    for name in ("repeat", "every"):
        value = getattr(phase, name)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{told}: {name} is {value!r}; it must be a whole number from 1")


def _check_tensors(told: str, tensors: Any, own: set[int]) -> None:
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
        raise UserError(f"{told} is {_kind(tensors)}; make it a tuple of tensors")
    if not tensors:
        raise UserError(f"{told} is empty; name what it is to change")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise UserError(f"{told} holds {_kind(tensor)}; it may hold tensors only")
        if id(tensor) not in own:
            raise UserError(
                f"{told} holds a tensor {list(tensor.shape)} that is neither a parameter nor a buffer of the "
                "algorithm, so that no checkpoint has it; make it an nn.Parameter or register_buffer it"
            )


# --- what methods return -------------------------------------------------------------------------------------------


def check_loss(phase: Phase, loss: Any, batch: Batch) -> None:
    """Check the first loss of a phase."""
    where, rows = name_of(phase.loss), rows_of(batch)
    if isinstance(loss, Tensor):
        raise UserError(
            f"{where} returns a bare tensor; return Loss(per_example), with one loss for each example [{rows}]"
        )
    if not isinstance(loss, Loss):
        raise UserError(f"{where} returns {_kind(loss)}; return a Loss")
    _check_column(f"{where}: Loss.per_example", loss.per_example, rows, " without mean() or sum() over the batch")
    if not loss.per_example.is_floating_point():
        raise UserError(f"{where}: Loss.per_example is {loss.per_example.dtype}; it must be real")
    if not loss.per_example.requires_grad:
        raise UserError(
            f"{where}: Loss.per_example has no gradient; it must depend on the parameters of phase {phase.name!r} "
            "without detach() or no_grad()"
        )
    _check_metrics(f"{where}: Loss", loss.metrics, rows)
    if phase.stop_above is not None and phase.stop_above[0] not in loss.metrics:
        raise UserError(
            f"{where}: Loss.metrics has no {phase.stop_above[0]!r}, above which phase {phase.name!r} stops; return it"
        )
    for name, column in (("priorities", loss.priorities), ("count", loss.count)):
        if column is not None:
            _check_amounts(f"{where}: Loss.{name}", column, rows)


def check_gathered(rule: Rule, found: Any, batch: Batch) -> None:
    """Check what a rule has gathered from its first batch."""
    where, rows = name_of(rule.gather), rows_of(batch)
    if not isinstance(found, Gathered):
        raise UserError(f"{where} returns {_kind(found)}; return a Gathered")
    if not isinstance(found.sums, Mapping):
        raise UserError(f"{where}: Gathered.sums is {_kind(found.sums)}; it must be a dict of tensors")
    for name, value in found.sums.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{where}: Gathered.sums[{name!r}] is {_kind(value)}; it must be a tensor, summed over the batch"
            )
    _check_metrics(f"{where}: Gathered", found.metrics, rows)
    if found.count is not None:
        _check_amounts(f"{where}: Gathered.count", found.count, rows)


def check_applied(rule: Rule, changed: Any) -> None:
    """Check what the first `apply` of a rule returned."""
    where = name_of(rule.apply)
    if changed is None:
        return
    if not isinstance(changed, Mapping):
        raise UserError(f"{where} returns {_kind(changed)}; return nothing, or a dict of metrics (scalar tensors)")
    for name, value in changed.items():
        if not isinstance(value, Tensor) or value.ndim:
            raise UserError(f"{where}: the metric {name!r} is {_kind(value)}; it must be a scalar tensor")


def check_after_update(algorithm: Algorithm, metrics: Any) -> None:
    """Check what the first `after_update` returned."""
    where = f"{type(algorithm).__name__}.after_update"
    if not isinstance(metrics, Mapping):
        raise UserError(f"{where} returns {_kind(metrics)}; return nothing, or a dict of metrics (tensors)")
    for name, value in metrics.items():
        if not isinstance(value, Tensor) or value.ndim > 1 or value.requires_grad:
            raise UserError(
                f"{where}: the metric {name!r} is {_kind(value)}; it must be a detached tensor, scalar or [B]"
            )


def check_evaluated(algorithm: Algorithm, found: Any, rows: int) -> None:
    """Check what the first `evaluate` on data returned for a batch of `rows` examples."""
    where = f"{type(algorithm).__name__}.evaluate"
    if not isinstance(found, Mapping):
        raise UserError(f"{where} returns {_kind(found)}; return a dict of tensors")
    for name, value in found.items():
        told = f"{where}: {name!r} is {_kind(value)}"
        if name.startswith("_"):
            if not isinstance(value, Tensor) or not value.ndim:
                raise UserError(f"{told}; it must be a tensor with a row for each example, for summarize")
        elif isinstance(value, tuple):
            if len(value) != 2:
                raise UserError(f"{told} of {len(value)}; it must be a pair, sums [{rows}] and counts [{rows}]")
            _check_column(f"{where}: the sum of {name!r}", value[0], rows)
            _check_amounts(f"{where}: the count of {name!r}", value[1], rows)
        elif not isinstance(value, Tensor) or value.shape not in ((), (rows,)):
            raise UserError(f"{told}; it must be a tensor, scalar or one number for each example [{rows}]")


def _check_metrics(where: str, metrics: Any, rows: int) -> None:
    if not isinstance(metrics, Mapping):
        raise UserError(f"{where}.metrics is {_kind(metrics)}; it must be a dict of tensors")
    for name, value in metrics.items():
        told = f"{where}.metrics[{name!r}]"
        if not isinstance(value, Tensor) or value.shape not in ((), (rows,)):
            raise UserError(
                f"{told} is {_kind(value)}; it must be a tensor, scalar or one number for each example [{rows}]"
            )
        if value.requires_grad:
            raise UserError(f"{told} carries a gradient; detach() it")


def _check_column(where: str, value: Any, rows: int, hint: str = "") -> None:
    if not isinstance(value, Tensor) or value.shape != (rows,):
        raise UserError(f"{where} is {_kind(value)}; it must be a tensor of one number for each example [{rows}]{hint}")


def _check_amounts(where: str, value: Any, rows: int) -> None:
    _check_column(where, value, rows)
    if value.requires_grad:
        raise UserError(f"{where} carries a gradient; detach() it")
    if rows and not bool((value >= 0).all()):
        raise UserError(f"{where} holds negative numbers or NaN; it must be 0 or more")


# --- tracing -------------------------------------------------------------------------------------------------------

_DEPENDS_ON_DATA = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")


class Traceable(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operators that make a compiled loss wrong with the next batch: shapes or branches that depend on data."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._phase = phase

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        selects = name.startswith("aten.index.") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if selects or any(word in name for word in _DEPENDS_ON_DATA):
            raise not_compilable(
                self._phase, "reads a value of a tensor, or makes a shape that depends on the data (a boolean mask)"
            )
        return func(*args, **(kwargs or {}))


def not_compilable(phase: Phase, reason: str) -> UserError:
    """Return what to say of a phase that cannot be compiled."""
    return UserError(
        f"learner.compile: {name_of(phase.loss)} {reason}, which a compiled loss cannot do; say compilable=False in "
        f"the phase {phase.name!r}, or set learner.compile to false"
    )


# --- several learners ----------------------------------------------------------------------------------------------


def differing(sums: Iterable[int], squares: Iterable[int], count: int, names: Sequence[str]) -> list[str]:
    """Return the names whose numbers differ among `count` learners, from their sums and the sums of their squares.

    By Cauchy and Schwarz, (sum of h)^2 = count * sum of h^2 only where all h are equal.
    """
    return [name for name, s, q in zip(names, sums, squares, strict=True) if s * s != count * q]
