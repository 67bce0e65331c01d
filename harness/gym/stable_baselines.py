"""Many slots of a suite as Stable-Baselines3's ``VecEnv``; needs the extra ``sb3``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList

from ...envs.errors import VlarigError
from .env import SlotEnv
from .vector import RemoteVectorEnv

try:
    from stable_baselines3.common.env_util import is_wrapped  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.vec_env.base_vec_env import (  # pyright: ignore[reportMissingImports]
        VecEnv,
        VecEnvIndices,
        VecEnvObs,
        VecEnvStepReturn,
    )
except ImportError as error:
    raise VlarigError(
        f"Stable-Baselines3 is needed here ({error}); install the extra 'sb3': pip install 'vlarig[sb3]' "
        "(without a GPU, run before: python -m uv pip install --torch-backend cpu torch)"
    ) from None

#: What Stable-Baselines3 is shown.
Shown = Literal["state", "privileged state", "images"]


class StableBaselinesEnv(VecEnv):
    """Slots of a suite for Stable-Baselines3's algorithms, over a :class:`.gym.vector.RemoteVectorEnv`.

    An episode's last step resets, as everywhere in Stable-Baselines3: ``terminal_observation`` in its info is what was shown last,
    and ``TimeLimit.truncated`` says whether the step limit ended it. ``is_success`` is success by the protocol's own rule.
    Instructions are no observation here, since Stable-Baselines3 has no space for words; ``instruction`` is in ``reset_infos``.

    Args:
        suite: Name of the suite.
        num_envs: How many environments.
        shown: ``state`` (``float32[S]``, the robot's state), ``privileged state`` (``float32[S + P]``, the simulator's truth behind
            it), or ``images`` (a dict of ``state`` and a ``uint8[h, w, 3]`` for each view).
        workers: Simulator processes; one a core, and no more than environments, when ``None``.
        options: What :meth:`.gym.suite_view.SuiteView.of` takes: ``task``, ``start``, ``privileged`` (a function that makes the ``P``
            numbers), ``reward``, ``render_mode``, ``protocol``.
    """

    def __init__(
        self, suite: str, num_envs: int = 1, *, shown: Shown = "state", workers: int | None = None, **options: Any
    ) -> None:
        if shown not in ("state", "privileged state", "images"):
            raise VlarigError(f"shown is {shown!r}; give 'state', 'privileged state' or 'images'")
        options["images"] = shown == "images"
        options["privileged"] = shown == "privileged state" and (options.get("privileged") or True)
        self._shown = shown
        self._vector = RemoteVectorEnv(suite, num_envs, workers=workers, autoreset_mode=AutoresetMode.SAME_STEP, **options)
        self._listing = DictInfoToList(self._vector)
        super().__init__(num_envs, self._space(), self._vector.single_action_space)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment, with the seeds and options that were set for this reset."""
        observations, self.reset_infos = self._listing.reset(seed=self._seeds, options=self._options)  # pyright: ignore[reportArgumentType]
        for info, instruction in zip(self.reset_infos, observations["instruction"], strict=True):
            info["instruction"] = instruction
        self._reset_seeds()
        self._reset_options()
        return self._show(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Take the rows, ``float32[num_envs, A]``, of the step that :meth:`step_wait` carries out."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Carry out the step; an episode that ends is followed by another."""
        observations, rewards, terminations, truncations, infos = self._listing.step(self._actions)
        dones = terminations | truncations
        for index in np.flatnonzero(dones).tolist():
            info = infos[index]
            final, terminal = info.pop("final_info"), info.pop("final_obs")
            self.reset_infos[index] = {**info, "instruction": observations["instruction"][index]}
            infos[index] = {**final, "terminal_observation": self._show(terminal)}
        for info, terminated, truncated in zip(infos, terminations, truncations, strict=True):
            info["TimeLimit.truncated"] = bool(truncated and not terminated)
        return self._show(observations), rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """End the simulators; a second call does nothing."""
        self._vector.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of some environments."""
        return [env.get_wrapper_attr(attr_name) for env in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of some environments."""
        for env in self._chosen(indices):
            env.set_wrapper_attr(attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of some environments."""
        return [env.get_wrapper_attr(method_name)(*method_args, **method_kwargs) for env in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whether some environments are wrapped; ours never are."""
        return [is_wrapped(env, wrapper_class) for env in self._chosen(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """What each environment renders, ``uint8[h, w, 3]``."""
        return self._vector.render()

    def _chosen(self, indices: VecEnvIndices) -> list[SlotEnv]:
        return [self._vector.envs[index] for index in self._get_indices(indices)]

    def _space(self) -> spaces.Space[Any]:
        """The space of what :meth:`_show` makes."""
        space = self._vector.single_observation_space
        assert isinstance(space, spaces.Dict)
        if self._shown == "state":
            return space["state"]
        if self._shown == "privileged state":
            size = len(self._show({name: box.low for name, box in space.items() if isinstance(box, spaces.Box)}))
            return spaces.Box(-np.inf, np.inf, (size,), np.float32)
        views = space["images"]
        assert isinstance(views, spaces.Dict)
        images = {view: spaces.Box(0, 255, (box.shape or ())[1:], np.uint8) for view, box in views.items()}
        return spaces.Dict({"state": space["state"], **images})

    def _show(self, observation: dict[str, Any]) -> Any:
        """One observation, or a batch of them, as Stable-Baselines3 wants it: flat, and without words."""
        if self._shown == "state":
            return observation["state"]
        if self._shown == "privileged state":
            return np.concatenate([observation["state"], observation["privileged"]], axis=-1)
        images = {view: np.squeeze(frames, axis=-4) for view, frames in observation["images"].items()}
        return {"state": observation["state"], **images}
