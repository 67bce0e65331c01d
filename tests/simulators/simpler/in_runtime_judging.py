"""Success in SimplerEnv's scenes, and near misses that do not count; runs under the Python of the ``simpler`` runtime.

Objects are put where an outcome would leave them, come to rest there, and are judged. A wrong outcome must be refused by the condition
that is meant for it: the tests name every condition that refuses it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import sapien
from transforms3d.euler import euler2quat

from vlarig.benchmarks.simpler.ood import SIMPLER_OOD
from vlarig.benchmarks.simpler.widowx import SIMPLER_WIDOWX
from vlarig.envs.api import Episode, Needs
from vlarig.envs.simpler.env import BridgeEnv
from vlarig.envs.simpler.goals import TABLE_TOP, StepState, holds

SUITES = {task.name: suite for suite in (SIMPLER_WIDOWX, SIMPLER_OOD) for task in suite.tasks}
SPOON, CARROT, CUBES, EGGPLANT = (task.name for task in SIMPLER_WIDOWX.tasks)
OOD = [task.name for task in SIMPLER_OOD.tasks]
BLIND = Needs(images=False)
OPEN, CLOSED = 1.0, 0.0
#: Steps in which an object comes to rest, and steps in which it is judged then.
SETTLING, JUDGED = 8, 8
#: Heights above the table's top at which objects are let go to fall on a towel or a plate, and on a cube, in m.
DROP, DROP_ON_CUBE = 0.03, 0.046
ACROSS = np.pi / 2

#: Initial states: the source is right of the target and behind it; right of it; and the first one, of cubes and the eggplant.
DIAGONAL, ABREAST, FIRST = 8, 6, 0


@dataclass(frozen=True)
class Spot:
    """Where the source is put: ``x`` and ``y`` from the target, turned by ``yaw``; lying there, or falling from ``drop``."""

    x: float
    y: float
    yaw: float = 0.0
    drop: float | None = None


class Judged(BridgeEnv):
    """The adapter, with all states kept that it judges."""

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        instruction = super().begin(episode, rng)
        self.judged: list[StepState] = []
        look = self._judge._state
        self._judge._state = lambda *seen: self.judged.append(look(*seen)) or self.judged[-1]
        return instruction

    @property
    def goal(self) -> list[dict[str, Any]]:
        assert self.episode is not None
        return self.episode.payload["goal"]

    def wait(self, steps: int, gripper: float = OPEN) -> list[bool]:
        """Let steps pass in which the hand stays; whether each ends in success."""
        result = self.step_chunk(np.tile(np.float32([0, 0, 0, 0, 0, 0, gripper]), (steps, 1)))
        return [step.success_at_end for step in result.steps]

    def put(self, model: str, position: Any, yaw: float = 0.0) -> None:
        """Put an object somewhere, at rest."""
        body = self.scene.bodies[model]
        body.entity.set_pose(sapien.Pose(np.float32(position), np.float32(euler2quat(0, 0, yaw))))
        body.set_linear_velocity(np.zeros(3))
        body.set_angular_velocity(np.zeros(3))
        body.wake_up()

    def put_source(self, place: Spot) -> None:
        target = self.scene.pose(self._target)
        lying = self._judge.settled[self._source][2] + 0.002
        height = lying if place.drop is None else TABLE_TOP + place.drop
        self.put(self._source, [target[0] + place.x, target[1] + place.y, height], place.yaw)

    def verdict(self) -> tuple[float, set[str]]:
        """Wait until objects rest; the share of steps then that are a success, and the conditions that refuse all of them."""
        self.wait(SETTLING)
        self.judged.clear()
        share = float(np.mean(self.wait(JUDGED)))
        return share, set.intersection(*(self.refusing(state) for state in self.judged))

    def refusing(self, state: StepState) -> set[str]:
        """The conditions that a state does not fulfil."""
        return {
            " ".join([condition["is"], condition.get("axis", "")]).strip()
            for condition in self.goal
            if not holds([condition], state)
        }

    def steer(self, place: Any, gripper: float = OPEN, near: float = 0.004) -> None:
        """Move the hand to a place in the world, in small steps; it moves with the base's axes, which are turned by half a turn."""
        for _ in range(60):
            way = np.asarray(place) - self.scene.hand()[:3]
            if np.linalg.norm(way) < near:
                return
            step = 0.6 * way * min(1.0, 0.03 / np.linalg.norm(way))
            self.step_chunk(np.float32([[-step[0], -step[1], step[2], 0, 0, 0, gripper]]))
        raise AssertionError(f"the hand does not reach {place}")


