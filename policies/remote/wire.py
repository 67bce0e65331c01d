"""What the clients of openpi and of vla-eval have in common: addresses, tokens, and messages of msgpack with arrays as maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from websockets.exceptions import InvalidHandshake

from ...envs.errors import BadMessageError
from ...envs.untrusted import build_array, one_line
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
    """The array that a map with the mark ``keys[0]`` describes, read-only; ``keys`` as for :func:`array_as_map`.

    Raises:
        BadMessageError: It lacks a key, is of a dtype that does not travel, or the bytes do not fill its shape.
    """
    if not value.keys() >= set(keys):
        raise BadMessageError("an array has to be a map of __ndarray__, data, dtype and shape")
    _, data, dtype, shape = (value[key] for key in keys)
    return build_array(read_dtype(dtype), shape, data)


def read_dtype(name: object) -> np.dtype[Any]:
    """The dtype of that name.

    Raises:
        BadMessageError: It does not travel.
    """
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
