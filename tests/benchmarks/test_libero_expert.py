"""The expert of LIBERO's object and spatial suites, against a world of boxes without a simulator."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from toy.env import TOY_POINT

from vlarig.benchmarks.libero.expert import LiberoExpert, Task, parse
from vlarig.benchmarks.libero.grasps import Grasp, boxes, choose
from vlarig.envs.api import Observation
from vlarig.policies.api import PolicyError, Request
from vlarig.policies.registry import load_policy

BUTTER = "pick up the butter and place it in the basket"
BOWL = "pick up the black bowl next to the ramekin and place it on the plate"
FAR = np.array([0.0, 0.3, 0.0])
NOTHING = np.zeros((0, 8, 3))


def box(centre: tuple[float, float, float], half: tuple[float, float, float], yaw: float = 0.0) -> np.ndarray:
    """``float64[8, 3]``: the corners of a box."""
    corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(8, 3) * half
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return corners @ turn.T + centre


def bowl(x: float, y: float, bottom: float = 0.0) -> np.ndarray:
    """``float64[n, 3]``: a wall of sixteen boxes, 5 cm high, around a floor."""
    sides = np.arange(16) * np.pi / 8
    wall = [box((x + 0.047 * np.cos(s), y + 0.047 * np.sin(s), bottom + 0.03), (0.001, 0.009, 0.02), s) for s in sides]
    return np.concatenate([*wall, box((x, y, bottom + 0.003), (0.02, 0.02, 0.003))])


def basket(x: float, y: float) -> np.ndarray:
    """``float64[n, 3]``: a floor and four walls, 15 cm high."""
    walls = [
        box((x + 0.07 * u, y + 0.07 * v, 0.075), (0.007 if u else 0.07, 0.007 if v else 0.07, 0.075))
        for u, v in ((1, 0), (-1, 0), (0, 1), (0, -1))
    ]
    return np.concatenate([box((x, y, 0.005), (0.07, 0.07, 0.005)), *walls])


def turned(grasp: Grasp) -> float:
    """The grasp's yaw in degrees."""
    return float(np.rad2deg(grasp.yaw))


@dataclass
class World:
    """A hand that follows its actions, and objects that move with it when it closes on one of their boxes.

    ``slips`` is how often what was grasped falls before it stays in the hand; ``rests`` the height at which an object comes to lie.
    """

    instruction: str
    object: str
    place: str
    points: dict[str, np.ndarray]
    where: dict[str, np.ndarray]
    slips: int = 0
    grip: np.ndarray = field(default_factory=lambda: np.array([-0.2, 0.0, 0.3]))
    yaw: float = 0.0
    opening: float = 0.078
    held: bool = False
    grasps: int = 0

    def request(self, chunk: int, env: int = 0) -> Request:
        """The request to the expert at this step."""
        truth = {f"points/{name}": points for name, points in self.points.items()}
        truth |= {f"pose/{name}": np.array([*place, 1.0, 0.0, 0.0, 0.0]) for name, place in self.where.items()}
        truth["grip"] = np.array([*self.grip, 0.0, np.cos(self.yaw / 2), np.sin(self.yaw / 2), 0.0])
        state = np.array([*self.grip, 0.0, 0.0, 0.0, self.opening / 2, -self.opening / 2], np.float32)
        seen = Observation(images={}, state=state, instruction=self.instruction)
        return Request(env, "libero_object/standard@1/task/base/0/0", chunk, 0, seen, TOY_POINT, 1, truth)

    def move(self, action: np.ndarray) -> None:
        """Carry out ``float32[7]``."""
        assert action.shape == (7,)
        assert np.abs(action).max() <= 1.0
        step = 0.015 * action[:3]
        self.grip = self.grip + step
        self.yaw += 0.2 * float(action[5])
        self.opening = float(np.clip(self.opening - 0.01 * np.sign(action[6]), 0.004, 0.078))
        solid = boxes(self.points[self.object])
        inside = ((self.grip > solid.min(1) - 0.004) & (self.grip < solid.max(1) + 0.004)).all(1).any()
        if not self.held and action[6] > 0 and self.opening < 0.01 and inside:
            self.grasps += 1
            self.held = True
        if self.held and self.slips and self.grip[2] > 0.1:
            self.slips -= 1
            self.drop()
        if self.held and action[6] < 0:
            self.drop()
        if self.held:
            self.shift(step)

    def drop(self) -> None:
        """Let the object fall to the ground, or to a centimetre above it where its place is below."""
        self.held = False
        over = np.linalg.norm(self.where[self.object][:2] - self.where[self.place][:2]) < 0.06
        self.shift(np.array([0.0, 0.0, (0.01 if over else 0.0) - self.points[self.object][:, 2].min()]))

    def shift(self, way: np.ndarray) -> None:
        """Move the object."""
        self.points[self.object] = self.points[self.object] + way
        self.where[self.object] = self.where[self.object] + way


