"""How the engine asks an algorithm for actions: on its device, in evaluation mode, with the memory of each episode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.contract import Algorithm
from rayloom.devices import device_of
from rayloom.rollouts.spaces import Array, Values


class ActingAlgorithm:
    """An algorithm that acts in N environments, and its recurrent state. It may be the learner's own object."""

    def __init__(self, algorithm: Algorithm) -> None:
        """The algorithm must lie on its device and have all its modules."""
        self._algorithm = algorithm
        self._modules = [vars(module) for module in algorithm.modules()]
        self._device = device_of(algorithm)
        self._away = self._device.type != "cpu"
        self.state: Any = None

    def begin(self, num_envs: int) -> None:
        """Forget everything: every environment begins an episode."""
        with torch.no_grad():
            self.state = self._algorithm.initial_state(num_envs)

    def choose(self, observation: Values, explore: torch.Generator | None) -> tuple[Values, Mapping[str, Tensor]]:
        """Return actions for observations [N, ...] and the extras of `act`, on the CPU."""
        given: Any
        if isinstance(observation, np.ndarray):
            given = torch.from_numpy(observation)
            if self._away:
                given = given.to(self._device)
        else:
            given = {name: torch.from_numpy(value).to(self._device) for name, value in observation.items()}
        action, self.state, extras = self._algorithm.act(given, self.state, explore)
        if self._away:
            extras = {name: value.cpu() for name, value in extras.items()}
        if isinstance(action, Mapping):
            return {name: value.cpu().numpy() for name, value in action.items()}, extras
        return (action.cpu() if self._away else action).numpy(), extras

    def observe_ends(self, begins: Array) -> None:
        """Reset the recurrent state of the environments that begin an episode, `begins` [N]."""
        if self.state is not None and begins.any():
            self.state = self._algorithm.reset_state(self.state, torch.from_numpy(begins).to(self._device))

    @contextlib.contextmanager
    def in_evaluation_mode(self) -> Iterator[None]:
        """Put every module into evaluation mode meanwhile, each back into its own afterwards.

        A learner collects between two updates: `Module.eval` would cost it as much as a small network's forward pass.
        """
        modules = [module for module in self._modules if module["training"]]
        for module in modules:
            module["training"] = False
        try:
            yield
        finally:
            for module in modules:
                module["training"] = True
