"""The env checker as a worker: checks the adapter in the simulator's own runtime and prints the findings."""

from __future__ import annotations

import base64
import json
import os
import sys
from dataclasses import asdict
from typing import Any

from ...envs.checker import check_env
from ...envs.errors import VlarigError
from ...envs.messages import Start, decode
from .simulator import load_adapter


def main(config: dict[str, Any]) -> None:
    """Check ``config["adapter"]`` on ``config["episodes"]`` (encoded Start messages); one line of JSON for each finding."""
    findings = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # simulators write to standard output as they please
    starts = [decode(base64.b64decode(text)) for text in config["episodes"]]
    episodes = [start.episode for start in starts if isinstance(start, Start)]
    try:
        lines = [asdict(finding) for finding in check_env(load_adapter(config["adapter"]), episodes)]
    except VlarigError as error:
        lines = [{"error": str(error)}]
    findings.writelines(json.dumps(line) + "\n" for line in lines)
    findings.close()