#: An env for each scene, since a scene is expensive to make.
Envs = defaultdict[str, Judged]


@pytest.fixture(scope="module")
def envs() -> Envs:
    return defaultdict(Judged)


def start(envs: Envs, task: str, number: int, predicates: str = "original", **poses: Any) -> Judged:
    """Begin an episode; ``poses`` replaces those before settling, by role."""
    suite = SUITES[task]
    chunked = suite.protocol("chunked")
    protocol = replace(
        chunked,
        name="judging",
        step_limit=1000,
        task_limits={},
        n_action_steps=1000,
        options=chunked.options | {"predicates": predicates},
    )
    episode = suite.episode(suite.task(task), number, 0, protocol)
    objects = episode.payload["objects"] | {episode.payload[role]: pose for role, pose in poses.items()}
    env = envs[episode.payload["scene"]]
    env.open(replace(episode, payload=episode.payload | {"objects": objects}), BLIND)
    return env


def under_both(cases: list[Any], place_of_task: int) -> list[Any]:
    """The cases under the original's predicates, and under mani-skill 3's too where it is the benchmark's own predicate that judges."""
    own = [case for case in cases if case[place_of_task] not in OOD or case[place_of_task] == "StackYellow"]
    return [("original", *case) for case in cases] + [("maniskill3", *case) for case in own]


RIGHT = [
    ("MoveAway", DIAGONAL, Spot(-0.2, 0.2)),
    ("MoveAway", ABREAST, Spot(0.05, 0.2, ACROSS)),
    ("MoveRight", DIAGONAL, Spot(0.0, 0.1)),
    ("MoveRight", DIAGONAL, Spot(0.055, 0.12)),
    ("MoveRight", DIAGONAL, Spot(0.0, 0.13, ACROSS)),
    ("PlaceNear", DIAGONAL, Spot(0.0, 0.08)),
    ("PlaceNear", DIAGONAL, Spot(-0.08, 0.0, ACROSS)),
    ("PlaceNear", DIAGONAL, Spot(0.0, 0.125, ACROSS)),
    ("PlaceRight", DIAGONAL, Spot(0.0, 0.03, 0.0, DROP)),
    ("PlaceRight", DIAGONAL, Spot(0.0, 0.03, ACROSS, DROP)),
    ("PutFront", ABREAST, Spot(0.1, 0.0, ACROSS)),
    ("PutFront", ABREAST, Spot(0.13, 0.03)),
    ("StackYellow", FIRST, Spot(0.0, 0.0, 0.0, DROP_ON_CUBE)),
    ("StackYellow", FIRST, Spot(0.01, -0.008, 0.6, DROP_ON_CUBE)),
    (SPOON, DIAGONAL, Spot(0.0, 0.0, 0.0, DROP)),
    (SPOON, DIAGONAL, Spot(0.0, 0.06, ACROSS, DROP)),
    (CARROT, DIAGONAL, Spot(0.0, 0.0, 0.0, DROP)),
    (CUBES, FIRST, Spot(0.01, -0.008, 0.6, DROP_ON_CUBE)),
    (EGGPLANT, FIRST, Spot(0.0, 0.0, 0.0, 0.14)),
]


