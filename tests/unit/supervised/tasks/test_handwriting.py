"""Strokes from SVG paths, the regression to compare with, pictures of strokes, and the handwriter."""

from __future__ import annotations

import importlib.metadata
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from rayloom import datasets
from rayloom.contract import Batch, TensorSpec, UserError
from rayloom_supervised.analysis.next_point import fit_next_point
from rayloom_supervised.data import stroke_paths
from rayloom_supervised.data.handwriting import deformed, offsets
from rayloom_supervised.data.stroke_paths import curve, even, strokes_of
from rayloom_supervised.layers.recurrent import CellName
from rayloom_supervised.layers.strokes import draw_strokes
from rayloom_supervised.tasks.handwriting import Handwriter

MODULE = "rayloom_supervised.data.handwriting"
FEW = {"train_size": 40, "validation_size": 5, "test_size": 5}
DATA = datasets.load({"import": f"{MODULE}:characters", "characters": "il2T", **FEW}, 0)


def handwriter(**settings: object) -> Handwriter:
    torch.manual_seed(0)
    writer = Handwriter(Handwriter.Config(cell_size=6, components=2, embedding_size=3, **settings), DATA.spec)  # type: ignore[arg-type]
    writer.initialize(DATA.train)
    return writer


def rows(*numbers: int) -> Batch:
    batch: Batch = DATA.train.rows(torch.tensor(numbers))
    return batch


def test_paths_are_read_as_svg_has_them() -> None:
    # B(1/2) = (P0 + 3 P1 + 3 P2 + P3) / 8, here (1 + 3*2 + 3*3 + 4) / 8 and (1 + 3*5 + 3*6 + 2) / 8.
    points = curve("M1,1c1,4,2,5,3,1", pieces=2)
    np.testing.assert_allclose(points, [[1, 1], [2.5, 4.5], [4, 2]])
    np.testing.assert_allclose(curve("M1 1C2-1.5e0,3,6 4,2", 2)[-1], [4, 2])
    # The first handle of a smooth curve mirrors the last one: (4, 2) + ((4, 2) - (3, 6)) = (5, -2).
    smooth, whole = curve("M1,1c1,4,2,5,3,1s2,0,4,1"), curve("M1,1C2,5,3,6,4,2C5,-2,6,2,8,3")
    np.testing.assert_allclose(smooth, whole)
    np.testing.assert_allclose(curve("m1,1l2,0,0,2")[-1], [3, 3])
    with pytest.raises(UserError, match="the command 'A', which is not read"):
        curve("M1,1A2,2,0,0,1,3,3")


def test_points_lie_at_equal_distances() -> None:
    points = even(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]), 1.9)
    np.testing.assert_allclose(points, [[0, 0], [1.75, 0], [3, 0.5], [3, 2.25], [3, 4]])
    letter = strokes_of("A", 6.0)
    assert len(letter) == 3
    np.testing.assert_allclose(letter[2][[0, -1]], [[32.18, 66.14], [76.2, 66.14]])
    with pytest.raises(UserError, match="no strokes of 'é'"):
        strokes_of("é", 6.0)


def test_steps_add_up_to_the_points() -> None:
    strokes = deformed(strokes_of("i", 6.0), 0.0, 0.0, np.random.default_rng(0))
    steps, pen = offsets(strokes)
    np.testing.assert_allclose(steps.cumsum(dim=0) + 109 / 2, np.concatenate(strokes_of("i", 6.0)), atol=1e-4)
    assert pen.tolist() == [*[0] * (len(strokes[0]) - 1), 1, *[0] * (len(strokes[1]) - 1), 2]


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    stroke_paths.folder.cache_clear()
    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(UserError, match=r"run `pip install 'rayloom\[handwriting\]'`"):
        datasets.load({"import": f"{MODULE}:characters", **FEW}, 0)
    stroke_paths.folder.cache_clear()


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="name each of them once"):
        datasets.load({"import": f"{MODULE}:characters", "characters": "abca"}, 0)
    with pytest.raises(UserError, match="ragged fields offset and pen"):
        Handwriter(Handwriter.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
    unnamed = {name: spec for name, spec in DATA.spec.items() if name != "label"}
    with pytest.raises(UserError, match="nothing to read without the field label"):
        Handwriter(Handwriter.Config(reader=True), unnamed)


def test_lines_are_drawn_where_they_are() -> None:
    # A horizontal line, then one that is not drawn, then a point; the picture has one pixel for a unit.
    steps = torch.tensor([[[-4.0, -2.0], [6.0, 0.0], [0.0, 5.0], [9.0, 9.0]]])
    picture = draw_strokes(steps, torch.tensor([[0, 1, 2, 0]]), torch.tensor([3]), 17, 17.0, width=1.0)[0, 0]
    wanted = torch.zeros(17, 17)
    wanted[6, 4:11] = 1
    wanted[11, 10] = 1
    assert torch.equal((picture > 0.5).float(), wanted)
    torch.testing.assert_close(picture.sum(), wanted.sum())


def test_the_regression_finds_what_made_the_data() -> None:
    torch.manual_seed(0)
    last, last_pen = torch.randn(20_000, 2, dtype=torch.float64), torch.randint(4, (20_000,))
    truth = torch.randn(4, 2, 3, dtype=torch.float64)
    noise = torch.randn(20_000, 2, dtype=torch.float64) @ torch.tensor([[0.5, 0.2], [0.0, 0.1]], dtype=torch.float64)
    offset = (truth[last_pen] @ torch.cat((last, torch.ones(20_000, 1)), 1)[:, :, None]).squeeze(2) + noise
    model = fit_next_point(last, last_pen, offset, torch.zeros(20_000, dtype=torch.int64), 3)
    torch.testing.assert_close(model.weights, truth, rtol=0, atol=0.03)
    peer = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), noise.T.cov())
    found = model.log_step(last, last_pen, offset, torch.zeros(20_000, dtype=torch.int64)).mean()
    assert float(found) == pytest.approx(float(peer.log_prob(noise).mean()), abs=0.01)


