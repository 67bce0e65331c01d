"""Where a suite's simulator runs on this machine: its interpreter, renderer and data files, and the code it takes from the driver."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ..benchmarks.suite import Suite
from ..envs.api import Episode
from ..envs.errors import VlarigError
from ..envs.sources import Source, find_sources, source_hashes
from ..envs.wire import pack
from .assets.bundle import Bundle, find_bundle
from .runtimes.runtime import Runtime, find_runtime
from .runtimes.spec import Renderer, choose_renderer, keep_renderer, load_spec, spec_names

#: Numeric libraries are pinned to one thread a process: parallelism is one simulator a core.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
) | {"LP_NUM_THREADS": "0"}


#: Names of environment variables that hold secrets, such as VLARIG_ENVS_TOKEN, HF_TOKEN and AWS_SECRET_ACCESS_KEY, or lead to some.
SECRET = re.compile(
    r"(^|_)(TOKENS?|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?|(API|ACCESS|PRIVATE|SECRET)_?KEY|SSH_AUTH_SOCK)(_|$)", re.IGNORECASE
)


@dataclass(frozen=True)
class WorkerSpec:
    """The recipe of a worker process.

    Attributes:
        suite: The suite whose adapter it loads.
        runtime: The interpreter with the simulator.
        renderer: The renderer of its images; ``None`` for a runtime whose needs vlarig does not know.
        assets: The data files that it needs.
        sources: The adapter's code as it was found, if it is not vlarig's own.
    """

    suite: Suite
    runtime: Runtime
    renderer: Renderer | None
    assets: tuple[Bundle, ...] = ()
    sources: tuple[Source, ...] = ()

    @classmethod
    def of(cls, suite: Suite) -> Self:
        runtime = find_runtime(suite.runtime)
        renderer = choose_renderer(load_spec(suite.runtime)) if suite.runtime in spec_names() else None
        sources = find_sources([suite.adapter.partition(":")[0]])
        return cls(suite, runtime, renderer, tuple(find_bundle(name) for name in suite.assets), tuple(sources))

    def rendered_by(self, renderers: Collection[str], run: str) -> Self:
        """The same with the renderer that a run was begun with, also where this machine prefers another.

        Args:
            renderers: Names of the renderers of all the run's suites.
            run: Name of the run, for the message.
        """
        if self.renderer is None:
            return self
        return replace(self, renderer=keep_renderer(load_spec(self.suite.runtime), renderers, self.renderer, run))

    def command(self, role: str) -> list[str]:
        """The command line of a worker in that role; see :mod:`vlarig.harness.simulation.worker`."""
        return [str(self.runtime.python), "-I", str(Path(__file__).parent / "simulation" / "worker.py"), role]

    def environment(self) -> dict[str, str]:
        """The worker's environment variables: the driver's without :data:`SECRET` ones, which no simulator needs."""
        own = {name: value for name, value in os.environ.items() if not SECRET.search(name)}
        folders = {bundle.variable: str(bundle.folder) for bundle in self.assets}
        return own | ONE_THREAD | ({} if self.renderer is None else self.renderer.environment) | folders

    @property
    def files(self) -> dict[str, str]:
        """The adapter's files as they were found, each with its SHA-256; none for an adapter of vlarig's own."""
        return {str(path): contents for source in self.sources for path, contents in source.files}

    def code(self) -> str:
        """SHA-256 of vlarig's modules that a worker takes from the driver, and of the adapter's code as it was found."""
        digest = hashlib.sha256()
        for name, file in sorted(self.packages().items()):
            if name.startswith("vlarig."):
                folder = Path(file).parent
                for each in sorted(folder.rglob("*.py")):
                    digest.update(f"{name} {each.relative_to(folder)} ".encode() + each.read_bytes() + b"\0")
        for name, contents in source_hashes(self.sources).items():
            digest.update(f"{name} {contents}".encode() + b"\0")
        return digest.hexdigest()

    def packages(self) -> dict[str, str]:
        """The modules that a worker takes from the driver: name to file."""
        top = adapter_module(self.suite)
        files = {}
        for name in ["vlarig.envs", "vlarig.harness", *([] if top == "vlarig" else [top])]:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                raise VlarigError(
                    f"the adapter {self.suite.adapter} needs the module {name!r}, which is not installed beside vlarig"
                )
            files[name] = spec.origin
        return files


def adapter_module(suite: Suite) -> str:
    """The top-level module of the suite's adapter."""
    return suite.adapter.partition(":")[0].partition(".")[0]


def encoded(episode: Episode) -> str:
    """The episode as text, for a request."""
    return base64.b64encode(pack(episode)).decode()


def worker_answers(worker_spec: WorkerSpec, question: str, **config: Any) -> Iterator[dict[str, Any]]:
    """The answers of a worker to a question of :mod:`vlarig.harness.simulation.check`, as they come."""
    suite = worker_spec.suite
    whole = {"adapter": suite.adapter, "packages": worker_spec.packages(), "question": question, **config}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            worker_spec.command("check"),
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
            raise VlarigError(f"the checker of {suite.name!r} ended with status {worker.returncode}: {last[0]}")
