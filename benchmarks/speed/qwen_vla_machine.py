"""The machine under a Qwen-VLA: its clocks, and how fast it multiplies matrices and moves memory."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

#: Side of the squares whose product is the peak; larger ones are no faster on the machines that were tried.
SQUARE = {"cpu": 1024, "cuda": 8192}
#: Bytes of the copy that measures the memory, beyond every cache.
COPIED = 2**30
#: What makers print: bfloat16 matrix products without sparsity in FLOP/s, and bytes a second (NVIDIA H100 and H200, SXM data sheets).
RATED = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12)}


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one call.

    Attributes:
        wall: By the clock on the wall.
        busy: Of this process's CPU; on a GPU between two events of its stream, before the work and after it.
    """

    wall: float
    busy: float


@dataclass(frozen=True)
class Peak:
    """What the machine gives at best.

    Attributes:
        matmul: FLOP/s of the product of two large squares.
        memory: Bytes a second that a large copy reads and writes, on a GPU; on a CPU nothing is compared with it.
    """

    matmul: float
    memory: float | None


class Machine:
    """A device and the way to measure on it."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device = device
        self.threads = threads
        torch.set_num_threads(threads)
        if self.gpu:
            torch.cuda.set_device(device)  # events are recorded on the current device's stream

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    def name(self) -> str:
        """The device in words."""
        if self.gpu:
            return torch.cuda.get_device_name(self.device)
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
        return f"{model}, {self.threads} thread{'s' * (self.threads > 1)}"

    def rated(self, dtype: torch.dtype) -> tuple[float, float] | None:
        """The maker's FLOP/s and bytes a second, where they are known here: on some GPUs, in bfloat16."""
        known = self.gpu and dtype == torch.bfloat16
        return next((figures for name, figures in RATED.items() if known and name in self.name()), None)

    def cost(self, work: Callable[[], object], count: int = 1) -> Cost:
        """What one of ``count`` calls takes."""
        return self._gpu_cost(work, count) if self.gpu else self._cpu_cost(work, count)

    def _cpu_cost(self, work: Callable[[], object], count: int) -> Cost:
        wall, busy = time.perf_counter(), time.process_time()
        for _ in range(count):
            work()
        return Cost((time.perf_counter() - wall) / count * 1e3, (time.process_time() - busy) / count * 1e3)

    def _gpu_cost(self, work: Callable[[], object], count: int) -> Cost:
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(self.device)
        wall = time.perf_counter()
        before.record()
        for _ in range(count):
            work()
        after.record()
        torch.cuda.synchronize(self.device)
        return Cost((time.perf_counter() - wall) / count * 1e3, before.elapsed_time(after) / count)

    def peak(self, dtype: torch.dtype) -> Peak:
        """Measure both rates."""
        side = SQUARE[self.device.type]
        left, right = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
        matmul = 2 * side**3 / (self._steady(lambda: torch.mm(left, right), 8 if self.gpu else 4) / 1e3)
        if not self.gpu:
            return Peak(matmul, None)
        source = torch.empty(COPIED, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return Peak(matmul, 2 * COPIED / (self._steady(lambda: target.copy_(source), 8) / 1e3))

    def _steady(self, work: Callable[[], Tensor], count: int) -> float:
        """Milliseconds of a call that has been made before."""
        work()
        return self.cost(work, count).busy

    def start_memory(self) -> None:
        """Forget the largest allocation so far."""
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def largest_memory(self) -> float | None:
        """Gigabytes allocated at most since :meth:`start_memory`; a CPU does not tell."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.gpu else None