@pytest.mark.parametrize("cell", get_args(CellName))
def test_a_character_costs_the_same_in_any_company(cell: str) -> None:
    writer = handwriter(cell=cell)
    length = DATA.train.rows(torch.arange(40))["offset_length"]
    short, long = int(length.argmin()), int(length.argmax())
    alone, together = rows(short), rows(long, short)
    first, second = writer.loss(alone), writer.loss(together)
    assert second.count is not None and second.count.tolist() == [length[long], length[short]]
    torch.testing.assert_close(first.per_example[0], second.per_example[1])
    for name in ("nats_per_point", "gaussian_nats_per_point", "margin"):
        torch.testing.assert_close(writer.evaluate(alone)[name][0][0], writer.evaluate(together)[name][0][1])


def test_the_next_point_is_never_seen() -> None:
    writer, batch = handwriter(), rows(0)
    before = writer._log_steps(batch)[0]
    changed = {**batch, "offset": batch["offset"].clone()}
    changed["offset"][0, 5] += 3
    after = writer._log_steps(changed)[0]
    assert torch.equal(before[:5], after[:5]) and not torch.equal(before[6:], after[6:])


def test_writing_follows_the_taught_density() -> None:
    writer = handwriter()
    generator = torch.Generator().manual_seed(3)
    written = writer.write(400, generator, label=torch.zeros(400, dtype=torch.int64))
    longest = DATA.spec["offset"].shape[0]
    assert written.offset.shape == (400, longest, 2) and bool((written.length >= 1).all())
    ends = written.pen.gather(1, written.length[:, None] - 1).squeeze(1)
    assert bool(((ends == 2) | (written.length == longest)).all())
    # The pen's first act is drawn from the density before the first point.
    nothing = torch.zeros(1, 1, 2), torch.full((1, 1), 3)
    density, _ = writer._foretell(*nothing, torch.zeros(1, dtype=torch.int64), None)
    share = written.pen[:, 0].bincount(minlength=3) / 400
    torch.testing.assert_close(share, density.log_pen[0, 0].exp().detach(), rtol=0, atol=0.08)


def test_samples_and_pictures(tmp_path: object) -> None:
    writer = handwriter(reader=True)
    generator = torch.Generator().manual_seed(0)
    figure = writer.sample(2, generator, text="l2i", bias=1.0)
    assert figure.data is not None and figure.data.shape == (6, 1, 56, 56) and figure.columns == 3
    assert set(writer.figures(rows(0, 1))) == {"data", "written"}
    found = writer.evaluate(rows(0, 1, 2))
    for name in ("legible", "readable", "ended"):
        assert isinstance(found[name], Tensor) and found[name].shape == (3,)
    with pytest.raises(UserError, match=r"that were learnt \(il2T\), not 'x'"):
        writer.sample(1, generator, text="x")
    for bias in (-1.0, float("nan"), 1e9, "clean"):
        with pytest.raises(UserError, match=r"sample: bias must be a number from 0 to 100"):
            writer.sample(1, generator, bias=bias)  # type: ignore[arg-type]


def test_no_character_of_the_unseen_ones_is_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    # A thousand files take seconds; forty are enough.
    monkeypatch.setattr(
        "rayloom_supervised.data.handwriting.all_characters", lambda: [chr(0x4E00 + n) for n in (*range(2), 3)]
    )
    plain = {"import": f"{MODULE}:unseen_characters", "train_size": 1, "validation_size": 1, "test_size": 1}
    found = datasets.load({**plain, "deformation": 0.0, "jitter": 1e-6, "step": 10.0}, 0)
    sizes = [int(split.rows(torch.arange(1))["offset_length"]) for split in (found.train, found.validation, found.test)]
    assert sorted(sizes) == sorted(sum(map(len, strokes_of(chr(0x4E00 + n), 10.0))) for n in (0, 1, 3))
    with pytest.raises(UserError, match="there are 3 characters of at most 80 points"):
        datasets.load({**plain, "train_size": 2, "step": 10.0}, 0)
