"""What a worker in a role of one question answers: ``check`` or ``contract``, in a process of its own in the suite's runtime."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from ..envs.api import Episode
from ..envs.errors import VlarigError
from ..envs.wire import pack
from .worker_spec import WorkerSpec


def encoded(episode: Episode) -> str:
    """The episode as text, for a request."""
    return base64.b64encode(pack(episode)).decode()


def worker_answers(worker_spec: WorkerSpec, role: str, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers to a request, as they come; the adapter and its packages are added to it."""
    suite = worker_spec.suite
    whole = {"adapter": suite.adapter, "packages": worker_spec.packages(), **request}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            worker_spec.command(role),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=worker_spec.environment(),
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        with contextlib.suppress(BrokenPipeError), worker.stdin:
            worker.stdin.write(json.dumps(whole) + "\n")
        found = False
        for line in worker.stdout:
            answer = json.loads(line)
            if "error" in answer:
                raise VlarigError(answer["error"])
            found = True
            yield answer
        if worker.wait() != 0 or not found:
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or ["it printed nothing"]
            what = "checker" if role == "check" else role
            raise VlarigError(f"the {what} of {suite.name!r} ended with status {worker.returncode}: {last[0]}")
