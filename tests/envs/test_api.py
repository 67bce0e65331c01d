"""The env API: identities that must never change, success under every rule, and when a frame is rendered."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toy.env import TOY_POINT, ToyEnv
from toy.suite import STANDARD, TOY_SUITE

from vlarig.envs.api import (
    Camera,
    Env,
    Episode,
    Needs,
    Outcome,
    Snapshot,
    StepResult,
    check_actions,
    observation_space,
    observe,
)
from vlarig.envs.errors import BadActionError, VlarigError
from vlarig.envs.images import as_seen

LENGTH = 12
ENDLESS = replace(STANDARD, name="endless", step_limit=LENGTH, stop_on_success=False, n_action_steps=4)
EPISODE = replace(TOY_SUITE.episodes(["reach_red"], per_task=1)[0], protocol=ENDLESS)
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (LENGTH, 3)).astype(np.float32)

NO_IMAGES = Needs(images=False)


def play(needs: Needs, actions: np.ndarray = ACTIONS, episode: Episode = EPISODE, env: Env | None = None) -> list[Snapshot]:
    """Every snapshot of an episode, in chunks of ``n_action_steps`` steps."""
    env = env or ToyEnv()
    first, n_action_steps = env.open(episode, needs), episode.protocol.n_action_steps
    chunks = (actions[begin : begin + n_action_steps] for begin in range(0, len(actions), n_action_steps))
    return [first, *(env.step_chunk(chunk).snapshot for chunk in chunks)]


def frame_steps(shown: list[Snapshot]) -> list[tuple[int, ...]]:
    """The step numbers of each snapshot's frames."""
    return [snapshot.frames.steps for snapshot in shown]


def step(solved: bool, within: bool = False, **end: bool) -> StepResult:
    """A step that ends solved, or not."""
    return StepResult(reward=0.0, success_within=within, success_at_end=solved, **end)


def outcome(ends: str) -> Outcome:
    """The outcome of steps that end solved (``x``) or not (``.``)."""
    result = Outcome()
    for end in ends:
        result = result.after(step(end == "x"))
    return result


class Scripted(ToyEnv):
    """A toy env whose steps end solved where ``ends`` has an ``x``, of ``primitives`` moves each."""

    ends = "." * 100
    primitives = 1

    def apply(self, action: np.ndarray) -> StepResult:
        """The scripted step."""
        super().apply(action)
        solved = self.ends[self._step] == "x"
        return StepResult(float(solved), solved, solved, primitives=self.primitives)


# An episode's identity.


def test_a_key_names_suite_protocol_task_variant_initial_state_and_repeat() -> None:
    episode = Episode("toy", STANDARD, "reach_red", "base", 3, repeat=2)
    assert episode.key == "toy/standard@1/reach_red/base/3/2"
    assert (
        replace(episode, protocol=STANDARD.derive(n_action_steps=4)).key == "toy/standard-n_action_steps4@1/reach_red/base/3/2"
    )


@pytest.mark.parametrize(
    ("suite", "task", "variant", "initial_state", "repeat", "seed"),
    [
        ("toy", "reach_red", "base", 3, 0, 953995245),
        ("toy", "reach_red", "base", 3, 1, 334109372),
        ("simpler_widowx", "put_spoon", "base", 0, 0, 1155887053),
    ],
)
def test_a_seed_is_the_same_number_for_ever(
    suite: str, task: str, variant: str, initial_state: int, repeat: int, seed: int
) -> None:
    assert Episode(suite, STANDARD, task, variant, initial_state, repeat).seed == seed


def test_the_protocol_and_the_payload_do_not_move_the_seed() -> None:
    other = replace(EPISODE, protocol=STANDARD.derive(n_action_steps=3), payload={"goal": "blue"})
    assert other.seed == EPISODE.seed


def test_a_suite_repeats_its_initial_states_for_more_episodes() -> None:
    episodes = TOY_SUITE.episodes(["reach_blue"], per_task=22)
    assert [(episode.initial_state, episode.repeat) for episode in episodes[19:]] == [(19, 0), (0, 1), (1, 1)]
    assert len({episode.key for episode in TOY_SUITE.episodes()}) == 40


# Protocols.


def test_a_derived_protocol_is_named_after_what_differs() -> None:
    derived = STANDARD.derive(n_action_steps=4, step_limit=30)
    assert (derived.name, derived.n_action_steps, derived.step_limit) == ("standard-n_action_steps4-step_limit30", 4, 30)
    assert derived.name == STANDARD.derive(step_limit=30, n_action_steps=4).name


