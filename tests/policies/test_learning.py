"""What training needs of a policy: to record, to value, and to take new weights; in this process and in replicas."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from toy.env import TOY_POINT
from toy.learner import Learner
from toy.policies import ImageReader

from vlarig.envs.api import Observation
from vlarig.harness.replicas import Replica, replicated_policy
from vlarig.policies.api import Policy, PolicyError, Request
from vlarig.policies.pool import PolicyPool

NAME = "toy.learner:Learner"


def request(position: float = 0.0) -> Request:
    observation = Observation(images={}, state=np.array([position, 0, -1], np.float32), instruction="move")
    privileged = {"position": np.array([position, 0.0]), "goal": np.array([1.0, 0.5])}
    return Request(0, "toy/standard@1/reach_red/base/0/0", 0, 1, observation, TOY_POINT, 4, privileged)


@contextmanager
def replicas(count: int) -> Iterator[PolicyPool[Replica]]:
    policy = replicated_policy(NAME, {}, count)
    try:
        yield policy
    finally:
        policy.close()


def answers(policy: PolicyPool[Replica]) -> list[bytes]:
    return [member.act([request()])[0].actions.tobytes() for member in policy.members]


def test_a_policy_that_does_not_learn_says_so() -> None:
    policy = ImageReader()
    with pytest.raises(PolicyError, match="'image-reader' cannot be learned from: its class has no record"):
        policy.record({})
    with pytest.raises(PolicyError, match=r"'image-reader' has no value\(\)"):
        policy.value([request()])
    with pytest.raises(PolicyError, match="'image-reader' does not learn: its class has no load_weights"):
        policy.load_weights(1, {})


def test_replicas_take_new_weights_and_restarted_ones_the_newest() -> None:
    alone = Learner()
    with replicas(2) as policy:
        untrained, base = answers(policy), policy.revision
        for version, gain in ((1, 0.25), (2, 1.0)):
            state = {"gain": np.array([gain], np.float32)}
            alone.load_weights(version, state)
            policy.load_weights(version, state)
            expected = alone.act([request()])[0].actions.tobytes()
            assert answers(policy) == [expected] * 2
            assert [member.version for member in policy.members] == [version] * 2
            assert policy.version == version
            assert policy.revision == f"{base}, weights {version}"
        assert untrained != answers(policy)
        pid = policy.members[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert policy.act([request()])[0].actions.tobytes() == expected
        assert policy.members[0].pid != pid
        assert answers(policy) == [expected] * 2


def test_of_the_weights_one_file_is_kept_until_the_policy_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with replicas(1) as policy:
        for version in range(1, 4):
            policy.load_weights(version, {"gain": np.ones(1, np.float32)})
        assert [file.name for file in tmp_path.rglob("*.safetensors")] == ["3.safetensors"]
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_anothers_are_refused_and_the_replica_lives_on() -> None:
    with replicas(1) as policy:
        pid, before = policy.members[0].pid, answers(policy)
        with pytest.raises(PolicyError, match="the learner has one weight, gain; got head"):
            policy.load_weights(1, {"head": np.ones(1, np.float32)})
        assert (policy.members[0].pid, answers(policy)) == (pid, before)


def test_values_and_recordings_of_replicas_are_those_of_the_policy() -> None:
    alone = Learner()
    requests: list[Request] = [request(0.5), request(-0.5)]
    with replicas(2) as policy:
        some: list[Policy] = [alone, policy]
        for each in some:
            each.load_weights(1, {"gain": np.full(1, 0.5, np.float32)})
        np.testing.assert_array_equal(policy.value(requests), alone.value(requests))
        assert policy.members[0].act(requests)[0].recorded is None
        policy.record({"level": 0.5})
        recorded = [member.act(requests)[1].recorded for member in policy.members]
        assert [(each.log_probability, each.value, each.arrays["level"]) for each in recorded if each] == [(-0.5, 1.0, 0.5)] * 2
        assert [each.arrays["pid"] for each in recorded if each] == [member.pid for member in policy.members]
        policy.record(None)
        assert policy.members[1].act(requests)[0].recorded is None
