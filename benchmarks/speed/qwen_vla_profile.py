"""Which operators a Qwen-VLA spends its time in, part by part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwen_vla_machine import Machine
from qwen_vla_parts import Part
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

#: Group to how its operators' names begin (torch's own, without ``aten::``) or what they hold (kernels of a GPU); the first that fits.
GROUPS = {
    "matrix products": (r"^(add|b|badd)?mm\b|linear$", r"gemm|nvjet|cutlass|cublas"),
    "attention": (r"^_?scaled_dot_product|^_flash_attention|^_efficient_attention", r"flash|fmha"),
    "triangular systems": (r"triangular", r"trsm"),
    "convolutions": (r"conv", r"conv"),
    "norms": (r"norm|^(rsqrt|mean|pow)\b", r"norm|reduce"),
    "copies": (
        r"^(copy_|cat|clone|stack|gather|index|masked_scatter|masked_fill|fill|zero|constant_pad)",
        r"copy|memcpy|memset|cat",
    ),
    "elementwise": (r"^(mul|add|sub|div|neg|silu|sigmoid|gelu|exp|cos|sin|softplus)_?$", r"elementwise"),
}
OTHERS = "others"
#: Operators that are printed of a part.
LARGEST = 12


@dataclass(frozen=True)
class Operator:
    """One operator in one part.

    Attributes:
        name: Torch's, or the kernel's.
        milliseconds: Its own time, without what it calls.
        calls: How often it is called.
        gigaflops: GFLOP/s of a matrix product; 0 where torch does not count.
    """

    name: str
    milliseconds: float
    calls: int
    gigaflops: float

    @property
    def group(self) -> str:
        """Which of :data:`GROUPS` it belongs to."""
        return next((group for group in GROUPS if self._is_in(group)), OTHERS)

    def _is_in(self, group: str) -> bool:
        ours, kernels = GROUPS[group]
        own = self.name.removeprefix("aten::")
        return re.search(ours, own) is not None if own != self.name else re.search(kernels, own, re.IGNORECASE) is not None


def operators(machine: Machine, part: Part, calls: int) -> list[Operator]:
    """Those of a call of a part, the largest first."""
    activities = [ProfilerActivity.CUDA] if machine.gpu else [ProfilerActivity.CPU]
    part.work()
    with profile(activities=activities, with_flops=True) as seen:
        machine.cost(part.work, calls)
    spent: list[Any] = list(seen.key_averages())
    own = "self_device_time_total" if machine.gpu else "self_cpu_time_total"
    found = [
        Operator(each.key, getattr(each, own) / calls / 1e3, each.count // calls, each.flops / getattr(each, own) / 1e3)
        for each in spent
        if getattr(each, own) > 0
    ]
    return sorted(found, key=lambda each: -each.milliseconds)


def tables(machine: Machine, parts: Sequence[Part], calls: int) -> list[Table]:
    """Groups of operators by part, then each part's largest operators."""
    found = {part.name.strip(): operators(machine, part, calls) for part in parts}
    groups = Table("group, share of a part's time", *found)
    for group in (*GROUPS, OTHERS):
        shares = [_share([each for each in seen if each.group == group], seen) for seen in found.values()]
        groups.add_row(group, *shares)
    groups.add_section()
    groups.add_row("ms under the profiler", *(f"{_sum(seen):.2f}" for seen in found.values()))
    largest = Table("part", "operator", "group", "calls", "ms", "share", "GFLOP/s")
    for name, seen in found.items():
        largest.add_section()
        for each in seen[:LARGEST]:
            rate = f"{each.gigaflops:.0f}" if each.gigaflops else ""
            own = str(each.calls), f"{each.milliseconds:.2f}", _share([each], seen), rate
            largest.add_row(name, each.name.removeprefix("aten::")[:40], each.group, *own)
    return [groups, largest]


def _sum(seen: Sequence[Operator]) -> float:
    return sum(each.milliseconds for each in seen)


def _share(some: Sequence[Operator], seen: Sequence[Operator]) -> str:
    return f"{_sum(some) / max(_sum(seen), 1e-9):.0%}"
