"""Recurrent cells in float64 against NumPy, written from the texts' equations, and against torch where it coincides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rayloom_supervised.layers import written_out
from rayloom_supervised.layers.cells import Cell, PeepholeLSTMCell, ResetFirstGRUCell
from rayloom_supervised.layers.recurrent import _CELLS, CellName, RecurrentLayer, RecurrentStack

Array = np.ndarray
F, H = 3, 4


def s(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def srn(p: dict[str, Array], xs: Array) -> list[Array]:
    h, outputs = np.zeros(H), []
    for x in xs:
        h = np.tanh(p["recurrent"] @ h + p["input.weight"] @ x + p["input.bias"])
        outputs.append(h)
    return outputs


def linear(p: dict[str, Array], xs: Array) -> list[Array]:
    return [sum((p["input.weight"] @ np.tanh(x) for x in xs[: t + 1]), np.zeros(H)) for t in range(len(xs))]


def linear_memory(p: dict[str, Array], xs: Array) -> list[Array]:
    return [np.tanh(c) for c in linear(p, xs)]


def peephole_lstm(p: dict[str, Array], xs: Array) -> list[Array]:
    (wi, wf, wo, wc), (ui, uf, uo, uc) = (np.split(p[name], 4) for name in ("input.weight", "recurrent"))
    vi, vf, vo = p["peephole"]
    h, c, outputs = np.zeros(H), np.zeros(H), []
    for x in xs:
        i, f = s(wi @ x + ui @ h + vi * c), s(wf @ x + uf @ h + vf * c)
        c = f * c + i * np.tanh(wc @ x + uc @ h)
        o = s(wo @ x + uo @ h + vo * c)
        h = o * np.tanh(c)
        outputs.append(h)
    return outputs


def reset_first_gru(p: dict[str, Array], xs: Array) -> list[Array]:
    (wr, wz, w), (ur, uz, u) = (np.split(p[name], 3) for name in ("input.weight", "recurrent"))
    h, outputs = np.zeros(H), []
    for x in xs:
        r, z = s(wr @ x + ur @ h), s(wz @ x + uz @ h)
        h = z * h + (1 - z) * np.tanh(w @ x + u @ (r * h))
        outputs.append(h)
    return outputs


EQUATIONS: dict[str, Callable[[dict[str, Array], Array], list[Array]]] = {
    "srn": srn,
    "linear": linear,
    "linear_memory": linear_memory,
    "peephole_lstm": peephole_lstm,
    "reset_first_gru": reset_first_gru,
}


def made(name: str) -> Cell:
    torch.manual_seed(3)
    cell = _CELLS[name](F, H).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.7)
    return cell


def test_every_cell_has_its_equations() -> None:
    assert EQUATIONS.keys() == _CELLS.keys()


@pytest.mark.parametrize("name", EQUATIONS)
def test_outputs_follow_the_equations_at_every_real_place(name: str) -> None:
    cell = made(name)
    weights = {key: value.detach().numpy() for key, value in cell.named_parameters()}
    inputs, lengths = torch.randn(3, 6, F, dtype=torch.float64), torch.tensor([6, 2, 4])
    forward, last = RecurrentLayer(cell)(inputs, lengths)
    backward, first = RecurrentLayer(cell, reverse=True)(inputs, lengths)
    for row, length in enumerate(lengths.tolist()):
        xs = inputs[row, :length].numpy()
        wanted = np.stack(EQUATIONS[name](weights, xs))
        np.testing.assert_allclose(forward[row, :length].detach(), wanted, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(last[0][row].detach(), wanted[-1], rtol=1e-12, atol=1e-14)
        wanted = np.stack(EQUATIONS[name](weights, xs[::-1]))[::-1]
        np.testing.assert_allclose(backward[row, :length].detach(), wanted, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(first[0][row].detach(), wanted[0], rtol=1e-12, atol=1e-14)
        assert not forward[row, length:].any() and not backward[row, length:].any()


def test_a_simple_cell_is_torchs_rnn() -> None:
    cell, peer = made("srn"), nn.RNN(F, H, batch_first=True).double()
    with torch.no_grad():
        peer.weight_ih_l0.copy_(cell.input.weight)
        peer.weight_hh_l0.copy_(cell.get_parameter("recurrent"))
        peer.bias_ih_l0.copy_(cell.input.bias)
        peer.bias_hh_l0.zero_()
    inputs = torch.randn(2, 5, F, dtype=torch.float64)
    torch.testing.assert_close(RecurrentLayer(cell)(inputs)[0], peer(inputs)[0])


def test_an_lstm_without_peepholes_is_torchs_without_biases() -> None:
    cell, peer = made("peephole_lstm"), nn.LSTM(F, H, bias=False, batch_first=True).double()
    order = torch.cat([torch.arange(H) + H * gate for gate in (0, 1, 3, 2)])  # torch: input, forget, cell, output
    with torch.no_grad():
        cell.get_parameter("peephole").zero_()
        peer.weight_ih_l0.copy_(cell.input.weight[order])
        peer.weight_hh_l0.copy_(cell.get_parameter("recurrent")[order])
    inputs = torch.randn(2, 5, F, dtype=torch.float64)
    torch.testing.assert_close(RecurrentLayer(cell)(inputs)[0], peer(inputs)[0])


def test_the_reset_comes_before_the_matrix_unlike_torchs() -> None:
    cell, peer = made("reset_first_gru"), nn.GRU(F, H, bias=False, batch_first=True).double()
    with torch.no_grad():
        peer.weight_ih_l0.copy_(cell.input.weight)
        peer.weight_hh_l0.copy_(cell.get_parameter("recurrent"))
    inputs = torch.randn(2, 5, F, dtype=torch.float64)
    ours, theirs = RecurrentLayer(cell)(inputs)[0], peer(inputs)[0]
    # From an empty state there is nothing to reset: the first step is the same.
    torch.testing.assert_close(ours[:, 0], theirs[:, 0])
    assert not torch.allclose(ours[:, 1:], theirs[:, 1:], atol=1e-3)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", [*EQUATIONS, "lstm", "gru"])
def test_padding_changes_no_value_and_no_gradient(name: str, bidirectional: bool) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(name, F, H, 2, bidirectional=bidirectional).double()  # type: ignore[arg-type]
    lengths = torch.tensor([2, 5, 3])
    found = []
    for filling, longest in ((0.0, 5), (float("nan"), 7)):
        torch.manual_seed(1)
        rows = [torch.randn(length, F, dtype=torch.float64) for length in lengths.tolist()]
        inputs = torch.full((3, longest, F), filling, dtype=torch.float64)
        for row, values in zip(inputs, rows, strict=True):
            row[: len(values)] = values
        inputs.requires_grad_()
        outputs, states = stack(inputs, lengths)
        final = stack.final(states)
        assert outputs.shape == (3, longest, stack.outputs) == (3, longest, (1 + bidirectional) * H)
        gradients = torch.autograd.grad((outputs**2).sum() + final.sum(), [inputs, *stack.parameters()])
        assert not gradients[0][0, 2:].any(), "no gradient at the padding"
        found.append((outputs[:, :5].detach(), final.detach(), gradients[0][:, :5], *gradients[1:]))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", [*EQUATIONS, "lstm", "gru"])
def test_a_sequence_in_two_parts_is_the_whole(name: str) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(name, F, H, 2).double()  # type: ignore[arg-type]
    inputs = torch.randn(2, 6, F, dtype=torch.float64)
    whole, ended = stack(inputs)
    first, states = stack(inputs[:, :4])
    second, last = stack(inputs[:, 4:], None, states)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole)
    torch.testing.assert_close(stack.final(last), stack.final(ended))


def test_the_backward_direction_comes_second() -> None:
    stack = RecurrentStack("srn", F, H, bidirectional=True)
    inputs = torch.randn(1, 5, F)
    changed = inputs.clone()
    changed[:, -1] += 1
    before, after = stack(inputs)[0][0, 0], stack(changed)[0][0, 0]
    assert torch.equal(before[:H], after[:H]) and not torch.allclose(before[H:], after[H:])


@pytest.mark.parametrize("cell", ["lstm", "reset_first_gru"])
def test_what_stands_between_layers_sees_all_but_the_top_one(cell: CellName) -> None:
    torch.manual_seed(0)
    stack, inputs = RecurrentStack(cell, 3, 4, layers=3), torch.randn(2, 5, 3)
    seen: list[Tensor] = []

    def cut(outputs: Tensor) -> Tensor:
        seen.append(outputs)
        return torch.zeros_like(outputs)

    found, _ = stack(inputs, between=cut)
    assert len(seen) == 2 and bool(seen[0].any())
    assert torch.equal(found, stack(inputs * 2, between=cut)[0]) and not torch.equal(found, stack(inputs)[0])


@pytest.mark.parametrize("block", [1, 12, 2**15])  # one time, two times (of 3 x 2 numbers), all times at once
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 2, 0]])
@pytest.mark.parametrize("kind", [PeepholeLSTMCell, ResetFirstGRUCell])
def test_a_gradient_that_is_written_out_is_that_of_the_steps(
    kind: type[Cell], lengths: list[int] | None, reverse: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    cell = kind(3, 2).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter)
    layer = RecurrentLayer(cell, reverse=reverse)
    shapes = [(4, 3), *[(2,)] * cell.memories]
    inputs, *state = (torch.randn(3, *shape, dtype=torch.double, requires_grad=True) for shape in shapes)
    real = None if lengths is None else torch.tensor(lengths)
    monkeypatch.setattr(written_out, "_BLOCK", block)

    def read(*given: Tensor) -> tuple[Tensor, ...]:
        outputs, after = layer(given[0], real, given[1 : 1 + cell.memories])
        return outputs, *after

    given = (inputs, *state, *cell.parameters())
    if block == 1 and not reverse:
        assert torch.autograd.gradcheck(read, given, fast_mode=True)
        assert torch.autograd.gradgradcheck(read, given, fast_mode=True)
    quick = read(*given)
    weights = [torch.randn_like(part) for part in quick]
    gradients = torch.autograd.grad(quick, given, weights)
    monkeypatch.setattr(kind, "scan", Cell.scan)
    slow = read(*given)
    torch.testing.assert_close(quick, slow, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients, torch.autograd.grad(slow, given, weights), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("cell", ["peephole_lstm", "reset_first_gru"])
def test_the_texts_cells_can_be_exported_for_any_number_of_sequences(cell: CellName) -> None:
    torch.manual_seed(0)
    stack, inputs = RecurrentStack(cell, 3, 4).eval(), torch.randn(5, 6, 3)
    dynamic = {"inputs": {0: torch.export.Dim("sequences", min=1)}, "lengths": None, "states": None, "between": None}
    exported = torch.export.export(stack, (inputs[:2], None, None, None), dynamic_shapes=dynamic).module()
    torch.testing.assert_close(exported(inputs, None, None, None)[0], stack(inputs)[0])
