"""The bare loop: one simulator process that plays episodes back to back, with no harness at all.

Run by the runtime's interpreter, with a line of JSON on standard input: ``packages``, ``adapter``, ``episodes`` (encoded Start
messages) and ``actions``. It loads, says so, waits for another line, plays, and says how many rows a second it made.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    """Play."""
    told = json.loads(sys.stdin.readline())
    spec = importlib.util.spec_from_file_location(
        "worker", Path(told["packages"]["vlarig.harness"]).parent / "simulation" / "worker.py"
    )
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    sys.meta_path.insert(0, worker.PackageFinder(told["packages"]))
    messages = importlib.import_module("vlarig.envs.messages")
    module_name, _, class_name = told["adapter"].partition(":")
    env = getattr(importlib.import_module(module_name), class_name)()
    starts = [messages.decode(base64.b64decode(text)) for text in told["episodes"]]
    actions = np.array(told["actions"], dtype=np.float32)
    env.open(starts[0].episode, starts[0].needs)
    env.step_chunk(actions)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    rows, began = 0, time.perf_counter()
    for start in starts:
        env.open(start.episode, start.needs)
        over = False
        while not over:
            result = env.step_chunk(actions)
            rows += len(result.rows)
            over = result.over
    sys.stdout.write(f"{rows / (time.perf_counter() - began)}\n")


if __name__ == "__main__":
    main()
