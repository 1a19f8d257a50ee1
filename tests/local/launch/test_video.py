"""An episode as a video: every frame, of the right size, readable by a player."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rayloom
from cases import case
from rayloom.contract import Figure
from rayloom.errors import UserError
from rayloom.launch.showing import frames_picture, sample_picture

ffmpeg = pytest.importorskip("imageio_ffmpeg")


def read(path: Path) -> tuple[dict[str, object], np.ndarray]:
    frames = ffmpeg.read_frames(str(path))
    about = next(frames)
    width, height = about["size"]
    return about, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames])


def test_all_frames_are_there_in_their_order(tmp_path: Path) -> None:
    shades = np.linspace(0, 250, 20).astype(np.uint8)
    frames = [np.full((33, 40, 3), shade, np.uint8) for shade in shades]
    about, found = read(frames_picture(frames, 5, tmp_path / "new" / "shades.mp4"))
    assert found.shape == (20, 34, 40, 3) and about["fps"] == 50
    assert np.abs(found[:, :30].mean((1, 2, 3)) - shades).max() < 8 and found[:, 33].mean() < 60


def test_an_episode_of_an_agent_becomes_a_video(tmp_path: Path) -> None:
    result = rayloom.run(case("ppo", str(tmp_path), stop={"updates": 2}), local=True)
    written = rayloom.sample(result.run_id, output=str(tmp_path), destination=tmp_path / "episode.mp4")
    _, found = read(written.path)
    assert found.shape[1:] == (400, 600, 3) and 5 < len(found) <= 501
    assert np.abs(found[0].astype(int) - found[-1]).max() > 50  # the cart has moved


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    frames = [np.zeros((8, 8, 3), np.uint8)]
    with pytest.raises(UserError, match="cannot be written"):
        frames_picture(frames, 1, tmp_path / "file" / "x.mp4")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"pip install 'rayloom\[video\]'"):
        frames_picture(frames, 1, tmp_path / "x.mp4")


@pytest.mark.parametrize("name", ["x.txt", "x.onnx", "x", ".png", "x.mp4"])
def test_a_kind_of_file_that_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    images = Figure("images", torch.zeros(2, 1, 4, 4))
    with pytest.raises(
        UserError, match=r"^the picture .* (ends in|has no ending).*choose another file, in one of \.png"
    ):
        sample_picture(images, tmp_path / name)
    assert not list(tmp_path.iterdir())
    assert sample_picture(images, tmp_path / "x.PNG").stat().st_size
