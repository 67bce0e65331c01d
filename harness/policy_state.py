"""What identifies a policy that is given as an object: a hash of the weights that it holds, or its own revision."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..policies.api import Policy, PolicyError
from ..policies.calls import policy_code


@dataclass(frozen=True)
class PolicyState:
    """What identifies a policy object beside its revision.

    Attributes:
        sha256: Hash of the weights that it holds, in hex; ``None`` where its own revision says all.
        modules: The modules of the objects that hold them.
    """

    sha256: str | None
    modules: tuple[str, ...] = ()


def policy_state(policy: Policy) -> PolicyState:
    """The state of a policy object as it is now; acting may change it.

    A revision that is a property says all. Else a hash is taken of the arrays, tensors, numbers and texts that its attributes hold,
    those of its class too: in maps, lists, tuples, sets and other objects as well, and in what an object's ``state_dict()`` gives.
    What else decides its answers, such as a random generator, a global or a closure, is not seen. Where no array and no tensor is
    found, a revision that is set on the object and differs from its class's says all.
    """
    kind = type(policy)
    declared = inspect.getattr_static(kind, "revision")
    if isinstance(declared, property):
        return PolicyState(None)
    own = policy.revision != declared
    mend = "give its class 'revision' as a property that changes whenever it would act differently, such as a count of updates"
    if not own and not Path(getattr(sys.modules.get(kind.__module__), "__file__", None) or "").is_file():
        sentence = f"the class of the policy {policy.name!r} is in no file, so an edit of it would not be noticed"
        raise PolicyError(f"{sentence}; put it into a file, or {mend}")
    attributes = {name: value for name, value in inspect.getmembers_static(policy) if not name.startswith("__")}
    with policy_code(policy.name, "while its weights were read"):
        state, weights = _hashed(attributes)
    if not weights and not own:
        raise PolicyError(f"the policy {policy.name!r} holds no weights, so a change of them would not be noticed; {mend}")
    return state if weights else PolicyState(None)


def _hashed(attributes: Mapping[str, Any]) -> tuple[PolicyState, int]:
    """The state that is in attributes, and the number of arrays and tensors in it."""
    torch = sys.modules.get("torch")
    digest, modules, weights = hashlib.sha256(), set[str](), 0
    seen: dict[int, Any] = {}  # they live on, so no id is used twice
    waiting: list[tuple[str, Any]] = [("", attributes)]
    while waiting:
        path, value = waiting.pop()
        kind, parts = type(value), list[tuple[Any, Any]]()
        if torch is not None and isinstance(value, torch.Tensor):
            numbers = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(f"{path} {value.dtype} {tuple(value.shape)}\n".encode() + numbers.tobytes())
            weights += 1
        elif hasattr(kind, "__array__") and not (array := np.asarray(value)).dtype.hasobject:
            digest.update(f"{path} {array.dtype.descr} {array.shape}\n".encode() + array.tobytes())
            weights += 1
        elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
            digest.update(f"{path} {value!r}\n".encode(errors="surrogatepass"))
        elif id(value) not in seen:
            seen[id(value)] = value
            parts = _parts(value)
            modules.add(kind.__module__)
        waiting += [(f"{path}.{name}", part) for name, part in parts]
    return PolicyState(digest.hexdigest(), tuple(sorted(modules))), weights


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """What an object holds, each part with its name, in an order that does not depend on how it was filled."""
    kind = type(value)
    if isinstance(value, Mapping):
        return sorted(value.items(), key=lambda item: repr(item[0]))
    if isinstance(value, list | tuple | deque):
        return [*enumerate(value)]
    if isinstance(value, set | frozenset):
        return [*enumerate(sorted(value, key=repr))]
    if hasattr(kind, "__array__"):
        return [("", np.asarray(value).tolist())]
    if isinstance(value, type):
        return []
    if hasattr(kind, "state_dict"):
        return [("state_dict", value.state_dict())]
    standard = kind.__module__.partition(".")[0] in sys.stdlib_module_names  # functions, locks, loggers: all hold the process
    if standard and not isinstance(value, SimpleNamespace | argparse.Namespace):
        return []
    return [("", object.__getstate__(value))]
