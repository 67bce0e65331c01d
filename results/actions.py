"""Actions as bytes: the compressed form in which a ledger keeps an episode's actions."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from ..envs.errors import BadMessageError

_MAGIC = b"ACT1"
_HEADER = struct.Struct("<4sII")  # magic, steps, action channels


def encode_actions(actions: np.ndarray) -> bytes:
    """``actions``, ``float32[H, A]``, as a header with the shape and zlib over the raw little-endian floats."""
    if actions.ndim != 2:
        raise ValueError(f"actions have shape {list(actions.shape)}, expected [H, A]")
    data = np.ascontiguousarray(actions, dtype="<f4").tobytes()
    return _HEADER.pack(_MAGIC, *actions.shape) + zlib.compress(data, 6)


def decode_shape(blob: bytes) -> tuple[int, int]:
    """Steps and action channels that an encoded array says it has.

    Raises:
        BadMessageError: The bytes do not begin like encoded actions.
    """
    if len(blob) < _HEADER.size or blob[: len(_MAGIC)] != _MAGIC:
        raise BadMessageError(f"{len(blob)} bytes are no encoded actions: they do not begin with {_MAGIC!r} and a shape")
    _, steps, channels = _HEADER.unpack_from(blob)
    return steps, channels


def decode_actions(blob: bytes) -> np.ndarray:
    """What :func:`encode_actions` was given, ``float32[H, A]``, bit for bit.

    Raises:
        BadMessageError: The bytes are damaged, cut short, too long, or no encoded actions at all.
    """
    steps, channels = decode_shape(blob)
    expected = steps * channels * 4
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(blob[_HEADER.size :])
    except zlib.error as error:
        raise BadMessageError(f"encoded actions of shape [{steps}, {channels}] are damaged: {error}") from None
    if len(data) != expected or not unpacker.eof or unpacker.unused_data:
        whole = "whole" if unpacker.eof and not unpacker.unused_data else "cut short or followed by other bytes"
        raise BadMessageError(
            f"encoded actions of shape [{steps}, {channels}] hold {len(data)} bytes and are {whole}, expected {expected}"
        )
    return np.frombuffer(data, dtype="<f4").reshape(steps, channels).astype(np.float32)
