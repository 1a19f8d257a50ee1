"""Pictures of what a trained run can do: samples of a generative model, frames of an agent's episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayloom.config.schema import RunConfig
from rayloom.config.sources import DatasetSourceConfig
from rayloom.contract import Algorithm, Figure
from rayloom.errors import UserError
from rayloom.rollouts.acting import ActingAlgorithm
from rayloom.rollouts.making import make_rendered
from rayloom.runs.learner_role import LearnerRole
from rayloom.seeding import derive_seed, torch_generator
from rayloom.tracking.tracker import figure_arrays


def sample_picture(role: LearnerRole, count: int, destination: Path) -> Path:
    """Write `count` samples, or frames of one greedy episode, to an image file (.png, or .gif for episodes)."""
    if isinstance(role.config.source, DatasetSourceConfig):
        with torch.no_grad():
            figure = role.algorithm.sample(count, torch_generator(role.config.seed, "sample"))
    else:
        frames = episode_frames(role.config, role.algorithm)
        if destination.suffix == ".gif":
            return _write_gif(frames, destination)
        chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
        images = torch.from_numpy(np.stack([frames[i] for i in chosen])).permute(0, 3, 1, 2) / 255.0
        figure = Figure("images", images)
    from rayloom.tracking.writer.pictures import draw

    data, reference = figure_arrays("sample", figure)
    try:
        draw(figure.kind, data, reference, destination, labels=figure.labels, columns=figure.columns)
        return destination
    except (OSError, ValueError) as error:
        raise UserError(f"the picture {destination} cannot be written ({error}); choose another file") from None


def episode_frames(config: RunConfig, algorithm: Algorithm) -> list[np.ndarray[Any, Any]]:
    """Return the rendered frames [H, W, 3] of one greedy episode."""
    source: Any = config.source
    try:
        environment, render = make_rendered(source)
    except TypeError as error:
        raise UserError(f"source.env: {source.env} cannot draw itself ({error})") from None
    frames: list[np.ndarray[Any, Any]] = []
    try:
        observation = environment.reset(derive_seed(config.seed, "sample"))
        acting = ActingAlgorithm(algorithm)
        acting.begin(1)
        algorithm.after_publish()
        ended = False
        while not ended and len(frames) < config.evaluate.max_episode_steps:
            frame = render()
            if not isinstance(frame, np.ndarray):
                raise UserError(f"source.env: {source.env} has no pictures (render_mode rgb_array)")
            frames.append(frame)
            with torch.no_grad(), acting.in_evaluation_mode():
                step = environment.step(acting.choose(observation, None)[0])
            observation, ended = step.observation, bool(step.terminated[0] or step.truncated[0])
    finally:
        environment.close()
    return frames


def _write_gif(frames: list[np.ndarray[Any, Any]], destination: Path) -> Path:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(destination, save_all=True, append_images=pictures[1:], duration=20, loop=0)
    return destination
