"""Many slots of a suite as one of Gymnasium's vector environments: all of a step are asked at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from ...envs.api import ChunkResult, Episode, Snapshot, check_actions
from ...envs.errors import VlarigError
from .env import SlotEnv, truth_size
from .simulator_pool import SimulatorPool, all_of
from .suite_view import SuiteView

#: What Gymnasium's ``VectorEnv.step`` returns: observations, rewards, terminations, truncations and infos.
VectorStep = tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


@dataclass(frozen=True)
class _Turn:
    """What happened to one environment in a step: a row, an episode that was begun, or the one and then the other."""

    ran: tuple[Snapshot, ChunkResult] | None = None
    begun: tuple[Episode, Snapshot] | None = None


class RemoteVectorEnv(VectorEnv[dict[str, Any], np.ndarray, np.ndarray]):
    """Slots of a suite, spread over simulator processes, with the meaning of Gymnasium's own ``SyncVectorEnv`` over as many envs.

    The modes are Gymnasium's. ``NEXT_STEP``: the step after an episode's last resets the environment, ignores its action and
    gives reward 0. ``SAME_STEP``: an episode's last step resets too; its observation and info are in the infos, as ``final_obs``
    and ``final_info``. ``DISABLED``: the caller resets, with the option ``reset_mask``, ``bool[num_envs]``.

    Each environment draws its own episodes, as :class:`.gym.env.SlotEnv` says. A simulator that crashes is brought back to where it
    was.

    Args:
        suite: Name of the suite.
        num_envs: How many environments.
        workers: Simulator processes; one a core, and no more than environments, when ``None``.
        autoreset_mode: An ``AutoresetMode`` or its value, such as ``NextStep``.
        copy: Whether what is returned is the caller's to keep; otherwise the arrays of observations are written anew by each step.
        options: What :meth:`.gym.suite_view.SuiteView.of` takes: ``task``, ``start``, ``images``, ``privileged``, ``reward``,
            ``render_mode``, ``protocol``.

    Attributes:
        envs: The environments, each a :class:`.gym.env.SlotEnv`.
    """

    def __init__(
        self,
        suite: str,
        num_envs: int = 1,
        *,
        workers: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        **options: Any,
    ) -> None:
        SuiteView.refuse_unknown_options(suite, options, ("num_envs", "workers", "autoreset_mode", "copy"))
        view = SuiteView.of(suite, **options)
        self._view = view
        self._pool = SimulatorPool(view.suite, view.needs, num_envs, workers)
        self.num_envs = num_envs
        self.autoreset_mode = _mode(autoreset_mode)
        self.copy = copy
        size = truth_size(view, self._pool)
        self.envs = [SlotEnv(view, self._pool, number, size) for number in range(num_envs)]
        self.metadata = view.metadata | {"autoreset_mode": self.autoreset_mode}
        self.render_mode = view.render_mode
        self.single_action_space = self.envs[0].action_space
        self.single_observation_space = self.envs[0].observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._observations: Any = create_empty_array(self.single_observation_space, num_envs)
        self._newest: list[dict[str, Any] | None] = [None] * num_envs
        self._ended = np.zeros(num_envs, dtype=np.bool_)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Each environment's generator."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Each environment's seed."""
        return self.get_attr("np_random_seed")

    def reset(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode in every environment.

        Args:
            seed: Of the first environment, each further one's is higher by one; or a list with one for each.
            options: What each environment's ``reset`` is given; or a list with one for each. ``reset_mask``, ``bool[num_envs]``,
                says which environments to reset; the others stay as they are.

        Raises:
            VlarigError: An argument does not fit, or an episode cannot be begun.
        """
        self._check_open()
        which = np.ones(self.num_envs, dtype=np.bool_)
        if isinstance(options, dict) and "reset_mask" in options:
            which = self._mask(options["reset_mask"])
            options = {name: value for name, value in options.items() if name != "reset_mask"}
        if isinstance(seed, int):
            seed = range(seed, seed + self.num_envs)
        seeds = [None] * self.num_envs if seed is None else seed
        each = [options] * self.num_envs if options is None or isinstance(options, dict) else options
        for name, values in (("seed", seeds), ("options", each)):
            if len(values) != self.num_envs:
                raise VlarigError(f"{name} is a list of {len(values)}; give one for each of the {self.num_envs} environments")
        told = {index: (seeds[index], each[index]) for index in np.flatnonzero(which).tolist()}
        infos: dict[str, Any] = {}
        for index, begun in self._pool.run(self._begin, told).items():
            self._newest[index], info = self.envs[index].first(begun)
            self._ended[index] = False
            infos = self._add_info(infos, info, index)
        return self._batch(), infos

    def step(self, actions: np.ndarray) -> VectorStep:
        """Carry out a row in every environment, ``float32[num_envs, A]``.

        Raises:
            VlarigError: A row is not legal, or an environment has to be reset first, and nothing was carried out; or a simulator
                failed again and again.
        """
        self._check_open()
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            over = ", ".join(map(str, np.flatnonzero(self._ended)))
            raise VlarigError(f"the episodes of the environments {over} are over; reset them with the option reset_mask")
        turns = self._pool.run(self._carry_out, self._rows(actions))
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        terminations, truncations = np.zeros((2, self.num_envs), dtype=np.bool_)
        infos: dict[str, Any] = {}
        for index, turn in enumerate(turns):
            if turn.ran is not None:
                said = self._view.transition(*turn.ran)
                self._newest[index], rewards[index], terminations[index], truncations[index], info = said
                if turn.begun is not None:
                    info = {"final_obs": self._newest[index], "final_info": info}
                infos = self._add_info(infos, info, index)
            if turn.begun is not None:
                self._newest[index], info = self.envs[index].first(turn.begun)
                infos = self._add_info(infos, info, index)
        self._ended = terminations | truncations
        return self._batch(), rewards, terminations, truncations, infos

    def render(self) -> tuple[np.ndarray | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What each environment renders."""
        return tuple(env.render() for env in self.envs)

    def call(self, name: str, *arguments: Any, **named: Any) -> tuple[Any, ...]:
        """Call a method of each environment, one after the other, or read an attribute."""
        members = [env.get_wrapper_attr(name) for env in self.envs]
        return tuple(member(*arguments, **named) if callable(member) else member for member in members)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each environment: to its own value out of a list or tuple, or to the same.

        Raises:
            ValueError: The list has another length than there are environments.
        """
        each = values if isinstance(values, (list, tuple)) else [values] * self.num_envs
        for env, value in zip(self.envs, each, strict=True):
            env.set_wrapper_attr(name, value)

    def close_extras(self, **_: Any) -> None:
        """End the simulators."""
        self._pool.close()

    def _mask(self, mask: Any) -> np.ndarray:
        """The option ``reset_mask``, if it is a ``bool[num_envs]`` that says something."""
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise VlarigError(f"reset_mask is {mask!r}; give a numpy array, bool[{self.num_envs}], with a True in it")
        unknown = [index for index, observation in enumerate(self._newest) if observation is None and not mask[index]]
        if unknown:
            raise VlarigError("reset_mask leaves out environments that were never reset; reset all of them once")
        return mask

    def _rows(self, actions: Any) -> list[np.ndarray | None]:
        """The row of each environment, ``float32[A]``; ``None`` where its action is ignored, since it is about to be reset."""
        try:
            given = np.asarray(actions, dtype=np.float32)
        except (TypeError, ValueError):
            given = np.zeros(0)
        if given.shape != self.action_space.shape:
            raise VlarigError(f"actions have shape {list(np.shape(given))}; give float32{list(self.action_space.shape or ())}")
        ignored = self._ended if self.autoreset_mode is AutoresetMode.NEXT_STEP else np.zeros_like(self._ended)
        rows = check_actions(np.where(ignored[:, None], 0.0, given), self._view.suite.embodiment)
        return [None if ignored[index] else row for index, row in enumerate(rows)]

    async def _begin(self, told: dict[int, tuple[int | None, dict[str, Any] | None]]) -> dict[int, tuple[Episode, Snapshot]]:
        """Begin an episode in some environments, given each one's seed and options."""
        begun = await all_of(self.envs[index].begin(seed, options) for index, (seed, options) in told.items())
        return dict(zip(told, begun, strict=True))

    async def _carry_out(self, rows: list[np.ndarray | None]) -> list[_Turn]:
        """Carry out a row, or a reset, in every environment at the same time."""
        return await all_of(self._carry_out_one(env, row) for env, row in zip(self.envs, rows, strict=True))

    async def _carry_out_one(self, env: SlotEnv, row: np.ndarray | None) -> _Turn:
        if row is None:
            return _Turn(begun=await env.begin())
        before = env.snapshot
        result = await env.run_chunk(row[None])
        assert before is not None
        again = result.over and self.autoreset_mode is AutoresetMode.SAME_STEP
        return _Turn((before, result), await env.begin() if again else None)

    def _batch(self) -> Any:
        """The newest observations, batched into the arrays that were made for them."""
        self._observations = concatenate(self.single_observation_space, self._newest, self._observations)
        return deepcopy(self._observations) if self.copy else self._observations

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the vector environment was closed; make another")


def _mode(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode of that value.

    Raises:
        VlarigError: There is none.
    """
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise VlarigError(
            f"autoreset_mode is {mode!r}; give one of {', '.join(each.value for each in AutoresetMode)}"
        ) from None
