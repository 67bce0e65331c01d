"""The largest values that a message within its limits may require; run as a program, their cost.

``python -m fuzzing.bombs DECODER`` prints by how many MB decoding all of them makes the process grow.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vlarig.envs import messages, wire
from vlarig.envs.api import Camera, Episode, Needs, Protocol
from vlarig.envs.errors import BadMessageError
from vlarig.policies import openpi_wire, strict_msgpack

from .campaign import most_memory

Decode = Callable[[bytes], object]


@dataclass(frozen=True)
class Limits:
    """What a message may hold: its bytes, items of a list, entries of a map, and bytes of a text."""

    bytes: int
    items: int
    entries: int
    text: int


POLICY_LIMITS = Limits(
    strict_msgpack.MAX_MESSAGE_BYTES, strict_msgpack.MAX_ITEMS, strict_msgpack.MAX_ENTRIES, strict_msgpack.MAX_TEXT
)


def bombs(limits: Limits) -> Iterator[tuple[str, bytes]]:
    """Names and msgpack of at most ``limits.bytes``."""
    opening = b"\xdc" + limits.items.to_bytes(2, "big")
    for name, item in {
        "empty lists": b"\x90",
        "empty maps": b"\x80",
        "small numbers": b"\x01",
        "larger numbers": b"\xcd\x7f\xff",
        "fractions": b"\xca\x3f\x00\x00\x01",
        "short texts": b"\xa2ab",
        "arrays without dimensions": b"\xd4\x01\x00",
        "arrays without numbers": b"\xc7\x05\x01\x00\x00\x00\x00\x00",
    }.items():
        full = opening + item * limits.items
        yield f"lists of {name}", opening + full * (limits.bytes // len(full))
        nested = opening + item * (limits.items - 1)
        yield f"lists of {name} within each other", nested * min(1000, limits.bytes // len(nested))
    entries = _entries(limits.entries)
    full = b"\xde" + limits.entries.to_bytes(2, "big") + entries
    yield "maps", opening + full * (limits.bytes // len(full))
    nested = full[: -len(entries) // limits.entries] + b"\xa3!!\x7f"
    yield "maps within each other", nested * min(1000, limits.bytes // len(nested))
    yield "room for items", opening * 1000
    yield "room for entries", (b"\xde" + limits.entries.to_bytes(2, "big") + b"\xa0") * 1000
    yield "depth", b"\x91" * limits.bytes
    text = "😀".encode() + b"x" * (limits.text - 4)  # four bytes of memory a letter
    yield "texts", opening + (b"\xdb" + len(text).to_bytes(4, "big") + text) * (limits.bytes // (len(text) + 5))
    yield "bytes", b"\xc6" + (limits.bytes - 5).to_bytes(4, "big") + bytes(limits.bytes - 5)


def _entries(count: int) -> bytes:
    keys = itertools.islice(itertools.product(range(33, 127), repeat=3), count)
    return b"".join(b"\xa3" + bytes(key) + b"\xa2ab" for key in keys)


def wire_bombs(before: bytes = b"", after: bytes = b"") -> Iterator[tuple[str, bytes]]:
    """Messages of the wire to simulators: heads that are bombs between two pieces, and as much behind them as there may be."""
    room = wire.MAX_HEAD_BYTES - len(before) - len(after)

    def message(bomb: bytes, bodies: bytes = bytes(2**20)) -> bytes:
        head = before + bomb + after
        return len(head).to_bytes(4, "big") + head + bodies

    for name, bomb in bombs(Limits(room, 2**16 - 1, 2**16 - 1, room - 8)):
        yield name, message(bomb)
    for name, item in {"empty lists": b"\x90", "arrays without dimensions": b"\xd4\x01\x00"}.items():
        count = (room - 5) // len(item)
        yield f"one list of {name}", message(b"\xdd" + count.to_bytes(4, "big") + item * count, b"\x00" * count)
    for name, dtype in {"one array": b"\x00", "one array of truth values": b"\x01"}.items():
        size = wire.MAX_MESSAGE_BYTES - 12 - len(before) - len(after)
        yield name, message(b"\xc7\x05\x01" + dtype + size.to_bytes(4, "little"), b"\x02" * size)


def message_bombs() -> Iterator[tuple[str, bytes]]:
    """The same as an episode's payload, the field that may hold any plain data."""
    episode = Episode("toy", Protocol("standard", 1, 40, (Camera("ego", 8, 8),), 8), "reach", "base", 7, payload={"@": "@"})
    before, after = wire.pack(messages.Start(episode, Needs()))[4:].split(b"\xa1@\xa1@")
    yield from wire_bombs(before + b"\xa1@", after)


def policy_bombs() -> Iterator[tuple[str, bytes]]:
    """Messages of the wires to policies."""
    yield from bombs(POLICY_LIMITS)


def read_message(data: bytes) -> messages.Message:
    """The message of any kind in the body of a frame."""
    return wire.unpack(data, messages.Message)


def unpack_plain(data: bytes) -> Any:
    """Whatever a message of the wire's form holds."""
    return wire.unpack(data, Any)


DECODERS: dict[str, tuple[Decode, Callable[[], Iterator[tuple[str, bytes]]]]] = {
    "wire": (unpack_plain, wire_bombs),
    "messages": (read_message, message_bombs),
    "openpi": (openpi_wire.unpack, policy_bombs),
}


def main(name: str) -> None:
    """Decode a decoder's bombs."""
    decode, made = DECODERS[name]
    before = most_memory()
    for bomb, data in made():
        began = time.thread_time()
        try:
            decode(data)
            outcome = "accepted"
        except BadMessageError as error:
            outcome = f"refused: {error}"
        milliseconds = (time.thread_time() - began) * 1000
        print(f"{bomb}, {len(data)} bytes: {milliseconds:.0f} ms, {most_memory() - before} MB, {outcome}", file=sys.stderr)
    print(most_memory() - before)


if __name__ == "__main__":
    main(sys.argv[1])
