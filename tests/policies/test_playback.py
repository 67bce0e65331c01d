"""The expert that plays back a plan of upstream's, or a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy.env import TOY_POINT

from vlarig.envs.api import Observation
from vlarig.policies.api import PolicyError, Request
from vlarig.policies.experts import PlaybackExpert

PLAN = np.float32([[0.5, -0.5, -1.0], [0.25, 1.0, 1.0]])
STILL = [0.0, 0.0, 1.0]
KEY = "toy/standard@1/reach/base/3/0"


def request(chunk: int, env: int = 0, key: str = KEY, **privileged: np.ndarray) -> Request:
    seen = Observation(images={}, state=np.zeros(2, np.float32), instruction="reach")
    return Request(env, key, chunk, 0, seen, TOY_POINT, 1, privileged)


def played(expert: PlaybackExpert, steps: int, **privileged: np.ndarray) -> np.ndarray:
    """The plan is there at an episode's start alone."""
    return np.concatenate([expert.act_one(request(chunk, **(privileged if chunk == 0 else {}))) for chunk in range(steps)])


def test_a_plan_is_played_back_to_its_end_and_then_the_robot_stays() -> None:
    """What is a change is zero then, and what is absolute stays."""
    assert [channel.kind for channel in TOY_POINT.channels] == ["delta", "delta", "absolute"]
    np.testing.assert_array_equal(played(PlaybackExpert(), 4, plan=PLAN), [*PLAN, STILL, STILL])


def test_envs_and_episodes_do_not_meet() -> None:
    expert = PlaybackExpert()
    first = expert.act_one(request(0, env=0, plan=PLAN))
    np.testing.assert_array_equal(expert.act_one(request(0, env=1, plan=PLAN[::-1])), PLAN[1:])
    np.testing.assert_array_equal(expert.act_one(request(1, env=0)), PLAN[1:])
    np.testing.assert_array_equal(expert.act_one(request(0, env=0, plan=PLAN)), first)


def test_a_recording_is_found_by_the_episodes_key(tmp_path: Path) -> None:
    class Recorded(PlaybackExpert):
        recording = tmp_path / "expert_actions.npz"

    np.savez(Recorded.recording, **{KEY.replace("/", "|"): PLAN}, allow_pickle=False)
    np.testing.assert_array_equal(played(Recorded(), 3), [*PLAN, STILL])
    with pytest.raises(PolicyError, match=r"reach/base/4/0: nothing to play back: expert_actions\.npz holds no such episode"):
        Recorded().act_one(request(0, key=KEY.replace("/3/", "/4/")))


def test_a_plan_that_is_missing_or_does_not_fit_is_named() -> None:
    with pytest.raises(PolicyError, match="nothing to play back: the adapter gave no 'plan'; it has goal"):
        PlaybackExpert().act_one(request(0, goal=PLAN))
    with pytest.raises(PolicyError, match=r"has shape \[2, 1\]; expected \[steps, 3\]"):
        PlaybackExpert().act_one(request(0, plan=PLAN[:, :1]))
