"""What the scripts that measure simulators share: they ask a script in the simulator's runtime, and print medians."""

from __future__ import annotations

import base64
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

from vlarig.envs.api import Episode, Needs
from vlarig.envs.messages import Start, encode
from vlarig.harness.workplace import Workplace


def ask(workplace: Workplace, script: str, episode: Episode, **question: Any) -> Any:
    """Start ``script``, of this folder, in the suite's runtime with a question, and return its answer."""
    start = Start(0, 0, episode, Needs())
    told = {"packages": workplace.packages(), "start": base64.b64encode(encode(start)).decode(), **question}
    command = [str(workplace.runtime.python), "-I", str(Path(__file__).with_name(script))]
    done = subprocess.run(
        command, input=json.dumps(told) + "\n", stdout=subprocess.PIPE, text=True, check=True, env=workplace.environment()
    )
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], digits: int) -> tuple[str, str]:
    """The median and the range of some measurements."""
    return f"{statistics.median(values):.{digits}f}", f"{min(values):.{digits}f} to {max(values):.{digits}f}"
