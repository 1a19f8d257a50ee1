"""Config to roles: who runs where, and what is checked against which machine."""

from __future__ import annotations

import pytest
from cases import case

from rayloom.contract import UserError
from rayloom.plan import check_machine, make_plan


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
