"""The memory of a neural Turing machine against the paper's equations written out, and a copy made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rayloom import datasets
from rayloom.contract import TensorSpec, UserError
from rayloom_supervised.layers.external_memory import content_weights, interpolate, read, sharpen, shift, write
from rayloom_supervised.tasks.copying import Copier, copy_inputs

N, M = 5, 3
PATTERN = {
    "pattern": TensorSpec(shape=(4, 2), dtype=torch.float32, ragged=True),
    "pattern_length": TensorSpec(shape=(), dtype=torch.int64),
}


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_addressing_reading_and_writing_follow_the_equations() -> None:
    torch.manual_seed(0)
    memory, key, last = random(2, N, M), random(2, M), torch.softmax(random(2, N), dim=1)
    strength, gate, power = random(2, 1).exp(), torch.sigmoid(random(2, 1)), 1 + random(2, 1).exp()
    shifts, erase, add = torch.softmax(random(2, 3), dim=1), torch.sigmoid(random(2, M)), random(2, M)
    content = content_weights(memory, key, strength)
    gated = interpolate(content, last, gate)
    moved = shift(gated, shifts)
    weights = sharpen(moved, power)
    after = write(memory, weights, erase, add)
    for b in range(2):
        m, k = memory[b].numpy(), key[b].numpy()
        e = np.exp(strength[b].item() * m @ k / (np.linalg.norm(m, axis=1) * np.linalg.norm(k)))
        c = e / e.sum()
        g = gate[b].item() * c + (1 - gate[b].item()) * last[b].numpy()
        s = {step: shifts[b, step + 1].item() for step in (-1, 0, 1)}
        w = np.array([sum(g[j] * s.get((i - j + N // 2) % N - N // 2, 0) for j in range(N)) for i in range(N)])
        p = w ** power[b].item() / (w ** power[b].item()).sum()
        np.testing.assert_allclose(content[b], c)
        np.testing.assert_allclose(moved[b], w)
        np.testing.assert_allclose(weights[b], p, rtol=1e-5)
        wanted = m * (1 - np.outer(p, erase[b])) + np.outer(p, add[b])
        np.testing.assert_allclose(after[b], wanted, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(read(memory, weights)[b], p @ m, rtol=1e-4, atol=1e-6)


def test_a_step_to_the_right_moves_to_the_next_place_and_around() -> None:
    weights, right = torch.eye(N)[[0, N - 1]], torch.tensor([[0.0, 0, 1]] * 2)
    assert torch.equal(shift(weights, right), torch.eye(N)[[1, 0]])


def test_what_was_written_is_read() -> None:
    place, content = torch.eye(N)[[2]], torch.tensor([[0.5, -1, 2]])
    memory = write(torch.randn(1, N, M), place, torch.ones(1, M), content)
    torch.testing.assert_close(read(memory, place), content)


def test_the_machine_is_given_bits_then_a_mark_then_nothing() -> None:
    pattern = torch.tensor([[[1.0, 0], [1, 1]], [[0, 1], [7, 7]]])  # what is padded is not given
    given = copy_inputs(pattern, torch.tensor([2, 1]))
    assert given[0].tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert given[1].tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("memory", ["external", "lstm"])
def test_padding_does_not_matter_and_a_clueless_copier_pays_for_every_bit(memory: str) -> None:
    torch.manual_seed(0)
    config = Copier.Config(memory=memory, controller_size=6, places=4, place_size=3)  # type: ignore[arg-type]
    algorithm = Copier(config, PATTERN)
    pattern = torch.randint(2, (2, 4, 2)).float()
    whole = algorithm.loss({"pattern": pattern, "pattern_length": torch.tensor([4, 2])})
    alone = algorithm.loss({"pattern": pattern[1:, :2], "pattern_length": torch.tensor([2])})
    torch.testing.assert_close(whole.per_example[1], alone.per_example[0])
    assert whole.count is not None and whole.count.tolist() == [8, 4]
    head = algorithm.head if algorithm.machine is None else algorithm.machine.output
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    clueless = algorithm.loss({"pattern": pattern, "pattern_length": torch.tensor([4, 2])})
    assert clueless.per_example.tolist() == pytest.approx([8 * math.log(2), 4 * math.log(2)])


def test_test_sequences_are_longer() -> None:
    named = {"import": "rayloom_supervised.data.copy_sequences:copy_sequences", "train_size": 50, "validation_size": 5}
    data = datasets.load({**named, "test_size": 3, "longest": 4, "test_length": 9}, 0)
    assert set(data.train.lengths["pattern"].tolist()) == {1, 2, 3, 4}
    assert data.test.lengths["pattern"].tolist() == [9] * 3
    with pytest.raises(UserError, match=r"ragged field pattern \[L, width\]"):
        Copier(Copier.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
