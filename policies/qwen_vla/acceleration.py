"""Faster ways to the same chunk, and the check that it stays the same.

``torch.compile`` is used on request. Kernels of flash-linear-attention and causal-conv1d are taken by transformers itself
where they are installed, whatever the device and the precision; they are made for a GPU, and flash-linear-attention refuses float32.
A model that computes in anything but bfloat16 on a GPU is therefore made to compute without them, others of its process are not.
Whatever is taken has to give the plain model's chunks up to :data:`LARGEST_DIFFERENCE`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import shutil
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.models.qwen3_5 import modeling_qwen3_5

from ..api import PolicyError
from .model import QwenVla

#: Largest difference that a faster way may make to a number of a normalised chunk, by the precision it computes in. In bfloat16 two
#: orders of summation differ by its rounding already, 3.4e-2 at most where that was measured.
LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}

#: Package to the functions of transformers that use it where it is installed
#: (transformers models/qwen3_5/modeling_qwen3_5.py, v5.23.0).
_KERNELS = {"fla": "torch_chunk_gated_delta_rule", "causal_conv1d": "causal_conv1d_fn"}


def accelerations() -> dict[str, str]:
    """Every known faster way, and its state on this machine."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    has_compiler = importlib.util.find_spec("triton") is not None if torch.cuda.is_available() else compiler is not None
    compiled = "with compile=true; checked when loaded" if has_compiler else "unproven here: no compiler"
    found = {"torch.compile": compiled}
    for package, used in kernels_in_use().items():
        found[package] = "for bfloat16 on a GPU; checked when loaded" if used else "unproven here: not installed"
        if not used and importlib.util.find_spec(package) is not None:
            found[package] = "unproven here: installed, and transformers does not use it"
    return found


def compile_model(model: QwenVla) -> None:
    """Have torch compile the costly parts of an answer, for batches and prompts of any size; it happens at the first chunk."""
    model.expert.compile(dynamic=True)
    model.backbone.model.language_model.compile(dynamic=True)


def attention_for_training(device: torch.device, compute: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """On a CPU in bfloat16, have attention be plain matrix products, which torch then computes in float32, for the block.

    torch's fused attention takes some 1.8 times as long there, backward pass included, at the lengths of this model's prompts, and errs
    as much (torch 2.13). Products and sums in bfloat16 would take two thirds of the time of float32's, and err twice as much.
    """
    plain_products = device.type == "cpu" and compute == torch.bfloat16
    return sdpa_kernel(SDPBackend.MATH) if plain_products else contextlib.nullcontext()


def kernels_in_use() -> dict[str, bool]:
    """By package, whether transformers computes with its kernels; what is installed and does not import is not used."""
    return {package: _is_foreign(getattr(modeling_qwen3_5, name)) for package, name in _KERNELS.items()}


def choose_kernels(model: QwenVla, device: torch.device) -> bool:
    """Leave the model transformers' kernels where they are made for it, in bfloat16 on a GPU; whether it computes with any."""
    if model.compute == torch.bfloat16 and device.type == "cuda":
        return any(kernels_in_use().values())
    use_torch_kernels(model)
    return False


def use_torch_kernels(model: QwenVla) -> None:
    """Have this model's linear attentions compute with torch's own functions from now on.

    Transformers' layer finds them as globals of its module; each layer of the model gets that method with other globals. Where no
    kernel is in use nothing changes: torch.compile cannot trace a method with other globals than its module's.
    """
    if not any(kernels_in_use().values()):
        return
    own = {name: inspect.unwrap(getattr(modeling_qwen3_5, name)) for name in _KERNELS.values()}
    for layer in _linear_attentions(model):
        method = inspect.unwrap(type(layer).forward)
        plain_method = types.FunctionType(
            method.__code__, method.__globals__ | own, method.__name__, method.__defaults__, method.__closure__
        )
        plain_method.__kwdefaults__ = method.__kwdefaults__
        layer.forward = types.MethodType(plain_method, layer)


def _linear_attentions(model: QwenVla) -> list[nn.Module]:
    return [each for each in model.modules() if isinstance(each, modeling_qwen3_5.Qwen3_5GatedDeltaNet)]


def check_acceleration(model: QwenVla, chunks: Callable[[], Tensor], remedies: Sequence[str]) -> float:
    """Compare chunks as they are computed now with those of the plain model.

    Args:
        model: The network.
        chunks: Computes normalised chunks with it, the same whenever it is called.
        remedies: What to do about each faster way that is on: ``drop compile=true``.

    Returns:
        The largest difference.
    """
    with plain(model):
        expected = chunks()
    try:
        difference = float((chunks() - expected).abs().max())
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PolicyError(f"the accelerated model does not run here ({first}); {' or '.join(remedies)}") from None
    largest = LARGEST_DIFFERENCE[model.compute]
    if not difference <= largest:
        raise PolicyError(
            f"the accelerated model differs from the plain one by {difference:.1e} of a chunk's range, more than "
            f"{largest:.0e}; {' or '.join(remedies)}"
        )
    return difference


@contextlib.contextmanager
def plain(model: QwenVla) -> Iterator[None]:
    """Compute without compiled code and with torch's own kernels, in this model."""
    before = [(layer, vars(layer).get("forward")) for layer in _linear_attentions(model)]
    use_torch_kernels(model)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for layer, forward in before:
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward


def _is_foreign(function: Any) -> bool:
    """Whether a wrapper of transformers calls another function than the torch one that it wraps.

    What it calls is a variable of its closure (transformers integrations/hub_kernels.py,
    ``use_kernel_func_from_hub_with_fallback``, v5.23.0); another kind of wrapper counts as foreign.
    """
    own = inspect.unwrap(function)
    if function is own:
        return False
    variables = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    return variables.get("implementation") is not own
