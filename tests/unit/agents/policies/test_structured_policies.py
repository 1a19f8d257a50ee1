"""Masks, vectors of categories, nested observations and memory of actor-critic policies, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Categorical

from rayloom.contract import TensorSpec, UserError
from rayloom_agents.networks.encoder import Encoder
from rayloom_agents.networks.memory import Memory
from rayloom_agents.policy_gradient.ppo import PPO

VECTOR = TensorSpec(shape=(3,), dtype=torch.float32)
NESTED = {
    "observation.picture": TensorSpec(shape=(9, 8, 3), dtype=torch.uint8),
    "observation.kind": TensorSpec(shape=(), dtype=torch.int64, num_values=4),
    "observation.switches": TensorSpec(shape=(2,), dtype=torch.int8, num_values=(2, 3)),
    "observation.vector": VECTOR,
    "observation.action_mask": TensorSpec(shape=(5,), dtype=torch.bool),
    "action": TensorSpec(shape=(2,), dtype=torch.int64, num_values=(3, 2)),
}


def observations(number: int) -> dict[str, torch.Tensor]:
    mask = torch.rand(number, 5) < 0.6
    mask[:, 1] |= ~mask[:, :3].any(dim=1)
    mask[:, 4] |= ~mask[:, 3:].any(dim=1)
    return {
        "picture": torch.randint(256, (number, 9, 8, 3), dtype=torch.uint8),
        "kind": torch.randint(4, (number,)),
        "switches": torch.stack([torch.randint(2, (number,)), torch.randint(3, (number,))], dim=1).to(torch.int8),
        "vector": torch.randn(number, 3),
        "action_mask": mask,
    }


def ppo(spec: Any, **config: Any) -> PPO:
    torch.manual_seed(0)
    agent = PPO(PPO.Config(**{"hidden_sizes": (16,), **config}), spec)
    with torch.no_grad():  # far from uniform
        for parameter in agent.policy.parameters():
            parameter.mul_(30)
    return agent


def test_features_are_joined_in_the_order_of_the_parts() -> None:
    encoder = Encoder(NESTED)
    seen = observations(5)
    features = encoder(seen)
    image = encoder.images["0"].size
    assert features.shape == (5, encoder.size) and encoder.size == image + 4 + 5 + 3
    assert torch.equal(features[:, image : image + 4].argmax(dim=1), seen["kind"])
    assert torch.equal(features[:, image + 4 : image + 6].argmax(dim=1), seen["switches"][:, 0].long())
    assert torch.equal(features[:, image + 6 : image + 9].argmax(dim=1), seen["switches"][:, 1].long())
    assert torch.equal(features[:, -3:], seen["vector"])
    assert not list(Encoder({"observation": VECTOR}).parameters())
    for shape in ((84, 84), (4, 84, 84), (84, 84, 3), (8, 8)):
        big = Encoder({"observation": TensorSpec(shape=shape, dtype=torch.uint8)})
        assert big(torch.zeros(2, *shape, dtype=torch.uint8)).shape == (2, big.size)


def test_two_masked_categories_are_two_masked_softmaxes() -> None:
    agent, seen = ppo(NESTED), observations(64)
    logits = agent.policy(agent.encoder(seen)).masked_fill(~seen["action_mask"], -torch.inf)
    parts = [Categorical(logits=logits[:, :3]), Categorical(logits=logits[:, 3:])]
    action = torch.stack([part.sample() for part in parts], dim=1)
    log_probability, entropy = agent._distribution(seen, action)
    expected = sum(part.log_prob(column) for part, column in zip(parts, action.unbind(1), strict=True))
    torch.testing.assert_close(log_probability, expected)
    torch.testing.assert_close(entropy, sum(part.entropy() for part in parts))
    (log_probability.sum() + entropy.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in agent.policy.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("published", [False, True])
def test_forbidden_actions_are_never_taken(explore: bool, published: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, seen = ppo(NESTED), observations(2_000)
    if published:
        agent.after_publish()
    generator = torch.Generator().manual_seed(1) if explore else None
    for zero in (False, True):
        if zero:  # the rarest of draws, for every action at once
            monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
        action = agent.act(seen, None, generator).action
        assert action.shape == (2_000, 2) and action.dtype == torch.int64
        allowed = seen["action_mask"]
        assert allowed[:, :3].gather(1, action[:, :1]).all() and allowed[:, 3:].gather(1, action[:, 1:]).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"observation.action_mask": TensorSpec(shape=(4,), dtype=torch.bool)}, "one element for each .* here 5"),
        ({"action.a": VECTOR, "action": None}, "needs one action space, and these are a"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(changes: dict[str, Any], sentence: str) -> None:
    spec = {name: part for name, part in {**NESTED, **changes}.items() if part is not None}
    with pytest.raises(UserError, match=sentence):
        ppo(spec)


def test_an_unrolled_memory_is_torchs_lstm_between_the_starts_of_episodes() -> None:
    torch.manual_seed(0)
    memory = Memory(3, 4)
    lstm = torch.nn.LSTM(3, 4)
    with torch.no_grad():
        for name, parameter in memory.cell.named_parameters():
            parameter.normal_()
            getattr(lstm, f"{name}_l0").copy_(parameter)
    features, state = torch.randn(6, 2, 3), torch.randn(2, 8)
    first = torch.zeros(6, 2, dtype=torch.bool)
    first[4, 1] = True
    states = memory.unroll(features, state, first)
    outputs, (hidden, cell) = lstm(features, tuple(part[None].contiguous() for part in state.chunk(2, dim=1)))
    torch.testing.assert_close(states[:, 0, :4], outputs[:, 0])
    torch.testing.assert_close(states[-1, 0], torch.cat((hidden[0, 0], cell[0, 0])))
    fresh, _ = lstm(features[4:, 1:])
    torch.testing.assert_close(states[4:, 1, :4], fresh[:, 0])


def test_rows_of_a_recurrent_rollout_repeat_what_the_agent_did() -> None:
    spec = {"observation": VECTOR, "action": TensorSpec(shape=(), dtype=torch.int64, num_values=3)}
    agent = ppo(spec, memory_size=5, sequence_length=4, normalize_advantages=False)
    steps, number = 8, 3
    first, truncated = torch.zeros(2, steps, number, dtype=torch.bool).unbind()
    first[0], first[5, 1], truncated[4, 1] = True, True, True
    observation = torch.randn(steps, number, 3)
    following = torch.cat((observation[1:], torch.randn(1, number, 3)))
    following[4, 1] = torch.randn(3)
    state, taken = agent.initial_state(number), []
    generator = torch.Generator().manual_seed(0)
    for t in range(steps):
        state = agent.reset_state(state, first[t])
        taken.append(agent.act(observation[t], state, generator))
        state = taken[-1].state
    trajectory = {
        "observation": observation,
        "next_observation": following,
        "action": torch.stack([one.action for one in taken]),
        "memory": torch.stack([one.extras["memory"] for one in taken]),
        "reward": torch.randn(steps, number),
        "terminated": torch.zeros(steps, number, dtype=torch.bool),
        "truncated": truncated,
        "valid": torch.ones(steps, number, dtype=torch.bool),
        "first": first,
    }
    with torch.no_grad():
        rows = agent.prepare(trajectory)
        loss = agent.loss(rows)
    assert rows["observation"].shape == (6, 4, 3) and rows["memory"].shape == (6, 10)
    assert torch.equal(rows["observation"][3], observation[4:, 0]) and torch.equal(
        rows["memory"][3], trajectory["memory"][4, 0]
    )
    # The same weights: no ratio differs from 1, and the values are those that the returns were made of.
    torch.testing.assert_close(loss.metrics["kl"], torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(loss.metrics["value_loss"], rows["advantage"].square().mean(dim=1))
    values = agent._values(None, torch.stack([one.state for one in taken]).flatten(0, 1)).reshape(steps, number)
    delta = trajectory["reward"][:-1] + 0.99 * values[1:] - values[:-1]
    whole = rows["advantage"].reshape(2, number, 4).transpose(1, 2).reshape(steps, number)
    expected = delta[6, 0] + 0.99 * 0.95 * whole[7, 0]
    torch.testing.assert_close(whole[6, 0], expected)
    with pytest.raises(UserError, match=r"sequence_length: 3 does not divide the 8 steps"):
        ppo(spec, memory_size=5, sequence_length=3).prepare(trajectory)
