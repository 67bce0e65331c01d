"""Many envs of a suite as Stable-Baselines3's ``VecEnv``; needs the extra ``sb3``."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from ...envs.errors import VlarigError
from .env import SuiteEnv
from .vector import RemoteVectorEnv

try:
    from stable_baselines3.common.vec_env import DummyVecEnv  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise VlarigError(
        f"Stable-Baselines3 is needed here ({error}); install the extra 'sb3': pip install 'vlarig[sb3]' "
        "(without a GPU, run before: python -m uv pip install --torch-backend cpu torch)"
    ) from None

#: Forms of the observations.
Shown = Literal["state", "privileged state", "images"]


class _Shown(gymnasium.Wrapper[Any, np.ndarray, dict[str, Any], np.ndarray]):
    """One environment in Stable-Baselines3's form: observations are flat, and words are in the info of a reset."""

    def __init__(self, env: SuiteEnv, shown: Shown) -> None:
        super().__init__(env)
        self._shown = shown
        space = env.observation_space
        assert isinstance(space, spaces.Dict)
        if shown == "state":
            self.observation_space = space["state"]
        elif shown == "privileged state":
            size = len(self._show({name: box.low for name, box in space.items() if isinstance(box, spaces.Box)}))
            self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        else:
            views = space["images"]
            assert isinstance(views, spaces.Dict)
            images = {view: spaces.Box(0, 255, (box.shape or ())[1:], np.uint8) for view, box in views.items()}
            self.observation_space = spaces.Dict({"state": space["state"], **images})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._show(observation), {**info, "instruction": observation["instruction"]}

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._show(observation), reward, terminated, truncated, info

    def _show(self, observation: dict[str, Any]) -> Any:
        if self._shown == "state":
            return observation["state"]
        if self._shown == "privileged state":
            return np.concatenate([observation["state"], observation["privileged"]])
        return {"state": observation["state"], **{view: frames.squeeze(0) for view, frames in observation["images"].items()}}


class StableBaselinesEnv(DummyVecEnv):
    """Envs of a suite for Stable-Baselines3's algorithms, over a :class:`.gym.vector.RemoteVectorEnv`.

    An episode's last step resets, as everywhere in Stable-Baselines3: ``terminal_observation`` in its info is what was shown last,
    and ``TimeLimit.truncated`` says whether the step limit ended it. ``is_success`` is success by the protocol's own rule.
    Instructions are no observation here, since Stable-Baselines3 has no space for words; ``instruction`` is in ``reset_infos``.

    Args:
        suite: Name of the suite.
        num_envs: How many environments.
        shown: ``state`` (``float32[P]``, the robot's state), ``privileged state`` (``float32[P + V]``, the simulator's truth behind
            it), or ``images`` (a dict of ``state`` and a ``uint8[h, w, 3]`` for each view).
        workers: Simulator processes; one a core, and no more than environments, when ``None``.
        options: What :meth:`.gym.env.SuiteView.of` takes: ``task``, ``initial_state``, ``privileged`` (a function that makes the
            ``V`` numbers), ``reward``, ``render_mode``, ``protocol``.
    """

    def __init__(
        self, suite: str, num_envs: int = 1, *, shown: Shown = "state", workers: int | None = None, **options: Any
    ) -> None:
        if shown not in ("state", "privileged state", "images"):
            raise VlarigError(f"shown is {shown!r}; give 'state', 'privileged state' or 'images'")
        options["images"] = shown == "images"
        options["privileged"] = shown == "privileged state" and (options.get("privileged") or True)
        self._vector = RemoteVectorEnv(suite, num_envs, workers=workers, autoreset_mode=AutoresetMode.SAME_STEP, **options)
        super().__init__([partial(_Shown, env, shown) for env in self._vector.envs])

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment, with the seeds and options that were set for this reset."""
        self._vector.begin_ahead(range(self.num_envs), self._seeds, self._options)
        return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Carry out the step; an episode that ends is followed by another."""
        self._vector.run_ahead(self.actions)
        return super().step_wait()

    def close(self) -> None:
        """End the simulators; a second call does nothing."""
        self._vector.close()
