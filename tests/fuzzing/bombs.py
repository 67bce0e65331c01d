"""The largest things that a message within its limits may ask for; run as a program, what they cost.

``python -m fuzzing.bombs DECODER`` prints by how many MB decoding all of them made the process grow.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator

from vlarig.envs import messages, wire
from vlarig.envs.errors import BadMessageError
from vlarig.envs.untrusted import Limits
from vlarig.policies import openpi_wire, strict_msgpack

from .campaign import most_memory

Decode = Callable[[bytes], object]


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


def wire_bombs() -> Iterator[tuple[str, bytes]]:
    """Messages of the wire to simulators: heads that are bombs, and as much behind them as there may be."""
    for name, head in bombs(wire.HEAD_LIMITS):
        yield name, len(head).to_bytes(4, "big") + head + bytes(2**20)
    for name, dtype in {"one array": b"\x00", "one array of truth values": b"\x01"}.items():
        size = wire.MAX_MESSAGE_BYTES - 12
        yield name, b"\x00\x00\x00\x08\xc7\x05\x01" + dtype + size.to_bytes(4, "little") + b"\x02" * size


def policy_bombs() -> Iterator[tuple[str, bytes]]:
    """Messages of the wires to policies."""
    yield from bombs(strict_msgpack.LIMITS)


DECODERS: dict[str, tuple[Decode, Callable[[], Iterator[tuple[str, bytes]]]]] = {
    "wire": (wire.unpack, wire_bombs),
    "messages": (messages.decode, wire_bombs),
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
