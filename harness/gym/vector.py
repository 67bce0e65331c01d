"""Many envs of a suite as one of Gymnasium's vector environments: all of a step run at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from ...envs.api import check_actions
from ...envs.background import all_of
from ...envs.errors import VlarigError
from .env import SimulatorPool, SuiteEnv, SuiteView, truth_size

#: What Gymnasium's ``VectorEnv.step`` returns: observations, rewards, terminations, truncations and infos.
VectorStep = tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class _AheadEnv(SuiteEnv):
    """An env whose next steps and resets may have been carried out already, beside those of other envs.

    Attributes:
        ahead: What these steps and resets return.
    """

    def __init__(self, view: SuiteView, pool: SimulatorPool, number: int, truth_size: int | None) -> None:
        super().__init__(view, pool, number, truth_size)
        self.ahead: deque[Any] = deque()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.ahead.popleft() if self.ahead else super().reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        return self.ahead.popleft() if self.ahead else super().step(action)


class RemoteVectorEnv(SyncVectorEnv):
    """Envs of a suite, spread over simulator processes, with the meaning of Gymnasium's own ``SyncVectorEnv`` over as many envs.

    The modes are Gymnasium's. ``NEXT_STEP``: the step after an episode's last resets the environment, ignores its action and
    gives reward 0. ``SAME_STEP``: an episode's last step resets too; its observation and info are in the infos, as ``final_obs``
    and ``final_info``. ``DISABLED``: the caller resets, with the option ``reset_mask``, ``bool[num_envs]``.

    Each environment samples its own episodes, as :class:`.gym.env.SuiteEnv` says. A simulator that crashes is restored to its state.

    Args:
        suite: Name of the suite.
        num_envs: How many environments.
        workers: Simulator processes; one a core, and no more than environments, when ``None``.
        autoreset_mode: An ``AutoresetMode`` or its value, such as ``NextStep``.
        copy: Whether the returned arrays of observations are copies; otherwise each step overwrites them.
        options: What :meth:`.gym.env.SuiteView.of` takes: ``task``, ``initial_state``, ``images``, ``privileged``, ``reward``,
            ``render_mode``, ``protocol``.

    Attributes:
        envs: The environments, each a :class:`.gym.env.SuiteEnv`.
    """

    envs: list[_AheadEnv]  # pyright: ignore[reportIncompatibleVariableOverride]

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
        mode = _mode(autoreset_mode)
        self._view = view
        self._pool = SimulatorPool(view.suite, view.needs, num_envs, workers)
        size = truth_size(view, self._pool)
        envs = [partial(_AheadEnv, view, self._pool, number, size) for number in range(num_envs)]
        super().__init__(envs, copy, autoreset_mode=mode)

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
        self.begin_ahead(np.flatnonzero(which).tolist(), seeds, each)
        return super().reset(options={"reset_mask": which})

    def begin_ahead(self, which: Sequence[int], seeds: Sequence[int | None], options: Sequence[dict[str, Any] | None]) -> None:
        """Carry out the next resets of some environments at the same time, given each environment's seed and options."""
        self._check_open()
        begun = self._pool.run(lambda: all_of(self.envs[index].begin(seeds[index], options[index]) for index in which))
        firsts = [self.envs[index].first(first) for index, first in zip(which, begun, strict=True)]
        for index, first in zip(which, firsts, strict=True):
            self.envs[index].ahead = deque([first])

    def step(self, actions: np.ndarray) -> VectorStep:
        """Carry out a step in every environment, ``float32[num_envs, A]``.

        Raises:
            VlarigError: A step is not legal, or an environment has to be reset first, and nothing was carried out; or a simulator
                failed again and again.
        """
        self.run_ahead(actions)
        return super().step(np.zeros(self.action_space.shape or ()))  # carried out already

    def run_ahead(self, actions: np.ndarray) -> None:
        """Carry out the environments' next steps, with the resets that belong to them, at the same time. Raises like :meth:`step`."""
        self._check_open()
        if self.autoreset_mode is AutoresetMode.DISABLED and self._autoreset_envs.any():
            over = ", ".join(map(str, np.flatnonzero(self._autoreset_envs)))
            raise VlarigError(f"the episodes of the environments {over} are over; reset them with the option reset_mask")
        steps = self._steps(actions)
        carried_out = self._pool.run(lambda: all_of(map(self._carry_out, self.envs, steps)))
        returned = [deque(make() for make in each) for each in carried_out]
        for env, ahead in zip(self.envs, returned, strict=True):
            env.ahead = ahead

    def close_extras(self, **_: Any) -> None:
        """End the simulators."""
        self._pool.close()

    def _mask(self, mask: Any) -> np.ndarray:
        """The option ``reset_mask``, if it is a ``bool[num_envs]`` that says something."""
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise VlarigError(f"reset_mask is {mask!r}; give a numpy array, bool[{self.num_envs}], with a True in it")
        if any(env.snapshot is None and not chosen for env, chosen in zip(self.envs, mask, strict=True)):
            raise VlarigError("reset_mask leaves out environments that were never reset; reset all of them once")
        return mask

    def _steps(self, actions: Any) -> list[np.ndarray | None]:
        """The step of each environment, ``float32[A]``; ``None`` where its action is ignored, since it is about to be reset."""
        try:
            given = np.asarray(actions, dtype=np.float32)
        except (TypeError, ValueError):
            given = np.zeros(0)
        if given.shape != self.action_space.shape:
            raise VlarigError(f"actions have shape {list(np.shape(given))}; give float32{list(self.action_space.shape or ())}")
        ignored = (
            self._autoreset_envs if self.autoreset_mode is AutoresetMode.NEXT_STEP else np.zeros_like(self._autoreset_envs)
        )
        steps = check_actions(np.where(ignored[:, None], 0.0, given), self._view.suite.embodiment)
        return [None if ignored[index] else step for index, step in enumerate(steps)]

    async def _carry_out(self, env: _AheadEnv, step: np.ndarray | None) -> list[Callable[[], Any]]:
        """Carry out a step, a reset, or a step and then a reset; gives functions that make the results of Gymnasium's methods."""
        if step is None:
            return [partial(env.first, await env.begin())]
        before = env.snapshot
        result = await env.run_chunk(step[None])
        assert before is not None
        ran = partial(self._view.transition, before, result)
        if not result.over or self.autoreset_mode is not AutoresetMode.SAME_STEP:
            return [ran]
        return [ran, partial(env.first, await env.begin())]

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the vector environment was closed; make another")


def _mode(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode of that value.

    Raises:
        VlarigError: No mode has that value.
    """
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise VlarigError(
            f"autoreset_mode is {mode!r}; give one of {', '.join(each.value for each in AutoresetMode)}"
        ) from None