def test_a_change_to_the_same_value_derives_nothing() -> None:
    assert STANDARD.derive(n_action_steps=STANDARD.n_action_steps) is STANDARD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"success_rule": "once"}, "success_rule is 'once', expected one of first, final, held"),
        ({"limit_unit": "seconds"}, "limit_unit is 'seconds', expected 'steps' or 'primitives'"),
        ({"success_rule": "final"}, "'final' scores the end of the episode, so stop_on_success must be false"),
        ({"step_limit": 0}, "step_limit is 0, expected 1 or more"),
        ({"n_action_steps": 0}, "n_action_steps is 0, expected 1 or more"),
        ({"hold_steps": -1}, "hold_steps is -1, expected 1 or more"),
        ({"wait_steps": -1}, "wait_steps is -1, expected 0 or more"),
        ({"wait_steps": 5}, "wait_steps is 5 and wait_action is empty"),
        ({"wait_action": (0.0, float("nan"))}, "wait_action is .*nan.*, expected finite numbers"),
        ({"gripper": "round"}, "gripper is 'round', expected one of as_given, binary, sign"),
    ],
)
def test_a_protocol_that_cannot_be_run_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(STANDARD, **changes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 0}, "camera 'ego' is rendered as \\(0, 32\\) and seen as \\(0, 32\\); expected"),
        ({"drawn": (64,), "resize": "pil_bilinear"}, "camera 'ego' is rendered as \\(64,\\)"),
        (
            {"drawn": (64, 64)},
            "rendered as \\(64, 64\\) and seen as \\(24, 32\\); set resize to one of pil_bilinear, jpeg_lanczos3",
        ),
        ({"resize": "bicubic"}, "resize of camera 'ego' is 'bicubic', expected one of pil_bilinear, jpeg_lanczos3"),
        ({"crop": 0.0}, "crop of camera 'ego' is 0.0, expected a share of the area above 0 and up to 1"),
        ({"crop": 1.5}, "crop of camera 'ego' is 1.5"),
    ],
)
def test_a_camera_that_cannot_be_shown_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Camera(**({"view": "ego", "height": 24, "width": 32} | fields))


def test_waiting_and_the_gripper_can_be_derived_and_what_is_not_plain_cannot() -> None:
    waiting = replace(STANDARD, wait_steps=2, wait_action=(0.0, 0.0, -1.0))
    assert waiting.derive(wait_steps=4, gripper="sign").name == "standard-grippersign-wait_steps4"
    for change in ({"wait_action": (0.0, 0.0, 1.0)}, {"cameras": (Camera("ego", 8, 8),)}):
        with pytest.raises(ValueError, match="change numbers, words or flags"):
            waiting.derive(**change)


# Success under every rule.


@pytest.mark.parametrize(
    ("ends", "first", "final", "held_two"),
    [
        ("", False, False, False),
        ("...", False, False, False),
        (".x.", True, False, False),
        (".xx.", True, False, True),
        ("..x", True, True, False),
        ("x.xx", True, True, True),
        ("x.x.x", True, True, False),
    ],
)
def test_an_episode_played_to_its_end_has_an_outcome_under_every_rule(
    ends: str, first: bool, final: bool, held_two: bool
) -> None:
    result = outcome(ends)
    assert (result.under("first"), result.under("final"), result.under("held", 2)) == (first, final, held_two)


def test_success_within_a_row_counts_for_first_alone() -> None:
    result = Outcome().after(step(solved=False, within=True))
    assert (result.under("first"), result.under("final"), result.under("held")) == (True, False, False)


def test_an_episode_stopped_on_success_does_not_tell_what_came_later() -> None:
    result = replace(outcome(".x"), cut_short=True)
    assert (result.under("first"), result.under("final"), result.under("held", 2)) == (True, None, None)
    assert result.under("held", 1) is True


@pytest.mark.parametrize(
    ("rule", "hold_steps", "stop", "steps", "under"),
    [
        ("first", 1, True, 2, {"first": True, "final": None, "held": True}),
        ("held", 2, True, 5, {"first": True, "final": None, "held": True}),
        ("held", 3, True, 6, {"first": True, "final": False, "held": False}),
        ("final", 1, False, 6, {"first": True, "final": False, "held": True}),
    ],
)
def test_an_episode_stops_where_its_rule_is_fulfilled(
    rule: str, hold_steps: int, stop: bool, steps: int, under: dict[str, bool | None]
) -> None:
    protocol = replace(STANDARD, success_rule=rule, hold_steps=hold_steps, stop_on_success=stop, step_limit=6)
    env = Scripted()
    env.ends = ".x.xx."
    env.open(replace(EPISODE, protocol=protocol), NO_IMAGES)
    result = env.step_chunk(ACTIONS)
    last = result.steps[-1]
    assert len(result.steps) == steps
    assert (last.terminated, last.truncated) == (steps < 6, steps == 6)
    assert {name: result.snapshot.outcome.under(name, hold_steps) for name in under} == under


