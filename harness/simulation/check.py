"""The env checker as a worker: checks the adapter in the simulator's own runtime and prints the findings."""

from __future__ import annotations

import base64
import json
import os
import sys
from dataclasses import asdict
from typing import Any

from ...envs.api import Episode
from ...envs.checker import each_finding
from ...envs.errors import VlarigError
from ...envs.faults import describe
from ...envs.wire import unpack
from .simulator import load_adapter


def main(config: dict[str, Any]) -> None:
    """Check ``config["adapter"]`` on ``config["episodes"]`` (encoded); one line of JSON for each finding, at once."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as findings:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # simulators write to standard output as they please
        episodes = [unpack(base64.b64decode(text), Episode) for text in config["episodes"]]
        try:
            for finding in each_finding(load_adapter(config["adapter"]), episodes):
                findings.write(json.dumps(asdict(finding)) + "\n")
        except BaseException as error:
            message = str(error) if isinstance(error, VlarigError) else describe(error)
            findings.write(json.dumps({"error": message}) + "\n")
