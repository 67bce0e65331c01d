"""The device that a script measures on, its best speed, and the operations that times are compared with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from vlarig.policies.qwen_vla.acceleration import kernels_in_use, plain
from vlarig.policies.qwen_vla.model import QwenVla

#: Side of the squares whose product is the peak; larger ones are no faster on the machines that were tried.
SQUARE = {"cpu": 1024, "cuda": 8192}
#: Bytes of the copy that measures the memory, beyond every cache.
COPIED = 2**30
#: FLOP/s of bfloat16 matrix products without sparsity, as published (NVIDIA H200 datasheet: 1,979 TFLOPS with sparsity).
PUBLISHED = {"H200": 989e12}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Work = Callable[[], object]


@dataclass(frozen=True)
class Options:
    """Which model is measured, where, and how often."""

    preset: Literal["4b", "small", "tiny"] = "small"
    """Sizes of the model; the weights are random and made on the device."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""
    threads: int = 1
    """Threads on a CPU."""
    turns: int = 5
    """How often everything is measured; medians are printed."""


class Machine:
    """A device and the way to measure on it."""

    def __init__(self, device: str, threads: int) -> None:
        self.device = torch.device(device)
        self.gpu = self.device.type == "cuda"
        torch.set_num_threads(threads)
        self.peaks: dict[torch.dtype, list[float]] = {}
        cpu = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0].strip("\t: ")
        name = torch.cuda.get_device_name(self.device) if self.gpu else f"{cpu}, {threads} threads"
        kernels = ", ".join(package for package, used in kernels_in_use().items() if used) or "torch's own"
        self.name = f"{name}; torch {torch.__version__}, transformers {transformers.__version__}; kernels: {kernels}"

    def milliseconds(self, work: Work, count: int = 1) -> float:
        """Time of one of ``count`` calls: the process's CPU time, or on a GPU the wall time until the device is done."""
        began = self.clock()
        for _ in range(count):
            work()
        return (self.clock() - began) / count * 1e3

    def clock(self) -> float:
        """Seconds of the process's CPU time, or on a GPU the wall time when the device is done with all that it was given."""
        if not self.gpu:
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def peak(self, dtype: torch.dtype) -> tuple[float, float]:
        """FLOP/s of the product of two large squares; bytes a second that a large copy reads and writes, infinite on a CPU."""
        side = SQUARE[self.device.type]
        left, right = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
        torch.mm(left, right)
        matmul = 2 * side**3 / self.milliseconds(lambda: torch.mm(left, right), 4) * 1e3
        self.peaks.setdefault(dtype, []).append(matmul)
        if not self.gpu:
            return matmul, float("inf")
        source, target = torch.empty(2, COPIED, dtype=torch.uint8, device=self.device)
        target.copy_(source)
        return matmul, 2 * COPIED / self.milliseconds(lambda: target.copy_(source), 4) * 1e3


@contextlib.contextmanager
def counting(model: QwenVla) -> Iterator[FlopCounterMode]:
    """Counts the floating-point operations of the block, two for each multiplication with its addition.

    Counted is what torch counts: matrix products, convolutions and attention, forward and backward, padding and the unseen half of a
    causal attention included. Norms, activations and triangular systems are left out.
    """
    backward: Any = {torch.ops.aten.convolution_backward: _convolution_backward}
    # Attention is computed as products, which torch counts on every device.
    with plain(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=backward) as counter:
        yield counter


def operations(work: Work, model: QwenVla) -> int:
    """Floating-point operations of ``work`` of the model, see :func:`counting`."""
    with counting(model) as counter:
        work()
    return counter.get_total_flops()


def _convolution_backward(gradient: Any, inputs: Any, weights: Any, *others: Any, **_: Any) -> int:
    """As many as forward for each of the two gradients; torch 2.13 counts the weights' as if every channel met every other.

    ``others`` are bias, stride, padding, dilation, transposed, output padding, groups and which gradients are wanted.
    """
    return sum(others[-1][:2]) * conv_flop_count(inputs, weights, gradient, transposed=others[4])
