"""The memory that is carried over: windows read one after the other are one text, for any number of learners."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases import case
from learners import Learners
from rayloom.contract import TensorSpec, UserError
from rayloom_supervised.layers.vocabulary import Vocabulary
from rayloom_supervised.tasks.stream_model import StreamModel

LENGTH, STREAMS, WINDOWS = 4, 3, 5


def model(**settings: Any) -> StreamModel:
    torch.manual_seed(0)
    tokens = TensorSpec(shape=(LENGTH,), dtype=torch.int64, num_values=4, labels=("(other)", "a", "b", "\n"))
    config = StreamModel.Config(**{"embedding_size": 3, "cell_size": 5, "cell_layers": 2, "streams": 4, **settings})
    return StreamModel(config, {"token": tokens, "next_token": tokens})


def text() -> Tensor:
    return torch.randint(4, (STREAMS, WINDOWS * LENGTH + 1), generator=torch.Generator().manual_seed(1))


def window(number: int, first: bool) -> dict[str, Tensor]:
    """Return one window of every stream, as the source would."""
    piece = text()[:, number * LENGTH : (number + 1) * LENGTH + 1]
    marks = {"stream": torch.arange(STREAMS), "first": torch.full((STREAMS,), first)}
    return {"token": piece[:, :-1], "next_token": piece[:, 1:], **marks}


@pytest.mark.parametrize("cell", ["lstm", "gru", "peephole_lstm"])
def test_windows_one_after_the_other_are_one_text(cell: str) -> None:
    algorithm = model(cell=cell)
    whole = algorithm.logits(text()[:, :-1])
    wanted = nn.functional.cross_entropy(whole.transpose(1, 2), text()[:, 1:], reduction="none")
    for epoch in range(2):  # in the second pass the memory is empty again at the start
        for number in range(WINDOWS):
            loss = algorithm.loss(algorithm.prepare(window(number, number == 0)))
            algorithm.after_update(number + 1)
            judged = wanted[:, number * LENGTH : (number + 1) * LENGTH].sum(dim=1)
            torch.testing.assert_close(loss.per_example, judged, msg=f"epoch {epoch}, window {number}")


def test_gradients_end_between_windows() -> None:
    algorithm = model()
    for number in range(2):
        batch = algorithm.prepare(window(number, number == 0))
        assert not batch["memory"].requires_grad
        algorithm.loss(batch).per_example.sum().backward()
        algorithm.after_update(number + 1)
    assert bool(algorithm.carried[:STREAMS].abs().min() > 0) and not algorithm.carried[STREAMS:].any()


@pytest.mark.parametrize("before", [0, 1, 3])
def test_held_out_windows_are_read_after_those_before(before: int) -> None:
    algorithm = model(windows_before=before).eval()
    rows = text()[0, :-1].view(WINDOWS, LENGTH)
    found = algorithm.evaluate({"token": rows, "next_token": text()[0, 1:].view(WINDOWS, LENGTH)})["loss"][0]
    for row in range(WINDOWS):
        start = max(0, row - before) * LENGTH
        logits = algorithm.logits(text()[:1, start : (row + 1) * LENGTH])[0, -LENGTH:]
        wanted = nn.functional.cross_entropy(
            logits, text()[0, row * LENGTH + 1 : (row + 1) * LENGTH + 1], reduction="sum"
        )
        torch.testing.assert_close(found[row], wanted)


def test_several_learners_are_one() -> None:
    config = case("stream_model")
    weights, memories = [], []
    for count in (1, 3):
        learners = Learners(replace(config, learner=replace(config.learner, count=count)))
        learners.train(30)  # beyond the end of an epoch
        for role in learners.roles:
            state = role.algorithm.state_dict()
            memories.append(state.pop("carried"))
            weights.append(torch.cat([value.double().ravel() for value in state.values()]))
        learners.close()
    for found, memory in zip(weights[1:], memories[1:], strict=True):
        torch.testing.assert_close(found, weights[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(memory, memories[0], rtol=1e-4, atol=1e-5)
        assert torch.equal(memory, memories[1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"algorithm\.streams: 2 are fewer than the streams of a batch"):
        model(streams=2).prepare(window(0, True))
    with pytest.raises(UserError, match=r"source\.order: a memory is carried over streams only"):
        model().loss({name: value for name, value in window(0, True).items() if name not in ("stream", "first")})
    with pytest.raises(UserError, match=r"algorithm\.burn_in: a memory that is carried over needs none"):
        model(burn_in=1)
    with pytest.raises(UserError, match=r"algorithm\.places: streams have no form"):
        model(places=True)


def test_the_vocabulary_is_part_of_the_checkpoint() -> None:
    state = copy.deepcopy(Vocabulary(("(other)", "a", "é")).state_dict())
    Vocabulary(("(other)", "a", "é")).load_state_dict(state)
    with pytest.raises(UserError, match="the data set had 'é' as token 2 and has 'b': its texts are not those"):
        Vocabulary(("(other)", "a", "b")).load_state_dict(state)
    with pytest.raises(UserError, match="the data set had 3 tokens and has 2"):
        Vocabulary(("(other)", "a")).load_state_dict(state)
