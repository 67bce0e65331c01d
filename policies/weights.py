"""Weights on their way from a training to the replicas of its policy: a file in the format safetensors."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.errors import not_importable
from .api import PolicyError


def save_weights(state: Mapping[str, Any], file: Path) -> None:
    """Write tensors by name, of torch or of numpy, to a file."""
    try:
        if all(isinstance(tensor, np.ndarray) for tensor in state.values()):
            from safetensors.numpy import save_file
        else:
            from safetensors.torch import save_file

            # Copies of what is not laid out in order, and of tied weights, which the format does not have.
            owners = {tensor.data_ptr(): name for name, tensor in state.items()}
            state = {
                name: (tensor if owners[tensor.data_ptr()] == name else tensor.clone()).detach().contiguous()
                for name, tensor in state.items()
            }
        save_file(dict(state), file)
    except ImportError as error:
        raise _missing(error) from None
    except OSError as error:
        raise PolicyError(f"the weights for the replicas cannot be written to {file} ({error}); make room there") from None


def read_weights(file: Path) -> dict[str, Any]:
    """Tensors by name: of torch in a process that has imported it, else of numpy."""
    try:
        from safetensors import SafetensorError
    except ImportError as error:
        raise _missing(error) from None
    if "torch" in sys.modules:
        from safetensors.torch import load_file
    else:
        from safetensors.numpy import load_file
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise PolicyError(f"the weights at {file} cannot be read ({error})") from None


def _missing(error: ImportError) -> PolicyError:
    return PolicyError(not_importable("replicas need", error, "policy"))
