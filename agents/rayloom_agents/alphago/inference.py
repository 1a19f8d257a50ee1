"""How a tree search runs a network: in another precision, in batches of few different sizes, without waiting.

On a GPU the planes go over as they are (bytes, where the game has them so), everything is queued at once, and the
caller does something else until it asks for the result: the trees of one half of the games grow while the other half is
judged. In bfloat16 a twin of the network judges, which `refresh` gives the present weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Judged = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Logits [B, A] and values [B]."""
Pending = Callable[[], Judged]
"""Waits for a batch that is being judged."""


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How the network judges positions in searches."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of weights and features; the outputs are float32."""
    graphs: bool = False
    """Record the network's kernels once for each size of batch and replay them (CUDA only)."""
    compile: bool = False
    """Compile the network with torch.compile (needs a C++ compiler)."""


class _Graph(NamedTuple):
    """A recorded call."""

    graph: Any
    planes: Tensor
    outputs: tuple[Tensor, Tensor]


def padded_size(count: int) -> int:
    """Return the size of the batch that `count` positions are judged in: at most a quarter more, of few sizes."""
    step = max(16, 1 << max(0, (count - 1).bit_length() - 3))
    return -(-count // step) * step


class Inference:
    """Judges planes with the present weights of a network, on the device where they lie. Used by one thread."""

    def __init__(self, network: nn.Module, settings: InferenceSettings) -> None:
        self.network, self.settings = network, settings
        self._twin: nn.Module | None = None
        self._forward: Callable[[Tensor], tuple[Tensor, Tensor]] = network
        self._device: torch.device | None = None
        self._graphs: dict[tuple[Any, ...], _Graph] = {}
        self._recorded: tuple[int, ...] = ()
        self._buffers: dict[tuple[Any, ...], list[Tensor]] = {}
        self._scales: dict[bytes, Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the network and the settings alone."""
        return Inference, (self.network, self.settings)

    @torch.inference_mode(False)  # what is made in that mode could not be changed outside of it
    @torch.no_grad()
    def refresh(self) -> None:
        """Judge with the present weights from now on; without a call of it, possibly with earlier ones."""
        device = next(self.network.parameters()).device
        if device != self._device:
            self._prepare(device)
        if self._twin is not None:
            torch._foreach_copy_(list(self._twin.parameters()), list(self.network.parameters()))

    @torch.inference_mode(False)
    @torch.no_grad()
    def start(self, planes: NDArray[Any], scale: NDArray[np.float32] | None = None) -> Pending:
        """Begin to judge planes [B, C, H, W], which may be overwritten as soon as this returns.

        `scale` [C] is what one unit of each plane stands for, where planes are whole numbers; None: they are meant as
        they are.
        """
        if self._device is None:
            self.refresh()
        device = next(self.network.parameters()).device
        return self._judge_there(planes, scale, device) if device.type == "cuda" else self._judge_here(planes, scale)

    def _prepare(self, device: torch.device) -> None:
        self._device = device
        self._graphs.clear()
        self._scales.clear()
        self._twin = None
        if self.settings.precision == "bfloat16":
            twin = copy.deepcopy(self.network).to(torch.bfloat16).requires_grad_(False)
            for parameter in twin.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
            self._twin = twin
        inner = self._twin or self.network
        self._forward = torch.compile(inner) if self.settings.compile else inner

    def _call(self, planes: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """Judge planes on the device; float32 outputs."""
        dtype = torch.float32 if self._twin is None else torch.bfloat16
        inputs = planes.to(dtype)
        if scale is not None:
            inputs = inputs * scale.to(dtype)[:, None, None]
        if self._twin is not None:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        logits, values = self._forward(inputs)
        return logits.float(), values.float()

    def _judge_here(self, planes: NDArray[Any], scale: NDArray[np.float32] | None) -> Pending:
        factors = None if scale is None else torch.from_numpy(scale)
        logits, values = self._call(torch.from_numpy(planes), factors)
        found = logits.numpy(), values.numpy()
        return lambda: found

    # --- on a GPU ----------------------------------------------------------------------------------------------------

    def _judge_there(self, planes: NDArray[Any], scale: NDArray[np.float32] | None, device: torch.device) -> Pending:
        count, size = len(planes), padded_size(len(planes))
        given = torch.from_numpy(planes)
        sent = self._take_buffer((size, *planes.shape[1:]), given.dtype)
        sent[:count].copy_(given)
        outputs = self._run_there(sent, self._scale(scale, device), device)
        received = [self._take_buffer(tuple(each.shape), each.dtype) for each in outputs]
        for pinned, output in zip(received, outputs, strict=True):
            pinned.copy_(output, non_blocking=True)
        done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()

        def wait() -> Judged:
            done.synchronize()
            logits, values = (pinned[:count].numpy().copy() for pinned in received)
            for buffer in (sent, *received):
                self._buffers[(tuple(buffer.shape), buffer.dtype)].append(buffer)
            return logits, values

        return wait

    def _take_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return pinned memory that no pending batch uses."""
        free = self._buffers.setdefault((shape, dtype), [])
        return free.pop() if free else torch.zeros(shape, dtype=dtype, pin_memory=True)

    def _scale(self, scale: NDArray[np.float32] | None, device: torch.device) -> Tensor | None:
        """Return the scale on the device, where recorded graphs go on reading it."""
        if scale is None:
            return None
        key = scale.tobytes()
        if key not in self._scales:
            self._scales[key] = torch.from_numpy(scale.copy()).to(device)
        return self._scales[key]

    def _run_there(self, sent: Tensor, scale: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        if not self.settings.graphs:
            return self._call(sent.to(device, non_blocking=True), scale)
        places = tuple(parameter.data_ptr() for parameter in (self._twin or self.network).parameters())
        if places != self._recorded:  # a graph reads the weights where they lay when it was recorded
            self._graphs.clear()
            self._recorded = places
        key = (len(sent), sent.dtype, None if scale is None else scale.data_ptr())
        if key not in self._graphs:
            self._graphs[key] = self._record(sent, scale, device)
        recorded = self._graphs[key]
        recorded.planes.copy_(sent, non_blocking=True)
        recorded.graph.replay()
        return recorded.outputs

    def _record(self, sent: Tensor, scale: Tensor | None, device: torch.device) -> _Graph:
        """Record the call for batches like `sent`; warmed up on a stream of its own, as recording demands."""
        planes = sent.to(device)
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._call(planes, scale)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self._call(planes, scale)
        return _Graph(graph, planes, outputs)