# Actions.


def test_good_actions_become_float32() -> None:
    checked = check_actions([[1, 0, -1]], TOY_POINT)  # type: ignore[arg-type]
    assert (checked.dtype, checked.shape) == (np.float32, (1, 3))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(3), r"actions have shape \[3\]; give \[H, 3\] for toy_point \(dx, dy, grip\)"),
        (np.zeros((2, 7)), r"actions have shape \[2, 7\]; give \[H, 3\]"),
        (np.zeros((0, 3)), r"actions have shape \[0, 3\]"),
        ([[0, 0, 0], [0, float("nan"), 0]], "the action 'dy' of step 1 is nan; give finite numbers"),
        ([[0, 0, float("-inf")]], "the action 'grip' of step 0 is -inf; give finite numbers"),
        ([[object()] * 3], r"actions are no array of real numbers \(list\); give float32\[H, 3\]"),
        ([[0, 0, 0], [0]], r"actions are no array of real numbers \(list\)"),
        ("left", r"actions are no array of real numbers \(str\)"),
        ([["0.1", "0", "0"]], r"actions are no array of real numbers \(list\)"),
        (np.full((1, 3), 1j), r"actions are no array of real numbers \(complex128\)"),
        (np.full((1, 3), None), r"actions are no array of real numbers \(object\)"),
        (np.full((1, 3), True, "m8[s]"), r"actions are no array of real numbers \(timedelta64\[s\]\)"),
    ],
)
def test_bad_actions_are_named(actions: Any, message: str) -> None:
    with pytest.raises(BadActionError, match=message):
        check_actions(actions, TOY_POINT)


def test_no_more_than_execute_steps_of_a_chunk_are_run() -> None:
    env = ToyEnv()
    env.open(EPISODE, NO_IMAGES)
    result = env.step_chunk(ACTIONS)
    assert (len(result.steps), result.snapshot.step, result.over) == (4, 4, False)


class Noting(ToyEnv):
    """A toy env that records its steps."""

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        self.carried_out: list[list[float]] = []
        return super().begin(episode, rng)

    def apply(self, action: np.ndarray) -> StepResult:
        assert action.dtype == np.float32
        self.carried_out.append(action.tolist())
        return super().apply(action)


@pytest.mark.parametrize(
    ("rule", "grippers"),
    [
        ("as_given", [-0.75, -0.0, 0.0, 0.25, 2.0]),
        ("binary", [-1.0, 1.0, 1.0, 1.0, 1.0]),
        ("sign", [-1.0, 0.0, 0.0, 1.0, 1.0]),
    ],
)
def test_the_gripper_is_moved_as_the_protocol_says(rule: str, grippers: list[float]) -> None:
    env, actions = Noting(), np.array([[0.5, -0.25, g] for g in (-0.75, -0.0, 0.0, 0.25, 2.0)], np.float32)
    given = actions.copy()
    env.open(replace(EPISODE, protocol=ENDLESS.derive(gripper=rule, n_action_steps=5)), NO_IMAGES)
    env.step_chunk(actions)
    assert env.carried_out == [[0.5, -0.25, gripper] for gripper in grippers]
    np.testing.assert_array_equal(actions, given)


# Waiting after the reset.

WAITING = replace(ENDLESS, name="waiting", wait_steps=3, wait_action=(0.5, 0.25, 1.0))


def test_waiting_moves_the_world_and_counts_for_nothing() -> None:
    env, plain = Noting(), ToyEnv()
    waited = env.open(replace(EPISODE, protocol=WAITING), Needs())
    assert env.carried_out == [[0.5, 0.25, 1.0]] * 3
    plain.open(EPISODE, NO_IMAGES)
    moved = plain.step_chunk(np.array([WAITING.wait_action] * 3)).snapshot
    np.testing.assert_array_equal(waited.state, moved.state)
    assert (waited.step, waited.primitives, waited.frames.steps, waited.outcome) == (0, 0, (0,), Outcome())
    steps = [step for _ in range(3) for step in env.step_chunk(ACTIONS).steps]
    assert [entry.truncated for entry in steps] == [False] * (LENGTH - 1) + [True]


