"""openpi's wire: msgpack with numpy arrays and numpy numbers as maps, and what our own server announces of its policy.

The form is that of Physical-Intelligence/openpi packages/openpi-client/src/openpi_client/msgpack_numpy.py@15a9616. The announcement is
the part ``vlarig`` of openpi's metadata, which a server sends when a client connects.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec
import numpy as np

from ...envs.embodiments import Embodiment
from ...envs.errors import BadMessageError
from ...envs.untrusted import convert
from ..api import PolicyError
from .wire import array_as_map, array_in_map, decode, dtype_to_send, encode, read_dtype

_ARRAY_KEYS = (b"__ndarray__", b"data", b"dtype", b"shape")


def pack(value: object) -> bytes:
    """``value`` in openpi's form: plain data, numpy arrays and numpy numbers.

    Raises:
        BadMessageError: It holds a value that is none of these, or an array of a dtype that does not travel.
    """
    return encode(value, _pack_other, type(value).__name__)


def unpack(data: bytes | str) -> Any:
    """The plain data, read-only arrays and numpy numbers in ``data``.

    Raises:
        BadMessageError: ``data`` is text, too large, or not one well-formed message.
    """
    return decode(data, _unpack_map)


def _pack_other(value: object) -> object:
    if isinstance(value, np.float64):  # a float for openpi's own packer
        return value.item()
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": dtype_to_send(value).str}
    return array_as_map(value, _ARRAY_KEYS)


def _unpack_map(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return array_in_map(value, _ARRAY_KEYS)
    if b"__npgeneric__" in value:
        return _unpack_number(value)
    return value


def _unpack_number(value: dict[Any, Any]) -> np.generic:
    dtype, data = read_dtype(value.get(b"dtype")), value.get(b"data")
    if not isinstance(data, (bool, int, float)):
        raise BadMessageError(f"a numpy number cannot be made of {type(data).__name__}")
    try:
        with np.errstate(over="ignore"):
            return cast("np.generic", dtype.type(data))
    except (OverflowError, ValueError) as error:
        raise BadMessageError(f"a numpy number of dtype {dtype} cannot be {str(data)[:40]} ({error})") from None


#: Key of the announcement in openpi's metadata.
METADATA_KEY = "vlarig"

#: Raised when the keys below, or those of a request, change their meaning.
ANNOUNCEMENT_VERSION = 2

#: Keys that a client adds to a request where the server announced itself: the client (a text of the client's own, the same on all its
#: connections), and :class:`~vlarig.policies.api.Request`'s fields.
CLIENT, ENV, EPISODE, CHUNK, SEED, N_ACTION_STEPS = (
    "vlarig/client",
    "vlarig/env",
    "vlarig/key",
    "vlarig/chunk",
    "vlarig/seed",
    "vlarig/n_action_steps",
)

#: Beginning of the text that the server sends where an episode is lost through no fault of its client; the client may begin it again.
LOST = "vlarig/lost: "


@dataclass(frozen=True)
class Announcement:
    """A served policy, described.

    Attributes:
        name: The policy's name.
        revision: The policy's revision, then those of the policy's options that change answers, as ``name=value``.
        horizon: Steps of each answer for this embodiment; ``None``: as many as a request's ``vlarig/n_action_steps``.
        layout: Name of the observation layout that it reads.
        reads_images: Whether it reads images.
        reads_state: Whether it reads the state vector.
        strict: Whether it answers one request at a time, in one thread and in float32.
        embodiment: The embodiment that its actions move, and its conventions.
        table_note: The policy's note beside its numbers; empty where it has none.
        n_action_steps: Steps of an answer that are best run; ``None`` where it names none.
    """

    name: str
    revision: str
    horizon: Annotated[int, msgspec.Meta(ge=1)] | None
    layout: str
    reads_images: bool
    reads_state: bool
    strict: bool
    embodiment: Embodiment
    table_note: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    n_action_steps: Annotated[int, msgspec.Meta(ge=1)] | None = None

    @property
    def identity(self) -> str:
        """Changes with whatever is announced: the name, the revision, and a hash of all of it.

        The bounds of the embodiment's channels are in it, as a policy may choose its statistics by the embodiment.
        """
        return f"{self.name} {self.revision} {hashlib.sha256(pack(self.to_data())).hexdigest()[:12]}"

    def to_data(self) -> dict[str, Any]:
        return {"version": ANNOUNCEMENT_VERSION, **msgspec.to_builtins(self)}

    @classmethod
    def from_data(cls, data: object) -> Announcement:
        """The announcement that :meth:`to_data` wrote down. ``data`` is not trusted."""
        version = data.get("version") if isinstance(data, dict) else data
        if not isinstance(data, dict) or type(version) is not int or version != ANNOUNCEMENT_VERSION:
            raise PolicyError(
                f"the policy server announces itself in version {str(version)[:40]!r} and we speak {ANNOUNCEMENT_VERSION}; "
                "run the same vlarig on both ends"
            )
        try:
            return convert(
                {key: value for key, value in data.items() if key != "version"}, cls, "the policy server's announcement"
            )
        except BadMessageError as error:
            raise PolicyError(f"{error}; run the same vlarig on both ends") from None
