"""Faster ways to the same chunk: which there are here, and the check that it is the same.

``torch.compile`` is used where it is asked for. Kernels of flash-linear-attention and causal-conv1d are taken by transformers itself
where they are installed. Whatever is taken has to give, in float32, the plain model's chunks up to :data:`LARGEST_DIFFERENCE`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.models.qwen3_5 import modeling_qwen3_5

from ..api import PolicyError
from .model import QwenVla

#: Largest difference that a faster way may make to a number of a normalised chunk, by the weights' precision. In bfloat16 two orders
#: of summation differ by its rounding already, 3.4e-2 at most where that was measured.
LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}

#: Package to the functions of transformers that use it where it is installed
#: (transformers models/qwen3_5/modeling_qwen3_5.py, v5.23.0).
_KERNELS = {"fla": "torch_chunk_gated_delta_rule", "causal_conv1d": "causal_conv1d_fn"}


@dataclass(frozen=True)
class Acceleration:
    """One faster way.

    Attributes:
        name: What it is called.
        available: Whether it could be used on this machine.
        note: What is known of it here.
    """

    name: str
    available: bool
    note: str


def accelerations() -> list[Acceleration]:
    """Every faster way that is known, and whether this machine has it."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    has_compiler = importlib.util.find_spec("triton") is not None if torch.cuda.is_available() else compiler is not None
    found = [
        Acceleration(
            "torch.compile",
            has_compiler,
            "with compile=true; checked when loaded" if has_compiler else "unproven here: no compiler",
        )
    ]
    for package in _KERNELS:
        here = importlib.util.find_spec(package) is not None
        found.append(
            Acceleration(package, here, "used by transformers; checked when loaded" if here else "unproven here: not installed")
        )
    return found


def compile_model(model: QwenVla) -> None:
    """Have torch compile what an answer spends its time in, for batches and prompts of any size; it happens at the first chunk."""
    model.expert.compile(dynamic=True)
    model.backbone.model.language_model.compile(dynamic=True)


def uses_kernels() -> bool:
    """Whether transformers takes other kernels than torch's own."""
    return any(importlib.util.find_spec(package) is not None for package in _KERNELS)


def check_acceleration(chunk: Callable[[], Tensor], dtype: torch.dtype) -> float:
    """Compare chunks as they are computed now with those of the plain model.

    Args:
        chunk: Computes a normalised chunk, the same whenever it is called.
        dtype: Precision of the weights.

    Returns:
        The largest difference.

    Raises:
        PolicyError: It is too large, or what was compiled does not run.
    """
    with plain():
        expected = chunk()
    try:
        difference = float((chunk() - expected).abs().max())
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PolicyError(
            f"the accelerated model does not run here ({first}); drop compile=true, or mend the kernels"
        ) from None
    if not difference <= LARGEST_DIFFERENCE[dtype]:
        raise PolicyError(
            f"the accelerated model differs from the plain one by {difference:.1e} of a chunk's range, more than "
            f"{LARGEST_DIFFERENCE[dtype]:.0e}; drop compile=true, or remove the kernels ({', '.join(_KERNELS)})"
        )
    return difference


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Compute without compiled code and with torch's own kernels."""
    before = {name: getattr(modeling_qwen3_5, name) for name in _KERNELS.values()}
    for name, function in before.items():
        setattr(modeling_qwen3_5, name, inspect.unwrap(function))
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for name, function in before.items():
            setattr(modeling_qwen3_5, name, function)
