"""Figures over the steps of a run: which are drawn, what the frames hold, and that a cut run has the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

import rayloom
from cases import case
from cut_runs import without_its_end
from rayloom.contract import Figure
from rayloom.tracking.animations import ANIMATION, draw_animations
from rayloom.tracking.figure_store import store_figure

DOTS = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _plain_style() -> Iterator[None]:
    """Forget the style that another test's library has set for this process."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def stored(folder: Path, step: int, figure: Figure, name: str = "samples") -> Path:
    """Store a figure as a run does."""
    path = folder / "figures" / name / f"step_{step:09d}.npz"
    store_figure(path, figure)
    return path


def frames(animation: Path) -> list[np.ndarray]:
    """Return the pictures of an animation as bytes [H, W, 3]."""
    with Image.open(animation) as picture:
        found = []
        for index in range(picture.n_frames):
            picture.seek(index)
            found.append(np.asarray(picture.convert("RGB")))
        return found


def test_each_frame_says_its_step_and_steps_are_in_order(tmp_path: Path) -> None:
    for step in (2_000_000_000, 5, 500_000_000):  # by their names the first one would come before the last
        stored(tmp_path, step, Figure("images", DOTS, columns=3, animate=True))
    assert draw_animations(tmp_path) == [tmp_path / "figures" / "samples" / ANIMATION]
    first, second, third = frames(tmp_path / "figures" / "samples" / ANIMATION)
    grid = first.shape[0] - 22
    assert (first[:grid] == second[:grid]).all() and (first[:grid] == third[:grid]).all()
    ink = [(picture[grid:] < 128).sum() for picture in (first, second, third)]
    assert 0 < ink[0] < ink[1] < ink[2], "step 5, step 500,000,000, step 2,000,000,000"
    with Image.open(tmp_path / "figures" / "samples" / ANIMATION) as picture:
        assert picture.info["duration"] == 600 and picture.info["loop"] == 0
    stored(tmp_path, 3_000_000_000, Figure("images", DOTS, columns=3, animate=True))
    assert len(frames(*draw_animations(tmp_path))) == 4, "a run that went on has the new steps too"


def test_only_figures_that_ask_for_it_and_have_two_steps_are_animated(tmp_path: Path) -> None:
    for step in (1, 2):
        stored(tmp_path, step, Figure("images", DOTS), "filters")
        stored(tmp_path, step, Figure("text", text="x"), "alarms")
        stored(tmp_path, step, Figure("images", DOTS, animate=True), "deep/samples")
    stored(tmp_path, 1, Figure("images", DOTS, animate=True), "once")
    assert [path.parent.name for path in draw_animations(tmp_path)] == ["samples"]


def test_what_is_damaged_or_has_another_shape_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(1, 5):
        stored(tmp_path, step, Figure("images", DOTS[: 2 if step == 1 else 6], animate=True))
    stored(tmp_path, 5, Figure("images", torch.rand(6, 1, 9, 9), animate=True)).write_bytes(b"PK no archive")
    stored(tmp_path, 3, Figure("images", torch.rand(6, 1, 9, 9), animate=True))
    assert draw_animations(tmp_path) == [], "the newest is damaged: nobody knows what it asks for"
    assert "step_000000005.npz cannot be drawn" in capsys.readouterr().err
    stored(tmp_path, 5, Figure("images", DOTS, animate=True))
    (animation,) = draw_animations(tmp_path)
    assert [picture.shape for picture in frames(animation)] == [(102, 440, 3)] * 3


def test_many_steps_are_thinned_out_and_the_first_and_last_stay(tmp_path: Path) -> None:
    for step in range(1, 101):
        shade = torch.full((1, 1, 8, 8), step / 100)
        stored(tmp_path, step, Figure("images", shade, animate=True))
    (animation,) = draw_animations(tmp_path)
    shown = frames(animation)
    assert len(shown) == 40
    assert [int(picture[30, 30, 0]) for picture in (shown[0], shown[-1])] == pytest.approx([3, 255], abs=3)


def test_points_keep_their_axes(tmp_path: Path) -> None:
    still = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    for step, place in ((1, 50.0), (2, 0.2), (3, 0.8)):
        moving = torch.full((1, 2), place)
        stored(tmp_path, step, Figure("points", moving, reference=still, animate=True))
    (animation,) = draw_animations(tmp_path)
    first, second, third = (picture[60:].astype(int) for picture in frames(animation))  # below title and legend
    assert first[:, :40].min() < 100, "numbers beside the axis"
    for other in (second, third):
        assert abs(first[:, :40] - other[:, :40]).max() < 40, "each frame has colours of its own"
    blue = [np.argwhere(picture[:, :, 2] - picture[:, :, 0] > 80) for picture in (first, second, third)]
    assert len(blue[0]) == 0, "far away at the start"
    assert blue[2].mean(0)[1] > blue[1].mean(0)[1] + 100, "from left to right"


def test_a_run_that_was_cut_has_the_animation_of_one_that_was_not(tmp_path: Path) -> None:
    every = {"every": "5 updates"}
    config = case("gan_averaged", str(tmp_path / "whole"), checkpoint=every, evaluate=every, stop={"updates": 15})
    whole = rayloom.run(config, local=True)
    name = without_its_end(whole, tmp_path / "cut")
    cut = rayloom.resume(name, output=str(tmp_path / "cut")).run_dir
    (theirs,), (own,) = draw_animations(whole.run_dir), draw_animations(cut)
    assert own.read_bytes() == theirs.read_bytes() and len(frames(own)) == 3
