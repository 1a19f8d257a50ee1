"""CTC: loss and decoding against the sum over all paths, written out."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from rayloom.contract import TensorSpec, UserError
from rayloom_supervised.layers.ctc import beam_labels, fewest_frames, greedy_labels
from rayloom_supervised.tasks.transcription import Transcriber

T, V = 5, 3


def sums_over_paths(log_probabilities: Tensor) -> dict[tuple[int, ...], float]:
    """Return the probability of every labelling, by all V ** T paths."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(V), repeat=len(log_probabilities)):
        labels = tuple(label for label, _ in itertools.groupby(path) if label)
        found[labels] += math.exp(sum(float(log_probabilities[t, label]) for t, label in enumerate(path)))
    return found


def outputs(seed: int, frames: int = T) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2 * torch.randn(frames, V, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("seed", range(8))
def test_a_wide_beam_finds_the_likeliest_labelling(seed: int) -> None:
    found = outputs(seed)
    sums = sums_over_paths(found)
    assert sum(sums.values()) == pytest.approx(1)
    assert tuple(beam_labels(found, T, 1000)) == max(sums, key=lambda labels: sums[labels])
    assert beam_labels(found, 3, 1000) == beam_labels(found[:3], 3, 1000), "what is padded is not read"


def test_the_likeliest_path_is_not_always_the_likeliest_labelling() -> None:
    # Graves et al. (2006): two frames, blank 0.6 and a 0.4 in each: nothing has 0.36, a has 0.64.
    found = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert greedy_labels(found, 2) == [] and beam_labels(found, 2, 10) == [1]
    path = torch.eye(3)[[1, 1, 0, 1, 2, 2, 0]].log()
    assert greedy_labels(path, 7) == [1, 1, 2] == beam_labels(path, 7, 4)
    assert greedy_labels(path, 2) == [1]


def transcriber() -> Transcriber:
    torch.manual_seed(0)
    length = TensorSpec(shape=(), dtype=torch.int64)
    spec = {
        "frames": TensorSpec(shape=(T, 2), dtype=torch.float32, ragged=True),
        "text": TensorSpec(shape=(2,), dtype=torch.int64, num_values=V, ragged=True),
        "frames_length": length,
        "text_length": length,
    }
    return Transcriber(Transcriber.Config(cell="peephole_lstm", cell_size=4), spec)


def test_the_loss_is_the_sum_over_paths_and_is_counted_in_labels() -> None:
    algorithm = transcriber()
    batch = {
        "frames": torch.randn(3, T, 2),
        "frames_length": torch.tensor([5, 3, 1]),
        "text": torch.tensor([[1, 1], [2, 0], [1, 2]]),
        "text_length": torch.tensor([2, 1, 2]),
    }
    loss = algorithm.loss(batch)
    assert loss.count is not None and loss.count.tolist() == [2, 1, 2]
    found = algorithm.log_probabilities(batch).detach()
    losses = loss.per_example.detach()
    for row, labels in enumerate([(1, 1), (2,)]):
        sums = sums_over_paths(found[row, : int(batch["frames_length"][row])])
        assert float(losses[row]) == pytest.approx(-math.log(sums[labels]), rel=1e-5)
    assert float(losses[2]) == 0, "one frame cannot hold two labels: it teaches nothing"


def test_evaluations_count_labels() -> None:
    algorithm = transcriber()
    batch = {
        "frames": torch.randn(2, T, 2),
        "frames_length": torch.tensor([5, 4]),
        "text": torch.tensor([[1, 2], [2, 0]]),
        "text_length": torch.tensor([2, 1]),
    }
    # An output that says blank everywhere: as many deletions as there are labels.
    torch.nn.init.zeros_(algorithm.head.weight)
    with torch.no_grad():
        algorithm.head.bias.copy_(torch.tensor([9.0, 0, 0]))
    found = algorithm.evaluate(batch)
    assert [part.tolist() for part in found["label_error"]] == [[2, 1], [2, 1]]
    assert isinstance(found["exact_match"], Tensor) and found["exact_match"].tolist() == [0, 0]


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match=r"ragged fields frames \[L, F\] and text \[S\], not frames of \['image'\]"):
        Transcriber(Transcriber.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})


def test_labels_need_a_frame_each_and_one_between_equal_ones() -> None:
    """The loss is infinite exactly where there are fewer frames than that."""
    labels = torch.tensor([[1, 2, 3, 0, 0], [1, 1, 1, 0, 0], [2, 2, 1, 1, 0], [3, 3, 3, 0, 0]])
    lengths = torch.tensor([3, 3, 4, 1])
    fewest = fewest_frames(labels, lengths)
    assert fewest.tolist() == [3, 5, 6, 1]
    outputs = torch.zeros(6, 4, 4).log_softmax(dim=2)
    for frames in range(1, 7):
        given = torch.full((4,), frames)
        losses = torch.nn.functional.ctc_loss(outputs, labels, given, lengths, reduction="none")
        assert torch.equal(losses.isinf(), fewest > frames)
