"""The SimplerEnv adapter: Bridge scenes on mani-skill 3, with frames rendered only where they are due."""

from __future__ import annotations

from typing import Optional

import numpy as np
from transforms3d.euler import mat2euler
from transforms3d.quaternions import qconjugate, qmult, quat2mat

from ..api import Camera, Env, Episode, StepResult
from ..errors import VlarigError
from ..scene_objects import SceneObject, box_of
from .judge import Judge
from .robot import WIDOWX_BRIDGE
from .rotations import ABOUT_THE_HAND, ROTATIONS, swing
from .scene import Scene
from .upstream import PATCHES

#: The hand's rotation in the base frame that BridgeData's roll, pitch and yaw are counted from: it points straight down
#: (NVIDIA/Isaac-GR00T gr00t/eval/sim/SimplerEnv/simpler_env.py, ``default_rot``).
STRAIGHT_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


#: Colour and noun of upstream's models, in the words of the instructions.
WORDS = {
    "bridge_spoon_generated_modified": ("", "spoon"),
    "table_cloth_generated_shorter": ("", "towel"),
    "bridge_carrot_generated_modified": ("", "carrot"),
    "bridge_plate_objaverse_larger": ("", "plate"),
    "baked_green_cube_3cm": ("green", "block"),
    "baked_yellow_cube_3cm": ("yellow", "block"),
    "eggplant": ("", "eggplant"),
}


class BridgeEnv(Env):
    """One env of SimplerEnv's WidowX tasks.

    The payload is the episode: ``instruction``; ``scene``, upstream's environment; ``objects``, model to pose before settling
    (position in m and quaternion ``wxyz``, in the world frame); ``source`` and ``target``, two of the models; ``goal``, conditions
    (:mod:`vlarig.envs.simpler.goals`). The protocol's options ``rotation`` (:data:`~vlarig.envs.simpler.rotations.ROTATIONS`) and
    ``predicates`` (:data:`~vlarig.envs.simpler.judge.PREDICATES`) choose between the original benchmark and mani-skill 3.
    """

    embodiment = WIDOWX_BRIDGE
    patches = PATCHES

    def __init__(self) -> None:
        super().__init__()
        self._scene: Optional[Scene] = None

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        """Place the objects, let them settle, and place the robot; nothing is sampled."""
        payload, options = episode.payload, episode.protocol.options
        if options.get("rotation") not in ROTATIONS:
            raise VlarigError(
                f"the option 'rotation' of protocol {episode.protocol.name!r} is {options.get('rotation')!r}, "
                f"expected one of {', '.join(ROTATIONS)}"
            )
        self._rotation = ROTATIONS[options["rotation"]]
        self._about_the_hand = options["rotation"] in ABOUT_THE_HAND
        self._enter(payload["scene"])
        self.scene.reset(payload["objects"])
        self._source, self._target = payload["source"], payload["target"]
        self._judge = Judge(self.scene, self._source, self._target, payload["goal"], options.get("predicates", ""))
        return payload["instruction"]

    def apply(self, action: np.ndarray) -> StepResult:
        """One control step of 0.2 s."""
        move, angles = action[:3].astype(np.float64), self._rotation(action[3:6].astype(np.float64))
        if self._about_the_hand:
            move += swing(angles, self.scene.lead())
        self.scene.step(np.concatenate([move, angles, [2 * action[6] - 1]]).astype(np.float32))
        success = self._judge.judge()
        return StepResult(float(success), success, success)

    def state(self) -> np.ndarray:
        """``float32[7]``: the hand in the base frame, roll, pitch and yaw from straight down, and how far the gripper is open."""
        hand = self.scene.hand()
        turn = qmult(qconjugate(self.scene.base()[3:]), hand[3:])
        angles = mat2euler(quat2mat(turn) @ STRAIGHT_DOWN.T)
        return np.array([*self._from_base(hand[:3]), *angles, self.scene.openness()], dtype=np.float32)

    def _from_base(self, position: np.ndarray) -> np.ndarray:
        """A position of the world, ``float[3]``, in the frame of the robot's base."""
        base = self.scene.base()
        return quat2mat(base[3:]).T @ (position - base[:3])

    def render_view(self, camera: Camera) -> np.ndarray:
        """The robot and the objects before the photograph."""
        return self.scene.camera.render(camera.height, camera.width)

    def simulator_state(self) -> np.ndarray:
        """Bodies, joints, and the states of the controller and of the judge."""
        return np.concatenate([self.scene.physics_state(), self._judge.memory()])

    def metrics(self) -> dict[str, float]:
        """Upstream's own statistics, 0 or 1."""
        return dict(self._judge.statistics)

    def privileged(self) -> dict[str, np.ndarray]:
        """Where objects are, in the world frame.

        ``hand``, ``commanded`` (the controller's target of the hand), ``base``, ``pose/source``, ``pose/target``: ``float64[7]``,
        position and quaternion ``wxyz``; ``settled/source``, ``settled/target``: ``float64[3]``, the positions at the start;
        ``extent/source``, ``extent/target``: ``float64[3]``, the sides of the models' boxes along their own axes; ``joints``:
        ``float64[8]``.
        """
        scene = self.scene
        truth = {"hand": scene.hand(), "commanded": scene.commanded(), "base": scene.base()}
        truth["joints"] = scene.robot.qpos.astype(np.float64)
        for role, model in (("source", self._source), ("target", self._target)):
            truth[f"pose/{role}"] = scene.pose(model)
            truth[f"settled/{role}"] = self._judge.settled[model]
            truth[f"extent/{role}"] = scene.extent(model)
        return truth

    def describe(self, camera: Camera) -> list[SceneObject]:
        """The objects. The sink's basket is a part of the photograph, of which the simulator knows nothing."""
        entities = {model: body.entity for model, body in self.scene.bodies.items() if model in WORDS}
        roles = {self._source: "object", self._target: "goal"}
        found = []
        for model, (mask, visible, depth) in self.scene.camera.find(camera.height, camera.width, entities).items():
            colour, kind = WORDS[model]
            x, y, z = (float(number) for number in self._from_base(self.scene.pose(model)[:3]))
            box = box_of(mask)
            if box is not None:
                name = f"{colour} {kind}".strip()
                found.append(SceneObject(name, kind, colour, box, (x, y, z), depth, visible, roles.get(model, "")))
        return found

    def close(self) -> None:
        if self._scene is not None:
            self._scene.close()
            self._scene = None

    @property
    def scene(self) -> Scene:
        assert self._scene is not None, "no episode was started"
        return self._scene

    def _enter(self, name: str) -> None:
        """Have the scene; tasks of one scene share it, and one that is not needed any more goes first."""
        if self._scene is None or self._scene.name != name:
            self.close()
            self._scene = Scene(name)
