"""What a run has learnt, for a notebook or a script: its algorithm, ready to act, predict and sample. One process, no
Ray."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Figure, Findings, Spec
from rayloom.devices import device_of
from rayloom.errors import UserError
from rayloom.launch.export import save_exported
from rayloom.launch.showing import frames_picture, sample_picture
from rayloom.runs.evaluator import Evaluator
from rayloom.runs.folders import find_run_folder, load_run_config
from rayloom.runs.weights import TrainedAlgorithm, Weights, Which, build_trained
from rayloom.seeding import derive_seed, torch_generator
from rayloom.tracking.journal import read_metrics

if TYPE_CHECKING:
    import pandas

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation of a run found."""

    metrics: dict[str, float]
    """By full name, evaluate/..."""
    weights: Weights
    """Which of the run's weights were evaluated."""


@dataclass(frozen=True)
class Written:
    """A file that was made of a run."""

    path: Path
    weights: Weights
    """Which of the run's weights it shows."""


class Trained:
    """A run's algorithm with the weights that it has learnt."""

    def __init__(self, folder: Path, built: TrainedAlgorithm) -> None:
        """Use `rayloom.load`."""
        self.run_dir = folder
        """Folder of the run."""
        self._built = built
        self._state: Any = None
        self._rows: int | None = None
        built.algorithm.after_publish()

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm in evaluation mode."""
        return self._built.algorithm

    @property
    def config(self) -> RunConfig:
        """The resolved config of the run."""
        return self._built.config

    @property
    def spec(self) -> Spec:
        """What the algorithm sees."""
        return self._built.spec

    @property
    def weights(self) -> Weights:
        """Which of the run's weights these are."""
        return self._built.weights

    def reset(self) -> None:
        """Begin new episodes: an algorithm with a memory forgets what `act` saw."""
        self._state, self._rows = None, None

    def act(self, observation: Any) -> Array | dict[str, Array]:
        """Return the greedy actions [N, ...] for observations [N, ...], each an array or a dict of arrays by part.

        An algorithm with a memory keeps it from one call to the next, until `reset`.
        """
        tensors = _tensors(observation, self._device())
        rows = len(next(iter(tensors.values())) if isinstance(tensors, dict) else tensors)
        if rows != self._rows:
            self._state, self._rows = self.algorithm.initial_state(rows), rows
        with torch.no_grad():
            action = self.algorithm.act(tensors, self._state, None)
        self._state = action.state
        if isinstance(action.action, Mapping):
            return {name: part.cpu().numpy() for name, part in action.action.items()}
        found: Array = action.action.cpu().numpy()
        return found

    def predict(self, batch: Any) -> Tensor:
        """Return what the deployed module gives for inputs [B, ...] in the data's own range, on the CPU.

        `batch` is an array, a tensor, or a batch that holds the field of `Algorithm.inference_input`.
        """
        module = self.algorithm.inference_module()
        if module is None:
            raise UserError(f"{type(self.algorithm).__name__} has no module that predicts; use act or sample")
        field = self.algorithm.inference_input()
        value = batch[field] if isinstance(batch, Mapping) else batch
        inputs = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
        with torch.no_grad():
            found: Tensor = module.eval()(inputs.to(self._device(), self.spec[field].dtype))
        return found.cpu()

    def sample(self, count: int, *, seed: int = 0, **options: Any) -> Figure:
        """Draw samples from a generative model; `options` are those of the algorithm's own `sample`."""
        known = list(inspect.signature(self.algorithm.sample).parameters)[2:]
        for name in options:
            if name not in known:
                choices = f"; it has {', '.join(known)}" if known else ""
                raise UserError(f"sample: {type(self.algorithm).__name__} has no option {name!r}{choices}")
        with torch.no_grad():
            return self.algorithm.sample(count, torch_generator(self.config.seed, "sample", seed), **options)

    def evaluate(self, split: str | None = None, episodes: int | None = None) -> Findings:
        """Evaluate as the run did at this update, on another split or over more episodes where they are given."""
        evaluator = Evaluator(self.config, self.algorithm, self._built.dataset)
        try:
            return evaluator.evaluate(self.weights.step, split, episodes)
        finally:
            evaluator.close()

    def history(self) -> pandas.DataFrame:
        """Return the run's metrics as a table: one row for each step, one column for each metric."""
        import pandas

        points = pandas.DataFrame(read_metrics(self.run_dir), columns=["step", "metric", "value"])
        return points.drop_duplicates(["step", "metric"], keep="last").pivot(
            index="step", columns="metric", values="value"
        )

    def picture(self, count: int, destination: Path) -> Path:
        """Write `count` samples, or frames of a greedy episode, to an image file (a .gif shows all frames)."""
        config = self.config
        seed, most = derive_seed(config.seed, "sample"), config.evaluate.max_episode_steps
        frames = config.source_class().frames(config.source, self.algorithm, seed, most)
        if frames is None:
            return sample_picture(self.sample(count), destination)
        return frames_picture(frames, count, destination)

    def _device(self) -> torch.device:
        return device_of(self.algorithm)


def _tensors(observation: Any, device: torch.device) -> Any:
    if isinstance(observation, Mapping):
        return {name: _tensors(value, device) for name, value in observation.items()}
    return torch.as_tensor(observation if isinstance(observation, Tensor) else np.asarray(observation)).to(device)


def load(run_id: str, *, weights: Which | None = None, output: str = "rayloom-runs") -> Trained:
    """Return what a run has learnt: its best weights where it kept some, else its last, or those that are asked for.

    UserError when there is no such run or no such checkpoint.
    """
    folder = find_run_folder(Path(output).absolute(), run_id)
    return Trained(folder, build_trained(load_run_config(folder), folder, weights))


def evaluate(
    run_id: str,
    *,
    weights: Which | None = None,
    output: str = "rayloom-runs",
    split: str | None = None,
    episodes: int | None = None,
) -> Evaluated:
    """Evaluate a run's weights anew; those of `load`."""
    trained = load(run_id, weights=weights, output=output)
    torch.set_num_threads(trained.config.learner.threads)  # as in the run, whose numbers these must equal
    return Evaluated(trained.evaluate(split, episodes).metrics, trained.weights)


def sample(
    run_id: str,
    *,
    weights: Which | None = None,
    output: str = "rayloom-runs",
    count: int = 64,
    destination: str | Path,
) -> Written:
    """Write samples of a generative model, or frames of an agent's episode (a .gif shows all)."""
    trained = load(run_id, weights=weights, output=output)
    return Written(trained.picture(count, Path(destination)), trained.weights)


def export(
    run_id: str, *, weights: Which | None = None, output: str = "rayloom-runs", destination: str | Path
) -> Written:
    """Write the module to deploy as a program of torch.export (.pt2), with an open batch dimension."""
    folder = find_run_folder(Path(output).absolute(), run_id)
    built = build_trained(load_run_config(folder), folder, weights, device="cpu")
    return Written(save_exported(built, Path(destination)), built.weights)
