"""Faults on purpose: what is ordered, what is refused, who is struck and when, and what is told of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

import rayloom
from cases import case
from rayloom.cli import main as cli
from rayloom.errors import Process, UserError
from rayloom.launch import chaos as module
from rayloom.launch.chaos import Chaos, Fault, Strike, check_plan, parse
from rayloom.runs.plan import make_plan
from tracking_store import StoreView, empty_store


@dataclass
class Roles:
    """A run's roles and tracker, of which none is real."""

    listed: list[Process]
    pid: int | None = 900
    asked: int = 0

    def processes(self) -> list[Process]:
        self.asked += 1
        return list(self.listed)

    def writer(self) -> int | None:
        return self.pid

    def replace(self, victim: Process) -> None:
        """Put another process in the victim's place."""
        place = self.listed.index(victim)
        self.listed[place] = Process(victim.role, victim.index, victim.pid + 1000, victim.node_id)


@dataclass
class Harmless(Chaos):
    """Notes whom it would strike."""

    hits: list[Strike] = field(default_factory=list)

    def __init__(self, spec: str, seed: int = 0) -> None:
        super().__init__(spec, seed)
        self.hits = []

    def _hit(self, strike: Strike) -> None:
        self.hits.append(strike)
        self._open.append(strike)


def workers(number: int = 4, node: str = "home") -> list[Process]:
    return [Process("rollout", index, 100 + index, node) for index in range(number)]


def driven(chaos: Harmless, roles: Roles, spare: int = 2) -> list[tuple[float, str, Any]]:
    """Go through a run in 100 looks; every fault is answered before the next look. Return what was struck when."""
    struck = []
    for percent in range(100):
        before = len(chaos.hits)
        chaos.strike(roles, roles, percent / 100, spare)
        for strike in chaos.hits[before:]:
            struck.append((percent / 100, strike.role, strike.victim))
            if isinstance(strike.victim, Process):
                roles.replace(strike.victim)
            else:
                roles.pid = (roles.pid or 0) + 1
    return struck


# --- orders --------------------------------------------------------------------------------------------------------


def test_orders_are_counts_and_rates() -> None:
    assert parse("rollout=6/min, learner=1,hang = 0.5 / min") == (
        Fault("rollout", per_minute=6.0),
        Fault("learner", count=1),
        Fault("hang", per_minute=0.5),
    )


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("rolout=1", "there is no role 'rolout' to strike; did you mean 'rollout'"),
        ("", "there is no role ''"),
        ("rollout=1,,node=1", "there is no role ''"),
        ("rollout=1,rollout=2/min", "rollout is given twice"),
        ("rollout", "write rollout=2 for twice in the run or rollout=2/min for a rate, not 'rollout'"),
        ("rollout=0", "not 'rollout=0'"),
        ("rollout=-1", "not 'rollout=-1'"),
        ("rollout=1.5", "not 'rollout=1.5'"),
        ("rollout=3/h", "not 'rollout=3/h'"),
        ("learner=many", "write learner=2"),
    ],
)
def test_mistakes_are_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(spec)
    assert sentence in str(caught.value) and str(caught.value).startswith("--chaos: ")


ACTORS: dict[str, Any] = {"source": {"rollout_workers": 2, "worker_cpus": 0}}