def butter_world(slips: int = 0) -> World:
    points = {
        "butter_1": box((0.05, -0.1, 0.009), (0.038, 0.02, 0.009), yaw=0.4),
        "basket_1": basket(0.0, 0.25),
        "milk_1": box((0.0, 0.06, 0.07), (0.026, 0.026, 0.07)),
    }
    where = {"butter_1": np.array([0.05, -0.1, 0.009]), "basket_1": np.array([0.0, 0.25, 0.0])}
    return World(BUTTER, "butter_1", "basket_1", points, where | {"milk_1": np.array([0.0, 0.06, 0.07])}, slips)


def bowl_world() -> World:
    points = {"akita_black_bowl_1": bowl(-0.05, -0.1), "plate_1": box((0.0, 0.2, 0.005), (0.06, 0.06, 0.005))}
    points["akita_black_bowl_2"] = bowl(-0.05, 0.05)
    where = {"akita_black_bowl_1": (-0.05, -0.1, 0.0), "akita_black_bowl_2": (-0.05, 0.05, 0.0), "plate_1": (0.0, 0.2, 0.0)}
    return World(BOWL, "akita_black_bowl_1", "plate_1", points, {name: np.array(place) for name, place in where.items()})


def play(world: World, steps: int) -> list[np.ndarray]:
    expert = LiberoExpert()
    actions = []
    for step in range(steps):
        (action,) = expert.act_one(world.request(step))
        world.move(action)
        actions.append(action)
    return actions


def beside_place(world: World) -> float:
    return float(np.linalg.norm((world.where[world.object] - world.where[world.place])[:2]))


@pytest.mark.parametrize(
    ("instruction", "task"),
    [
        ("pick up the alphabet soup and place it in the basket", Task("alphabet_soup_1", "basket_1")),
        ("Pick the cream cheese and place it in the basket.", Task("cream_cheese_1", "basket_1")),
        (
            "pick up the black bowl between the plate and the ramekin and place it on the plate",
            Task("akita_black_bowl_1", "plate_1"),
        ),
        (
            "pick up the black bowl in the top drawer of the wooden cabinet and place it on the plate",
            Task("akita_black_bowl_1", "plate_1"),
        ),
    ],
)
def test_an_instruction_names_the_thing_and_its_place(instruction: str, task: Task) -> None:
    assert parse(instruction) == task


def test_an_instruction_of_another_suite_is_refused_by_name() -> None:
    with pytest.raises(PolicyError, match=r"does not understand 'open the middle drawer'.*place it in the basket"):
        parse("open the middle drawer")


def test_a_thing_that_is_not_in_the_scene_is_refused_by_name() -> None:
    world = butter_world()
    del world.where["butter_1"]
    with pytest.raises(PolicyError, match=r"names 'butter_1', but in the scene there are basket_1, milk_1"):
        LiberoExpert().act_one(world.request(0))


def test_a_box_is_taken_across_its_narrow_side_close_to_the_ground() -> None:
    grasp = choose(box((0.1, -0.1, 0.009), (0.04, 0.02, 0.009), np.deg2rad(30)), NOTHING, FAR)
    assert turned(grasp) == pytest.approx(30)
    np.testing.assert_allclose(grasp.place[:2], [0.1, -0.1], atol=1e-9)
    assert 0.012 < grasp.place[2] < 0.014


def test_a_tall_thing_is_taken_near_its_top() -> None:
    grasp = choose(box((0.1, -0.1, 0.07), (0.02, 0.02, 0.07)), NOTHING, FAR)
    assert 0.11 < grasp.place[2] < 0.13


def test_fingers_keep_away_from_things_beside() -> None:
    points = box((0.1, -0.1, 0.04), (0.025, 0.024, 0.04))
    assert turned(choose(points, NOTHING, FAR)) == pytest.approx(0)
    neighbour = box((0.1, -0.04, 0.04), (0.02, 0.02, 0.04))
    assert abs(turned(choose(points, neighbour[None], FAR))) > 45


