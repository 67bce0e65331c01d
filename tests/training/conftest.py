"""Trainings of tests compute in one thread, as all processes of a training on a CPU do; their processes share what is imported."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import get_context

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def imported_once() -> None:
    """Processes are forked from a server, DataLoaders' workers too; it imports the training once, which takes each of them seconds."""
    get_context("forkserver").set_forkserver_preload(["vlarig.training.trainer"])
