"""What an expert says that the words of a made-up task are about, in a scene with objects of its own."""

from __future__ import annotations

import numpy as np
import pytest

from vlarig.benchmarks.simpler.expert import SimplerExpert
from vlarig.benchmarks.tabletop.expert import TabletopExpert
from vlarig.envs.api import Observation
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.policies.api import Request

UPRIGHT = [1.0, 0.0, 0.0, 0.0]
SCENE = {
    "object/red cube 0": np.array([0.1, -0.1, 0.82, *UPRIGHT]),
    "object/blue cylinder 1": np.array([-0.1, 0.2, 0.83, *UPRIGHT]),
    "object/green cube 2": np.array([0.0, 0.0, 0.82, *UPRIGHT]),
    "object/green cube 3": np.array([0.1, 0.1, 0.82, *UPRIGHT]),
    "tray/black tray": np.array([-0.2, 0.0, 0.8]),
}


def about(text: str) -> np.ndarray | None:
    seen = Observation(images={}, state=np.zeros(8, np.float32), instruction=text)
    found = TabletopExpert().keypoints(Request(0, "", 0, 0, seen, TABLETOP_PANDA, 1, SCENE))
    return None if found is None else found.numbers()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("place the red cube to the left of the blue cylinder", (-0.1, 0.115)),
        ("place the red cube to the right of the blue cylinder", (-0.1, 0.285)),
        ("put the red cube on the blue cylinder", (-0.1, 0.2)),
        ("put the red cube into the black tray", (-0.2, 0.0)),
    ],
)
def test_what_is_moved_and_where_to_follow_from_the_words(text: str, place: tuple[float, float]) -> None:
    numbers = about(text)
    assert numbers is not None
    np.testing.assert_allclose(numbers[:3], SCENE["object/red cube 0"][:3], atol=1e-6)
    np.testing.assert_allclose(numbers[6:8], place, atol=1e-6)
    assert numbers[13] == 0


@pytest.mark.parametrize(
    "text", ["move it somewhere", "put the red cube next to the blue cylinder", "put the green cube in the black tray"]
)
def test_nothing_is_said_of_words_that_are_not_understood_or_fit_two_things(text: str) -> None:
    assert about(text) is None


def carrot(
    sides: tuple[float, float] = (0.1, 0.03), degrees: float = 0.0, key: str = "simpler_widowx/starvla/put_carrot_on_plate/0"
) -> Request:
    """A request with SimplerEnv's truth of an object with these level sides, turned so far."""
    half = np.radians(degrees) / 2
    source = np.array([-0.2, 0.0, 0.9, np.cos(half), 0.0, 0.0, np.sin(half)])
    down = np.array([-0.1, 0.1, 1.0, *np.array([1.0, 0.0, 1.0, 0.0]) / np.sqrt(2)])
    other = np.array([-0.3, 0.1, 0.9, *UPRIGHT])
    truth = {
        "hand": down,
        "commanded": down,
        "base": np.array([0.1, 0.0, 0.87, *UPRIGHT]),
        "pose/source": source,
        "pose/target": other,
    }
    truth |= {"settled/source": source[:3], "extent/source": np.array([*sides, 0.03]), "extent/target": np.full(3, 0.1)}
    seen = Observation(images={}, state=np.zeros(8, np.float32), instruction="put carrot on plate")
    return Request(0, key, 0, 0, seen, WIDOWX_BRIDGE, 1, truth)


def turn_of(sides: tuple[float, float], degrees: float) -> np.ndarray:
    """Cosine and sine of twice and of four times the turn that the expert gives."""
    found = SimplerExpert().reply(carrot(sides, degrees)).keypoints
    assert found is not None
    return found[0, 9:13]


def test_a_long_things_turn_is_another_after_a_quarter_turn_and_a_cubes_is_the_same() -> None:
    for degrees in (0.0, 30.0, 70.0):
        long, quarter, half = (turn_of((0.1, 0.03), degrees + more) for more in (0.0, 90.0, 180.0))
        np.testing.assert_allclose(half, long, atol=1e-5)
        np.testing.assert_allclose(quarter[:2], -long[:2], atol=1e-5)
        np.testing.assert_array_equal(turn_of((0.04, 0.04), degrees)[:2], 0)
        np.testing.assert_allclose(turn_of((0.04, 0.04), degrees + 90), turn_of((0.04, 0.04), degrees), atol=1e-5)


def test_simplers_expert_says_of_a_task_what_its_demonstration_begins_with_and_nothing_of_made_up_words() -> None:
    found, shown = SimplerExpert().keypoints(carrot()), SimplerExpert().reply(carrot()).keypoints
    assert found is not None and shown is not None
    np.testing.assert_array_equal(found.numbers(), shown[0])
    assert SimplerExpert().keypoints(carrot(key="simpler_widowx/")) is None