@pytest.mark.parametrize(("predicates", "task", "number", "place"), under_both(RIGHT, 0))
def test_a_right_outcome_counts(envs: Envs, predicates: str, task: str, number: int, place: Spot) -> None:
    env = start(envs, task, number, predicates)
    env.put_source(place)
    share, refusing = env.verdict()
    assert share > 0.8, refusing
    assert env.metrics() == {
        "moved_correct_obj": 1.0,
        "moved_wrong_obj": 0.0,
        "is_src_obj_grasped": 0.0,
        "consecutive_grasp": 0.0,
    }


WRONG = [
    ("nearer", "MoveAway", DIAGONAL, Spot(0.0, 0.15), {"farther"}),
    ("on top", "MoveAway", DIAGONAL, Spot(0.0, 0.0, 0.0, DROP), {"apart", "farther"}),
    ("on top", "MoveRight", DIAGONAL, Spot(0.0, 0.0, 0.0, DROP), {"apart", "offset y"}),
    ("half on the towel", "MoveRight", DIAGONAL, Spot(0.0, 0.08, ACROSS), {"apart"}),
    ("left", "MoveRight", DIAGONAL, Spot(0.0, -0.1), {"offset y"}),
    ("right, and far behind", "MoveRight", DIAGONAL, Spot(-0.1, 0.1), {"offset x"}),
    ("right, and far in front", "MoveRight", ABREAST, Spot(0.1, 0.1), {"offset x"}),
    ("too far", "MoveRight", DIAGONAL, Spot(0.0, 0.22), {"offset y"}),
    ("on top", "PlaceNear", DIAGONAL, Spot(0.0, 0.0, 0.0, DROP), {"apart"}),
    ("on the rim", "PlaceNear", DIAGONAL, Spot(0.055, 0.0, ACROSS, DROP), {"apart"}),
    ("leaning on the rim", "PlaceNear", DIAGONAL, Spot(0.08, 0.0), {"apart"}),
    ("too far", "PlaceNear", DIAGONAL, Spot(0.0, 0.15), {"distance"}),
    ("left half", "PlaceRight", DIAGONAL, Spot(0.0, -0.03, 0.0, DROP), {"offset y"}),
    ("beside it", "PlaceRight", DIAGONAL, Spot(0.0, 0.1), {"touching", "offset y"}),
    ("more beside than on it", "PlaceRight", DIAGONAL, Spot(0.0, 0.08, ACROSS), {"offset y"}),
    ("over the front edge", "PlaceRight", ABREAST, Spot(0.08, 0.03), {"offset x"}),
    ("behind", "PutFront", ABREAST, Spot(-0.1, 0.0, ACROSS), {"offset x"}),
    ("beside", "PutFront", ABREAST, Spot(0.0, -0.1), {"offset x", "offset y"}),
    ("in front, and far right", "PutFront", ABREAST, Spot(0.1, 0.1), {"offset y"}),
    ("on top", "PutFront", ABREAST, Spot(0.0, 0.0, 0.0, DROP), {"apart", "offset x"}),
    ("on the front rim", "PutFront", ABREAST, Spot(0.055, 0.0, ACROSS, DROP), {"apart"}),
    ("too far", "PutFront", ABREAST, Spot(0.22, 0.0), {"offset x"}),
    ("beside", "StackYellow", FIRST, Spot(0.031, 0.0), {"on_target"}),
    ("beside", SPOON, DIAGONAL, Spot(0.0, 0.09), {"on_target"}),
    ("beside", CARROT, DIAGONAL, Spot(0.0, 0.09), {"on_target"}),
    ("beside", CUBES, FIRST, Spot(0.031, 0.0), {"on_target"}),
    ("back in the sink", EGGPLANT, FIRST, Spot(0.0, 0.13, 0.0, 0.12), {"on_target"}),
]


@pytest.mark.parametrize(("predicates", "name", "task", "number", "place", "reasons"), under_both(WRONG, 1))
def test_a_wrong_outcome_does_not_count(
    envs: Envs, predicates: str, name: str, task: str, number: int, place: Spot, reasons: set[str]
) -> None:
    env = start(envs, task, number, predicates)
    env.put_source(place)
    assert env.verdict() == (0.0, reasons)


