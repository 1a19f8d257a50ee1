"""torch's optimisers for one flat parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rayloom.config.schema import OptimizerConfig


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


def make_optimizer(config: OptimizerConfig, parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    """Return torch's optimiser for one flat parameter."""
    _spare_dynamo()
    rate, decay = config.learning_rate, config.weight_decay
    match config.name:
        case "adam":
            return torch.optim.Adam(
                [parameter], lr=rate, betas=config.betas, eps=config.eps, weight_decay=decay, fused=True
            )
        case "adamw":
            return torch.optim.AdamW(
                [parameter], lr=rate, betas=config.betas, eps=config.eps, weight_decay=decay, fused=True
            )
        case "sgd":
            momentum, nesterov = config.momentum, config.nesterov
            return torch.optim.SGD(
                [parameter], lr=rate, momentum=momentum, nesterov=nesterov, weight_decay=decay, fused=True
            )
        case "rmsprop":
            return torch.optim.RMSprop(
                [parameter], lr=rate, alpha=config.alpha, eps=config.eps, momentum=config.momentum, weight_decay=decay
            )
        case "adagrad":
            return torch.optim.Adagrad([parameter], lr=rate, eps=config.eps, weight_decay=decay, fused=True)
        case "adadelta":
            return torch.optim.Adadelta([parameter], lr=rate, rho=config.rho, eps=config.eps, weight_decay=decay)
