"""How evaluations of machines of bits find log Z."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import AlgorithmConfig, UserError
from rayloom_generative.equations.boltzmann import ENUMERABLE, restricted_log_partition
from rayloom_generative.evaluation.annealed_importance_sampling import log_partition, temperatures
from rayloom_generative.networks.restricted_boltzmann import RestrictedBoltzmannMachine


@dataclass(frozen=True, kw_only=True)
class PartitionConfig(AlgorithmConfig):
    """Settings of the search for log Z."""

    partition: Literal["none", "ais", "exact"] = "none"
    """How evaluations find log Z: not at all, by annealed importance sampling, or by enumeration of the smaller side
    (at most 20 units)."""
    ais_chains: Annotated[int, Ge(2)] = 100
    """Chains of annealed importance sampling."""
    ais_temperatures: Annotated[int, Ge(2)] = 1000
    """Its inverse temperatures from 0 to 1."""


def check_partition(config: PartitionConfig, visible: int, hidden: int) -> None:
    """Raise UserError where there are too many states to enumerate."""
    if config.partition == "exact" and min(visible, hidden) > ENUMERABLE:
        raise UserError(
            f"algorithm.partition: exact enumerates at most {ENUMERABLE} units, and the smaller side has "
            f"{min(visible, hidden)}; use ais"
        )


def find_log_partition(
    config: PartitionConfig, machine: RestrictedBoltzmannMachine, base: Tensor
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Return log Z (None where it is not asked for) and its metrics; `base` [V] are biases of the data's base rates."""
    if config.partition == "none":
        return None, {}
    if config.partition == "exact":
        exact = restricted_log_partition(machine.weight, machine.visible_bias, machine.hidden_bias)
        return exact, {"log_partition_exact": exact}
    found = log_partition(machine, base, config.ais_chains, temperatures(config.ais_temperatures), None)
    metrics = {"log_partition_ais": found.log_partition, "log_partition_ais_error": found.error}
    return found.log_partition, {**metrics, "ais_effective_chains": found.effective_chains}


def random_bits(probability: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return a bit for each probability, drawn on the generator's device; None: torch's global one."""
    device = generator.device if generator else probability.device
    uniform = torch.rand(probability.shape, generator=generator, device=device)
    return (uniform.to(probability.device) < probability).to(probability.dtype)
