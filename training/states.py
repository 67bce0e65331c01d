"""States of a frozen backbone, kept on the disk: it reads each prompt once, however often a training comes back to it.

Cloning needs many prompts rather than many flow times of each, and with ``small`` on a CPU reading a prompt costs more than the forward
and the backward pass of the expert at a flow time.

A prompt is known by a hash of its words and pictures, so states are never those of another one. Each process has two files that it
alone writes: the states and positions of the prompts that it has read, one after another, and an index of :data:`ENTRY` for each. The
index is written last: what it names is whole. What a process has read in a step, all of them have from the next step on, whatever their
speed: a training gives the same bits again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..policies.qwen_vla.inputs import Prompted
from ..policies.qwen_vla.model import Context

#: A prompt's hash, the step that it was read in, where its states begin in the other file, and how many tokens it has.
ENTRY = np.dtype([("key", "V16"), ("step", "<u4"), ("offset", "<u8"), ("tokens", "<u4")])


class KeyedPrompt(NamedTuple):
    """A prompt, and what it is known by."""

    key: bytes
    prompt: Prompted


def keyed(prompt: Prompted) -> KeyedPrompt:
    """A prompt with its key: a hash of all that the backbone reads, of 16 bytes."""
    whole = hashlib.blake2b(prompt.text.encode(), digest_size=16)
    for tag, picture in prompt.views:
        whole.update(f"\0{tag}{picture.shape}".encode())
        whole.update(np.ascontiguousarray(picture).data)
    return KeyedPrompt(whole.digest(), prompt)


class Place(NamedTuple):
    """Where the states of a prompt are: in whose file, from which byte on, and for how many tokens."""

    rank: int
    offset: int
    tokens: int


class KeptStates:
    """Those that one process of a training has at hand.

    They are kept in half precision, ``float16``, and in ``bfloat16`` where the model computes in it; what is read for the first time is
    rounded alike, so that the second time gives the same numbers.

    Args:
        folder: Of all processes; made if need be.
        rank: This one.
        width: ``D``, of the backbone's states.
        compute: Precision that the model computes in.
    """

    def __init__(self, folder: Path, rank: int, width: int, compute: torch.dtype) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._rank = rank
        self._width = width
        self._compute = compute
        self._half = torch.bfloat16 if compute == torch.bfloat16 else torch.float16
        for path in (self._states(rank), self._index(rank)):
            path.touch()
        whole = self._index(rank).stat().st_size // ENTRY.itemsize
        os.truncate(self._index(rank), whole * ENTRY.itemsize)  # of an entry that was cut by a crash
        self._places: dict[bytes, Place] = {}
        self._taken: dict[int, int] = {}
        """How many entries of each other process's index are among the places."""
        self._take(rank, np.fromfile(self._index(rank), ENTRY))

    def __len__(self) -> int:
        """How many prompts are known."""
        return len(self._places)

    def unknown(self, prompts: Sequence[KeyedPrompt], step: int) -> dict[bytes, Prompted]:
        """Those that no process has read yet, by their keys: not this one, nor another one before this step."""
        if not self._places.keys() >= {each.key for each in prompts}:
            self._take_from_others(step)
        return {each.key: each.prompt for each in prompts if each.key not in self._places}

    def keep(self, keys: Sequence[bytes], step: int, context: Context) -> None:
        """Keep what the backbone made of prompts in a step."""
        states, valid, positions = context.states.detach().to(self._half).cpu(), context.valid.cpu(), context.positions.cpu()
        entries = []
        with self._states(self._rank).open("ab") as file:
            for index, key in enumerate(keys):
                own = valid[index]
                entries.append((key, step, file.tell(), int(own.sum())))
                file.write(states[index, own].contiguous().view(torch.uint8).numpy().data)
                file.write(positions[:, index, own].T.to(torch.int32).contiguous().numpy().data)
        with self._index(self._rank).open("ab") as file:
            file.write(np.array(entries, ENTRY).data)
        self._take(self._rank, np.array(entries, ENTRY))

    def context(self, prompts: Sequence[KeyedPrompt]) -> Context:
        """What the backbone made of prompts, all of which are known, on the CPU."""
        places = [self._places[each.key] for each in prompts]
        with contextlib.ExitStack() as stack:
            files = {
                rank: stack.enter_context(self._states(rank).open("rb")).fileno() for rank in {each.rank for each in places}
            }
            found = [self._read(files[place.rank], place) for place in places]
        return Context.padded([states for states, _ in found], [positions for _, positions in found])

    def _states(self, rank: int) -> Path:
        return self._folder / f"{rank}.states"

    def _index(self, rank: int) -> Path:
        return self._folder / f"{rank}.index"

    def _take_from_others(self, step: int) -> None:
        """Take what other processes have read before this step. By now that is written: a step's end waits for all of them."""
        for path in self._folder.glob("*.index"):
            rank = int(path.stem)
            if rank != self._rank:
                entries = np.fromfile(path, ENTRY, offset=self._taken.get(rank, 0) * ENTRY.itemsize)
                later = np.flatnonzero(entries["step"] >= step)
                self._take(rank, entries[: later[0]] if len(later) else entries)

    def _take(self, rank: int, entries: np.ndarray) -> None:
        for entry in entries:
            self._places.setdefault(entry["key"].tobytes(), Place(rank, int(entry["offset"]), int(entry["tokens"])))
        self._taken[rank] = self._taken.get(rank, 0) + len(entries)

    def _read(self, file: int, place: Place) -> tuple[Tensor, Tensor]:
        """States ``[S, D]`` and positions ``int64[3, S]`` of a prompt."""
        count = place.tokens * self._width
        data = bytearray(os.pread(file, count * 2 + place.tokens * 3 * 4, place.offset))
        states = torch.frombuffer(data, dtype=self._half, count=count).reshape(place.tokens, self._width)
        positions = torch.frombuffer(data, dtype=torch.int32, offset=count * 2).reshape(place.tokens, 3)
        return states.to(self._compute), positions.T.long()