@pytest.mark.parametrize(
    ("spec", "sections", "local", "reason"),
    [
        ("rollout=1", {}, False, "rollout cannot be struck: there are no rollout actors"),
        ("hang=1/min", {}, False, "hang cannot be struck: there are no rollout actors"),
        ("learner=1", ACTORS, False, "learner cannot be struck: the learner is in the driver's process"),
        ("evaluator=1", ACTORS, False, "evaluator cannot be struck: evaluations are in the driver's process"),
        ("tracker=1", ACTORS, False, "tracker cannot be struck: tracking.enabled is false"),
        ("node=1", {}, False, "node cannot be struck: the run has no Ray actors"),
        ("node=1", ACTORS, False, "node cannot be struck: the run's own Ray has one node"),
        ("rollout=1", ACTORS, True, "rollout cannot be struck: with --local everything is in this process"),
        ("tracker=1", {"tracking": {"enabled": True}}, True, "with --local"),
    ],
)
def test_what_a_plan_lacks_is_refused(
    spec: str, sections: dict[str, Any], local: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayloom.cluster.nodes.node_faults.is_connected", lambda: False)
    config = case("ppo", **sections)
    with pytest.raises(UserError, match=reason):
        check_plan(parse(spec), config, make_plan(config, local), local)


def test_what_a_plan_has_is_accepted() -> None:
    config = case(
        "ppo",
        **ACTORS,
        learner={"count": 2},
        tracking={"enabled": True},
        cluster={"evaluator": "actor", "address": "auto"},
    )
    check_plan(parse("rollout=1,hang=1,learner=1,evaluator=1,tracker=1,node=1"), config, make_plan(config), False)


def test_the_command_refuses_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "runs"
    line = f"run softmax_regression_digits output={output} --chaos learner=1"
    assert cli.main(line.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("rayloom: --chaos: learner cannot be struck: ") and told.count("\n") == 1
    assert not output.exists()


# --- moments and victims -------------------------------------------------------------------------------------------


def test_counts_are_reached_at_seeded_shares_of_the_budget() -> None:
    first, again, other = (driven(Harmless("rollout=7", seed), Roles(workers())) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == len(other) == 7
    assert all(0.05 <= moment <= 0.96 for moment, _, _ in first)
    assert len({victim.index for _, _, victim in first}) > 1


def test_one_role_more_does_not_change_when_the_others_are_struck() -> None:
    alone = driven(Harmless("rollout=5"), Roles(workers()))
    together = driven(Harmless("tracker=3,rollout=5"), Roles(workers()))
    assert [strike for strike in together if strike[1] == "rollout"] == alone
    assert len(together) == 8


def test_a_rate_has_gaps_of_the_right_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    chaos, roles = Harmless("rollout=6/min"), Roles(workers())
    for _ in range(7_200):
        before = len(chaos.hits)
        chaos.strike(roles, roles, 0.5, 2)
        for strike in chaos.hits[before:]:
            assert isinstance(strike.victim, Process)
            roles.replace(strike.victim)
        clock[0] += 0.5  # an hour in all: 360 strikes are expected, with a standard deviation of 19
    assert 360 - 4 * 19 < len(chaos.hits) < 360 + 4 * 19
    assert chaos.metrics == {"faults/struck_rollout": float(len(chaos.hits))}
    assert chaos.report()["not_struck"] == {}


def test_nothing_is_asked_while_nothing_is_due() -> None:
    chaos, roles = Harmless("rollout=1"), Roles(workers())
    assert chaos.strike(roles, roles, 0.0, 2) == []
    assert roles.asked == 0


def test_a_victim_is_not_struck_twice_and_what_finds_nobody_stays_due() -> None:
    chaos, roles = Harmless("rollout=3"), Roles(workers(2))
    assert len(chaos.strike(roles, roles, 1.0, 2)) == 2
    assert {strike.victim for strike in chaos.hits} == set(roles.listed)
    assert chaos.strike(roles, roles, 1.0, 2) == []
    assert chaos.report()["not_struck"] == {"rollout": 1}
    roles.replace(roles.listed[0])
    assert chaos.strike(roles, roles, 1.0, 2) == ["chaos: struck rollout worker 0 with SIGKILL (process 1100)"]
    chaos.conclude(roles, roles)
    assert chaos.report() == {
        "spec": "rollout=3",
        "seed": 0,
        "struck": {"rollout": 3},
        "replaced": {"rollout": 1},
        "unanswered": {"rollout": 2},
        "not_struck": {},
    }
    assert chaos.summary() == (
        "chaos: struck 3 rollout workers; replaced 1 rollout worker; unanswered at the end: 2 rollout workers"
    )


def test_learners_are_struck_one_at_a_time_and_never_once_too_often() -> None:
    learners = [Process("learner", rank, 200 + rank, "home") for rank in range(2)]
    chaos, roles = Harmless("learner=2"), Roles(learners)
    chaos.strike(roles, roles, 1.0, 0)
    assert chaos.hits == []  # the run would not survive another loss before its next checkpoint
    chaos.strike(roles, roles, 1.0, 2)
    chaos.strike(roles, roles, 1.0, 2)
    (strike,) = chaos.hits
    for process in list(roles.listed):
        roles.replace(process)
    chaos.strike(roles, roles, 1.0, 2)
    assert len(chaos.hits) == 2 and strike.victim != chaos.hits[1].victim
    assert chaos.report()["replaced"] == {"learner": 1}


def test_a_node_is_one_that_carries_roles_but_not_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayloom.cluster.nodes.node_faults.driver_node", lambda: "home")
    chaos = Harmless("node=1")
    with pytest.raises(UserError, match="only the driver's node carries roles"):
        chaos.check_nodes(Roles(workers()))
    roles = Roles(workers(2) + workers(2, "away"))
    chaos.check_nodes(roles)
    chaos.strike(roles, roles, 1.0, 2)
    assert [strike.victim for strike in chaos.hits] == ["away"]
    chaos.conclude(roles, roles)
    assert chaos.report()["unanswered"] == {"node": 1}
    roles.listed = roles.listed[:3]  # one that died with its node is still taken for a member
    chaos.conclude(roles, roles)
    assert chaos.report()["unanswered"] == {"node": 1}
    roles.listed = roles.listed[:2]
    chaos.conclude(roles, roles)
    assert chaos.summary() == "chaos: struck 1 node; went on without 1 node"


def test_a_dead_evaluator_is_answered_by_another_only() -> None:
    evaluator = Process("evaluator", 0, 300, "home")
    chaos, roles = Harmless("evaluator=1"), Roles([*workers(), evaluator])
    chaos.strike(roles, roles, 1.0, 2)
    roles.listed.remove(evaluator)
    chaos.conclude(roles, roles)
    assert chaos.report()["unanswered"] == {"evaluator": 1}
    roles.listed.append(Process("evaluator", 0, 301, "home"))
    chaos.conclude(roles, roles)
    assert chaos.report()["replaced"] == {"evaluator": 1}


def test_the_end_waits_a_moment_for_the_tracker_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WRITER_DEADLINE_S", 0.3)
    chaos, roles = Harmless("tracker=1"), Roles([])
    chaos.strike(roles, roles, 1.0, 2)
    begin = time.monotonic()
    chaos.conclude(roles, roles)
    assert time.monotonic() - begin >= 0.3
    assert chaos.summary() == "chaos: struck 1 tracker; unanswered at the end: 1 tracker"
    roles.pid = 901
    chaos.conclude(roles, roles)
    assert chaos.summary() == "chaos: struck 1 tracker; replaced 1 tracker"


def test_the_summary_says_it_all_in_one_line() -> None:
    chaos = Harmless("rollout=12,hang=2,learner=1,tracker=1,evaluator=1")
    chaos._struck = {"rollout": 12, "hang": 2, "learner": 2, "tracker": 1, "evaluator": 0}
    chaos._replaced = {"rollout": 12, "hang": 1, "learner": 2, "tracker": 1, "evaluator": 0}
    chaos._shares = {"evaluator": chaos._shares["evaluator"]}
    assert chaos.summary() == (
        "chaos: struck 12 rollout workers, 2 hung rollout workers, 2 learners, 1 tracker; replaced 13 rollout workers, "
        "2 groups of learners, 1 tracker; the run ended before striking 1 evaluator"
    )


# --- real processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield process
    process.kill()
    process.wait()


def test_a_writer_is_really_killed(sleeper: subprocess.Popen[bytes]) -> None:
    chaos, roles = Chaos("tracker=1", 0), Roles([], sleeper.pid)
    assert chaos.strike(roles, roles, 1.0, 2) == [f"chaos: struck the tracker's writer (process {sleeper.pid})"]
    assert sleeper.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("role", ["rollout", "hang"])
def test_a_process_is_killed_or_stopped(
    role: str, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = psutil.Process(sleeper.pid)
    roles = Roles([Process("rollout", 0, sleeper.pid, None, process.create_time())])
    monkeypatch.setattr("rayloom.cluster.nodes.processes.ray.get_runtime_context", lambda: _Context())
    Chaos(f"{role}=1", 0).strike(roles, roles, 1.0, 2)
    if role == "rollout":
        assert sleeper.wait(10) == -signal.SIGKILL
        return
    deadline = time.monotonic() + 10
    while process.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        time.sleep(0.01)


class _Context:
    def get_node_id(self) -> str:
        return "home"


def test_a_run_without_ray_survives_its_tracker_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayloom.runs.session.PAUSE_S", 0.01)
    empty_store(tmp_path)
    sections: dict[str, Any] = {"stop": {"env_steps": 4_096}, "tracking": {"enabled": True, "system_metrics": False}}
    struck = rayloom.run(case("ppo", str(tmp_path), **sections), chaos="tracker=1")
    quiet = rayloom.run(case("ppo", str(tmp_path), **sections))
    assert struck.weights_sha256 == quiet.weights_sha256
    assert struck.counters == quiet.counters
    assert struck.chaos is not None and quiet.chaos is None
    assert (struck.chaos["struck"], struck.chaos["replaced"]) == ({"tracker": 1}, {"tracker": 1})
    report = json.loads((struck.run_dir / "result.json").read_text())["chaos"]
    assert report == struck.chaos
    assert "chaos" not in json.loads((quiet.run_dir / "result.json").read_text())
    store = StoreView(tmp_path / "mlflow.db")
    tags = store.tags(struck.run_id)
    assert tags["rayloom.chaos"] == "tracker=1 (seed 0)"
    assert tags["rayloom.chaos_survived"] == "struck 1 tracker; replaced 1 tracker"
    points = store.points(struck.run_id)
    counts = [value for key, _, value in points if key == "faults/struck_tracker"]
    assert counts == sorted(counts) and (counts[0], counts[-1]) == (0.0, 1.0)
    assert len({(key, step) for key, step, _ in points}) == len(points)


def test_what_was_struck_is_told_when_the_run_fails_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayloom.runs.session.PAUSE_S", 0.01)
    monkeypatch.setattr(Chaos, "_hit", _fail)
    empty_store(tmp_path)
    config = case("ppo", str(tmp_path), stop={"env_steps": 4_096}, tracking={"enabled": True, "system_metrics": False})
    with pytest.raises(ArithmeticError, match="the strike itself failed"):
        rayloom.run(config, chaos="tracker=1")
    (run_id,) = StoreView(tmp_path / "mlflow.db").runs()
    tags = StoreView(tmp_path / "mlflow.db").tags(run_id)
    assert tags["rayloom.chaos_survived"] == "struck nobody; the run ended before striking 1 tracker"


def _fail(chaos: Chaos, strike: Strike) -> None:
    raise ArithmeticError("the strike itself failed")
