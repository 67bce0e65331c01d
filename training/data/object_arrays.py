"""Plain data out of a numpy file that others wrote as a pickle, without calling what the pickle names.

``np.save`` of a dictionary is a pickle, which can call any function when it is loaded. Here it finds those alone that numpy's arrays,
scalars and dtypes are made of (Python's documentation of ``pickle``, "Restricting Globals").
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError


def _encode(text: str, encoding: str) -> bytes:
    """How Python 2 wrote bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"it encodes in {encoding!r}")
    return text.encode("latin1")


#: What numpy's own pickles call, under the module names of numpy 1 and 2.
_CALLED = {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.float64().__reduce__()[0]}
_KNOWN: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", name): made for core in ("core", "_core") for name, made in _CALLED.items()},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """One that finds what is known to make plain data."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """What a pickle names."""
        if (module_name, global_name) not in _KNOWN:
            raise ValueError(f"it names '{module_name} {global_name}', which is no data")
        return _KNOWN[module_name, global_name]


def read_object(path: Path) -> Any:
    """The one object of a file by ``np.save(path, object)``: dictionaries, lists, tuples, text, numbers, arrays of numbers.

    Raises:
        DataError: There is no such file, or it holds something else.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(file)
            if shape != () or dtype.kind != "O":
                raise ValueError(f"it is an array {list(shape)} of {dtype}, expected one object")
            return _Unpickler(file).load()[()]
    except OSError as error:
        raise DataError(f"{path} does not read ({error.strerror}); check that it is there") from None
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise DataError(f"{path} holds no plain data of numpy ({error}); is it whole?") from None
