"""What differs between an adapter and upstream's loop is found, and named with its episode and its step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toy.env import TOY_POINT, ToyEnv
from toy.promising import ToyLoop
from toy.suite import TOY_SUITE

from vlarig.envs.parity import NotEqualError, parity, sample_actions

EPISODE = TOY_SUITE.episode(TOY_SUITE.tasks[0], 3, 0, TOY_SUITE.protocols[0])
ACTIONS = sample_actions(TOY_POINT, np.random.default_rng(0), 24)


def changed(method: str, change: Callable[[Any], Any], at: int) -> ToyLoop:
    """Upstream's loop whose method gives something else when it is called for the time of that number."""
    loop, calls = ToyLoop(EPISODE), [0]
    original = getattr(loop, method)

    def changing(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        result = original(*arguments, **named)
        return change(result) if calls[0] == at else result

    setattr(loop, method, changing)
    return loop


def brighter(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    image = observation["cam_left_wrist"].copy()
    image[5, 5, 0] += 1
    return {**observation, "cam_left_wrist": image}


@pytest.mark.parametrize(
    ("loop", "sentence"),
    [
        (changed("state", lambda state: [state[0] + 1e-12], 1), r"red/base/3/0: the state at the start differs .* by at most 9.9"),
        (changed("state", lambda state: [state[0] + 1e-12], 12), "after step 11: the state differs from upstream's in part 0"),
        (changed("state", lambda state: [*state, *state], 2), "after step 1: the state has 1 parts, upstream's 2"),
        (changed("state", lambda state: [state[0][:3]], 2), r"after step 1: the state differs .* \[7\] against \[3\]"),
        (changed("step", lambda verdict: replace(verdict, reward=0.5), 3), r"after step 3: ours says .*reward=0\.0.* upstream .*0\.5"),
        (changed("step", lambda verdict: replace(verdict, success=True), 9), r"after step 9: ours says .*success=False"),
        (changed("step", lambda verdict: replace(verdict, over=True), 9), r"after step 9: ours says .*over=False"),
        (changed("step", lambda verdict: replace(verdict, metrics={"distance": 0.0}), 9), "after step 9: ours says .*distance"),
        (changed("observation", brighter, 1), "at the start: the observation 'cam_left_wrist' differs"),
        (changed("observation", brighter, 3), "after step 16: the observation 'cam_left_wrist' differs from .* by at most 1"),
    ],
)  # fmt: skip
def test_what_differs_is_named(loop: ToyLoop, sentence: str) -> None:
    with pytest.raises(NotEqualError, match=sentence):
        parity(ToyEnv(), loop, EPISODE, ACTIONS)


def test_nothing_differs_from_itself_and_the_env_is_left_as_it_was() -> None:
    env = ToyEnv()
    steps = parity(env, ToyLoop(EPISODE), EPISODE, ACTIONS)
    assert len(steps) == len(ACTIONS)
    assert "apply" not in vars(env)


def test_an_episode_that_ends_leaves_the_rest_of_the_actions() -> None:
    short = replace(EPISODE, protocol=replace(EPISODE.protocol, step_limit=5))
    assert len(parity(ToyEnv(), ToyLoop(short), short, ACTIONS)) == 5


def test_upstream_renders_where_images_are_compared_or_throughout() -> None:
    for throughout, expected in ((False, [7, 15, 23]), (True, list(range(24)))):
        loop, looks = ToyLoop(EPISODE), []
        step = loop.step
        loop.step = lambda action, look, step=step, looks=looks: (looks.append(look), step(action))[1]  # type: ignore[method-assign]
        parity(ToyEnv(), loop, EPISODE, ACTIONS, throughout=throughout)
        assert [number for number, look in enumerate(looks) if look] == expected


def test_sampled_actions_are_legal_strong_and_drift() -> None:
    space = TOY_POINT.action_space()
    assert all(space.contains(action) for action in ACTIONS)
    assert set(ACTIONS[:, 2]) == {-1.0, 1.0}
    assert np.abs(ACTIONS[:, :2].mean(axis=0)).max() > 0.1
