"""One task of LIBERO, loaded once in a process for all envs that play it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional

import mujoco
import numpy as np

from ..mujoco_shared import Canvas
from .init_states import read_init_states
from .shapes import Shape, collision_shape
from .upstream import CHANGED_BY_RESETS, assets_folder, make_task

#: Forward passes of a fresh upstream environment over the model as compiled: one when the simulation is made, one when the rendering
#: context is (robosuite 1.4.0, environments/base.py, _initialize_sim; utils/binding_utils.py, MjRenderContext). Each leaves a mark in
#: the solver's warm start.
FORWARDS_AT_LOAD = 2

#: Loads of the task before a fresh upstream environment has its first reset behind it: the constructor's and the reset's own. Each
#: appends the task's samplers of joints to one list, so a reset samples that often from them (libero/libero/envs/
#: bddl_base_domain.py, _add_placement_initializer).
LOADS_AT_FIRST_RESET = 2

#: Size of upstream's rendering buffer, and its groups of geoms: without collision shapes, with visual ones (robosuite 1.4.0,
#: utils/binding_utils.py, MjRenderContextOffscreen; environments/base.py, _reset_internal).
BUFFER = (480, 640)
COLLISION_GROUP, VISUAL_GROUP = 0, 1


@dataclass
class EnvState:
    """What distinguishes the envs of one scene.

    Attributes:
        data: The simulation.
        body_pos: Positions of the bodies in their parents, ``float64[nbody, 3]``: fixtures are elsewhere in each episode.
        body_quat: Their orientations, ``float64[nbody, 4]``.
        site_rgba: Colours of the sites, ``float32[nsite, 4]``: a stove's burner is seen when it is on.
    """

    data: mujoco.MjData
    body_pos: np.ndarray
    body_quat: np.ndarray
    site_rgba: np.ndarray


class Scene:
    """A task's compiled model, upstream's own samplers and predicates over it, and its renderer.

    The envs of a scene differ in their ``MjData`` and in three small arrays of the model; the env whose turn it is has these put in
    place (:meth:`enter`). All the rest, meshes and textures above all, is shared.

    Args:
        suite: Name of the suite, such as ``libero_spatial``.
        task: Name of the task: the stem of its BDDL file.
    """

    def __init__(self, suite: str, task: str) -> None:
        self.upstream = make_task(suite, task)
        self.init_states = read_init_states(assets_folder() / "init_files" / suite / f"{task}.pruned_init")
        self.upstream.check_contact = self._check_contact
        self.model: mujoco.MjModel = self.upstream.sim.model._model
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR.value  # nothing of ours reads the force sensors
        self._samplers = list(self.upstream.object_property_initializers)
        self._geoms: dict[str, np.ndarray] = {}
        self._shapes: dict[str, Shape] = {}
        self._inside: Optional[EnvState] = None

    def new_env_state(self) -> EnvState:
        """An env with nothing in it yet; :meth:`reset` fills it."""
        return EnvState(mujoco.MjData(self.model), *(self.upstream.pristine[name].copy() for name in CHANGED_BY_RESETS))

    def enter(self, env: EnvState) -> None:
        """Make ``env`` the one that upstream's code and the model's arrays speak of."""
        if self._inside is env:
            return
        self.leave()
        for name in CHANGED_BY_RESETS:
            getattr(self.model, name)[:] = getattr(env, name)
        self.upstream.sim.data._data = env.data
        self._inside = env

    def leave(self) -> None:
        """Keep what the env inside changed in the model."""
        if self._inside is not None:
            for name in CHANGED_BY_RESETS:
                getattr(self._inside, name)[:] = getattr(self.model, name)
        self._inside = None

    def reset(self, env: EnvState, initial_state: Optional[int]) -> None:
        """Bring ``env`` where upstream's ``env.reset(); env.set_init_state(init_states[initial_state])`` brings a fresh process.

        Without an initial state, where ``env.reset()`` alone does. The process-wide generator of numpy must be seeded as ``env.seed``
        would; fixtures are placed from it, and then objects.
        """
        from robosuite.utils.errors import RandomizationError

        for loads in itertools.count(LOADS_AT_FIRST_RESET):
            self._restore(env)
            self.upstream.object_property_initializers = self._samplers * loads
            try:
                self.upstream._reset_internal()
                break
            except RandomizationError:  # upstream loads the task again and samples again (env_wrapper.py, ControlEnv.reset)
                continue
        mujoco.mj_forward(self.model, env.data)
        self.upstream.visualize(vis_settings=dict.fromkeys(self.upstream._visualizations, False))
        if initial_state is not None:
            state = self.init_states[initial_state]
            env.data.time = state[0]
            env.data.qpos[:] = state[1 : 1 + self.model.nq]
            env.data.qvel[:] = state[1 + self.model.nq :]
            mujoco.mj_forward(self.model, env.data)
        self.upstream._check_success()
        self.upstream._post_process()

    def succeeds(self) -> bool:
        """Upstream's verdict on the env inside, after which what changes its looks with its state (a stove) does so."""
        success = bool(self.upstream._check_success())
        self.upstream._post_process()
        return success

    @cached_property
    def canvas(self) -> Canvas:
        """The scene's renderer, made for the first image."""
        options = mujoco.MjvOption()
        options.geomgroup[COLLISION_GROUP] = 0
        options.geomgroup[VISUAL_GROUP] = 1
        return Canvas(self.model, BUFFER, options)

    @cached_property
    def bodies(self) -> dict[str, int]:
        """Objects and fixtures by upstream's names, as ids of their root bodies."""
        return {name: int(body) for name, body in self.upstream.obj_body_id.items()}

    def roles(self) -> dict[str, str]:
        """Name to role of what the env inside is to move now, ``object``, and of where to, ``goal``; empty where nothing is moved.

        Of several goals it is the first that is not reached. A region is of the body that its name begins with.
        """
        goals = [goal for goal in self.upstream.parsed_problem["goal_state"] if len(goal) == 3]
        owed = goals if len(goals) == 1 else [goal for goal in goals if not self.upstream._eval_predicate(goal)]
        if not owed:
            return {}
        _, moved, region = owed[0]
        return {moved: "object", **{name: "goal" for name in self.bodies if region == name or region.startswith(f"{name}_")}}

    def shape(self, name: str) -> Shape:
        """The collision geometry of an object or fixture."""
        if name not in self._shapes:
            self._shapes[name] = collision_shape(self.model, self.bodies[name])
        return self._shapes[name]

    def close(self) -> None:
        if "canvas" in vars(self):
            self.canvas.close()

    def _restore(self, env: EnvState) -> None:
        """The model and the env as if just compiled."""
        self.enter(env)
        for name in CHANGED_BY_RESETS:
            getattr(self.model, name)[:] = self.upstream.pristine[name]
        mujoco.mj_resetData(self.model, env.data)
        for _ in range(FORWARDS_AT_LOAD):
            mujoco.mj_forward(self.model, env.data)

    def _check_contact(self, first: Any, second: Any) -> bool:
        """Upstream's ``MujocoEnv.check_contact`` for two objects, over all contacts at once."""
        contact = self.upstream.sim.data._data.contact
        if len(contact.geom1) == 0:
            return False
        ones, others = self._geoms_of(first), self._geoms_of(second)
        one, other = contact.geom1, contact.geom2
        return bool(np.any((ones[one] & others[other]) | (ones[other] & others[one])))

    def _geoms_of(self, obj: Any) -> np.ndarray:
        """``bool[ngeom]``: which geoms are the object's contact geoms."""
        if obj.name not in self._geoms:
            ids = [self.upstream.sim.model.geom_name2id(name) for name in obj.contact_geoms]
            self._geoms[obj.name] = np.isin(np.arange(self.model.ngeom), ids)
        return self._geoms[obj.name]
