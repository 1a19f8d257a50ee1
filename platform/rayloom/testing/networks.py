"""What a network must hold to: the form of its outputs, rows that do not mix, and parameters that all learn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.config.schema import RunConfig
from rayloom.contract import TensorSpec
from rayloom.seeding import seed_process, torch_generator
from rayloom.testing.failures import require
from rayloom.testing.roles import NO_PHASE, phase_learners, run_role

_ROWS = 5
_BATCHES = 3


def _inputs(spec: TensorSpec, rows: int) -> Tensor:
    """Return rows [N, ...] inside the spec's range, all of them different."""
    generator = torch_generator(0, "network", "inputs")
    if spec.num_values is not None:
        most = torch.tensor(spec.num_values).expand(spec.shape) if spec.shape else torch.tensor(spec.num_values)
        drawn = torch.rand((rows, *spec.shape), generator=generator) * most
        return drawn.floor().to(spec.dtype)
    if not spec.dtype.is_floating_point:
        return torch.randint(0, 256, (rows, *spec.shape), generator=generator).to(spec.dtype)
    drawn = torch.randn((rows, *spec.shape), generator=generator)
    if spec.low is not None and spec.high is not None:
        low, high = (torch.tensor(bound).reshape(spec.shape or ()) for bound in (spec.low, spec.high))
        if bool(torch.isfinite(high - low).all()):
            drawn = low + (high - low) * torch.rand((rows, *spec.shape), generator=generator)
    return drawn.to(spec.dtype)


def _check_rows(name: str, module: nn.Module, inputs: Tensor, form: Callable[[Tensor], Tensor]) -> Tensor:
    """Check that outputs have a row for each input and that no row depends on the others; return them."""
    with torch.no_grad():
        whole = form(module(inputs))
        require(
            whole.ndim > 0 and len(whole) == len(inputs),
            f"{name} maps {len(inputs)} rows to {list(whole.shape)}: it must return one row for each",
        )
        require(bool(torch.isfinite(whole.float()).all()), f"{name} returns numbers that are not finite")
        again = form(module(inputs))
        require(torch.equal(whole, again), f"{name} in evaluation mode does not repeat itself: nothing may be drawn")
        for rows in (1, 2):
            alone = form(module(inputs[:rows]))
            close = alone.shape == whole[:rows].shape and torch.allclose(alone, whole[:rows], rtol=1e-4, atol=1e-5)
            require(close, f"{name} returns something else for a row when others stand beside it: rows must not mix")
    return whole


def check_network(network: Any, config: Any, spec: TensorSpec, outputs: int) -> None:
    """Check a network component by itself: ConformanceError names the promise that it breaks.

    `network` is the class or the marked function, `config` an instance of its `Config`; `network(config, spec,
    outputs)` must map inputs [B, *spec.shape] to [B, outputs] of real numbers.
    """
    name = getattr(network, "__name__", str(network))
    seed_process(0, "network")
    module = network(config, spec, outputs)
    require(isinstance(module, nn.Module), f"{name} must make a torch.nn.Module, not a {type(module).__name__}")
    inputs = _inputs(spec, _ROWS)
    module.train()
    trained = module(inputs)
    require(isinstance(trained, Tensor), f"{name} must return a tensor, not a {type(trained).__name__}")
    require(
        tuple(trained.shape) == (_ROWS, outputs) and trained.is_floating_point(),
        f"{name} returns {trained.dtype} {list(trained.shape)} for {_ROWS} rows; real numbers [{_ROWS}, {outputs}] "
        "are wanted",
    )
    named = dict(module.named_parameters())
    gradients = torch.autograd.grad(trained.square().sum(), list(named.values()), allow_unused=True)
    idle = [each for each, gradient in zip(named, gradients, strict=True) if gradient is None]
    require(not idle, f"{name}: the parameter {(idle or [''])[0]!r} takes no part in the outputs; leave it out")
    seed_process(0, "network")
    other = network(config, spec, outputs)
    for each, value in named.items():
        same = torch.equal(value, dict(other.named_parameters())[each])
        require(same, f"{name} begins with another {each!r} under the same seed: draw from torch's global generator")
    module.eval()
    expected = _check_rows(name, module, inputs, lambda value: value)
    restored = network(config, spec, outputs)
    restored.load_state_dict(copy.deepcopy(module.state_dict()))
    restored.eval()
    with torch.no_grad():
        found = restored(inputs)
    require(torch.equal(found, expected), f"{name} with its state_dict loaded is another one: register its buffers")


def deployed_rows_do_not_mix(config: RunConfig) -> str | None:
    """Check that the module to deploy gives a row for each input, which no other row changes."""
    with run_role(config) as role:
        algorithm = role.algorithm
        module = algorithm.inference_module()
        if module is None:
            return "it has no module to deploy"
        field = algorithm.inference_input()
        require(field in algorithm.spec, f"inference_input names {field!r}; the spec has {', '.join(algorithm.spec)}")
        algorithm.eval()
        inputs = _inputs(algorithm.spec[field], _ROWS).to(role.device)
        _check_rows(f"the module of {type(algorithm).__name__}", module.eval(), inputs, _first)
    return None


def _first(outputs: Any) -> Tensor:
    """Return the outputs, or the first of several."""
    if isinstance(outputs, dict):
        outputs = next(iter(outputs.values()))
    found: Tensor = outputs[0] if isinstance(outputs, tuple | list) else outputs
    return found


def parameters_take_part(config: RunConfig) -> str | None:
    """Check that every parameter of a phase takes part in its loss."""
    with run_role(config) as role:
        learners = phase_learners(role)
        if not learners:
            return NO_PHASE
        names = {id(parameter): name for name, parameter in role.algorithm.named_parameters()}
        idle = {learner.phase.name: {id(each) for each in learner.phase.parameters} for learner in learners}
        for _ in range(_BATCHES):
            batch = role.source.next()
            for phase in (learner.phase for learner in learners):
                found = torch.autograd.grad(phase.loss(batch).per_example.sum(), phase.parameters, allow_unused=True)
                reached = {id(p) for p, gradient in zip(phase.parameters, found, strict=True) if gradient is not None}
                idle[phase.name] -= reached
            role.learner.update(role.source.next, role.source.feedback)
        for phase_name, left in idle.items():
            name = next((names.get(each, "a parameter") for each in left), "")
            require(
                not left,
                f"phase {phase_name}: {name} takes no part in its loss in {_BATCHES} batches; leave it out of the "
                "phase, or use it",
            )
    return None
