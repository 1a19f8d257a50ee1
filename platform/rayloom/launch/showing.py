"""Pictures of what a trained run can do: samples of a generative model, frames of an agent's episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Figure
from rayloom.errors import UserError
from rayloom.rollouts.acting import ActingAlgorithm
from rayloom.rollouts.making import make_rendered
from rayloom.seeding import derive_seed
from rayloom.tracking.figure_store import figure_parts


def sample_picture(figure: Figure, destination: Path) -> Path:
    """Draw samples into an image file."""
    from rayloom.tracking.pictures import draw

    try:
        draw(*figure_parts(figure), destination)
        return destination
    except (OSError, ValueError) as error:
        raise UserError(f"the picture {destination} cannot be written ({error}); choose another file") from None


def episode_picture(config: RunConfig, algorithm: Algorithm, count: int, destination: Path) -> Path:
    """Draw `count` frames of one greedy episode, or all of them into a .gif."""
    frames = episode_frames(config, algorithm)
    whole = destination.suffix == ".gif"
    chosen = (
        range(len(frames)) if whole else np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    )
    images = torch.from_numpy(np.stack([frames[i] for i in chosen])).permute(0, 3, 1, 2) / 255.0
    figure = Figure("animation", images, frames_per_second=50.0) if whole else Figure("images", images)
    return sample_picture(figure, destination)


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
