"""LIBERO's initial states: one file a task, read without torch and without running a pickle's code.

Upstream saves a numpy array by ``torch.save``: a zip archive whose ``data.pkl`` is a pickle of that array (libero/libero/benchmark/
__init__.py, ``get_task_init_states``). Its operations are listed here, not carried out: the array's shape, type and bytes are literals
among them.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import VlarigError


def read_init_states(path: Path) -> np.ndarray:
    """A task's initial states, ``float64[states, 1 + nq + nv]``: MuJoCo's time, positions and velocities."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            operations = [(operation.name, argument) for operation, argument, _ in pickletools.genops(archive.read(name))]
        return _matrix(operations)
    except FileNotFoundError:
        raise VlarigError(f"{path} is missing; 'vlarig assets verify libero' lists what is") from None
    except (zipfile.BadZipFile, StopIteration, ValueError) as error:
        raise VlarigError(f"{path} holds no initial states ({error}); 'vlarig assets verify libero' checks it") from None


def _matrix(operations: list[tuple[str, Any]]) -> np.ndarray:
    """The matrix that a numpy pickle would make.

    Its numbers are a placeholder's length, the format's version, rows and columns; its words hold the type, the byte order and the
    values' bytes, written as Latin-1.
    """
    numbers = [argument for name, argument in operations if name.startswith("BININT")]
    words = [argument for name, argument in operations if name == "BINUNICODE"]
    if len(numbers) < 4 or "f8" not in words or "<" not in words:
        raise ValueError("its pickle is not that of a matrix of little-endian 64-bit floats")
    return np.frombuffer(max(words, key=len).encode("latin1"), dtype="<f8").reshape(numbers[2], numbers[3])
