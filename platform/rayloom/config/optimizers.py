"""Settings of the optimisers, each with those that it has and no others; `rayloom.learner.optimizers` makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from rayloom.components import Kinds, Shipped

_Rate = Annotated[float, Gt(0)]
_Decay = Annotated[float, Ge(0)]
_Share = Annotated[float, Ge(0), Lt(1)]
_Epsilon = Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam (Kingma and Ba 2015): steps scaled by running moments of the gradient."""

    learning_rate: _Rate = 1e-3
    """Step size at the start of the schedule."""
    betas: tuple[_Share, _Share] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: _Epsilon = 1e-8
    """Added to the denominator."""
    weight_decay: _Decay = 0.0
    """L2 penalty, added to the gradient."""


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    learning_rate: _Rate = 1e-3
    """Step size at the start of the schedule."""
    betas: tuple[_Share, _Share] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: _Epsilon = 1e-8
    """Added to the denominator."""
    weight_decay: _Decay = 0.0
    """Share of each weight that a step takes away, times the learning rate."""


@dataclass(frozen=True, kw_only=True)
class SGDConfig:
    """Stochastic gradient descent, with momentum if asked for."""

    learning_rate: _Rate = 1e-3
    """Step size at the start of the schedule."""
    momentum: _Decay = 0.0
    """Share of the last step that the next one keeps."""
    nesterov: bool = False
    """Look ahead along the momentum (Nesterov 1983); needs momentum above 0."""
    weight_decay: _Decay = 0.0
    """L2 penalty, added to the gradient."""

    def __post_init__(self) -> None:
        """Refuse what torch refuses, in our words."""
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0; set momentum, or leave nesterov out")


@dataclass(frozen=True, kw_only=True)
class RMSpropConfig:
    """RMSprop (Tieleman and Hinton 2012): steps scaled by a running mean of squared gradients."""

    learning_rate: _Rate = 1e-3
    """Step size at the start of the schedule."""
    alpha: Annotated[float, Gt(0), Le(1)] = 0.99
    """Decay of the running mean."""
    eps: _Epsilon = 1e-8
    """Added to the denominator."""
    momentum: _Decay = 0.0
    """Share of the last step that the next one keeps."""
    weight_decay: _Decay = 0.0
    """L2 penalty, added to the gradient."""


@dataclass(frozen=True, kw_only=True)
class AdagradConfig:
    """Adagrad (Duchi et al. 2011): steps scaled by the sum of all squared gradients."""

    learning_rate: _Rate = 1e-3
    """Step size at the start of the schedule."""
    eps: _Epsilon = 1e-8
    """Added to the denominator."""
    weight_decay: _Decay = 0.0
    """L2 penalty, added to the gradient."""


@dataclass(frozen=True, kw_only=True)
class AdadeltaConfig:
    """Adadelta (Zeiler 2012): steps in the units of the weights, from running means of both squares."""

    learning_rate: _Rate = 1e-3
    """Factor of each step, 1 in the paper."""
    rho: Annotated[float, Gt(0), Le(1)] = 0.9
    """Decay of the running means."""
    eps: _Epsilon = 1e-8
    """Added inside both roots."""
    weight_decay: _Decay = 0.0
    """L2 penalty, added to the gradient."""


_MODULE = "rayloom.learner.optimizers"
OPTIMIZERS = Kinds(
    "optimizer",
    {
        "adam": Shipped(f"{_MODULE}:adam", AdamConfig),
        "adamw": Shipped(f"{_MODULE}:adamw", AdamWConfig),
        "sgd": Shipped(f"{_MODULE}:sgd", SGDConfig),
        "rmsprop": Shipped(f"{_MODULE}:rmsprop", RMSpropConfig),
        "adagrad": Shipped(f"{_MODULE}:adagrad", AdagradConfig),
        "adadelta": Shipped(f"{_MODULE}:adadelta", AdadeltaConfig),
    },
    own="a torch.optim.Optimizer built from (config, parameters), or a function marked @component('optimizer', Config) "
    "that returns one",
    base="torch.optim:Optimizer",
    default="adam",
)
"""How a gradient becomes a step. Phases keep their parameters in flat tensors, so the rule must be elementwise."""
