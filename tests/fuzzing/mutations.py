"""Messages made of valid ones by breaking them: in what they say, and byte by byte. All that is sampled follows from a seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .trees import Map, Raw, containers, places, read, write


@dataclass(frozen=True)
class Form:
    """How messages of a decoder are put together around their msgpack.

    Attributes:
        split: From a message to its msgpack and what follows it.
        join: The way back.
    """

    split: Callable[[bytes], tuple[bytes, bytes]]
    join: Callable[[bytes, bytes], bytes]


#: A message that is msgpack and nothing else.
PLAIN = Form(lambda data: (data, b""), lambda head, tail: head + tail)

#: A message of the wire to simulators: the length of its head, the head, and the bytes of its arrays.
WITH_HEAD = Form(
    lambda data: (data[4 : 4 + int.from_bytes(data[:4], "big")], data[4 + int.from_bytes(data[:4], "big") :]),
    lambda head, tail: len(head).to_bytes(4, "big") + head + tail,
)

#: Values that a field may not expect.
STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 127, 128, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1),
    *(-(2**31), -(2**63), 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan")),
    *(
        "",
        "x",
        "\n",
        "\x00",
        "\x1b[2J",
        "../../etc/passwd",
        "a/b@c",
        "é",
        "😀" * 40,
        "x" * 1000,
        "two\nlines\r\n",
        "\u202e",
        "None",
    ),
    *(b"", b"\x00", b"\xff" * 40, [], [[]], [None], [0, 0], [-1], [2**40], Map([]), Map([["", None]]), Map([[b"", 1]])),
    *(Map([["a", 1], ["a", 2]]), Map([["__ndarray__", True]]), Map([[b"__ndarray__", True]]), Map([[0, 1]]), Map([[None, 1]])),
    *("|O", "|V8", "<U4", "<M8[s]", ">f4", "<f8", "|b1", "<c16", "object", "float32", "|S1", "<f4,<i4", "|u1"),
]

#: Bytes that are no value, or announce more than there is.
BROKEN = [
    *(b"\xc1", b"\xd9\xff", b"\xdb\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde\xff\xff"),
    *(b"\xdf\xff\xff\xff\xff", b"\xca\x7f\xc0\x00\x00"),
    *(b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80", b"\xd4\x01\x00", b"\xd4\x63\x00"),
    *(b"\xd6\xff\x00\x00\x00\x01", b"\xd7\xff" + b"\x00" * 8, b"\xc7\x0c\xff" + b"\x00" * 12, b"\xc7\x00\x01", b"\xc7\x00\x05"),
    *(b"\xc7\x05\x01\x04\xff\xff\xff\xff", b"\xc7\x09\x01\x05" + b"\xff" * 8, b"\xc7\x21\x01\x00" + b"\x00" * 32),
    *(b"\xd0\x01", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7, b"\xdc\x00\x01\x00", b"\x81\xa1a\x81\xa1a\x81\xa1a\x00"),
]  # fmt: skip

#: Depths of nests and counts of swollen lists: a few below each limit, at it, and beyond.
DEPTHS = (5, 7, 8, 9, 30, 31, 32, 33, 100, 500, 1000, 1023, 1024, 1025, 5000)
COUNTS = (10, 100, 255, 256, 257, 1023, 1025, 4095, 4097, 20_000, 70_000)


class Mutator:
    """Breaks the messages that it is given.

    Args:
        seeds: Kind of message to valid messages of it.
        form: How they are put together.
        rng: Samples everything.
    """

    def __init__(self, seeds: Mapping[str, list[bytes]], form: Form, rng: random.Random) -> None:
        self._seeds = [data for messages in seeds.values() for data in messages]
        self._form = form
        self._rng = rng
        trees = [read(form.split(data)[0]) for data in self._seeds] if form is not BYTES else []
        self._vocabulary = [holder[position] for tree in trees for holder, position in places([tree])]
        keys = {key for tree in trees for holder, _ in places([tree]) for key in holder if isinstance(key, str)}
        self._names = sorted(keys) or [""]
        self._tree_ways = () if form is BYTES else (
            *(self._replace, self._replace, self._delete, self._repeat, self._swap, self._graft, self._rename),
            *(self._nest, self._swell, self._number, self._break),
        )  # fmt: skip
        self._byte_ways = (
            *(
                self._flip,
                self._set,
                self._insert,
                self._cut_out,
                self._truncate,
                self._copy,
                self._splice,
                self._length,
                self._noise,
            ),
        )

    def message(self) -> bytes:
        """A valid message, broken in one way or in several."""
        rng = self._rng
        data = rng.choice(self._seeds)
        in_what_it_says = bool(self._tree_ways) and rng.random() < 0.6
        if in_what_it_says:
            head, tail = self._form.split(data)
            tree = [read(head)]
            for _ in range(rng.choice((1, 1, 2, 3))):
                rng.choice(self._tree_ways)(tree)
            data = self._form.join(b"".join(map(write, tree)), tail)
        if not in_what_it_says or rng.random() < 0.2:
            for _ in range(rng.choice((1, 1, 2, 4))):
                data = rng.choice(self._byte_ways)(data)
        return data

    # In what a message says.

    def _strange(self) -> Any:
        return copy.deepcopy(self._rng.choice(self._vocabulary if self._rng.random() < 0.3 else STRANGE))

    def _place(self, tree: list[Any]) -> tuple[list[Any], int]:
        return self._rng.choice(places(tree) or [([None], 0)])

    def _items(self, tree: list[Any]) -> list[Any]:
        return self._rng.choice(containers(tree) or [[None]])

    def _replace(self, tree: list[Any]) -> None:
        holder, position = self._place(tree)
        holder[position] = self._strange()

    def _delete(self, tree: list[Any]) -> None:
        items = self._items(tree)
        del items[self._rng.randrange(len(items))]

    def _repeat(self, tree: list[Any]) -> None:
        items = self._items(tree)
        items.insert(self._rng.randrange(len(items) + 1), self._rng.choice(items))

    def _swap(self, tree: list[Any]) -> None:
        (one, here), (other, there) = self._place(tree), self._place(tree)
        held, given = one[here], other[there]
        if not (isinstance(held, (list, Map)) or isinstance(given, (list, Map))):  # else a node might hold itself
            one[here], other[there] = given, held

    def _graft(self, tree: list[Any]) -> None:
        data = self._rng.choice(self._seeds)
        branch, place = self._place([read(self._form.split(data)[0])])
        holder, position = self._place(tree)
        holder[position] = branch[place]

    def _rename(self, tree: list[Any]) -> None:
        nodes = [holder[position] for holder, position in places(tree)]
        maps = [node for node in nodes if isinstance(node, Map) and node.entries]
        if maps:
            entry = self._rng.choice(self._rng.choice(maps).entries)
            entry[0] = self._rng.choice((*self._names, "", "id ", "Id", b"id", 0, "admin"))

    def _nest(self, tree: list[Any]) -> None:
        holder, position = self._place(tree)
        opening = self._rng.choice((b"\x91", b"\x81\xa1a", b"\xdc\x00\x01"))
        holder[position] = Raw(opening * self._rng.choice(DEPTHS) + b"\xc0")

    def _swell(self, tree: list[Any]) -> None:
        holder, position = self._place(tree)
        count, item = self._rng.choice(COUNTS), self._rng.choice((b"\x90", b"\x80", b"\x00", b"\xa2ab", b"\xd4\x01\x00"))
        holder[position] = Raw(b"\xdd" + count.to_bytes(4, "big") + item * count)

    def _number(self, tree: list[Any]) -> None:
        numbers = [(holder, at) for holder, at in places(tree) if isinstance(holder[at], (int, float))]
        if numbers:
            holder, position = self._rng.choice(numbers)
            holder[position] = self._rng.choice([each for each in STRANGE if isinstance(each, (int, float))])

    def _break(self, tree: list[Any]) -> None:
        holder, position = self._place(tree)
        holder[position] = Raw(self._rng.choice(BROKEN))

    # Byte by byte.

    def _flip(self, data: bytes) -> bytes:
        return self._with_byte(data, lambda byte: byte ^ 1 << self._rng.randrange(8))

    def _set(self, data: bytes) -> bytes:
        return self._with_byte(data, lambda _: self._rng.choice((0x00, 0x7F, 0x80, 0x90, 0xA0, 0xC0, 0xC1, 0xDD, 0xDF, 0xFF)))

    def _with_byte(self, data: bytes, change: Callable[[int], int]) -> bytes:
        if not data:
            return data
        broken = bytearray(data)
        position = self._rng.randrange(len(broken))
        broken[position] = change(broken[position])
        return bytes(broken)

    def _insert(self, data: bytes) -> bytes:
        position = self._rng.randrange(len(data) + 1)
        return data[:position] + self._rng.choice((*BROKEN, self._rng.randbytes(self._rng.randrange(1, 9)))) + data[position:]

    def _cut_out(self, data: bytes) -> bytes:
        begin, end = self._section(data)
        return data[:begin] + data[end:]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._rng.randrange(len(data) + 1)]

    def _copy(self, data: bytes) -> bytes:
        begin, end = self._section(data)
        return data[:end] + data[begin:]

    def _splice(self, data: bytes) -> bytes:
        other = self._rng.choice(self._seeds)
        return data[: self._rng.randrange(len(data) + 1)] + other[self._rng.randrange(len(other) + 1) :]

    def _length(self, data: bytes) -> bytes:
        """Another length at the very beginning, where some forms have one."""
        length = int.from_bytes(data[:4], "big")
        others = (0, length - 1, length + 1, len(data), len(data) - 4, 2**16, 2**20, 2**20 + 1, 2**26 + 1, 2**31, 2**32 - 1)
        return (self._rng.choice(others) % 2**32).to_bytes(4, "big") + data[4:]

    def _noise(self, data: bytes) -> bytes:
        return self._rng.randbytes(self._rng.randrange(64))

    def _section(self, data: bytes) -> tuple[int, int]:
        begin = self._rng.randrange(len(data) + 1)
        return begin, min(len(data), begin + self._rng.choice((1, 2, 4, 8, 64, 1024)))


#: A message that is no msgpack: it is broken byte by byte alone.
BYTES = Form(lambda data: (b"", data), lambda head, tail: tail)
