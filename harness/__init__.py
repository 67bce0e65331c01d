"""Moving episodes: simulator workers, the engine, runtimes, and the command line.

Importing this package loads nothing; its members are loaded where they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .gym import RemoteEnv as RemoteEnv
    from .gym import register_envs as register_envs
    from .rollouts import Rollouts as Rollouts
    from .stable_baselines import StableBaselinesEnv as StableBaselinesEnv
    from .sweep import evaluate as evaluate
    from .vector import RemoteVectorEnv as RemoteVectorEnv

_HOMES = {
    "RemoteEnv": "gym",
    "RemoteVectorEnv": "vector",
    "Rollouts": "rollouts",
    "StableBaselinesEnv": "stable_baselines",
    "evaluate": "sweep",
    "register_envs": "gym",
}

__all__ = ["RemoteEnv", "RemoteVectorEnv", "Rollouts", "StableBaselinesEnv", "evaluate", "register_envs"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