def test_the_digest_begins_after_the_waiting() -> None:
    env = ToyEnv()
    waited = env.open(replace(EPISODE, protocol=WAITING), NO_IMAGES)
    assert waited.state_digest == hashlib.sha256(env.simulator_state().tobytes()).hexdigest()
    assert waited.state_digest != env.open(EPISODE, NO_IMAGES).state_digest


def test_success_while_waiting_is_none() -> None:
    env = Scripted()
    env.ends = "x" + "." * 20
    protocol = replace(WAITING, success_rule="first", stop_on_success=True)
    assert env.open(replace(EPISODE, protocol=protocol), NO_IMAGES).outcome == Outcome()


def test_the_gripper_rule_leaves_the_waiting_step_as_it_is() -> None:
    env = Noting()
    env.open(replace(EPISODE, protocol=replace(WAITING, gripper="binary", wait_action=(0.0, 0.0, 0.5))), NO_IMAGES)
    assert env.carried_out == [[0.0, 0.0, 0.5]] * 3


def test_a_waiting_step_of_another_robot_is_refused() -> None:
    protocol = replace(WAITING, wait_action=(0.0,) * 7)
    with pytest.raises(
        VlarigError, match=r"wait_action of protocol 'waiting' has 7 numbers; toy_point takes 3 \(dx, dy, grip\)"
    ):
        ToyEnv().open(replace(EPISODE, protocol=protocol), NO_IMAGES)


# The end of an episode.


def test_the_step_limit_counts_steps() -> None:
    env = ToyEnv()
    env.open(replace(EPISODE, protocol=ENDLESS.derive(step_limit=6)), NO_IMAGES)
    steps = (*env.step_chunk(ACTIONS).steps, *env.step_chunk(ACTIONS).steps)
    assert [entry.truncated for entry in steps] == [False] * 5 + [True]


def test_the_step_limit_counts_primitives_where_the_protocol_says_so() -> None:
    env = Scripted()
    env.primitives = 3
    env.open(replace(EPISODE, protocol=ENDLESS.derive(step_limit=10, limit_unit="primitives", n_action_steps=8)), NO_IMAGES)
    result = env.step_chunk(ACTIONS)
    assert [entry.truncated for entry in result.steps] == [False, False, False, True]
    assert (result.snapshot.step, result.snapshot.primitives) == (4, 12)


def test_success_at_the_step_limit_is_a_success_and_no_truncation() -> None:
    env = Scripted()
    env.ends = "..x"
    env.open(replace(EPISODE, protocol=replace(STANDARD, step_limit=3, hold_steps=1)), NO_IMAGES)
    last = env.step_chunk(ACTIONS).steps[-1]
    assert (last.terminated, last.truncated) == (True, False)


def test_an_env_without_an_episode_cannot_step() -> None:
    env = ToyEnv()
    with pytest.raises(VlarigError, match="no episode was started; call reset with an episode first"):
        env.step_chunk(ACTIONS)
    with pytest.raises(VlarigError, match="reset got no episode"):
        env.reset()
    play(NO_IMAGES, env=env)
    with pytest.raises(VlarigError, match="the episode is over"):
        env.step_chunk(ACTIONS)


def test_a_view_that_the_robot_lacks_is_refused() -> None:
    protocol = replace(STANDARD, cameras=(Camera("cam_right_wrist", 8, 8),))
    with pytest.raises(VlarigError, match="toy_point has no view 'cam_right_wrist'; it has ego, cam_left_wrist"):
        ToyEnv().open(replace(EPISODE, protocol=protocol), Needs())


# When a frame is rendered.


@pytest.mark.parametrize(
    ("needs", "steps"),
    [
        (Needs(), [(0,), (4,), (8,), ()]),
        (Needs(final_frame=True), [(0,), (4,), (8,), (12,)]),
        (Needs(images=False), [(), (), (), ()]),
        (Needs(images=False, final_frame=True), [(), (), (), ()]),
        (Needs(every_frame=True), [(0,), (1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)]),
        (Needs(images=False, every_frame=True), [(0,), (1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)]),
    ],
)
def test_frames_come_where_they_are_due_with_their_steps(needs: Needs, steps: list[tuple[int, ...]]) -> None:
    shown = play(needs)
    assert frame_steps(shown) == steps
    for snapshot in shown:
        views = {"ego", "cam_left_wrist"} if snapshot.frames.steps else set()
        assert set(snapshot.frames.views) == views
        assert {len(frames) for frames in snapshot.frames.views.values()} <= {len(snapshot.frames.steps)}


