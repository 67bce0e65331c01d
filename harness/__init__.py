"""Running episodes: the engine, the workers and machines it runs them on, and the command line.

``engine`` drives envs, ``durable_env`` restores episodes after deaths, ``workers`` replaces workers. Users start sweeps (``sweep``,
and from programs ``evaluator``) and ``rollouts``. Around them:

- ``children``: child processes of every kind, started, watched and ended;
- ``machines``: workers on other machines, and the env server that lends them;
- ``reporting``: the display, the event log and the diagnosis of a sweep;
- ``gym``: suites as Gymnasium environments;
- ``contract``: the tests of what is promised of every suite;
- ``commands``: the commands of the command line.

Importing this package loads nothing; its members are loaded where they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluator import Evaluator as Evaluator
    from .evaluator import evaluate as evaluate
    from .gym.env import RemoteEnv as RemoteEnv
    from .gym.env import register_envs as register_envs
    from .gym.stable_baselines import StableBaselinesEnv as StableBaselinesEnv
    from .gym.vector import RemoteVectorEnv as RemoteVectorEnv
    from .rollouts import Rollouts as Rollouts

_HOMES = {
    "Evaluator": "evaluator",
    "RemoteEnv": "gym.env",
    "RemoteVectorEnv": "gym.vector",
    "Rollouts": "rollouts",
    "StableBaselinesEnv": "gym.stable_baselines",
    "evaluate": "evaluator",
    "register_envs": "gym.env",
}

__all__ = ["Evaluator", "RemoteEnv", "RemoteVectorEnv", "Rollouts", "StableBaselinesEnv", "evaluate", "register_envs"]


def __dir__() -> list[str]:
    """The members, for completion in notebooks."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