@pytest.mark.parametrize("task", SUITES)
def test_doing_nothing_does_not_count(envs: Envs, task: str) -> None:
    for number in (0, 11, 22):
        env = start(envs, task, number)
        assert not any(env.wait(JUDGED))
        assert set(env.metrics().values()) == {0.0}


#: Where each goal that requires a move is reached on the table: the source's place, from a target at ``TARGET``.
TARGET = {SPOON: (-0.1, -0.05, 0.875), CARROT: (-0.1, -0.05, 0.8695)}
REACHED = [
    ("MoveAway", SPOON, Spot(-0.1, 0.2), {"moved", "farther"}),
    ("MoveRight", SPOON, Spot(0.0, 0.1), {"moved"}),
    ("PlaceNear", CARROT, Spot(0.0, 0.08), {"moved"}),
    ("PlaceRight", SPOON, Spot(0.0, 0.03), {"moved"}),
    ("PutFront", CARROT, Spot(0.1, 0.0, ACROSS), {"moved"}),
]


def start_reached(envs: Envs, task: str, like: str, place: Spot) -> Judged:
    """Begin with the source where it belongs already."""
    x, y, z = TARGET[like]
    source = [x + place.x, y + place.y, TABLE_TOP + DROP, *euler2quat(0, 0, place.yaw)]
    return start(envs, task, 0, source=source, target=[x, y, z, 1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(("task", "like", "place", "reasons"), REACHED)
def test_what_was_not_moved_or_was_brought_back_does_not_count(
    envs: Envs, task: str, like: str, place: Spot, reasons: set[str]
) -> None:
    env = start_reached(envs, task, like, place)
    assert env.verdict() == (0.0, reasons)
    before = env.scene.pose(env._source)
    env.put(env._source, [-0.3, 0.2, before[2] + 0.01])
    env.wait(SETTLING)
    env.scene.bodies[env._source].entity.set_pose(sapien.Pose(before[:3], before[3:]))
    assert env.verdict() == (0.0, reasons)
    assert env.metrics()["moved_correct_obj"] == 0.0


@pytest.mark.parametrize(("task", "like", "place", "reasons"), REACHED)
def test_the_target_is_not_to_be_moved_instead(envs: Envs, task: str, like: str, place: Spot, reasons: set[str]) -> None:
    """Two objects may be brought together from either side; the source must be the one that was carried."""
    env = start_reached(envs, task, like, Spot(place.x + 0.05, place.y, place.yaw))
    target = env.scene.pose(env._target)[:3]
    env.put(env._target, target + np.array([0.05, 0.0, 0.0]))
    env.wait(1)
    share, refusing = env.verdict()
    assert share == 0.0
    assert {"moved", "target_stayed"} <= refusing
    assert (env.metrics()["moved_correct_obj"], env.metrics()["moved_wrong_obj"]) == (0.0, 1.0)


@pytest.mark.parametrize(("task", "number", "place"), [case for case in RIGHT if case[0] in {case[0] for case in REACHED}])
def test_the_target_is_not_to_be_shoved_on_the_way(envs: Envs, task: str, number: int, place: Spot) -> None:
    """The source lies where it should, from where the target is by now."""
    env = start(envs, task, number)
    env.put(env._target, env.scene.pose(env._target)[:3] + np.array([0.02, -0.03, 0.0]))
    env.put_source(place)
    assert env.verdict() == (0.0, {"target_stayed"})


#: Where the hand holds the source; how high its centre and the hand are above the table; what else refuses it once it is lifted.
HELD = [
    ("MoveAway", DIAGONAL, Spot(-0.1, 0.22), 0.011, 0.02, {"low"}),
    ("MoveRight", DIAGONAL, Spot(0.0, 0.11), 0.011, 0.02, {"low"}),
    ("PlaceNear", DIAGONAL, Spot(0.0, 0.085), 0.019, 0.02, {"low"}),
    ("PlaceRight", DIAGONAL, Spot(0.0, 0.03), 0.02, 0.028, {"low", "touching"}),
    ("PutFront", ABREAST, Spot(0.1, 0.0), 0.019, 0.02, {"low"}),
    ("StackYellow", FIRST, Spot(0.0, 0.0), 0.046, 0.05, {"on_target"}),
]


def hold(env: Judged, place: Spot, height: float, hand: float) -> None:
    """Put the source between the open fingers, which are at a place on the table, and close them."""
    target = env.scene.pose(env._target)
    above = np.array([target[0] + place.x, target[1] + place.y, 1.0])
    env.steer(above)
    env.steer([*above[:2], TABLE_TOP + hand])
    env.put(env._source, [*env.scene.hand()[:2], TABLE_TOP + height])
    env.wait(1)
    env.wait(4, CLOSED)


def lift(env: Judged, way: float, gripper: float) -> None:
    env.step_chunk(np.tile(np.float32([0, 0, way / 4, 0, 0, 0, gripper]), (4, 1)))
    env.wait(2, gripper)


@pytest.mark.parametrize("predicates", ["original", "maniskill3"])
@pytest.mark.parametrize(("task", "number", "place", "height", "hand", "reasons"), HELD)
def test_what_is_held_does_not_count_until_it_is_let_go(
    envs: Envs, task: str, number: int, place: Spot, height: float, hand: float, reasons: set[str], predicates: str
) -> None:
    env = start(envs, task, number, predicates)
    hold(env, place, height, hand)
    env.judged.clear()
    assert not any(env.wait(JUDGED, CLOSED))
    assert [env.refusing(state) for state in env.judged] == [{"released"}] * JUDGED
    assert (env.metrics()["is_src_obj_grasped"], env.metrics()["consecutive_grasp"]) == (1.0, 1.0)
    lift(env, 0.06, CLOSED)
    assert env.refusing(env.judged[-1]) == {"released", *reasons}
    lift(env, -0.06, CLOSED)
    assert "released" in env.refusing(env.judged[-1])
    env.wait(3, OPEN)
    lift(env, 0.06, OPEN)
    share, refusing = env.verdict()
    assert share > 0.8, refusing
    assert (env.metrics()["is_src_obj_grasped"], env.metrics()["consecutive_grasp"]) == (1.0, 1.0), "of the whole episode"


@pytest.mark.parametrize("predicates", ["original", "maniskill3"])
def test_a_consecutive_grasp_lasts_five_steps(envs: Envs, predicates: str) -> None:
    env = start(envs, "MoveRight", DIAGONAL, predicates)
    hold(env, Spot(0.0, 0.11), 0.011, 0.02)
    held = next(count for count, state in enumerate(reversed(env.judged)) if not state.grasped)
    assert 0 < held < 5
    assert env.metrics()["consecutive_grasp"] == 0.0
    env.wait(4 - held, CLOSED)
    assert (env.metrics()["is_src_obj_grasped"], env.metrics()["consecutive_grasp"]) == (1.0, 0.0)
    env.wait(1, CLOSED)
    assert env.metrics()["consecutive_grasp"] == 1.0


@pytest.mark.parametrize(("task", "number", "place"), [case for case in RIGHT if case[0] in OOD])
def test_what_still_moves_does_not_count(envs: Envs, task: str, number: int, place: Spot) -> None:
    env = start(envs, task, number)
    env.put_source(place)
    env.verdict()
    env.scene.bodies[env._source].set_linear_velocity(np.array([0.2, 0.0, 0.0]))
    assert not env._judge.judge()
    assert env.refusing(env.judged[-1]) == {"at_rest"}


# SimplerEnv's own four tasks, whose predicate is one condition: what of it refuses.


def refused_part(env: Judged) -> str:
    """The part of ``on_target`` that refuses the last state by itself."""
    (condition,) = env.goal
    state = env.judged[-1]
    eased = {
        "contact": ({**condition, "contact": False}, state),
        "height": ({**condition, "slack": 1.0}, state),
        "reach": (condition, replace(state, reach=1.0)),
    }
    (part,) = [name for name, (easier, seen) in eased.items() if holds([easier], seen)]
    return part


@pytest.mark.parametrize(
    ("task", "number", "place", "height"),
    [
        (SPOON, DIAGONAL, Spot(0.0, 0.0), 0.07),
        (CARROT, DIAGONAL, Spot(0.0, 0.0), 0.08),
        (CUBES, FIRST, Spot(0.0, 0.0), 0.07),
        (EGGPLANT, FIRST, Spot(0.0, 0.0), 0.19),
    ],
)
def test_what_hangs_above_the_target_does_not_count(envs: Envs, task: str, number: int, place: Spot, height: float) -> None:
    """As in the step in which it is let go, too high; the benchmark's own predicate does not check whether it is held."""
    env = start(envs, task, number)
    env.put_source(replace(place, drop=height))
    assert not env._judge.judge()
    state = env.judged[-1]
    assert holds([{**env.goal[0], "slack": 1.0, "contact": False}], state)
    assert holds([{**env.goal[0], "contact": False}], replace(state, above=state.above - np.array([0.0, 0.0, 0.05])))


def test_a_spoon_may_lie_on_the_table_in_part(envs: Envs) -> None:
    """This is upstream's rule, so a spoon that lies against the towel's edge counts too."""
    for place, counts in ((Spot(0.0, 0.07, ACROSS), True), (Spot(0.0, 0.06), True), (Spot(0.0, 0.08), False)):
        env = start(envs, SPOON, DIAGONAL)
        env.put_source(place)
        share, _ = env.verdict()
        assert (share > 0.8) == counts
    assert refused_part(env) == "reach"


def test_the_original_wants_the_carrot_on_the_plate_alone(envs: Envs) -> None:
    """One end on the rim, the other on the table: mani-skill 3 accepts a push from the plate."""
    shares = {}
    for predicates in ("original", "maniskill3"):
        env = start(envs, CARROT, DIAGONAL, predicates)
        env.put_source(Spot(0.055, 0.0, ACROSS, DROP))
        shares[predicates], _ = env.verdict()
        if predicates == "original":
            assert refused_part(env) == "contact"
    assert shares == {"original": 0.0, "maniskill3": 1.0}


def test_a_carrot_beside_the_plate_lacks_contact_alone(envs: Envs) -> None:
    for predicates in ("original", "maniskill3"):
        env = start(envs, CARROT, DIAGONAL, predicates)
        env.put_source(Spot(0.0, 0.075))
        assert env.verdict() == (0.0, {"on_target"})
        assert refused_part(env) == "contact"


def test_a_stacked_cube_counts_while_it_is_held(envs: Envs) -> None:
    """Upstream's predicate allows the robot to touch it; SimplerEnv-OOD's requires more."""
    for task, counts in ((CUBES, True), ("StackYellow", False)):
        env = start(envs, task, FIRST)
        hold(env, Spot(0.0, 0.0), 0.046, 0.05)
        assert env.wait(JUDGED, CLOSED) == [counts] * JUDGED


@pytest.mark.parametrize("task", [CUBES, "StackYellow"])
@pytest.mark.parametrize("upper", ["baked_green_cube_3cm", "baked_yellow_cube_3cm"])
def test_the_block_that_was_named_must_be_on_top(envs: Envs, task: str, upper: str) -> None:
    env = start(envs, task, FIRST)
    (lower,) = env.scene.bodies.keys() - {upper}
    env.put(upper, [*env.scene.pose(lower)[:2], TABLE_TOP + DROP_ON_CUBE])
    counts = (task == "StackYellow") == (upper == "baked_yellow_cube_3cm")
    assert env.verdict() == ((1.0, set()) if counts else (0.0, {"on_target"}))
    assert env.metrics()["moved_wrong_obj"] == float(not counts)