def test_a_film_of_an_episode_that_ends_within_a_chunk_ends_with_it() -> None:
    env = Scripted()
    env.ends = ".....x"
    protocol = replace(STANDARD, n_action_steps=4, hold_steps=1)
    env.open(replace(EPISODE, protocol=protocol), Needs(every_frame=True))
    env.step_chunk(ACTIONS)
    assert env.step_chunk(ACTIONS).snapshot.frames.steps == (5, 6)


def test_nothing_is_rendered_for_a_policy_that_reads_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyEnv, "render_view", lambda self, camera: pytest.fail("rendered"))
    play(NO_IMAGES)


def test_privileged_state_comes_only_on_request() -> None:
    assert play(NO_IMAGES)[0].privileged == {}
    assert set(play(Needs(images=False, privileged=True))[0].privileged) == {"position", "goal"}


# What is done to an image.


def test_the_adapter_renders_and_the_protocol_does_the_rest() -> None:
    requested: list[Camera] = []

    class Rendering(ToyEnv):
        def render_view(self, camera: Camera) -> np.ndarray:
            requested.append(camera)
            return super().render_view(camera)

    cameras = (
        Camera("ego", 24, 32, drawn=(48, 64), mirror=True, resize="pil_bilinear", crop=0.9),
        Camera("cam_left_wrist", 8, 8),
    )
    env, episode = Rendering(), replace(EPISODE, protocol=replace(ENDLESS, cameras=cameras))
    observation, _ = env.reset(options={"episode": episode})
    assert requested == [Camera("ego", 48, 64), Camera("cam_left_wrist", 8, 8)]
    assert {view: image.shape for view, image in observation["images"].items()} == {
        "ego": (1, 24, 32, 3),
        "cam_left_wrist": (1, 8, 8, 3),
    }
    assert env.observation_space.contains(observation)
    np.testing.assert_array_equal(observation["images"]["ego"][0], as_seen(env.render_view(requested[0]), cameras[0]))


def test_an_image_of_another_size_than_the_one_to_render_is_refused() -> None:
    class RendersAsSeen(ToyEnv):
        def render_view(self, camera: Camera) -> np.ndarray:
            return super().render_view(replace(camera, height=24, width=32))

    cameras = (Camera("ego", 24, 32, drawn=(48, 64), resize="pil_bilinear"),)
    with pytest.raises(
        VlarigError, match=r"render_view gave uint8\[24, 32, 3\] for the view 'ego'; expected uint8\[48, 64, 3\]"
    ):
        RendersAsSeen().open(replace(EPISODE, protocol=replace(ENDLESS, cameras=cameras)), Needs())


# Digests.


@pytest.mark.parametrize("needs", [Needs(every_frame=True), Needs(final_frame=True)])
def test_the_image_digest_is_of_what_the_policy_was_shown(needs: Needs) -> None:
    plain, other = play(Needs()), play(needs)
    assert [shown.image_digest for shown in plain] == [shown.image_digest for shown in other]
    assert len({shown.image_digest for shown in plain}) == 3


def test_the_state_digest_does_not_depend_on_frames_or_chunks() -> None:
    one_by_one = play(NO_IMAGES, episode=replace(EPISODE, protocol=ENDLESS.derive(n_action_steps=1)))
    assert play(Needs(every_frame=True))[-1].state_digest == play(NO_IMAGES)[-1].state_digest == one_by_one[-1].state_digest


def test_digests_differ_when_one_action_differs() -> None:
    changed = ACTIONS.copy()
    changed[5, 0] += 0.01
    before, after = play(Needs()), play(Needs(), changed)
    equal = [one.state_digest == other.state_digest for one, other in zip(before, after, strict=True)]
    assert equal == [True, True, False, False]


# Gymnasium.


def test_reset_and_step_return_observations_of_the_space() -> None:
    env = ToyEnv()
    observation, info = env.reset(options={"episode": EPISODE})
    space = observation_space(TOY_POINT, ENDLESS.cameras)
    assert space.contains(observation)
    assert info["state_digest"] == play(NO_IMAGES)[0].state_digest
    for action in ACTIONS:
        observation, _, terminated, truncated, info = env.step(action)
        assert space.contains(observation)
    assert (terminated, truncated) == (False, True)
    assert info["state_digest"] == play(NO_IMAGES)[-1].state_digest


