"""The speed scripts as modules, for tests: they import each other by their bare names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "speed"


@contextmanager
def speed_scripts(*names: str) -> Iterator[list[ModuleType]]:
    """Some of the scripts; afterwards no module of the process is one of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        own = [each.stem for each in FOLDER.glob("*.py")]
        for name in own:
            patch.delitem(sys.modules, name, raising=False)
        yield [importlib.import_module(name) for name in names]
        for name in own:
            sys.modules.pop(name, None)
