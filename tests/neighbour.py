"""Another machine, from a sweep's view: an env server in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys


class Neighbour:
    """``vlarig serve envs`` with these options and environment variables."""

    def __init__(self, *words: str, **variables: str) -> None:
        self._words, self._variables = words, variables
        self.start(0)

    def start(self, port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vlarig.harness", "serve", "envs", "--port", str(port), "--workers", "2", *self._words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | self._variables,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout.readline()
        found = re.search(r"at (wss?)://[^ ]*:([0-9]+):", self.output)
        if found is None:
            self.process.wait(30)
            assert self.process.stderr is not None
            self.output = self.process.stderr.read()
            return
        self.port = int(found[2])
        self.host = f"{found[1]}://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def end(self) -> str:
        """Stop it; returns its standard error."""
        self.process.terminate()
        _, errors = self.process.communicate(timeout=30)
        return errors
