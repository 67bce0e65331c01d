"""CPU of the driver for each chunk, from 1 to 128 envs: an instant env sends two 256x256 images a chunk, episodes are committed.

Aim: under 1 ms, and flat. Baseline, in the same run: a plain read of as many bytes from a Unix socket pair.
"""

from __future__ import annotations

import socket
import threading
import time

from instant.suite import CHUNKS
from measured_sweep import Cost, measure
from rich.console import Console
from rich.table import Table
from spread import spread

REPEATS = 5
ENVS = (1, 2, 8, 32, 128)
CHUNKS_A_SWEEP = 2048
BYTES_A_CHUNK = 2 * 256 * 256 * 3


def plain_read(chunks: int) -> float:
    """CPU milliseconds of this thread for reading a chunk's bytes from a socket."""
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=lambda: [theirs.sendall(bytes(BYTES_A_CHUNK)) for _ in range(chunks)])
    sender.start()
    began = time.thread_time()
    buffer = memoryview(bytearray(BYTES_A_CHUNK))
    for _ in range(chunks):
        filled = 0
        while filled < BYTES_A_CHUNK:
            filled += ours.recv_into(buffer[filled:])
    cost = (time.thread_time() - began) / chunks * 1e3
    sender.join()
    return cost


def main() -> None:
    """Measure each number of envs in turn, several times round, and print medians."""
    costs: dict[int, list[Cost]] = {envs: [] for envs in ENVS}
    floor: list[float] = []
    for _ in range(REPEATS):
        floor.append(plain_read(CHUNKS_A_SWEEP))
        for envs in ENVS:
            workers = min(2, envs)
            costs[envs].append(measure("instant", CHUNKS_A_SWEEP // CHUNKS, workers, envs // workers))
    table = Table("envs", "driver CPU ms a chunk", "min to max", "chunks/s", "min to max")
    for envs, turns in costs.items():
        table.add_row(str(envs), *spread([cost.cpu for cost in turns], 2), *spread([cost.chunks for cost in turns], 0))
    console = Console(width=130)
    console.print(table)
    console.print(f"baseline, plain read of the bytes: {spread(floor, 2)[0]} ms a chunk; medians of {REPEATS} turns")


if __name__ == "__main__":
    main()
