"""What a run of PPO begins with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from reaching import clone

from vlarig.envs.home import one_at_a_time


@pytest.fixture(scope="session")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that arrives beside the goal; processes that run tests side by side share it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "reaching"
    with one_at_a_time(folder.with_suffix(".lock"), "the policy that is tuned", print):
        return clone(folder) if not (folder / "policy").exists() else folder / "policy"


@pytest.fixture
def home(cloned: Path, toy_home: Path) -> None:
    """A working directory in which it is ``sft/policy``."""
    shutil.copytree(cloned, Path("sft", "policy"))
