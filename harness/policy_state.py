"""The state of a policy that is given as an object: a hash of all that it holds, such as its weights.

The walk goes where copying the object would go (``__reduce_ex__``), and nothing is serialised. An object without a state that could be
copied, such as a socket, a generator or an open file, cannot be hashed.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..policies.api import Policy, PolicyError

_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, type(Ellipsis), type(NotImplemented))
_LOCKS = (type(threading.Lock()), type(threading.RLock()))


@dataclass(frozen=True)
class PolicyState:
    """What identifies a policy object beside its revision.

    Attributes:
        sha256: Hash of all that it holds, in hex; ``None`` where its revision says all.
        modules: The modules of what it holds.
        code: Hash of its class, in hex, where that was entered in a notebook or a prompt and has no file; else ``None``.
    """

    sha256: str | None
    modules: tuple[str, ...]
    code: str | None


def policy_state(policy: Policy) -> PolicyState:
    """The state of a policy object as it is now; acting may change it.

    A policy whose class computes ``revision`` by a property is trusted. One that cannot be hashed is identified by its own
    ``revision``, where that differs from its class's.

    Raises:
        PolicyError: It cannot be hashed, and has no revision of its own.
    """
    kind = type(policy)
    walk = _Walk()
    modules = walk.modules
    code = None
    if _typed_in(kind.__module__):
        try:
            code = walk.digest(kind, kind.__name__).hex()
        except _UnhashableError as error:
            raise PolicyError(
                f"the class of the policy {policy.name!r} cannot be hashed: {error}; put it into a file"
            ) from None
    declared = inspect.getattr_static(kind, "revision", None)
    if isinstance(declared, property):
        return PolicyState(None, (kind.__module__,), code)
    try:
        sha256 = walk.digest(policy, "the policy").hex()
    except _UnhashableError as error:
        own = vars(policy).get("revision") if hasattr(policy, "__dict__") else None
        if own is not None and own != declared:
            return PolicyState(None, tuple(sorted(modules)), code)
        raise PolicyError(
            f"the state of the policy {policy.name!r} cannot be hashed, so a changed policy would not be noticed: {error}; give its "
            "class 'revision' as a property that changes with the weights, such as a count of updates"
        ) from None
    return PolicyState(sha256, tuple(sorted(modules)), code)


class _UnhashableError(Exception):
    """Something has no state that could be hashed; the message says what, and where it is."""


class _Walk:
    """Hashes values by their contents. Names of the modules that their classes and functions are from gather in ``modules``."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self._done: dict[int, bytes] = {}
        self._open: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice

    def digest(self, value: Any, path: str) -> bytes:
        """SHA-256 of a value; ``path`` says in a message where it is.

        Raises:
            _UnhashableError: It, or something in it, cannot be hashed.
        """
        if type(value) in _PLAIN:
            return _sha(type(value).__name__, repr(value))
        if id(value) in self._done:
            return self._done[id(value)]
        if id(value) in self._open:
            return _sha("cycle", str(len(self._open) - self._open[id(value)]))
        self._kept.append(value)
        self._open[id(value)] = len(self._open)
        try:
            found = self._done[id(value)] = self._parts(value, path)
        except RecursionError:
            raise _UnhashableError(f"{path} is nested too deeply") from None
        finally:
            del self._open[id(value)]
        return found

    def _parts(self, value: Any, path: str) -> bytes:
        kind = type(value)
        torch = sys.modules.get("torch")
        if isinstance(value, type):
            return self._class(value, path)
        if isinstance(value, ModuleType):
            return _sha("module", value.__name__)
        if isinstance(value, FunctionType):
            return self._function(value, path)
        if isinstance(value, CodeType):
            names = [repr(value.co_names), repr(value.co_varnames), repr(value.co_freevars)]
            return _sha("code", value.co_code.hex(), *names, *self._all(value.co_consts, path))
        if isinstance(value, MethodType):
            return _sha("method", *self._all([value.__func__, value.__self__], path))
        if kind is BuiltinFunctionType and isinstance(value.__self__, ModuleType | None):
            return _sha("builtin", str(value.__module__), value.__qualname__)
        if isinstance(value, _LOCKS):
            return _sha("lock")
        if kind is tuple or kind is list:
            return _sha(kind.__name__, *self._all(value, path))
        if kind is set or kind is frozenset:
            return _sha(kind.__name__, *sorted(self._all(value, path)))
        if kind is dict:
            return _sha("dict", *self._items(value.items(), path))
        if kind is np.ndarray and not value.dtype.hasobject:
            return _sha("array", str(value.dtype.descr), str(value.shape), np.ascontiguousarray(value).tobytes())
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(torch, value, path)
        if torch is not None and isinstance(value, torch.Generator):
            return _sha("generator", self.digest(value.get_state(), path))
        return self._object(value, path)

    def _object(self, value: Any, path: str) -> bytes:
        """The parts that copying the object would copy."""
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:
            raise _UnhashableError(f"{path} is a {name} ({error})") from None
        self.modules.add(type(value).__module__)
        if isinstance(reduced, str):
            return _sha("global", name, reduced)
        make, arguments, state, items, pairs = [*reduced, None, None, None][:5]
        state = {} if state is None else state
        parts = [self.digest(make, path), *self._all(arguments or (), path)]
        if isinstance(state, dict):
            parts += self._items(state.items(), path, ".")
        elif isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # of a class with __slots__
            parts += [*self._items((state[0] or {}).items(), path, "."), *self._items(state[1].items(), path, ".")]
        else:
            parts.append(self.digest(state, path))
        parts += [b"items", *self._all(items or (), path), b"pairs", *self._items(pairs or (), path)]
        return _sha("object", name, *parts)

    def _all(self, values: Iterable[Any], path: str) -> list[bytes]:
        return [self.digest(each, f"{path}[{number}]") for number, each in enumerate(values)]

    def _items(self, pairs: Iterable[tuple[Any, Any]], path: str, mark: str = "") -> list[bytes]:
        """The pairs of a map, in an order that does not depend on how it was filled."""
        named = [(key, value, f"{path}.{key}" if mark else f"{path}[{key!r:.40}]") for key, value in pairs]
        return sorted(self.digest(key, where) + self.digest(value, where) for key, value, where in named)

    def _tensor(self, torch: Any, value: Any, path: str) -> bytes:
        try:
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        except Exception as error:
            raise _UnhashableError(f"{path} is a tensor whose numbers cannot be read ({str(error).splitlines()[0]})") from None
        return _sha("tensor", str(value.dtype), str(tuple(value.shape)), flat)

    def _class(self, kind: type, path: str) -> bytes:
        """A class by its name, since its file is hashed apart; one without a file by all its members."""
        self.modules.add(kind.__module__)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if not _typed_in(kind.__module__):
            return _sha("class", name)
        members = {
            key: value for key, value in vars(kind).items() if not inspect.isgetsetdescriptor(value) and key != "__doc__"
        }
        members = {key: value for key, value in members.items() if key not in _OF_A_CLASS}
        opened = {key: _opened(value) for key, value in members.items()}
        return _sha("class", name, *self._all(kind.__bases__, path), *self._items(opened.items(), path, "."))

    def _function(self, value: FunctionType, path: str) -> bytes:
        """A function by its name, where that leads to it; else by its code, and by what that refers to."""
        self.modules.add(value.__module__)
        name = f"{value.__module__}.{value.__qualname__}"
        typed_in = _typed_in(value.__module__)
        if not typed_in and _named(value) is value:
            return _sha("function", name)
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
        parts = self._all([value.__code__, value.__defaults__, value.__kwdefaults__, *cells], path)
        if typed_in:
            used = {key: value.__globals__[key] for key in sorted(_global_names(value.__code__)) if key in value.__globals__}
            parts += self._items(used.items(), path, ".")
        return _sha("function", name, *parts)


#: What Python adds to each class without a file; copying one of its objects adds ``__slotnames__``.
_OF_A_CLASS = {
    "__module__",
    "__dict__",
    "__weakref__",
    "__annotations__",
    "__firstlineno__",
    "__static_attributes__",
    "__abstractmethods__",
}
_OF_A_CLASS |= {
    "__slotnames__",
    "_abc_impl",
    "__parameters__",
    "__match_args__",
    "__annotate__",
    "__annotate_func__",
    "__annotations_cache__",
}


def _opened(value: Any) -> Any:
    """The parts of a class's member."""
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    return value


def _typed_in(module: str) -> bool:
    """Whether a module has no file, as that of a notebook or a prompt."""
    found = sys.modules.get(module)
    if module.partition(".")[0] in sys.stdlib_module_names or found is None:
        return False
    return not Path(getattr(found, "__file__", None) or "").is_file()


def _named(value: FunctionType) -> Any:
    """The object that a function's name leads to."""
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found


def _global_names(code: CodeType) -> set[str]:
    """Names that a function, or one within it, may look up."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*map(_global_names, inner))


def _sha(*parts: Any) -> bytes:
    """SHA-256 over parts, each with its length before it."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else memoryview(part).cast("B")
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.digest()
