"""Policies by name: those that come with the rig, third parties' entry points, and any class as ``module:Name``."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ..envs.api import Needs
from ..envs.errors import suggestion
from .api import Policy, PolicyError

ENTRY_POINT_GROUP = "vlarig.policies"

_BUILT_IN = {
    "expert": "vlarig.policies.scripted:ExpertPolicy",
    "random": "vlarig.policies.scripted:RandomPolicy",
    "zero": "vlarig.policies.scripted:ZeroPolicy",
}


def policy_names() -> list[str]:
    """Names that :func:`load_policy` knows, besides ``module:Name``."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def load_policy(name: str) -> Policy:
    """The policy of that name, made.

    Args:
        name: A known name, or ``module:Name`` for any importable class; the working directory is searched too.

    Raises:
        PolicyError: There is none (the nearest names are offered), it cannot be imported or made, or lacks a member.
    """
    if ":" in name:
        make = _import(name)
    elif name in _BUILT_IN:
        make = _import(_BUILT_IN[name])
    else:
        make = _from_entry_point(name)
    try:
        policy = make()
    except Exception as error:
        raise PolicyError(f"the policy {name!r} cannot be made ({type(error).__name__}: {error})") from error
    _check_members(name, policy)
    return policy


def _from_entry_point(name: str) -> Callable[[], Any]:
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return _import(point.value)
    raise PolicyError(f"unknown policy {name!r}; {suggestion(name, policy_names())} (any class of yours: module:Name)")


def _import(name: str) -> Callable[[], Any]:
    module_name, _, class_name = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise PolicyError(
            f"the policy {name!r} cannot be imported ({reason}); give module:Name, module importable here"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(getattr(module, class_name, None)):
        classes = [each for each, value in vars(module).items() if isinstance(value, type) and hasattr(value, "act")]
        near = difflib.get_close_matches(class_name, classes, n=3, cutoff=0.3) or classes
        hint = f"did you mean {' or '.join(near)}?" if near else "it has no class with an act method"
        raise PolicyError(f"module {module_name!r} has no policy {class_name!r}; {hint}")
    return getattr(module, class_name)


def _check_members(name: str, policy: object) -> None:
    expected: dict[str, Any] = {"name": str, "revision": str, "needs": Needs, "horizon": (int, type(None))}
    for member, kind in expected.items():
        if not hasattr(policy, member) or not isinstance(getattr(policy, member), kind):
            wanted = "int or None" if member == "horizon" else kind.__name__
            raise PolicyError(f"the policy {name!r} has no member {member!r} of type {wanted}; see docs/add-a-policy.md")
    if not callable(getattr(policy, "act", None)):
        raise PolicyError(f"the policy {name!r} has no method act(requests); see docs/add-a-policy.md")
