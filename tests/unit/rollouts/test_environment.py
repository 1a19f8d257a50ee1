"""The autoreset adapter tells the truth in every mode, and faults of environments name the environment."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from counting_environment import (
    CountingEnvironment,
    CountingVectorEnvironment,
    FaultyEnvironment,
    Schedule,
    reward_of,
)
from examples import examples
from rayloom.config.sources import EnvironmentFields
from rayloom.errors import EnvironmentFault, UserError
from rayloom.rollouts.environment import Environment, spec_of
from rayloom.rollouts.making import make_environment
from rayloom.rollouts.spaces import _tell_of_type
from rayloom.seeding import derive_seed


class Transition(NamedTuple):
    observation: tuple[float, ...]
    action: int
    reward: float
    next_observation: tuple[float, ...]
    terminated: bool
    truncated: bool


def policy(observation: np.ndarray) -> np.ndarray:
    """A deterministic action for counting observations [..., 3]."""
    return (observation @ np.array([1, 3, 5])).astype(np.int64) % 3


def single_loop(index: int, schedule: Schedule, count: int) -> list[Transition]:
    """The oracle: one plain environment, stepped and reset by hand."""
    env = CountingEnvironment(index, schedule)
    observation, _ = env.reset()
    found: list[Transition] = []
    while len(found) < count:
        action = policy(observation)
        following, reward, terminated, truncated, _ = env.step(action)
        values = (tuple(observation.tolist()), int(action), reward, tuple(following.tolist()), terminated, truncated)
        found.append(Transition(*values))
        observation = env.reset()[0] if terminated or truncated else following
    return found


def collect(environment: Environment, steps: int) -> tuple[list[list[Transition]], np.ndarray]:
    """Return the valid transitions of each environment and the valid mask [T, N]."""
    observation = environment.reset(seed=3)
    found: list[list[Transition]] = [[] for _ in range(environment.num_envs)]
    valid = []
    for _ in range(steps):
        action = policy(observation)
        step = environment.step(action)
        assert step.reward.dtype == np.float32
        assert step.observation.dtype == step.next_observation.dtype == np.float32
        assert step.terminated.dtype == step.truncated.dtype == step.valid.dtype == np.bool_
        valid.append(step.valid.copy())
        for i in np.flatnonzero(step.valid):
            found[i].append(
                Transition(
                    tuple(observation[i].tolist()),
                    int(action[i]),
                    float(step.reward[i]),
                    tuple(step.next_observation[i].tolist()),
                    bool(step.terminated[i]),
                    bool(step.truncated[i]),
                )
            )
        dead = ~step.valid
        assert not (step.terminated | step.truncated)[dead].any()
        assert (step.reward[dead] == 0).all()
        observation = step.observation
    return found, np.array(valid)


def assert_true_transitions(environment: Environment, schedules: list[Schedule], steps: int) -> None:
    found, valid = collect(environment, steps)
    for i, schedule in enumerate(schedules):
        truth = single_loop(i, schedule, steps)
        if environment.autoreset_mode is AutoresetMode.NEXT_STEP:
            # One dead step after each end: what remains must be the whole of the other steps.
            alive = list(itertools.chain.from_iterable([True] * length + [False] for length, _ in schedule))
            expected = (alive * steps)[:steps]
            assert valid[:, i].tolist() == expected
            truth = truth[: sum(expected)]
        else:
            assert valid[:, i].all()
        assert found[i] == truth


episodes = st.tuples(st.integers(1, 4), st.sampled_from(["terminated", "truncated", "both"]))
many_schedules = st.lists(st.lists(episodes, min_size=1, max_size=4), min_size=1, max_size=4)


def counting_vector(kind: str, schedules: list[Schedule], **options: Any) -> VectorEnv[Any, Any, Any]:
    if kind == "native":
        return CountingVectorEnvironment(len(schedules), schedules)
    makers = [lambda i=i, s=s: CountingEnvironment(i, s, **options) for i, s in enumerate(schedules)]
    if kind == "sync shared":
        return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode[kind])


@pytest.mark.parametrize("kind", ["NEXT_STEP", "SAME_STEP", "DISABLED", "sync shared", "native"])
@settings(max_examples=examples(60, 25), deadline=None, derandomize=True)
@given(schedules=many_schedules)
def test_every_mode_gives_the_transitions_of_a_plain_loop(kind: str, schedules: list[Schedule]) -> None:
    assert_true_transitions(Environment(counting_vector(kind, schedules)), schedules, steps=15)


SCHEDULES: list[Schedule] = [[(1, "truncated"), (3, "terminated")], [(2, "both"), (2, "truncated")]]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_subprocesses_give_the_same_transitions(mode: AutoresetMode) -> None:
    makers = [lambda i=i, s=s: CountingEnvironment(i, s) for i, s in enumerate(SCHEDULES)]
    environment = Environment(AsyncVectorEnv(makers, autoreset_mode=mode))
    try:
        assert_true_transitions(environment, SCHEDULES, steps=9)
    finally:
        environment.close()


class BatchedFinal(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Turns the object array of last observations into a batch with a mask, as native environments give it."""

    def step(self, actions: Any) -> Any:
        *step, infos = self.env.step(actions)
        if "final_obs" in infos:
            batch = np.full((self.num_envs, 3), -1.0, dtype=np.float32)
            for i in np.flatnonzero(infos["_final_obs"]):
                batch[i] = infos["final_obs"][i]
            infos["final_obs"] = batch
        return *step, infos


