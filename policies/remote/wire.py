"""The messages of openpi, msgpack with arrays as maps, and what vla-eval's have in common with them; addresses and tokens of clients.

openpi's form is that of Physical-Intelligence/openpi packages/openpi-client/src/openpi_client/msgpack_numpy.py@15a9616. Our own server
announces its policy as the part ``vlarig`` of openpi's metadata, which a server sends when a client connects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec
import numpy as np
from websockets.exceptions import InvalidHandshake

from ...envs.embodiments import Embodiment
from ...envs.errors import BadMessageError
from ...envs.untrusted import build_array, convert, one_line
from ..api import PolicyError

#: Environment variable with the token that a server requires.
TOKEN_VARIABLE = "VLARIG_POLICY_TOKEN"  # noqa: S105


def refuse_secrets(address: str, scheme: str) -> None:
    """Make sure that an address holds no user, password or query: addresses are saved with a run.

    Args:
        address: What the user typed after ``scheme:``.
        scheme: Names the client in the sentence.
    """
    if "@" in address or "?" in address:
        raise PolicyError(
            f"the server's address has a '@' or a '?', and addresses are saved with a run, so no secret belongs in one; write "
            f"{scheme}:ws://HOST:PORT (openpi: shows the token that the environment variable {TOKEN_VARIABLE} holds)"
        )


def why_unreachable(error: Exception, seconds: float) -> str:
    """Why no connection was made within so many seconds, for a message's brackets; a failed handshake's text may show headers."""
    if isinstance(error, InvalidHandshake):
        return f"what answers is no websocket server: {type(error).__name__}"
    return f"no answer within {seconds:g} s" if isinstance(error, TimeoutError) else str(error)


#: Largest message in bytes, either way. Four uncompressed views of 480x640 pixels are 3.7 MB.
MAX_MESSAGE_BYTES = 16 * 2**20

#: Dtypes that travel: truth values and numbers of one to eight bytes, little-endian.
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")


def decode(data: bytes | str, convert_map: Callable[[dict[Any, Any]], Any]) -> Any:
    """The value in ``data``.

    Args:
        data: What arrived.
        convert_map: Converts a map to the value that it encodes, the innermost first; it returns any other map unchanged.

    Raises:
        BadMessageError: ``data`` is text, too large, or not one well-formed message; or ``convert_map`` raised it.
    """
    if isinstance(data, str):
        raise BadMessageError("a message of text; expected msgpack in a binary frame")
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        return _converted(msgspec.msgpack.decode(data), convert_map)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, as that of text that is no UTF-8 is
        raise BadMessageError(one_line(f"not a msgpack message: {error}")) from None


def encode(value: object, default: Callable[[Any], Any], what: str) -> bytes:
    """``value`` as msgpack; ``default`` makes plain data of what is none, or raises ``TypeError``.

    Raises:
        BadMessageError: It holds a value that does not travel; ``what`` names the value.
    """
    try:
        return msgspec.msgpack.encode(value, enc_hook=default)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadMessageError(f"cannot send {what}: {error}") from None


def array_as_map(array: object, keys: Sequence[str | bytes]) -> dict[str | bytes, Any]:
    """An array as a map with these keys, for its mark, its bytes, its dtype and its shape.

    Raises:
        TypeError: It is no array, or of a dtype that does not travel.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"values of type {type(array).__name__} do not travel")
    dtype = dtype_to_send(array)
    return dict(zip(keys, (True, array.astype(dtype, copy=False).tobytes(), dtype.str, array.shape), strict=True))


def array_in_map(value: dict[Any, Any], keys: Sequence[str | bytes]) -> np.ndarray:
    """The array that a map with the mark ``keys[0]`` describes, read-only; ``keys`` as for :func:`array_as_map`."""
    if not value.keys() >= set(keys):
        raise BadMessageError("an array has to be a map of __ndarray__, data, dtype and shape")
    _, data, dtype, shape = (value[key] for key in keys)
    return build_array(read_dtype(dtype), shape, data)


def read_dtype(name: object) -> np.dtype[Any]:
    """The dtype of that name, if it travels."""
    if not isinstance(name, str) or name not in DTYPES:
        raise BadMessageError(f"an array of dtype {str(name)[:40]!r}; expected one of {', '.join(DTYPES)}")
    return np.dtype(name)


def dtype_to_send(value: np.ndarray | np.generic) -> np.dtype[Any]:
    """The little-endian dtype in which ``value`` travels.

    Raises:
        TypeError: It has none; a default function of :func:`encode` may raise this.
    """
    dtype = value.dtype.newbyteorder("<")
    if dtype.str not in DTYPES:
        raise TypeError(f"arrays of {value.dtype} do not travel; use one of {', '.join(DTYPES)}")
    return dtype


def _converted(value: Any, convert_map: Callable[[dict[Any, Any]], Any]) -> Any:
    if isinstance(value, dict):
        return convert_map({key: _converted(each, convert_map) for key, each in value.items()})
    if isinstance(value, list):
        return [_converted(each, convert_map) for each in value]
    return value


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

#: What the keys of our own begin with: those below and :data:`CLIENT`, by which the server knows a request of a client of ours.
_OWN = "vlarig/"
CLIENT = f"{_OWN}client"


class OwnKeys(msgspec.Struct, frozen=True, rename=lambda name: _OWN + name):
    """What a client adds to a request where the server announced itself, as ``vlarig/client`` and so on.

    That is the client, a text of its own that is the same on all its connections, and fields of :class:`~vlarig.policies.api.Request`.
    """

    client: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    env: Annotated[int, msgspec.Meta(ge=0, lt=4096)]
    chunk: Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
    seed: Annotated[int, msgspec.Meta(ge=0)]
    n_action_steps: Annotated[int, msgspec.Meta(ge=0, lt=1000)]


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
