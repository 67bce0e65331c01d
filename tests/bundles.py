"""Data files of simulators, for tests that need no runtime."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlarig.envs.assets.bundle import find_bundle
from vlarig.envs.errors import VlarigError


def bundle_folder(name: str) -> Path:
    """Where the files of a bundle are; a test on a machine that lacks them is skipped."""
    try:
        return find_bundle(name).folder
    except VlarigError as error:
        pytest.skip(f"no data files: {error}")
