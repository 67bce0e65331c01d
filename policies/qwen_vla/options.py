"""Options of a Qwen-VLA on the command line. Nothing here needs torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..options import Options


class QwenVlaOptions(Options):
    """Options of a Qwen-VLA beside its checkpoint."""

    steps: int = Field(default=4, ge=1, le=1000)
    """Euler steps of a chunk, 'a few' in the paper."""
    temperature: float = Field(default=0.6, ge=0, allow_inf_nan=False)
    """Standard deviation of the noise that a chunk starts from; 0.6 is the paper's at evaluation (section 4.2)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights; what the flow is computed in stays float32."""
    compute: Literal["float32", "bfloat16"] | None = None
    """Precision that matrices are multiplied in; by default that of the weights."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1; auto takes a GPU where there is one."""
    threads: int = Field(default=1, ge=1)
    """Threads on a CPU. The simulators need the other cores, and threads that wait for each other are far slower than one."""
    compile: bool = False
    """Let torch.compile translate the model; its first chunks are compared with the plain model's."""
    kernels: Literal["auto", "off"] = "auto"
    """Kernels of flash-linear-attention and causal-conv1d, where they are installed: auto takes them for bfloat16 on a GPU."""
    seed: int = 0
    """Seed of a preset's random weights, of 64 bits."""
    backbone: str | None = None
    """For a preset: folder or hub id of a trained Qwen3.5 to take the backbone from."""
    zero_shot: str | None = None
    """For robots that the checkpoint was not trained on: the one of its embodiments whose statistics to keep (section 4.2)."""
