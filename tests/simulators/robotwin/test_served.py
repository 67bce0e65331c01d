"""A policy that is served by openpi's protocol, in openpi's own layout of two arms, plays RoboTwin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from served import served

from vlarig.envs.api import Needs
from vlarig.envs.robotwin.robot import ROBOTWIN_ALOHA
from vlarig.harness import evaluate
from vlarig.policies.api import Policy, Reply, Request

KEY = "robotwin_easy|starvla-n_action_steps1@1|click_bell|base|100000|0"
CHUNK = 16


class Recorded(Policy):
    """Plays an expert's recorded actions, a chunk a request, and keeps what it was shown."""

    name = "recorded"
    revision = "1"
    needs = Needs(images=True)
    horizon = CHUNK

    def __init__(self) -> None:
        with np.load(Path(__file__).with_name("actions.npz")) as actions:
            self.actions = actions[KEY]
        self.shown: list[dict[str, np.ndarray]] = []
        self.states: list[np.ndarray] = []

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The next chunk."""
        (request,) = requests
        first = CHUNK * len(self.states)
        self.shown.append({view: np.array(frames) for view, frames in request.observation["images"].items()})
        self.states.append(np.array(request.observation["state"]))
        return [Reply(self.actions[first : first + CHUNK])]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("robotwin")
def test_a_served_policy_clicks_the_bell(cli, tmp_path: Path) -> None:
    assert cli("envs", "prepare", "robotwin_easy", "--tasks", "click_bell", "--episodes", 1).returncode == 0
    policy = Recorded()
    with served(policy, ROBOTWIN_ALOHA, "aloha") as server:
        run = tmp_path / "run"
        played = evaluate(
            "robotwin_easy",
            f"openpi:{server.address}",
            policy_options=("layout=aloha",),
            tasks=("click_bell",),
            episodes=1,
            run=run,
        )
    (record,) = played.records()
    assert (record.success, record.steps) == (True, len(policy.actions))
    assert [sorted(images) for images in policy.shown] == [["cam_left_wrist", "cam_right_wrist", "ego"]] * 5
    assert {images[view].shape for images in policy.shown for view in images} == {(1, 224, 224, 3)}
    np.testing.assert_array_equal(policy.states[1], policy.actions[CHUNK - 1])  # the state is the last target
