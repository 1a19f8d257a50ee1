"""The pointer network and its convex hulls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from rayloom import datasets
from rayloom.contract import Batch, TensorSpec, UserError
from rayloom_supervised.tasks.pointing import PointerNetwork

DATA = {
    "import": "rayloom_supervised.data.convex_hulls:convex_hulls",
    "train_size": 150,
    "validation_size": 10,
    "test_size": 10,
}
HULLS = datasets.load(DATA, 0)


def network(**settings: object) -> PointerNetwork:
    torch.manual_seed(0)
    return PointerNetwork(PointerNetwork.Config(cell_size=8, **settings), HULLS.spec)  # type: ignore[arg-type]


def rows(*numbers: int) -> Batch:
    batch: Batch = HULLS.train.rows(torch.tensor(numbers))
    return batch


def test_hulls_are_scipys() -> None:
    batch = HULLS.train.rows(torch.arange(150))
    assert set(batch["source_length"].tolist()) == set(range(5, 11))
    for row in range(150):
        points = batch["source"][row, : batch["source_length"][row]].numpy()
        target = batch["target"][row, : batch["target_length"][row]].tolist()
        hull = ConvexHull(points).vertices.tolist()  # counter-clockwise
        first = int(np.argmin(hull))
        assert target == [corner + 1 for corner in hull[first:] + hull[:first]] + [0]


def test_who_scores_all_places_alike_pays_the_logarithm_of_their_number() -> None:
    algorithm, batch = network(), rows(0, 1, 2)
    torch.nn.init.zeros_(algorithm.score.energy.weight)
    loss = algorithm.loss(batch)
    assert loss.count is not None and torch.equal(loss.count, batch["target_length"].float())
    wanted = [int(count) * math.log(int(length) + 1) for count, length in
              zip(batch["target_length"], batch["source_length"], strict=True)]  # fmt: skip
    assert loss.per_example.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("beam_width", [1, 4])
def test_padding_does_not_matter_and_is_never_pointed_at(beam_width: int) -> None:
    algorithm = network(beam_width=beam_width)
    length = HULLS.train.rows(torch.arange(150))["source_length"]
    short, long = int(length.argmin()), int(length.argmax())
    alone, together = rows(short), rows(long, short)
    torch.testing.assert_close(algorithm.loss(alone).per_example[0], algorithm.loss(together).per_example[1])
    written = [algorithm.decode(batch["source"], batch["source_length"], 9)[-1] for batch in (alone, together)]
    assert torch.equal(*written) and int(written[0].max()) <= 5


def test_decoding_follows_the_taught_probabilities() -> None:
    algorithm, batch = network(), rows(*range(12))
    with torch.no_grad():
        for parameter in algorithm.parameters():
            parameter.mul_(6)
        algorithm.end.zero_()
    written = algorithm.decode(batch["source"], batch["source_length"], 12)
    lengths = ((written == 0).cumsum(dim=1) == 0).sum(dim=1) + 1
    own = {**batch, "target": written, "target_length": lengths.clamp(max=12)}
    assert torch.equal(algorithm._taught(own)[1], own["target_length"])
    assert len({tuple(row) for row in written.tolist()}) > 1


def test_the_picture_marks_what_is_pointed_at() -> None:
    figure = network().figures(rows(3))["hull"]
    assert figure.groups is not None and len(figure.groups) == int(rows(3)["source_length"])


def test_longer_tests_show_how_it_generalises() -> None:
    data = datasets.load({**DATA, "test_points": 15}, 0)
    rows_of = [getattr(data, split).rows(torch.arange(10)) for split in ("train", "validation", "test")]
    assert [int(part["source_length"].max()) <= 10 for part in rows_of] == [True, True, False]
    assert rows_of[2]["source_length"].tolist() == [15] * 10
    same = HULLS.train.rows(torch.arange(10))
    assert torch.equal(rows_of[0]["target_length"], same["target_length"])
    outputs = {"_exact_match": torch.tensor([1.0, 0.0, 1.0, 1.0]), "_source_length": torch.tensor([5, 7, 5, 7])}
    curve = network().summarize(outputs)[1]["exact_match_by_length"]
    assert curve.x is not None and curve.x.tolist() == [5, 7]
    assert curve.data is not None and curve.data.tolist() == [[1.0, 0.5]]
    batch = data.test.rows(torch.arange(10))
    assert network().evaluate(batch)["_source_length"].tolist() == [15] * 10  # type: ignore[union-attr]


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match=r"source \[L, F\] and target \[T\], not source of \['image'\]"):
        PointerNetwork(PointerNetwork.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
    with pytest.raises(UserError, match="make it at least fewest"):
        datasets.load({**DATA, "fewest": 6, "most": 5}, 0)
