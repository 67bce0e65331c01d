"""States of a frozen backbone, kept on the disk: it reads each prompt once, however often a training comes back to it.

Cloning needs many prompts rather than many flow times of each, and with ``small`` on a CPU reading a prompt costs more than the forward
and the backward pass of the expert at a flow time.

A prompt is known by a hash of its words and pictures, so states are never those of another one. Each process has its own two files: the
states and positions of all prompts one after another, and an index of :data:`ENTRY` for each. The index is written last: what it
names is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..policies.qwen_vla.inputs import Prompted
from ..policies.qwen_vla.model import Context

#: A prompt's hash, where its states begin in the other file, and how many tokens it has.
ENTRY = np.dtype([("key", "V16"), ("offset", "<u8"), ("tokens", "<u4")])


def key_of(prompt: Prompted) -> bytes:
    """A hash of all that the backbone reads, of 16 bytes."""
    whole = hashlib.blake2b(prompt.text.encode(), digest_size=16)
    for tag, picture in prompt.views:
        whole.update(f"\0{tag}{picture.shape}".encode())
        whole.update(np.ascontiguousarray(picture).data)
    return whole.digest()


class KeptStates:
    """Those of one process of a training.

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
        self._width = width
        self._compute = compute
        self._half = torch.bfloat16 if compute == torch.bfloat16 else torch.float16
        self._states, self._index = (folder / f"{rank}.{kind}" for kind in ("states", "index"))
        for path in (self._states, self._index):
            path.touch()
        whole = self._index.stat().st_size // ENTRY.itemsize
        os.truncate(self._index, whole * ENTRY.itemsize)  # of an entry that was cut by a crash
        entries = np.fromfile(self._index, ENTRY)
        self._places = {entry["key"].tobytes(): (int(entry["offset"]), int(entry["tokens"])) for entry in entries}

    def __len__(self) -> int:
        """How many prompts are known."""
        return len(self._places)

    def context(self, keys: Sequence[bytes], read: Callable[[], Context]) -> Context:
        """What the backbone makes of prompts, on the CPU.

        Args:
            keys: Theirs, by :func:`key_of`.
            read: Lets the backbone read them all; called where one of them is not known yet.
        """
        if not self._places.keys() >= set(keys):
            self._keep(keys, read())
        with self._states.open("rb") as file:
            found = [self._read(file.fileno(), *self._places[key]) for key in keys]
        return Context.padded([states for states, _ in found], [positions for _, positions in found])

    def _keep(self, keys: Sequence[bytes], context: Context) -> None:
        states, valid, positions = context.states.detach().to(self._half).cpu(), context.valid.cpu(), context.positions.cpu()
        entries = []
        with self._states.open("ab") as file:
            for index, key in enumerate(keys):
                if key in self._places:
                    continue
                own = valid[index]
                self._places[key] = (file.tell(), int(own.sum()))
                file.write(states[index, own].contiguous().view(torch.uint8).numpy().data)
                file.write(positions[:, index, own].T.to(torch.int32).contiguous().numpy().data)
                entries.append((key, *self._places[key]))
        with self._index.open("ab") as file:
            file.write(np.array(entries, ENTRY).data)

    def _read(self, file: int, offset: int, tokens: int) -> tuple[Tensor, Tensor]:
        """States ``[S, D]`` and positions ``int64[3, S]`` of a prompt."""
        size = tokens * self._width * 2
        data = bytearray(os.pread(file, size + tokens * 3 * 4, offset))
        states = torch.frombuffer(data, dtype=self._half, count=tokens * self._width).reshape(tokens, self._width)
        return states.to(self._compute), torch.frombuffer(data, dtype=torch.int32, offset=size).reshape(tokens, 3).T.long()
