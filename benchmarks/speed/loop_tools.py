"""What the scripts that run inside a simulator's runtime share."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cpu(work: Callable[[], Any], count: int = 1) -> float:
    """CPU milliseconds of one of the ``count`` things that ``work`` does."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / count * 1e3


def proportional_megabytes() -> float:
    """Memory of this process in MB, its share of what it has in common with others (proportional set size)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def question() -> tuple[dict[str, Any], Any]:
    """What was asked on standard input, and its Start message; from here on the rooms can be imported."""
    told = json.loads(sys.stdin.readline())
    _find_packages(told["packages"])
    return told, importlib.import_module("vlarig.envs.messages").decode(base64.b64decode(told["start"]))


def answer(value: Any) -> None:
    """Answer on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")


def _find_packages(packages: dict[str, str]) -> None:
    """Let the interpreter import the rooms that the driver named."""
    spec = importlib.util.spec_from_file_location(
        "worker", Path(packages["vlarig.harness"]).parent / "simulation" / "worker.py"
    )
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    sys.meta_path.insert(0, worker.PackageFinder(packages))
