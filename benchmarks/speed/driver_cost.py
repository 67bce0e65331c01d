"""CPU of the driver for each chunk, from 1 to 128 slots: an instant env sends two 256x256 images a chunk, episodes are committed.

Aim: under 1 ms, and flat. Baseline, in the same run: a plain read of as many bytes from a Unix socket pair.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import threading
import time

from instant.suite import CHUNKS, INSTANT
from measured_sweep import InstantPolicy, measure
from rich.console import Console
from rich.table import Table

REPEATS = 5
SLOTS = (1, 2, 8, 32, 128)
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
    """Measure each number of slots in turn, several times round, and print medians."""
    episodes = INSTANT.episodes(per_task=CHUNKS_A_SWEEP // CHUNKS)
    driver: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    rate: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    floor: list[float] = []
    for _ in range(REPEATS):
        floor.append(plain_read(CHUNKS_A_SWEEP))
        for slots in SLOTS:
            workers = min(2, slots)
            cost = asyncio.run(measure(INSTANT, InstantPolicy(), episodes, workers, slots // workers))
            driver[slots].append(cost.cpu / cost.chunks * 1e3)
            rate[slots].append(cost.chunks / cost.wall)
    table = Table("slots", "driver CPU ms a chunk", "min to max", "chunks/s")
    for slots in SLOTS:
        low, high = min(driver[slots]), max(driver[slots])
        spread = f"{low:.2f} to {high:.2f}"
        table.add_row(str(slots), f"{statistics.median(driver[slots]):.2f}", spread, f"{statistics.median(rate[slots]):.0f}")
    console = Console()
    console.print(table)
    console.print(f"baseline, plain read of the bytes: {statistics.median(floor):.2f} ms a chunk; medians of {REPEATS} turns")


if __name__ == "__main__":
    main()
