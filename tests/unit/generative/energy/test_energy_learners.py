"""Several learners of machines of bits repeat one learner, each with its part of the chains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayloom.config.schema import LearnerConfig
from rayloom.contract import Batch, TensorSpec
from rayloom.learner.learner import Learner
from rayloom.learner.state import cut_buffers
from rayloom.testing.learners import SimulatedGroup, simulate
from rayloom_generative.energy.boltzmann_machine import BoltzmannMachine, BoltzmannMachineConfig
from rayloom_generative.energy.persistent_rbm import PersistentRBM, PersistentRBMConfig

SPEC = {"point": TensorSpec(shape=(6,), dtype=torch.float32)}
ROWS, UPDATES = 12, 4


def _rbm() -> Any:
    return PersistentRBM(PersistentRBMConfig(hidden_units=3, chains=2 * ROWS, gibbs_steps=2), SPEC)


def _machine() -> Any:
    return BoltzmannMachine(BoltzmannMachineConfig(hidden_units=2, chains=2 * ROWS), SPEC)


@pytest.mark.parametrize("make", [_rbm, _machine])
@pytest.mark.parametrize("world_size", [2, 3])
def test_learners_with_a_part_of_the_chains_each_are_one(make: Any, world_size: int) -> None:
    torch.manual_seed(0)
    start = make().state_dict()
    start["chains"] = torch.bernoulli(torch.full_like(start["chains"], 0.5))
    data = torch.rand(UPDATES, ROWS, 6, generator=torch.Generator().manual_seed(1))

    def learn(group: SimulatedGroup | None) -> Any:
        rank, count = (group.rank, group.world_size) if group else (0, 1)
        algorithm = make()
        algorithm.load_state_dict(start)
        cut_buffers(algorithm, rank, count)
        learner = Learner(algorithm, LearnerConfig(), *([group] if group else []))
        for rows in data:
            batch: Batch = algorithm.prepare({"point": rows[rank * ROWS // count : (rank + 1) * ROWS // count]})
            batch["bits"] = (batch["point"] > 0.5).float()
            learner.update(lambda batch=batch: batch, lambda loss: None)
        return algorithm

    alone, together = learn(None), simulate(world_size, learn)
    assert torch.equal(torch.cat([algorithm.chains for algorithm in together]), alone.chains)
    for algorithm in together:
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(dict(algorithm.named_parameters())[name], parameter, rtol=1e-4, atol=1e-6)
    assert not torch.equal(alone.chains, start["chains"])
