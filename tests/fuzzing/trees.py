"""msgpack as a tree that can be broken: maps may have a key twice, and any node may be bytes that are no msgpack at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack


@dataclass
class Map:
    """A map: entries of ``[key, value]`` in their order."""

    entries: list[list[Any]]


@dataclass
class Raw:
    """Bytes that take a node's place as they are."""

    data: bytes


def read(data: bytes) -> Any:
    """The tree of well-formed msgpack."""
    return msgpack.unpackb(
        data,
        object_pairs_hook=lambda pairs: Map([list(pair) for pair in pairs]),
        ext_hook=msgpack.ExtType,
        strict_map_key=False,
    )


def write(tree: Any) -> bytes:
    """The bytes of a tree."""
    packer = msgpack.Packer()

    def written(node: Any) -> bytes:
        if isinstance(node, Raw):
            return node.data
        if isinstance(node, list):
            return packer.pack_array_header(len(node)) + b"".join(map(written, node))
        if isinstance(node, Map):
            inner = b"".join(written(key) + written(value) for key, value in node.entries)
            return packer.pack_map_header(len(node.entries)) + inner
        return packer.pack(node)

    return written(tree)


def places(tree: list[Any]) -> list[tuple[list[Any], int]]:
    """Where a tree, in a list of its own, can be changed: for every node the list that holds it, and its position there."""
    found = []
    pending = [tree]
    while pending:
        holder = pending.pop()
        for position, node in enumerate(holder):
            found.append((holder, position))
            if isinstance(node, list):
                pending.append(node)
            elif isinstance(node, Map):
                pending += node.entries
    return found


def containers(tree: list[Any]) -> list[list[Any]]:
    """The items of every list and the entries of every map."""
    nodes = [holder[position] for holder, position in places(tree)]
    return [node.entries if isinstance(node, Map) else node for node in nodes if isinstance(node, (list, Map)) and inner(node)]


def inner(node: list[Any] | Map) -> list[Any]:
    """What a list or a map holds."""
    return node.entries if isinstance(node, Map) else node