def test_last_observations_may_come_as_a_batch() -> None:
    environment = Environment(BatchedFinal(counting_vector("SAME_STEP", SCHEDULES)))
    assert_true_transitions(environment, SCHEDULES, steps=9)


@pytest.mark.parametrize(
    "infos",
    [
        {},
        {"final_obs": np.array([None, None], dtype=object)},
        {"final_obs": np.zeros((2, 3)), "_final_obs": np.array([False, True])},
    ],
)
def test_a_missing_last_observation_is_a_fault(infos: dict[str, Any]) -> None:
    class Forgetful(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
        def step(self, actions: Any) -> Any:
            return *self.env.step(actions)[:4], infos

    environment = Environment(Forgetful(counting_vector("SAME_STEP", SCHEDULES)), first_index=4, worker=2)
    environment.reset(0)
    with pytest.raises(EnvironmentFault, match=r"environment 4 of rollout worker 2 .* step 1 without .*final_obs"):
        environment.step(np.zeros(2, dtype=np.int64))


def test_steps_keep_their_observations() -> None:
    environment = Environment(counting_vector("sync shared", [[(9, "terminated")]]))
    first = environment.reset(0)
    second = environment.step(np.zeros(1, dtype=np.int64)).observation
    environment.step(np.zeros(1, dtype=np.int64))
    assert first[0].tolist() == [0, 0, 0]
    assert second[0].tolist() == [0, 0, 1]


def test_an_environment_that_reuses_its_array_keeps_its_last_observation() -> None:
    source = EnvironmentFields(env="counting_environment:Counting-v0", env_options={"reuse": True})
    environment = make_environment(source, 1)
    observation = environment.reset(0)
    for _ in range(5):
        step = environment.step(policy(observation))
        observation = step.observation
    assert step.terminated[0]
    assert step.next_observation[0].tolist() == [0, 0, 5]
    assert step.observation[0].tolist() == [0, 1, 0]


def test_a_reset_forgets_what_was_dead() -> None:
    environment = Environment(CountingVectorEnvironment(1, [[(1, "terminated"), (9, "terminated")]]))
    environment.reset(0)
    assert environment.step(np.zeros(1, dtype=np.int64)).terminated[0]
    environment.reset(0)
    step = environment.step(np.zeros(1, dtype=np.int64))
    assert step.valid[0]
    assert step.next_observation[0].tolist() == [0, 1, 1]


def test_seeds_come_from_the_tree() -> None:
    native = CountingVectorEnvironment(2)
    Environment(native, first_index=6).reset(11)
    assert native.seeds == [derive_seed(11, "environment", 6) % 2**31]
    looped = counting_vector("SAME_STEP", SCHEDULES)
    Environment(looped, first_index=6).reset(11)
    assert looped.np_random_seed == tuple(derive_seed(11, "environment", i) % 2**31 for i in (6, 7))


def test_native_cartpole_equals_single_cartpoles() -> None:
    # Two balanced episodes run into the time limit of 500, the others fall and restart many times.
    num_envs, native = 4, gym.make_vec("CartPole-v1", num_envs=4)
    environment = Environment(native)
    observation = environment.reset(5)
    singles = [gym.make("CartPole-v1") for _ in range(num_envs)]
    rng = np.random.default_rng(0)
    ends = {"terminated": 0, "truncated": 0, "dead": 0}

    def restart(i: int) -> None:
        singles[i].reset()
        singles[i].unwrapped.state = native.state[:, i].copy()

    for i in range(num_envs):
        restart(i)
    for _ in range(520):
        balance = (observation @ np.array([0.1, 0.3, 2.0, 1.0]) > 0).astype(np.int64)
        action = np.where(np.arange(num_envs) < 2, balance, rng.integers(0, 2, num_envs))
        step = environment.step(action)
        for i, single in enumerate(singles):
            if not step.valid[i]:
                ends["dead"] += 1
                restart(i)
                np.testing.assert_allclose(step.observation[i], native.state[:, i], rtol=1e-6)
                continue
            following, reward, terminated, truncated, _ = single.step(int(action[i]))
            np.testing.assert_allclose(step.next_observation[i], following, rtol=1e-5, atol=1e-6)
            assert (step.reward[i], step.terminated[i], step.truncated[i]) == (reward, terminated, truncated)
            ends["terminated"] += terminated
            ends["truncated"] += truncated
        observation = step.observation
    assert ends["truncated"] == 2
    assert ends["terminated"] > 10
    assert ends["dead"] == ends["terminated"] + ends["truncated"]


# --- making environments ---------------------------------------------------------------------------------------------


def make(env: str, num_envs: int = 2, **arguments: Any) -> Environment:
    fields = {key: arguments.pop(key) for key in ("env_options", "check_observations") if key in arguments}
    return make_environment(EnvironmentFields(env=env, **fields), num_envs, **arguments)


def test_native_where_there_is_one_else_a_loop() -> None:
    assert make("CartPole-v1").autoreset_mode is AutoresetMode.NEXT_STEP
    assert make("FrozenLake-v1").autoreset_mode is AutoresetMode.SAME_STEP


@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1"])
def test_options_reach_the_environment(env: str) -> None:
    environment = make(env, env_options={"max_episode_steps": 7}, check_every_step=True)
    environment.reset(0)
    steps = [environment.step(np.zeros(2, dtype=np.int32)) for _ in range(7)]
    assert [step.truncated.tolist() for step in steps] == [[False, False]] * 6 + [[True, True]]


def test_spec_of_cartpole() -> None:
    spec = spec_of(make("CartPole-v1"))
    assert spec["action"].num_values == 2
    assert (spec["action"].shape, spec["action"].dtype) == ((), torch.int64)
    observation = spec["observation"]
    assert (observation.shape, observation.dtype, observation.num_values) == ((4,), torch.float32, None)
    assert observation.high == pytest.approx((4.8, np.inf, 0.41887903, np.inf))
    assert observation.low == pytest.approx((-4.8, -np.inf, -0.41887903, -np.inf))


def test_spec_of_boxes_and_discrete_observations() -> None:
    pendulum = spec_of(make("Pendulum-v1"))
    assert (pendulum["action"].low, pendulum["action"].high) == ((-2.0,), (2.0,))
    assert pendulum["action"].num_values is None
    assert spec_of(make("FrozenLake-v1"))["observation"].num_values == 16


def test_box_actions_and_double_precision() -> None:
    class Double(gym.Env[np.ndarray, np.ndarray]):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

        def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return np.full(3, 0.1), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            assert self.action_space.contains(action)
            return np.full(3, 0.2), float(action[1]), True, False, {}

    environment = Environment(SyncVectorEnv([Double], autoreset_mode=AutoresetMode.SAME_STEP))
    assert spec_of(environment)["observation"].dtype == torch.float32
    assert spec_of(environment)["observation"].low is None
    assert environment.reset(0).tolist() == [[np.float32(0.1)] * 3]
    step = environment.step(np.array([[0.25, 0.5]]))
    assert step.next_observation.tolist() == [[np.float32(0.2)] * 3]
    assert step.observation.tolist() == [[np.float32(0.1)] * 3]
    assert (step.next_observation.dtype, step.observation.dtype) == (np.float32, np.float32)
    assert step.reward.tolist() == [0.5]


def test_discrete_actions_count_from_zero() -> None:
    environment = make("counting_environment:Counting-v0", 1, env_options={"start": 5})
    assert spec_of(environment)["action"].num_values == 3
    observation = environment.reset(0)
    step = environment.step(np.array([2]))
    assert step.reward[0] == reward_of(observation[0], 2)


@pytest.mark.parametrize(
    ("env", "options", "words"),
    [
        ("CartPole-v2", {}, ["source.env", "'CartPole-v2'", "did you mean 'CartPole-v1'?"]),
        ("no_such_module:CartPole-v1", {}, ["source.env", "no module 'no_such_module'"]),
        ("counting_environment:Nothing-v0", {}, ["no environment 'Nothing-v0'"]),
        ("CartPole-v1", {"sutton_barto": 1}, ["source.env_options.sutton_barto", "'sutton_barto_reward'"]),
        ("Acrobot-v1", {"rendermode": 1}, ["source.env_options.rendermode", "'render_mode'"]),
        ("CartPole-v1", {"num_envs": 4}, ["source.env_options.num_envs", "remove it"]),
        ("counting_environment:Faulty-v0", {"fault": "dependency"}, ["needs a package", "pip install box2d"]),
    ],
)
def test_mistakes_are_one_sentence(env: str, options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        make(env, env_options=options)
    for word in words:
        assert word in str(caught.value)


def test_atari_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("rayloom.rollouts.making.importlib.import_module", absent)
    with pytest.raises(UserError, match=r"pip install 'rayloom\[atari\]'"):
        make("ALE/Pong-v5")


def test_a_type_error_inside_the_constructor_keeps_its_traceback() -> None:
    with pytest.raises(TypeError, match="nonsense"):
        make("counting_environment:Faulty-v0", env_options={"fault": "constructor"})


@pytest.mark.parametrize(
    "space", [gym.spaces.Box(0, 5, (2,), np.int64), gym.spaces.Text(3), gym.spaces.Dict(a=gym.spaces.Text(3))]
)
def test_unsupported_action_spaces(space: gym.Space[Any]) -> None:
    env = CountingEnvironment()
    env.action_space = space  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"action space is \w+\(.*; supported are Box"):
        Environment(SyncVectorEnv([lambda: env]))


def test_a_vector_environment_must_state_its_mode() -> None:
    native = CountingVectorEnvironment(1)
    native.metadata = {}
    with pytest.raises(UserError, match="autoreset_mode"):
        Environment(native)


# --- faults ----------------------------------------------------------------------------------------------------------


def run_faulty(fault: str, at: int = 4, check: bool = True, every: bool = True, steps: int = 6, **options: Any) -> Any:
    """Step three environments, numbers 10 to 12 of worker 3, of which number 11 misbehaves."""
    FaultyEnvironment.created = itertools.count()
    options = {"fault": fault, "at": at, "faulty": 1, **options}
    env = "counting_environment:Faulty-v0"
    environment = make(
        env, 3, env_options=options, check_observations=check, first_index=10, worker=3, check_every_step=every
    )
    environment.reset(0)
    collected = [environment.step(np.zeros(3, dtype=np.int64)) for _ in range(steps)]
    return environment, collected


WHERE = "environment 11 of rollout worker 3"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "returned at its step 4 the observation[2] = nan"),
        ("inf", "returned at its step 4 the observation[2] = inf"),
        ("-inf", "returned at its step 4 the observation[2] = -inf"),
        ("outside", "returned at its step 4 the observation[0] = -3.0, outside its space [0.0, 1000.0]"),
        ("reward nan", "returned at its step 4 the reward nan"),
        ("reward inf", "returned at its step 4 the reward inf"),
        ("shape", "returned at its step 4 an observation of shape (2, 2) instead of (3,)"),
    ],
)
def test_faults_name_environment_step_and_value(fault: str, message: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        run_faulty(fault)
    assert str(caught.value).startswith(f"{WHERE} {message}")


@pytest.mark.parametrize(("fault", "value"), [("nan", "observation[2] = nan"), ("reward inf", "reward inf")])
def test_a_chunk_names_its_first_offender(fault: str, value: str) -> None:
    environment, collected = run_faulty(fault, every=False, at=4, steps=6)
    observations = np.stack([step.next_observation for step in collected])
    rewards = np.stack([step.reward for step in collected])
    rewards[4, 0] = np.nan  # later
    observations[3, 2] = np.nan  # the same step, a later environment
    with pytest.raises(EnvironmentFault) as caught:
        environment.check(observations[2:], rewards[2:])
    assert f"{WHERE} returned at its step 4" in str(caught.value)
    assert value in str(caught.value)
    environment.check(observations[:3], rewards[:3])


@pytest.mark.parametrize("fault", ["outside", "dtype", "list"])
def test_ranges_and_types_need_not_be_checked(fault: str) -> None:
    _, collected = run_faulty(fault, check=False)
    assert collected[3].observation.dtype == np.float32


def test_numbers_of_another_type_are_converted_with_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    _tell_of_type.cache_clear()
    for _ in range(2):
        _, collected = run_faulty("dtype")
        assert collected[3].observation.dtype == np.float32
    told = capsys.readouterr().err
    assert told.count("comes as float64 although its space says float32") == 1


def test_lists_are_observations_too() -> None:
    _, collected = run_faulty("list")
    assert collected[3].observation[1].tolist() == [1, 0, 4]


def test_nan_is_a_fault_even_without_range_checks() -> None:
    with pytest.raises(EnvironmentFault, match=r"observation\[2\] = nan"):
        run_faulty("nan", check=False)


@pytest.mark.parametrize("at", [0, 2])
def test_first_observations_are_checked(at: int) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        run_faulty("reset_nan", at=at, every=False, schedule=[(2, "terminated")])
    assert str(caught.value) == f"{WHERE} returned in the reset after its step {at} the observation[1] = nan"


def test_a_discrete_observation_outside_its_space_is_a_fault() -> None:
    environment = make("FrozenLake-v1")
    environment.reset(0)
    environment.step(np.zeros(2, dtype=np.int64))
    with pytest.raises(EnvironmentFault, match=r"environment 1 .* the observation = 16, outside its space \[0, 15\]"):
        environment.check(np.array([[15, 16]]), np.zeros((1, 2), dtype=np.float32))


def test_images_need_no_range_check() -> None:
    class Images(CountingEnvironment):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.Box(0, 255, (2, 2), np.uint8)

        def _observe(self) -> np.ndarray:
            return np.full((2, 2), 255, dtype=np.uint8)

    environment = Environment(SyncVectorEnv([Images]), check_every_step=True)
    environment.reset(0)
    assert environment.step(np.zeros(1, dtype=np.int64)).observation.dtype == np.uint8
    assert spec_of(environment)["observation"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("fault", "error", "note"),
    [
        ("raise", ZeroDivisionError, f"{WHERE} raised at its step 4"),
        ("reset_raise", KeyError, f"{WHERE} raised in the reset after its step 4"),
    ],
)
def test_errors_keep_their_traceback_and_get_one_note(fault: str, error: type[Exception], note: str) -> None:
    with pytest.raises(error) as caught:
        run_faulty(fault, at=4, schedule=[(4, "terminated")])
    assert caught.value.__notes__ == [note]
    assert caught.traceback[-1].path.name == "counting_environment.py"


def test_errors_of_native_environments_get_a_note() -> None:
    environment = make("counting_environment:CountingNative-v0", 2, env_options={"fail_at": 2}, first_index=4, worker=1)
    environment.reset(0)
    environment.step(np.zeros(2, dtype=np.int64))
    with pytest.raises(ZeroDivisionError) as caught:
        environment.step(np.zeros(2, dtype=np.int64))
    assert caught.value.__notes__ == ["environments 4 to 5 of rollout worker 1 raised at step 2"]


def test_a_native_batch_of_another_shape_is_a_fault() -> None:
    native = CountingVectorEnvironment(2)
    native.reset = lambda **_: (np.zeros((2, 4), dtype=np.float32), {})  # type: ignore[method-assign]
    with pytest.raises(EnvironmentFault, match=r"environments 0 to 1 .* shape \(2, 4\) instead of \(2, 3\)"):
        Environment(native).reset(0)
