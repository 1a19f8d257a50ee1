"""The way of a batch over a GPU, with CUDA's parts replaced by slow ones: buffers, padding, recorded graphs, order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from rayloom_agents.alphago.inference import Inference, InferenceSettings
from rayloom_agents.alphago.network import NetworkSize, PolicyValueNetwork

SCALE = np.array([1.0, 0.5, 2.0], np.float32)


class Graph:
    """Recomputes what was recorded, in place."""

    recording: Graph | None = None
    made = 0

    def __init__(self) -> None:
        Graph.made += 1
        self.call: Any = None

    def replay(self) -> None:
        for old, new in zip(self.call[2], self.call[0](*self.call[1]), strict=True):
            old.copy_(new)


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what needs a GPU."""

    class Event:
        def record(self) -> None: ...
        def synchronize(self) -> None: ...

    class Stream:
        def wait_stream(self, other: Any) -> None: ...

    @contextlib.contextmanager
    def graph(made: Graph, **options: Any) -> Iterator[None]:
        Graph.recording = made
        yield
        Graph.recording = None

    call = Inference._call

    def recorded(self: Inference, planes: torch.Tensor, scale: torch.Tensor | None) -> Any:
        found = call(self, planes, scale)
        if Graph.recording is not None:
            Graph.recording.call = (lambda *given: call(self, *given), (planes, scale), found)
        return found

    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *given, pin_memory=False, **named: zeros(*given, **named))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(Inference, "_call", recorded)
    monkeypatch.setattr(Graph, "made", 0)
    monkeypatch.setattr(
        Inference, "_judge_here", lambda self, planes, scale: self._judge_there(planes, scale, torch.device("cpu"))
    )


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_batches_in_flight_come_back_as_they_were_sent(graphs: bool, precision: Any) -> None:
    torch.manual_seed(0)
    network = PolicyValueNetwork(NetworkSize(blocks=1, channels=16), (3, 4, 4), actions=5)
    inference = Inference(network, InferenceSettings(precision=precision, graphs=graphs))
    generator = np.random.default_rng(0)
    planes = [generator.integers(0, 3, (count, 3, 4, 4)).astype(np.int8) for count in (5, 40, 3, 16, 40)]
    for _ in range(2):
        inference.refresh()
        pending = []
        for batch in planes:
            given = batch.copy()
            pending.append(inference.start(given, SCALE))
            given[:] = 99  # the caller's memory is its own again
        for batch, wait in zip(planes, pending, strict=True):
            with torch.no_grad():
                logits, value = network(torch.from_numpy(batch * SCALE[:, None, None]))
            found = wait()
            assert found[0] == pytest.approx(logits.numpy(), abs=0.03 if precision == "bfloat16" else 1e-5)
            assert found[1] == pytest.approx(value.numpy(), abs=0.03 if precision == "bfloat16" else 1e-5)
        with torch.no_grad():
            network.policy.bias += 1.0  # in place, as the learner does
    assert Graph.made == (2 if graphs else 0), "one for 16 and one for 40 positions"


def test_graphs_are_recorded_anew_when_the_weights_lie_elsewhere() -> None:
    network = PolicyValueNetwork(NetworkSize(blocks=0, channels=8), (3, 4, 4), actions=5)
    inference = Inference(network, InferenceSettings(graphs=True))
    planes = np.ones((2, 3, 4, 4), np.float32)
    before = inference.start(planes)()[0]
    network.policy.bias.data = network.policy.bias.data + 2.0
    assert inference.start(planes)()[0] == pytest.approx(before + 2.0, abs=1e-5) and Graph.made == 2
