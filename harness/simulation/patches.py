"""Which patches upstream still needs, as a worker: each is asked in a process of its own, in which nothing is patched."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from ...envs.faults import describe
from .simulator import load_adapter


def main(config: dict[str, Any]) -> None:
    """One line of JSON for each patch of ``config["adapter"]``: its name, and whether it is needed, or an error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # simulators write to standard output as they please
        for patch in load_adapter(config["adapter"]).patches:
            child = os.fork()
            if child == 0:
                try:
                    answer = {"patch": patch.name, "needed": patch.needed()}
                except BaseException as error:
                    answer = {"patch": patch.name, "error": describe(error)}
                answers.write(json.dumps(answer) + "\n")
                answers.flush()
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                answers.write(json.dumps({"patch": patch.name, "error": "its process died"}) + "\n")
