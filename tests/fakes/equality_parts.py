"""Processes that train learners over gloo on examples that do not depend on how many of them there are.

One learner and K learners can only be compared where both see the same examples with the same noise. The noise is the
engine's and the same by itself; here replay draws by what the transitions hold, and environments are those of the same
rollout workers. Everything else is the engine's and the algorithms' own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from cases import case
from rayloom.cluster.process_group import ProcessGroup
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Batch, Loss, Rollout
from rayloom.rollouts.pool import LocalPool
from rayloom.rollouts.worker import RolloutWorker
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.schedule import Schedule

DEADLINE_S = 60.0


class WorkersHere(LocalPool):
    """The rollout workers of one learner, all in its process: two of one learner are the two of two learners."""

    def __init__(self, config: RunConfig, algorithm: Algorithm, rank: int = 0) -> None:
        source: Any = config.source
        share = source.rollout_workers // config.learner.count
        self._algorithm, self._version = algorithm, -1
        self._workers = [RolloutWorker(config, rank * share + index, algorithm) for index in range(share)]

    def collect(self, num_steps: int) -> list[Rollout]:
        return [worker.collect(num_steps) for worker in self._workers]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


def same_step_cartpole(num_envs: int) -> SyncVectorEnv:
    """Return CartPole without dead steps: a rollout has as many rows as steps, and a batch can be all of them."""
    makers = [lambda: gym.make("CartPole-v1")] * num_envs
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


if "SameStepCartPole-v0" not in gym.registry:
    gym.register(id="SameStepCartPole-v0", entry_point=None, vector_entry_point=same_step_cartpole)


def choose_by_content(role: LearnerRole) -> None:
    """Let the learner's replay draw about two thirds of all valid transitions, by the cart's place, instead of any.

    What the shards draw together is what the whole buffer draws, in other numbers on every learner.
    """
    buffer: Any = role.source._buffer  # type: ignore[attr-defined]

    def draw(batch_size: int) -> np.ndarray:
        chosen = np.floor(np.abs(buffer._flat["observation"][:, 0]) * 1e4) % 3 > 0
        return np.flatnonzero(buffer._flat["valid"] & chosen)

    buffer._draw_uniformly = draw


def config_of(name: str, count: int) -> RunConfig:
    """Return the run that K = `count` learners share: batches and environments are the same in all."""
    sgd = {"kind": "sgd", "momentum": 0.9}
    learner: dict[str, Any] = {"count": count}
    # A rectifier at its kink turns a difference in the last bit into a jump of the gradient.
    smooth = {"activation": "tanh"}
    match name:
        case "vae":
            # 1197 examples: the last batch of an epoch is smaller and cannot be shared evenly.
            learner |= {"batch_size": 128, "optimizer": {**sgd, "learning_rate": 2e-3}, "max_grad_norm": 4.7}
            return case("vae", learner=learner, source={"drop_last": False})
        case "vae_adam":
            algorithm = {"beta": 2.0, "kl_warmup_updates": 20}
            learner |= {"schedule": {"kind": "cosine", "warmup": 5}}
            return case("vae", algorithm=algorithm, learner=learner)
        case "wgan_gp":
            algorithm = {"betas": None, "generator": smooth, "critic": smooth}
            learner |= {"batch_size": 65, "optimizer": {**sgd, "learning_rate": 5e-3}, "max_grad_norm": 2.8}
            return case("wgan_gp", algorithm=algorithm, learner=learner)
        case "wgan_gp_adam":
            # Some biases of a critic have the gradient 0, real examples against fakes. Adam divides by its size: with a
            # small eps the rounding would decide where they go.
            learner |= {"optimizer": {"learning_rate": 1e-3, "eps": 1e-4}}
            return case("wgan_gp", algorithm={"generator": smooth, "critic": smooth}, learner=learner)
        case "ppo":
            # One batch is a whole rollout, so that the order of its rows, which is each learner's own, does not matter.
            source = {"env": "equality_parts:SameStepCartPole-v0", "rollout_steps": 64, "epochs": 4}
            source |= {"rollout_workers": 4}
            learner |= {"batch_size": 256, "optimizer": {**sgd, "learning_rate": 3e-2}, "max_grad_norm": 10.2}
            return case("ppo", source=source, learner=learner)
        case "dqn":
            source = {"n_step": 3, "rollout_workers": 4, "env": "equality_parts:SameStepCartPole-v0"}
            algorithm = {"exploration_steps": 200, **smooth}
            learner |= {"optimizer": {**sgd, "learning_rate": 2e-2}, "max_grad_norm": 1.25}
            return case("dqn", source=source, algorithm=algorithm, learner=learner)
    raise AssertionError(name)


NAMES = ("vae", "vae_adam", "wgan_gp", "wgan_gp_adam", "ppo", "dqn")
UPDATES = {"vae": 25, "vae_adam": 25, "wgan_gp": 20, "wgan_gp_adam": 20, "ppo": 24, "dqn": 60}


def train(name: str, config: RunConfig, group: ProcessGroup | None = None) -> dict[str, Any]:
    """Train one learner, of several if there is a group, and return what it has come to."""
    environments = config.source.kind != "dataset"
    role = LearnerRole(config, WorkersHere if environments else LocalPool, group)
    if name == "dqn":
        choose_by_content(role)
    examples: list[int] = []
    norms: list[tuple[int, float]] = []
    record = role.learner._record

    def keep(index: int, loss: Loss, norm: torch.Tensor | None, batch: Batch) -> None:
        examples.append(len(loss.per_example))
        if norm is not None:
            norms.append((index, float(norm)))
        record(index, loss, norm, batch)

    role.learner._record = keep  # type: ignore[method-assign]
    start = {key: value.clone() for key, value in role.algorithm.state_dict().items()}
    schedule = Schedule({}, {"updates": UPDATES[name]})
    while not role.advance(schedule).exhausted:
        pass
    end = {key: value.clone() for key, value in role.algorithm.state_dict().items()}
    counters = role.counters()
    role.close()
    return {"start": start, "end": end, "counters": counters, "examples": examples, "norms": norms}


def learn_together(rank: int, count: int, folder: str) -> None:
    """Be one of `count` learners, each in a process of its own, and save what came of every case."""
    torch.set_num_threads(1)
    group = ProcessGroup(rank, count, torch.device("cpu"), DEADLINE_S)
    meeting = Path(folder) / "port"
    if rank == 0:
        port = group.open_rendezvous("127.0.0.1")
        meeting.with_suffix(".tmp").write_text(str(port))
        meeting.with_suffix(".tmp").rename(meeting)
    group.connect("127.0.0.1", _await_port(meeting), DEADLINE_S)
    found = {name: train(name, config_of(name, count), group) for name in NAMES}
    torch.save(found, Path(folder) / f"learner_{rank}.pt")
    group.close()


def _await_port(meeting: Path) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while not meeting.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"learner 0 has not opened a rendezvous within {DEADLINE_S:g} s")
        time.sleep(0.01)
    return int(meeting.read_text())
