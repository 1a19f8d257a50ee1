"""Config to roles: who runs where, and what is checked against which machine."""

from __future__ import annotations

import pytest
import torch

from cases import case
from rayloom.devices import choose_device
from rayloom.errors import UserError
from rayloom.rollouts.worker import RolloutWorker
from rayloom.runs.plan import Bundle, check_machine, make_plan


def test_places_of_the_roles() -> None:
    def places(local: bool = False, **sections: object) -> list[tuple[str, int, str]]:
        plan = make_plan(case("ppo", **sections), local)  # type: ignore[arg-type]
        return [(role.name, role.count, role.place) for role in plan.roles]

    one_process = [("learner", 1, "driver"), ("rollout", 1, "learner"), ("evaluator", 1, "driver")]
    assert places() == one_process
    two = {"rollout_workers": 2}
    assert places(source=two) == [("learner", 1, "driver"), ("rollout", 2, "actor"), ("evaluator", 1, "driver")]
    assert places(source=two, local=True) == one_process


def test_a_plan_adds_up_what_its_actors_reserve() -> None:
    source = {"rollout_workers": 2, "worker_cpus": 0.5}
    plan = make_plan(case("ppo", source=source, cluster={"learner": "actor"}))
    assert plan.total("cpus") == 2.0 and plan.total("gpus") == 0.0 and plan.uses_ray
    assert "Ray actor" in plan.describe()


@pytest.mark.parametrize(("learner", "refused"), [("actor", False), ("driver", True)])
def test_the_gpu_of_a_learner_actor_is_the_clusters(learner: str, refused: bool) -> None:
    config = case("ppo", learner={"gpus": 64}, cluster={"address": "10.0.0.1:6379", "learner": learner})
    plan = make_plan(config)
    if refused:
        with pytest.raises(UserError, match=r"learner\.gpus"):
            check_machine(plan, config)
    else:
        check_machine(plan, config)


def test_without_a_cluster_the_machine_must_hold_the_plan() -> None:
    config = case("ppo", source={"rollout_workers": 2, "worker_cpus": 1000}, cluster={"learner": "actor"})
    with pytest.raises(UserError, match="reserves 2001 CPUs"):
        check_machine(make_plan(config), config)


def test_every_actor_has_a_bundle_of_what_the_config_gives_it() -> None:
    config = case(
        "ppo",
        learner={"count": 2, "threads": 3, "gpus": 0.5},
        source={"rollout_workers": 2, "worker_cpus": 0.25, "worker_gpus": 0.1},
        cluster={"evaluator": "actor", "evaluator_cpus": 2, "evaluator_gpus": 0.2},
    )
    assert make_plan(config).bundles() == [
        Bundle("learner", 0, 3, 0.5),
        Bundle("learner", 1, 3, 0.5),
        Bundle("rollout", 0, 0.25, 0.1),
        Bundle("rollout", 1, 0.25, 0.1),
        Bundle("evaluator", 0, 2, 0.2),
    ]
    assert make_plan(case("ppo", learner={"count": 2, "threads": 3, "cpus": 0.5})).bundles()[0].cpus == 0.5
    assert make_plan(config, local=True).bundles() == [] == make_plan(case("ppo")).bundles()
    table = make_plan(config).describe()
    assert [line.split()[-2:] for line in table.splitlines()[1:-1]] == [["3", "0.5"], ["0.25", "0.1"], ["2", "0.2"]]


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        ("learner", {"gpus": 1.5}, r"learner\.gpus: 1\.5 is neither"),
        ("source", {"rollout_workers": 1, "worker_gpus": 2.5}, r"source\.worker_gpus: 2\.5 is neither"),
        ("cluster", {"evaluator": "actor", "evaluator_gpus": 1.1}, r"cluster\.evaluator_gpus: 1\.1 is neither"),
        # The actor would take a GPU that belongs to somebody else.
        ("learner", {"count": 2, "device": "cuda"}, r"learner\.gpus: a learner actor uses only GPUs that it has"),
    ],
)
def test_gpus_that_cannot_be_assigned_are_refused(section: str, values: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=key):
        make_plan(case("ppo", **{section: values}))


@pytest.mark.parametrize("visible", [True, False])
def test_devices_follow_the_plan_and_not_what_is_visible(visible: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8 if visible else 0)

    def devices(**sections: dict[str, object]) -> list[str]:
        config = case("ppo", **sections)  # type: ignore[arg-type]
        return [choose_device(config, role).type for role in ("learner", "rollout", "evaluator")]

    assert devices() == ["cpu", "cpu", "cpu"]
    assert devices(learner={"gpus": 0.5}) == ["cuda", "cpu", "cpu"]
    assert devices(learner={"device": "cuda"}) == ["cuda", "cpu", "cpu"]
    assert devices(source={"worker_gpus": 0.1}) == ["cpu", "cuda", "cpu"]
    assert devices(cluster={"evaluator_gpus": 1}) == ["cpu", "cpu", "cuda"]
    given = {"source": {"worker_gpus": 1}, "cluster": {"evaluator_gpus": 1}}
    assert devices(learner={"gpus": 1, "device": "cpu"}, **given) == ["cpu", "cpu", "cpu"]


def test_a_rollout_workers_copy_of_the_algorithm_goes_to_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []

    def to(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        moved.append(torch.device(device).type)
        return module

    monkeypatch.setattr(torch.nn.Module, "to", to)
    for gpus in (0, 0.5):
        RolloutWorker(case("ppo", source={"rollout_workers": 1, "worker_gpus": gpus}), 0).close()
    assert moved == ["cpu", "cuda"]


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"learner": {"gpus": 1}}, r"learner\.gpus: the run needs 1 GPU but this machine has 0"),
        ({"source": {"rollout_workers": 1, "worker_gpus": 0.5}}, r"source\.worker_gpus: the run needs 0\.5 GPU"),
        ({"cluster": {"evaluator": "actor", "evaluator_gpus": 1}}, r"cluster\.evaluator_gpus: the run needs 1 GPU"),
        ({"learner": {"device": "cuda"}}, r"learner\.gpus: the run needs 1 GPU"),
    ],
)
def test_gpus_that_this_machine_lacks_are_named(
    sections: dict[str, dict[str, object]], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    config = case("ppo", **sections)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=key):
        check_machine(make_plan(config), config)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_machine(make_plan(config), config)