def test_a_bowl_is_taken_by_the_middle_of_a_part_of_its_wall_on_the_side_of_the_robot() -> None:
    points = bowl(0.1, -0.1)
    grasp = choose(points, NOTHING, np.array([0.1, 0.2, 0.0]))
    distances = np.linalg.norm(boxes(points).mean(1) - grasp.place, axis=1)
    assert distances.min() < 1e-9
    assert grasp.place[0] < 0.075
    assert grasp.opening < 0.05
    closing = np.array([-np.sin(grasp.yaw), np.cos(grasp.yaw)])
    outwards = (grasp.place[:2] - [0.1, -0.1]) / 0.047
    assert abs(closing @ outwards) == pytest.approx(1, abs=1e-6)


def test_a_bowl_is_not_taken_where_something_is_beside_it_nor_again_where_that_failed() -> None:
    goal = np.array([-0.1, 0.2, 0.0])
    first = choose(bowl(-0.1, 0.0), NOTHING, goal)
    outwards = np.array([np.cos(first.side), np.sin(first.side)])
    neighbour = box((-0.1 + 0.1 * outwards[0], 0.1 * outwards[1], 0.03), (0.03, 0.03, 0.03))
    for other in (choose(bowl(-0.1, 0.0), neighbour[None], goal), choose(bowl(-0.1, 0.0), NOTHING, goal, [first])):
        assert np.cos(other.side - first.side) < 0.9


def test_points_of_no_boxes_count_as_one() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    (one,) = boxes(points)
    np.testing.assert_array_equal(one.min(0), points.min(0))
    np.testing.assert_array_equal(one.max(0), points.max(0))
    assert boxes(np.concatenate([one, one])).shape == (2, 8, 3)


@pytest.mark.parametrize("world", [butter_world(), bowl_world()], ids=["butter", "bowl"])
def test_the_thing_ends_at_its_place_and_is_left_there(world: World) -> None:
    actions = play(world, 200)
    assert beside_place(world) < 0.02
    assert world.grasps == 1
    assert not world.held
    for action in actions[-20:]:
        np.testing.assert_allclose(action, [0, 0, 0, 0, 0, 0, -1], atol=0.01)


def test_what_is_carried_passes_above_what_is_in_the_way() -> None:
    world, expert = butter_world(), LiberoExpert()
    for step in range(200):
        world.move(expert.act_one(world.request(step))[0])
        butter, milk = world.points["butter_1"], world.points["milk_1"]
        apart = np.maximum(milk.min(0) - butter.max(0), butter.min(0) - milk.max(0))
        assert apart.max() > 0, f"the butter meets the milk in step {step}"


def test_a_thing_that_slips_is_fetched_again_at_once() -> None:
    world = butter_world(slips=2)
    play(world, 130)
    assert world.grasps == 3
    assert beside_place(world) < 0.02


def test_a_new_episode_forgets_the_last_one() -> None:
    used, other = LiberoExpert(), bowl_world()
    for step in range(60):
        other.move(used.act_one(other.request(step))[0])
    world = butter_world()
    for step in range(40):
        action = used.act_one(world.request(step))
        if step == 0:
            np.testing.assert_array_equal(action, LiberoExpert().act_one(world.request(0)))
        world.move(action[0])
    alone = butter_world()
    play(alone, 40)
    np.testing.assert_array_equal(world.grip, alone.grip)


def test_envs_do_not_meet() -> None:
    expert, worlds = LiberoExpert(), (butter_world(), bowl_world())
    for step in range(80):
        for env, world in enumerate(worlds):
            world.move(expert.act_one(world.request(step, env))[0])
    for world, alone in zip(worlds, (butter_world(), bowl_world()), strict=True):
        play(alone, 80)
        np.testing.assert_array_equal(world.grip, alone.grip)


@pytest.mark.parametrize("suite", ["libero_object", "libero_spatial"])
def test_the_suites_have_the_expert(suite: str) -> None:
    policy = load_policy("expert")
    check = getattr(policy, "check", None)
    assert check is not None
    check(suite, TOY_POINT)
    request = butter_world().request(0)
    (reply,) = policy.act([Request(**{**vars(request), "key": f"{suite}/standard@1/task/base/0/0"})])
    assert reply.actions.shape == (1, 7)
    assert reply.actions.dtype == np.float32