def test_a_seed_given_to_reset_counts_as_the_repeat() -> None:
    env = ToyEnv()
    env.reset(seed=3, options={"episode": EPISODE})
    assert env.episode == replace(EPISODE, repeat=3)
    env.reset(seed=4)
    assert env.episode == replace(EPISODE, repeat=4)


def test_an_observation_holds_the_newest_frame_alone() -> None:
    shown = play(Needs(every_frame=True))
    images = observe(shown[1])["images"]
    assert {view: image.shape for view, image in images.items()} == {"ego": (1, 64, 64, 3), "cam_left_wrist": (1, 64, 64, 3)}
    assert np.array_equal(images["ego"][0], shown[1].frames.views["ego"][-1])


class Filmed(ToyEnv):
    """A toy env with a map for films."""

    def film_views(self) -> dict[str, np.ndarray]:
        return {"map": np.full((8, 8, 3), self._step, np.uint8)}


def test_a_history_spreads_over_the_way_so_far_and_is_what_the_digest_covers() -> None:
    recorded = play(Needs(every_frame=True))
    frames = np.concatenate([snapshot.frames.views["ego"] for snapshot in recorded])
    episode = replace(EPISODE, protocol=replace(ENDLESS, history=3))
    shown = play(Needs(), episode=episode)
    for snapshot, steps in zip(shown[:3], ([0], [0, 2, 4], [0, 4, 8]), strict=True):
        assert np.array_equal(observe(snapshot)["images"]["ego"], frames[steps])
    assert not observe(shown[3])["images"]  # the final frame is not needed
    assert [len(snapshot.frames.steps) for snapshot in shown] == [1, 1, 1, 0]  # no frame travels twice
    filmed = play(Needs(every_frame=True, film_views=True), episode=episode, env=Filmed())
    assert filmed[-1].image_digest == shown[-1].image_digest != recorded[-1].image_digest
    assert filmed[1].frames.views["map"][:, 0, 0, 0].tolist() == [1, 2, 3, 4] and "map" not in observe(filmed[1])["images"]
    env = ToyEnv()
    observation, _ = env.reset(options={"episode": episode})
    assert env.observation_space.contains(observation) and env.observation_space.contains(env.step(ACTIONS[0])[0])


class SamplesFromGlobals(ToyEnv):
    """A simulator of the old kind: it samples from the process-wide generators."""

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        instruction = super().begin(episode, rng)
        self.position = self.position + np.random.uniform(-0.1, 0.1, 2)
        return instruction

    def apply(self, action: np.ndarray) -> StepResult:
        self.position = self.position + random.uniform(-0.01, 0.01) + np.random.normal(0.0, 0.01, 2)
        return super().apply(action)

    def render_view(self, camera: Camera) -> np.ndarray:
        return super().render_view(camera) + np.random.randint(0, 2)


def digests(env: ToyEnv, episode: Episode, needs: Needs) -> tuple[str, str]:
    env.open(episode, needs)
    for _ in range(2):
        snapshot = env.step_chunk(np.full((4, 3), 0.1)).snapshot
    return snapshot.state_digest, snapshot.image_digest


def test_process_wide_generators_belong_to_the_env_whose_turn_it_is() -> None:
    env, episodes = (
        SamplesFromGlobals(),
        [replace(EPISODE, protocol=ENDLESS, initial_state=initial_state) for initial_state in (1, 2)],
    )
    alone = [digests(env, episode, Needs()) for episode in episodes]
    assert alone[0] != alone[1]
    np.random.seed(123)
    random.seed(123)
    outside = (random.getstate(), np.random.get_state()[1].tolist())
    assert [digests(env, episode, Needs(every_frame=True)) for episode in episodes] == alone
    envs = [SamplesFromGlobals() for _ in episodes]
    for each, episode in zip(envs, episodes, strict=True):
        each.open(episode, Needs())
    for _ in range(2):
        snapshots = [each.step_chunk(np.full((4, 3), 0.1)).snapshot for each in envs]
    assert [(snapshot.state_digest, snapshot.image_digest) for snapshot in snapshots] == alone
    assert (random.getstate(), np.random.get_state()[1].tolist()) == outside


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (float("nan"), 1.0)])
def test_a_channel_whose_bounds_are_none_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"channel 'dx' goes from .*, expected a low number and a high one"):
        replace(TOY_POINT.channels[0], low=low, high=high)
