"""A rollout worker with a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil

from rayloom.cluster.nodes.connection import extend_search_path
from rayloom.cluster.nodes.gpu_assignment import confirm_assignment
from rayloom.cluster.nodes.processes import own_process
from rayloom.config.load import from_tree
from rayloom.contract import Progress, Rollout, Spec
from rayloom.devices import choose_device, gpus_of
from rayloom.errors import Process, UserError
from rayloom.rollouts.worker import RolloutWorker


class RolloutActor:
    """A rollout worker with a process of its own."""

    def __init__(
        self, tree: dict[str, Any], index: int, paths: list[str], barriers: int, restarts: int, spec: Spec
    ) -> None:
        extend_search_path(paths)
        config = from_tree(tree)
        device = choose_device(config, "rollout")
        confirm_assignment(f"rollout worker {index}", gpus_of(config, "rollout"), device)
        self._mistake: UserError | None = None
        try:
            self._worker = RolloutWorker(config, index, barriers=barriers, restarts=restarts, spec=spec)
        except UserError as error:  # of what a constructor raises Ray passes on no more than the text
            self._mistake = error
        self._index = index
        self._process = psutil.Process()

    def ready(self) -> Process:
        """Return this process once the environments stand."""
        if self._mistake is not None:
            raise self._mistake
        return own_process("rollout", self._index)

    def collect(self, num_steps: int, version: int, weights: Mapping[str, Any], progress: Progress) -> Rollout:
        """Take the weights if they are new, and step."""
        self._worker.load_weights(version, weights, progress)
        rollout = self._worker.collect(num_steps, version)
        return replace(rollout, memory_mib=self._process.memory_info().rss / 2**20)

    def restart(self, barriers: int) -> None:
        """Restart the environments by the seeds of this barrier."""
        self._worker.restart(barriers)

    def state_dict(self) -> dict[str, Any]:
        """Return the worker's state."""
        return self._worker.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the worker."""
        self._worker.load_state_dict(state)
