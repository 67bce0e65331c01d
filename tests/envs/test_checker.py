"""The env checker passes a correct adapter, and each of its checks finds its own fault."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from toy.env import TOY_POINT, ToyEnv
from toy.suite import TOY_SUITE

from vlarig.envs.api import Camera, ChunkResult, Env, Episode, Needs, Snapshot, StepResult
from vlarig.envs.checker import CHECKS, TASK_CHECKS, each_finding
from vlarig.envs.errors import BadActionError, VlarigError

DOCS = Path(__file__).parents[2] / "docs"
EPISODES = TOY_SUITE.episodes(["reach_red"], per_task=3)

FAULTS: list[tuple[type[ToyEnv], set[str]]] = []


def breaks(*checks: str) -> Callable[[type[ToyEnv]], type[ToyEnv]]:
    """Register a broken adapter with exactly the checks that must fail on it."""

    def register(adapter: type[ToyEnv]) -> type[ToyEnv]:
        FAULTS.append((adapter, set(checks)))
        return adapter

    return register


def failures(make_env: Callable[[], Env]) -> dict[str, str]:
    """Failed checks and their messages."""
    return {finding.check: finding.message for finding in each_finding(make_env, EPISODES) if not finding.passed}


# Broken adapters: what is shown.


@breaks("the_embodiment_is_complete")
class GripperSignUnsaid(ToyEnv):
    embodiment = replace(TOY_POINT, channels=(*TOY_POINT.channels[:2], replace(TOY_POINT.channels[2], gripper=None)))


@breaks("the_embodiment_is_complete")
class BoundsWithoutRoom(ToyEnv):
    embodiment = replace(TOY_POINT, channels=(replace(TOY_POINT.channels[0], low=1.0, high=1.0), *TOY_POINT.channels[1:]))


@breaks("the_embodiment_is_complete")
class RobotUnnamed(ToyEnv):
    embodiment = replace(TOY_POINT, robot_tag="")


@breaks("the_embodiment_is_complete")
class RotationUnsaid(ToyEnv):
    embodiment = replace(TOY_POINT, channels=(replace(TOY_POINT.channels[0], name="roll"), *TOY_POINT.channels[1:]))


@breaks("the_state_fits_its_layout", "observations_lie_in_the_observation_space")
class StateTooShort(ToyEnv):
    def state(self) -> np.ndarray:
        return super().state()[:2]


@breaks("the_state_fits_its_layout", "observations_lie_in_the_observation_space")
class StateNotFinite(ToyEnv):
    def state(self) -> np.ndarray:
        return np.array([*self.position, np.nan], dtype=np.float32)


@breaks("the_instruction_is_words")
class InstructionBlank(ToyEnv):
    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        super().begin(episode, rng)
        return "  "


@breaks("the_instruction_stays")
class InstructionGrows(ToyEnv):
    def apply(self, action: np.ndarray) -> StepResult:
        self._instruction += " now"
        return super().apply(action)


@breaks("the_images_fit_the_protocol", "observations_lie_in_the_observation_space")
class ImagesOfOneSizeForAll(ToyEnv):
    def render_view(self, camera: Camera) -> np.ndarray:
        return super().render_view(replace(camera, height=32, width=48))


@breaks("the_images_fit_the_protocol", "observations_lie_in_the_observation_space")
class ImagesAsFloats(ToyEnv):
    def render_view(self, camera: Camera) -> np.ndarray:
        return super().render_view(camera) / np.float32(255)


@breaks("the_images_are_not_blank")
class RendererWithoutDriver(ToyEnv):
    def render_view(self, camera: Camera) -> np.ndarray:
        return np.zeros((camera.height, camera.width, 3), np.uint8)


@breaks("the_views_differ")
class OneCameraForAllViews(ToyEnv):
    def render_view(self, camera: Camera) -> np.ndarray:
        return super().render_view(replace(camera, view="ego"))


@breaks("nothing_is_rendered_unasked")
class RendersAtEveryRow(ToyEnv):
    def apply(self, action: np.ndarray) -> StepResult:
        self.render_view(Camera("ego", 8, 8))
        return super().apply(action)


@breaks("privileged_is_empty_unless_requested")
class TruthForEverybody(ToyEnv):
    def open(self, episode: Episode, needs: Needs) -> Snapshot:
        return super().open(episode, replace(needs, privileged=True))


@breaks("the_metrics_are_finite_numbers")
class MetricUndefined(ToyEnv):
    def metrics(self) -> dict[str, float]:
        return {"distance": float("nan")}


@breaks("the_metrics_are_finite_numbers")
class MetricOfAnotherType(ToyEnv):
    def metrics(self) -> dict[str, float]:
        return {"distance": np.float32(1.0)}  # type: ignore[dict-item]


@breaks("observations_lie_in_the_observation_space")
class StepInDoublePrecision(ToyEnv):
    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        return ({**observation, "state": observation["state"].astype(np.float64)}, *rest)


# Broken adapters: what repeats.


@breaks("different_initial_states_differ")
class StartIgnored(ToyEnv):
    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        return super().begin(episode, np.random.default_rng(7))


@breaks("the_digest_sees_what_actions_do")
class DigestOfTheStartAlone(ToyEnv):
    def simulator_state(self) -> np.ndarray:
        return np.concatenate(list(self.goals.values()))


@breaks("an_episode_played_twice_in_a_row_is_the_same")
class SameTaskNotRebuilt(ToyEnv):
    latest: Any = None

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        position = self.position if self.latest == episode.initial_state else None
        self.latest = episode.initial_state
        instruction = super().begin(episode, rng)
        self.position = self.position if position is None else position
        return instruction


@breaks("a_warm_env_repeats_a_fresh_one")
class FirstEpisodeIsSpecial(ToyEnv):
    warm = False

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        instruction = super().begin(episode, rng)
        self.position += 1e-9 if self.warm else 0.0
        self.warm = True
        return instruction


@breaks("an_episode_cut_off_midway_leaves_nothing")
class ClearedAtTheEndOnly(ToyEnv):
    steps = 0

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        instruction = super().begin(episode, rng)
        self.position += 1e-9 * (self.steps % episode.protocol.step_limit)
        self.steps = 0
        return instruction

    def apply(self, action: np.ndarray) -> StepResult:
        self.steps += 1
        return super().apply(action)


@breaks("outside_generators_have_no_influence")
class NoiseFromOutside(ToyEnv):
    def open(self, episode: Episode, needs: Needs) -> Snapshot:
        state = random.getstate()
        self.noise = random.random()
        random.setstate(state)
        return super().open(episode, needs)

    def simulator_state(self) -> np.ndarray:
        return np.append(super().simulator_state(), self.noise)


@breaks("outside_generators_are_left_untouched")
class SamplesOutside(ToyEnv):
    def open(self, episode: Episode, needs: Needs) -> Snapshot:
        np.random.random()
        return super().open(episode, needs)


@breaks("envs_of_one_process_are_independent")
class PositionOnTheClass(ToyEnv):
    shared: ClassVar[dict[str, np.ndarray]] = {}

    @property
    def position(self) -> np.ndarray:
        return self.shared["position"]

    @position.setter
    def position(self, value: np.ndarray) -> None:
        self.shared["position"] = value


@breaks("rendering_does_not_change_the_future")
class RenderingMovesTheWorld(ToyEnv):
    def render_view(self, camera: Camera) -> np.ndarray:
        self.position = self.position + 1e-12
        return super().render_view(camera)


@breaks("rendering_does_not_change_the_future", "shown_arrays_are_never_changed_later")
class DescribingDimsTheNextImages(ToyEnv):
    """A film, whose frames are not described, then differs from the same frames described."""

    dimmed = 0

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        self.dimmed = 0
        return super().begin(episode, rng)

    def describe(self, camera: Camera) -> list[Any]:
        self.dimmed = 1
        return []

    def render_view(self, camera: Camera) -> np.ndarray:
        return super().render_view(camera) - np.uint8(self.dimmed)


@breaks("rendering_does_not_change_the_future", "step_agrees_with_step_chunk")
class DescribingMovesTheWorld(ToyEnv):
    def describe(self, camera: Camera) -> list[Any]:
        self.position = self.position + 1e-12
        return []


@breaks("shown_arrays_are_never_changed_later")
class TruthIsTheLiveArray(ToyEnv):
    def apply(self, action: np.ndarray) -> StepResult:
        position = self.position
        step = super().apply(action)
        position[:] = self.position
        self.position = position
        return step

    def privileged(self) -> dict[str, np.ndarray]:
        return {"position": self.position}


@breaks("shown_arrays_are_never_changed_later")
class OneImageBufferForAllFrames(ToyEnv):
    def render_view(self, camera: Camera) -> np.ndarray:
        buffers = self.__dict__.setdefault("buffers", {})
        buffer = buffers.setdefault(camera, np.empty((camera.height, camera.width, 3), np.uint8))
        buffer[:] = super().render_view(camera)
        return buffer


# Broken adapters: how actions are taken and how episodes end.


@breaks("actions_move_the_robot")
class StateOfTheReset(ToyEnv):
    def state(self) -> np.ndarray:
        return np.zeros(3, np.float32)


@breaks("bad_actions_are_refused")
class RepairsNaN(ToyEnv):
    def step_chunk(self, actions: np.ndarray) -> ChunkResult:
        if getattr(actions, "dtype", None) == np.float32:
            actions = np.nan_to_num(actions)
        return super().step_chunk(actions)


@breaks("bad_actions_are_refused")
class StumblesOverBadActions(ToyEnv):
    def step_chunk(self, actions: np.ndarray) -> ChunkResult:
        try:
            return super().step_chunk(actions)
        except BadActionError:
            self.position = self.position + 1e-9
            raise


@breaks("actions_beyond_the_bounds_are_tolerated")
class RefusesLargeActions(ToyEnv):
    def apply(self, action: np.ndarray) -> StepResult:
        if np.abs(action).max() > 1:
            raise ValueError("the action is out of bounds")
        return super().apply(action)


@breaks("given_values_are_left_unchanged")
class NotesInThePayload(ToyEnv):
    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        episode.payload["visited"] = True
        return super().begin(episode, rng)


@breaks("given_values_are_left_unchanged")
class ScalesInPlace(ToyEnv):
    def step_chunk(self, actions: np.ndarray) -> ChunkResult:
        result = super().step_chunk(actions)
        actions *= 0.5
        return result


@breaks("the_step_limit_truncates")
class HorizonOfItsOwn(ToyEnv):
    def apply(self, action: np.ndarray) -> StepResult:
        return replace(super().apply(action), truncated=self._step == 3)


@breaks("the_step_limit_truncates")
class EndsByItself(ToyEnv):
    def apply(self, action: np.ndarray) -> StepResult:
        return replace(super().apply(action), terminated=self._step == 4)


@breaks("waiting_counts_for_nothing")
class HorizonFromTheReset(ToyEnv):
    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        self.steps, self.limit = 0, episode.protocol.step_limit
        return super().begin(episode, rng)

    def apply(self, action: np.ndarray) -> StepResult:
        self.steps += 1
        return replace(super().apply(action), truncated=self.steps == self.limit)


@breaks("waiting_counts_for_nothing")
class WaitingIsAStep(ToyEnv):
    def open(self, episode: Episode, needs: Needs) -> Snapshot:
        return replace(super().open(episode, needs), step=episode.protocol.wait_steps)


@breaks("the_end_is_final")
class GoesOnAfterTheEnd(ToyEnv):
    def step_chunk(self, actions: np.ndarray) -> ChunkResult:
        self._over = False
        return super().step_chunk(actions)


@breaks("no_episode_is_solved_at_its_start")
class SolvedBeforeItSettles(ToyEnv):
    def apply(self, action: np.ndarray) -> StepResult:
        return replace(super().apply(action), success_within=self._step == 0)


@breaks("step_agrees_with_step_chunk")
class StepInOtherUnits(ToyEnv):
    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return super().step(np.asarray(action) / 2)


@breaks("step_agrees_with_step_chunk")
class StepWithAnotherReward(ToyEnv):
    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        return (observation, reward - 1, *rest)


@breaks("closing_twice_is_harmless")
class ClosesOnce(ToyEnv):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("the renderer is closed")
        self.closed = True


def test_a_correct_adapter_passes_every_check() -> None:
    findings = list(each_finding(ToyEnv, EPISODES))
    assert [finding.check for finding in findings] == [check.__name__ for check in CHECKS]
    assert [finding for finding in findings if not finding.passed] == []


@pytest.mark.parametrize(("adapter", "expected"), FAULTS, ids=[adapter.__name__ for adapter, _ in FAULTS])
def test_a_fault_is_found_by_its_own_check_and_no_other(adapter: type[ToyEnv], expected: set[str]) -> None:
    found = failures(adapter)
    assert set(found) == expected, "\n".join(found.values())


@pytest.mark.parametrize(("adapter", "expected"), FAULTS, ids=[adapter.__name__ for adapter, _ in FAULTS])
def test_a_message_teaches(adapter: type[ToyEnv], expected: set[str]) -> None:
    for message in failures(adapter).values():
        parts = re.findall("Expected: .+ Seen: .+ Why it matters: .+ What to do: .+", message)
        assert parts, message


THREE_TASKS = [replace(episode, task=task) for task in ("reach_red", "reach_blue", "reach_green") for episode in EPISODES[:2]]


def test_every_task_gets_the_checks_that_can_differ_by_task() -> None:
    findings = list(each_finding(ToyEnv, THREE_TASKS))
    assert [finding for finding in findings if not finding.passed] == []
    names = [check.__name__ for check in TASK_CHECKS]
    assert [(finding.task, finding.check) for finding in findings[len(CHECKS) - 1 : -1]] == [
        (task, name) for task in ("reach_blue", "reach_green") for name in names
    ]


class ThirdWithoutSeed(ToyEnv):
    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        return super().begin(episode, np.random.default_rng() if episode.task == "reach_green" else rng)


class ThirdOfOneStart(ToyEnv):
    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        return super().begin(episode, np.random.default_rng(7) if episode.task == "reach_green" else rng)


class ThirdBlind(ToyEnv):
    def render_view(self, camera: Camera) -> np.ndarray:
        assert self.episode is not None
        return super().render_view(camera) * np.uint8(self.episode.task != "reach_green")


class ThirdMovedByRendering(ToyEnv):
    def render_view(self, camera: Camera) -> np.ndarray:
        assert self.episode is not None
        self.position = self.position + 1e-12 * (self.episode.task == "reach_green")
        return super().render_view(camera)


@pytest.mark.parametrize(
    ("adapter", "check"),
    [
        (ThirdWithoutSeed, "an_episode_played_twice_in_a_row_is_the_same"),
        (ThirdOfOneStart, "different_initial_states_differ"),
        (ThirdBlind, "the_images_are_not_blank"),
        (ThirdMovedByRendering, "rendering_does_not_change_the_future"),
    ],
)
def test_a_fault_in_the_third_task_alone_is_found_there(adapter: type[ToyEnv], check: str) -> None:
    found = [(finding.task, finding.check) for finding in each_finding(adapter, THREE_TASKS) if not finding.passed]
    assert ("reach_green", check) in found
    assert {task for task, _ in found} == {"reach_green"}


def test_a_task_that_cannot_begin_is_said_once() -> None:
    class ThirdRaises(ToyEnv):
        def begin(self, episode: Episode, rng: np.random.Generator) -> str:
            if episode.task == "reach_green":
                raise RuntimeError("no such scene")
            return super().begin(episode, rng)

    (failed,) = [
        finding for finding in each_finding(ThirdRaises, THREE_TASKS) if not finding.passed and finding.task != "reach_red"
    ]
    assert failed.task == "reach_green"
    assert "RuntimeError: no such scene" in failed.message


def test_every_check_has_a_fault_that_trips_it() -> None:
    assert {check for _, expected in FAULTS for check in expected} == {check.__name__ for check in CHECKS}


def test_every_promise_is_unique_and_in_words() -> None:
    promises = [(check.__doc__ or "").splitlines()[0] for check in CHECKS]
    assert all(promise.endswith(".") for promise in promises)
    assert len(set(promises)) == len(CHECKS)


def test_an_exception_is_a_finding_and_the_other_checks_still_run() -> None:
    class MetricsCrash(ToyEnv):
        def metrics(self) -> dict[str, float]:
            raise RuntimeError("no such sensor")

    findings = list(each_finding(MetricsCrash, EPISODES))
    by_name = {finding.check: finding for finding in findings}
    assert len(findings) == len(CHECKS)
    assert by_name["the_embodiment_is_complete"].passed
    state = by_name["the_state_fits_its_layout"]
    assert (state.task, state.passed, state.stopped) == ("reach_red", False, True)
    expected = (
        "The state is one finite float32 number for each name of the state layout. "
        f"The check was stopped by an exception: RuntimeError: no such sensor ({__file__}:"
    )
    assert state.message.startswith(expected), "the adapter's own line is named"
    assert state.message.endswith(", in metrics)")


def test_the_process_wide_generators_are_left_as_they_were() -> None:
    random.seed(3)
    np.random.seed(3)
    expected = (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]
    list(each_finding(ToyEnv, EPISODES))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == expected  # type: ignore[index,union-attr]


def test_episodes_of_one_initial_state_are_refused() -> None:
    with pytest.raises(VlarigError, match="two initial states, and there is one, of task 'reach_red'; give the task another"):
        list(each_finding(ToyEnv, [EPISODES[0], replace(EPISODES[0], repeat=1)]))


def test_an_env_that_ends_episodes_by_itself_is_found() -> None:
    class StopsWhenGripping(ToyEnv):
        def apply(self, action: np.ndarray) -> StepResult:
            return replace(super().apply(action), stopped=bool(action[2] > 0))

    (found,) = failures(StopsWhenGripping).items()
    assert found[0] == "the_step_limit_truncates"
    assert "three runs ended by themselves" in found[1]


def test_a_check_stays_small_enough_for_a_slow_simulator() -> None:
    counts = {"reset": 0, "step": 0, "view": 0}

    class Counting(ToyEnv):
        def begin(self, episode: Episode, rng: np.random.Generator) -> str:
            counts["reset"] += 1
            return super().begin(episode, rng)

        def apply(self, action: np.ndarray) -> StepResult:
            counts["step"] += 1
            return super().apply(action)

        def render_view(self, camera: Camera) -> np.ndarray:
            counts["view"] += 1
            return super().render_view(camera)

    list(each_finding(Counting, EPISODES))
    assert counts["reset"] <= 40
    assert counts["step"] <= 240
    assert counts["view"] <= 160
    first = dict(counts)
    counts.update(reset=0, step=0, view=0)
    list(each_finding(Counting, THREE_TASKS))
    further = {name: (counts[name] - first[name]) / 2 for name in counts}
    assert further["reset"] <= 24
    assert further["step"] <= 140
    assert further["view"] <= 80
