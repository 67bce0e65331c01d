"""The adapter plays the same game as the benchmark's own evaluators; runs in the simulator's interpreter."""

from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
import pytest
from vlarig_gantry.env import EVERYTHING, GantryEnv
from vlarig_gantry.suite import SUITE
from vlarig_gantry.world import MODEL, World

from vlarig.envs.api import Episode, Needs

#: What the expert did in the first initial state of each task; README.md says how it was recorded.
EXPERT = np.load(Path(__file__).with_name("expert_actions.npz"))

#: The rule of the authors' two evaluators: for how many control steps in succession pucks have to be at their goals.
HOLD = {"standard": 1, "at_rest": 10}

Moment = dict[str, np.ndarray]


def evaluate(seed: int, goals: dict[str, str], actions: np.ndarray, hold: int) -> Iterator[tuple[Moment, bool]]:
    """The authors' evaluation loop: each moment that it sees, with whether the episode counts as a success by then."""
    world = World(mujoco.MjModel.from_xml_path(str(MODEL)))
    world.reset(seed)
    held = 0
    with mujoco.Renderer(world.model, 128, 128) as front, mujoco.Renderer(world.model, 96, 96) as hand:
        for step in range(len(actions) + 1):
            if step > 0:
                world.step(actions[step - 1].astype(np.float64))
                held = held + 1 if world.solved(goals) else 0
            state = np.empty(mujoco.mj_stateSize(world.model, EVERYTHING))
            mujoco.mj_getState(world.model, world.data, state, EVERYTHING)
            front.update_scene(world.data, "front")
            hand.update_scene(world.data, "hand")
            yield {"state": state, "ego": front.render(), "cam_left_wrist": hand.render()}, held >= hold
            if held >= hold:
                return


def adapt(env: GantryEnv, episode: Episode, actions: np.ndarray) -> Iterator[tuple[Moment, bool]]:
    """The same moments of the adapter, one step at a time."""
    snapshot = env.open(episode, Needs(final_frame=True))
    for step in range(len(actions) + 1):
        over = step > 0 and (result := env.step_chunk(actions[step - 1][None])).steps[-1].over
        snapshot = result.snapshot if step > 0 else snapshot
        views = {view: frames[-1] for view, frames in snapshot.frames.views.items()}
        success = snapshot.outcome.under(episode.protocol.success_rule, episode.protocol.hold_steps)
        yield {"state": env.simulator_state(), **views}, bool(success)
        if over:
            return


@pytest.mark.parametrize("task", SUITE.tasks, ids=lambda task: task.name)
@pytest.mark.parametrize("protocol", SUITE.protocols, ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("source", ["expert", "random"])
def test_equal_to_the_benchmarks_own_loop(task, protocol, source):
    episode = SUITE.episode(task, task.initial_states[0], 0, protocol)
    drawn = np.random.default_rng(0).uniform(-1.5, 1.5, (16, 3)).astype(np.float32)  # beyond the bounds too
    actions = EXPERT[task.name] if source == "expert" else drawn

    theirs = list(evaluate(task.initial_states[0], episode.payload["goals"], actions, HOLD[protocol.name]))
    env = GantryEnv()
    env.open(SUITE.episode(task, task.initial_states[1], 0, protocol), Needs())  # another episode, which is to leave no trace
    env.step_chunk(drawn)
    ours = list(adapt(env, episode, actions))
    env.close()

    assert [success for _, success in ours] == [success for _, success in theirs]
    assert ours[-1][1] == (source == "expert")
    for (our, _), (their, _) in zip(ours, theirs, strict=True):
        for name in their:
            np.testing.assert_array_equal(our[name], their[name], err_msg=name)
