"""A simulator small enough to read: a point on a plane that must be brought to the goal which the instruction names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vlarig.envs.api import Camera, Env, Episode, StepResult
from vlarig.envs.embodiments import Channel, Embodiment

#: An action of 1 moves the point by this much a step; the plane reaches from -1 to 1 on both axes.
STEP_LENGTH = 0.1
#: The task is solved within this distance of the goal.
GOAL_RADIUS = 0.1
#: No goal lies nearer to the start than this.
CLEARANCE = 0.6
#: Half the width of the square that a view shows.
EGO_REACH, WRIST_REACH = 1.2, 0.5
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220)}
FLOOR, POINT, GRIPPING = (225, 225, 215), (30, 30, 30), (240, 200, 40)

TOY_POINT = Embodiment(
    name="toy_point",
    robot_tag="Point",
    arms="single arm",
    control_frequency=10.0,
    channels=(
        Channel("dx", "normalized", "delta", "base", -1.0, 1.0),
        Channel("dy", "normalized", "delta", "base", -1.0, 1.0),
        Channel("grip", "normalized", "absolute", "gripper", -1.0, 1.0, gripper="+1 closes, -1 opens"),
    ),
    state_layout=("position_x", "position_y", "grip"),
    cameras={"ego": "ceiling", "cam_left_wrist": "point"},
    statistics_key="toy",
)

#: The same robot whose state says where the goal is, for policies that learn without seeing.
TOY_SEEN = replace(
    TOY_POINT,
    name="toy_seen",
    state_layout=(*TOY_POINT.state_layout, "goal_x", "goal_y"),
    cameras={},
    statistics_key="toy_seen",
)


class ToyEnv(Env):
    """A point that reaches a goal. The episode's payload names the goal's colour; the other goal is a decoy."""

    embodiment = TOY_POINT

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        self.position = rng.uniform(-1.0, 1.0, 2)
        self.grip = -1.0
        self.goals = {colour: self._away_from_start(rng) for colour in COLOURS}
        self.goal: str = episode.payload["goal"]
        return f"move the point to the {self.goal} goal"

    def apply(self, action: np.ndarray) -> StepResult:
        legal = np.clip(action, -1.0, 1.0).astype(np.float64)
        self.position = np.clip(self.position + STEP_LENGTH * legal[:2], -1.0, 1.0)
        self.grip = float(legal[2])
        solved = self._distance() < GOAL_RADIUS
        return StepResult(reward=float(solved), success_within=solved, success_at_end=solved)

    def state(self) -> np.ndarray:
        return np.array([*self.position, self.grip], dtype=np.float32)

    def render_view(self, camera: Camera) -> np.ndarray:
        centre, reach = (np.zeros(2), EGO_REACH) if camera.view == "ego" else (self.position, WRIST_REACH)
        x = centre[0] + np.linspace(-reach, reach, camera.width)[None, :]
        y = centre[1] + np.linspace(reach, -reach, camera.height)[:, None]
        image = np.full((camera.height, camera.width, 3), FLOOR, dtype=np.uint8)
        for colour, (goal_x, goal_y) in self.goals.items():
            image[np.hypot(x - goal_x, y - goal_y) < GOAL_RADIUS] = COLOURS[colour]
        image[np.hypot(x - self.position[0], y - self.position[1]) < GOAL_RADIUS / 2] = GRIPPING if self.grip > 0 else POINT
        return image

    def simulator_state(self) -> np.ndarray:
        return np.array([*self.position, self.grip, *np.concatenate(list(self.goals.values()))])

    def privileged(self) -> dict[str, np.ndarray]:
        return {"position": self.position.copy(), "goal": self.goals[self.goal].copy()}

    def metrics(self) -> dict[str, float]:
        return {"distance": self._distance()}

    def _distance(self) -> float:
        return float(np.linalg.norm(self.position - self.goals[self.goal]))

    def _away_from_start(self, rng: np.random.Generator) -> np.ndarray:
        while True:
            place = rng.uniform(-1.0, 1.0, 2)
            if np.linalg.norm(place - self.position) > CLEARANCE:
                return place


class SeenEnv(ToyEnv):
    """The same with the goal in the state."""

    embodiment = TOY_SEEN

    def state(self) -> np.ndarray:
        return np.concatenate([super().state(), self.goals[self.goal]]).astype(np.float32)
