"""What a run has learnt, for a notebook or a script: its algorithm, ready to act, predict and sample. One process, no
Ray."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rayloom.config.import_path import suggest
from rayloom.config.load import apply_overrides, from_tree
from rayloom.config.names import output_folder
from rayloom.config.schema import RunConfig
from rayloom.config.validation import merge
from rayloom.contract import Algorithm, Figure, Findings, Spec
from rayloom.devices import device_of
from rayloom.errors import UserError
from rayloom.launch.export import save_exported
from rayloom.launch.predictions import predict_files, write_table
from rayloom.launch.showing import EPISODES, check_suffix, frames_picture, sample_picture
from rayloom.runs.evaluator import Evaluator
from rayloom.runs.folders import find_run_folder, load_run_config
from rayloom.runs.passwords import given_passwords
from rayloom.runs.weights import TrainedAlgorithm, Weights, Which, build_trained
from rayloom.seeding import derive_seed, torch_generator
from rayloom.tracking.journal import read_metrics

if TYPE_CHECKING:
    import pandas

Array = np.ndarray[Any, Any]
_FRAMES = 100_000  # of an episode, at most


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
        _check_options(self.algorithm, options)
        with torch.no_grad():
            return self.algorithm.sample(count, torch_generator(self.config.seed, "sample", seed), **options)

    def evaluate(self, *overrides: str) -> Findings:
        """Evaluate as the run did at this update, but for the overrides.

        They are settings of its evaluation ("evaluate.split=test"), another one ("evaluate.import=my_games:Matches"),
        or options of the environments ("source.env_options.KEY=VALUE").
        """
        evaluator = Evaluator(_judged_with(self.config, overrides), self.algorithm, self._built.dataset)
        try:
            return evaluator.evaluate(self.weights.step)
        finally:
            evaluator.close()

    def history(self) -> pandas.DataFrame:
        """Return the run's metrics as a table: one row for each step, one column for each metric."""
        import pandas

        points = pandas.DataFrame(read_metrics(self.run_dir), columns=["step", "metric", "value"])
        return points.drop_duplicates(["step", "metric"], keep="last").pivot(
            index="step", columns="metric", values="value"
        )

    def picture(self, count: int, destination: Path, **options: Any) -> Path:
        """Write `count` samples, or frames of a greedy episode, to an image file (a .gif shows all frames).

        `options` are those of `sample`; frames have none.
        """
        config = self.config
        if config.workers() is not None:
            check_suffix(destination, EPISODES)
        seed, most = derive_seed(config.seed, "sample"), getattr(config.evaluate.settings, "max_episode_steps", _FRAMES)
        frames = config.source_class().frames(config.source, self.algorithm, seed, most)
        if frames is None:
            return sample_picture(self.sample(count, **options), destination)
        for name in options:
            raise UserError(f"sample: frames of an episode have no option {name!r}; leave it out")
        return frames_picture(frames, count, destination)

    def _device(self) -> torch.device:
        return device_of(self.algorithm)


def _check_options(algorithm: Algorithm, options: Mapping[str, Any]) -> None:
    """Refuse options that an algorithm's `sample` does not take, and the lack of one that it needs."""
    parameters = dict(list(inspect.signature(algorithm.sample).parameters.items())[2:])
    name = type(algorithm).__name__
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                raise UserError(f"sample: {name} has no option {option!r}{suggest(option, parameters)}")
    for option, parameter in parameters.items():
        optional = parameter.default is not parameter.empty or parameter.kind is parameter.VAR_KEYWORD
        if option not in options and not optional:
            raise UserError(f"sample: {name} needs the option {option!r}; give it as {option}=VALUE")


def _judged_with(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Return the config with another evaluation, or other settings of it; UserError for what is none of those."""
    if not overrides:
        return config
    changes = apply_overrides({}, overrides)
    for key in (override.partition("=")[0] for override in overrides):
        if key in ("evaluate.every", "evaluate.wait"):
            raise UserError(f"{key}: says when a run is judged, and this is now; leave it out")
        if key != "evaluate" and not key.startswith(("evaluate.", "source.env_options.")):
            raise UserError(f"{key}: does not change how a run is judged; set evaluate.KEY or source.env_options.KEY")
    return from_tree(merge(config.to_tree(), changes))


def _tensors(observation: Any, device: torch.device) -> Any:
    if isinstance(observation, Mapping):
        return {name: _tensors(value, device) for name, value in observation.items()}
    return torch.as_tensor(observation if isinstance(observation, Tensor) else np.asarray(observation)).to(device)


def load(run_id: str, *, weights: Which | None = None, output: str = "rayloom-runs") -> Trained:
    """Return what a run has learnt: its best weights where it kept some, else its last, or those that are asked for.

    UserError when there is no such run or no such checkpoint.
    """
    folder = find_run_folder(output_folder(output), run_id)
    return Trained(folder, build_trained(load_run_config(folder), folder, weights))


def evaluate(run_id: str, *overrides: str, weights: Which | None = None, output: str = "rayloom-runs") -> Evaluated:
    """Evaluate a run's weights anew, those of `load`; overrides as for `Trained.evaluate`.

    Besides, they give URLs of the source or algorithm again that were recorded without their passwords.
    """
    folder = find_run_folder(output_folder(output), run_id)
    config, overrides = given_passwords(load_run_config(folder), overrides)
    trained = Trained(folder, build_trained(config, folder, weights))
    torch.set_num_threads(trained.config.learner.threads)  # as in the run, whose numbers these must equal
    return Evaluated(trained.evaluate(*overrides).metrics, trained.weights)


def sample(
    run_id: str,
    *,
    weights: Which | None = None,
    output: str = "rayloom-runs",
    count: int = 64,
    destination: str | Path,
    options: Mapping[str, Any] | None = None,
) -> Written:
    """Write samples of a generative model, or frames of an agent's episode (a .gif shows all).

    `options` are those of `Trained.sample`.
    """
    options = options or {}
    if "count" in options:
        raise UserError("sample: count is no option of the model; say how many with --count")
    trained = load(run_id, weights=weights, output=output)
    return Written(trained.picture(count, Path(destination), **options), trained.weights)


def export(
    run_id: str, *, weights: Which | None = None, output: str = "rayloom-runs", destination: str | Path
) -> Written:
    """Write the module to deploy as a program of torch.export (.pt2) or as .onnx, with an open batch dimension."""
    folder = find_run_folder(output_folder(output), run_id)
    built = build_trained(load_run_config(folder), folder, weights, device="cpu")
    return Written(save_exported(built, Path(destination)), built.weights)


def predict(
    run_id: str,
    files: Sequence[str | Path],
    *,
    weights: Which | None = None,
    output: str = "rayloom-runs",
    destination: str | Path,
) -> Written:
    """Write what the run predicts of files without labels as a table (.csv or .parquet).

    Files are of the kind that it learnt from: images (or folders of them), CSV or Parquet tables with the same columns,
    texts. The table has a row for each image, row or text.
    """
    folder = find_run_folder(output_folder(output), run_id)
    built = build_trained(load_run_config(folder), folder, weights)
    built.algorithm.after_publish()
    return Written(write_table(predict_files(built, [Path(file) for file in files]), Path(destination)), built.weights)
