"""A policy in one channel order is refused by the suite of the other."""

from __future__ import annotations

import pytest

from vlarig.benchmarks.registry import load_suite
from vlarig.policies.api import PolicyError
from vlarig.policies.conventions import embodiment_named, refuse_differences


def test_gr00ts_order_is_refused_by_starvlas_protocol_and_the_other_way_round() -> None:
    gr00t, starvla = (load_suite(name) for name in ("robocasa_gr1_gr00t", "robocasa_gr1"))
    assert embodiment_named("robocasa_gr1_gr00t") == gr00t.embodiment
    for policy, suite, said in (
        (gr00t, starvla, "channel 7 of an action is left_hand_joint_1 for the policy and right_joint_1 for the env"),
        (starvla, gr00t, "channel 7 of an action is right_joint_1 for the policy and left_hand_joint_1 for the env"),
    ):
        with pytest.raises(PolicyError, match=f"does not fit suite {suite.name!r}.*{said}"):
            refuse_differences("a policy", suite.name, policy.embodiment, suite.embodiment, reads_state=False)
        refuse_differences("a policy", policy.name, policy.embodiment, policy.embodiment, reads_state=True)


def test_initial_states_are_seeds_that_no_two_tasks_share_and_training_has_others() -> None:
    suite = load_suite("robocasa_gr1")
    seeds = [suite.episode(task, state, 0, suite.protocols[0]).payload["seed"] for task in suite.tasks for state in range(50)]
    trained = {
        suite.training_episode(task, number, suite.protocols[0]).payload["seed"] for task in suite.tasks for number in range(50)
    }
    assert len(suite.tasks) == 24
    assert len(set(seeds)) == len(seeds) == 1200
    assert len(trained) == 1200
    assert not trained & set(seeds)
