"""torch's optimisers, as components: functions of (settings, parameters).

The parameters are flat: each holds many of the module's, one behind another. An optimiser of one's own must therefore
treat every element by itself, as all of these do, keep its state as torch's keep theirs (`state_dict`), and read the
rate from `param_groups[...]["lr"]`, where the schedule changes it:

    @dataclass(frozen=True, kw_only=True)
    class NAdamConfig:
        learning_rate: float = 2e-3

    @component("optimizer", NAdamConfig)
    def nadam(config: NAdamConfig, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.NAdam(parameters, lr=config.learning_rate)

in `mine.py` is `optimizer: {import: "mine:nadam", learning_rate: 1.0e-3}` in a config. A subclass of
torch.optim.Optimizer with such a `Config` and `__init__(self, config, parameters)` does as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from rayloom.components import Component, component
from rayloom.config.optimizers import (
    AdadeltaConfig,
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    RMSpropConfig,
    SGDConfig,
)
from rayloom.errors import UserError


def _undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _spare_dynamo() -> None:
    """Keep torch's optimisers from importing torch._dynamo, which takes a second.

    Some of their methods import it when they are first called, to hide from the compiler. Nothing here compiles an
    optimiser, so they may be called as they are.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = _undecorated(getattr(torch.optim.Optimizer, name))
        if not hasattr(method, "__dynamo_disable"):
            method.__dynamo_disable = method  # type: ignore[attr-defined]


def make_optimizer(config: Component, parameters: Sequence[Parameter] | Sequence[dict[str, Any]]) -> Optimizer:
    """Return the optimiser that a config names, for flat parameters or for groups of them, as torch's take them."""
    _spare_dynamo()
    made = config.load()(config.settings, parameters)
    if not isinstance(made, Optimizer):
        raise UserError(
            f"learner.optimizer: {config.name} must return a torch.optim.Optimizer, not {type(made).__name__}"
        )
    return made


@component("optimizer", AdamConfig)
def adam(config: AdamConfig, parameters: Any) -> Optimizer:
    """Return torch's Adam."""
    return torch.optim.Adam(parameters, fused=True, **_adam_settings(config))


@component("optimizer", AdamWConfig)
def adamw(config: AdamWConfig, parameters: Any) -> Optimizer:
    """Return torch's AdamW."""
    return torch.optim.AdamW(parameters, fused=True, **_adam_settings(config))


def _adam_settings(config: AdamConfig | AdamWConfig) -> dict[str, Any]:
    return {"lr": config.learning_rate, "betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}


@component("optimizer", SGDConfig)
def sgd(config: SGDConfig, parameters: Any) -> Optimizer:
    """Return torch's SGD."""
    momentum, nesterov, decay = config.momentum, config.nesterov, config.weight_decay
    return torch.optim.SGD(
        parameters, lr=config.learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=decay, fused=True
    )


@component("optimizer", RMSpropConfig)
def rmsprop(config: RMSpropConfig, parameters: Any) -> Optimizer:
    """Return torch's RMSprop."""
    rate, alpha, momentum = config.learning_rate, config.alpha, config.momentum
    return torch.optim.RMSprop(
        parameters, lr=rate, alpha=alpha, eps=config.eps, momentum=momentum, weight_decay=config.weight_decay
    )


@component("optimizer", AdagradConfig)
def adagrad(config: AdagradConfig, parameters: Any) -> Optimizer:
    """Return torch's Adagrad."""
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.Adagrad(parameters, lr=rate, eps=config.eps, weight_decay=decay, fused=True)


@component("optimizer", AdadeltaConfig)
def adadelta(config: AdadeltaConfig, parameters: Any) -> Optimizer:
    """Return torch's Adadelta."""
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.Adadelta(parameters, lr=rate, rho=config.rho, eps=config.eps, weight_decay=decay)
