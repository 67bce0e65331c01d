"""A suite's simulator on this machine: its recipe, and its child process as a supervisor sees it.

A recipe is the interpreter, the renderer, the data files, and the code that the worker takes from the driver. A process has its share
of the memory and its log.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ...benchmarks.suite import Suite
from ...envs import simulation
from ...envs.api import Episode
from ...envs.assets.bundle import Bundle, find_bundle
from ...envs.errors import BadMessageError, VlarigError
from ...envs.framing import Frame
from ...envs.messages import LOST, MEMORY, PREPARE, START, STEP, Failure, Welcome, decode
from ...envs.runtimes.runtime import Runtime, find_runtime
from ...envs.runtimes.spec import Renderer, choose_renderer, keep_renderer, load_spec, spec_names
from ...envs.sources import Source, check_unchanged, find_sources, source_hashes
from ...envs.wire import pack
from .child import Child, Launcher
from .child_config import ChildConfig, ChildDied
from .launcher import excess_of, resident_bytes

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
        """The command line of a worker in that role; see :mod:`vlarig.envs.simulation.worker`."""
        return [str(self.runtime.python), "-I", str(Path(simulation.__file__).with_name("worker.py")), role]

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
        for name in ["vlarig.envs", *([] if top == "vlarig" else [top])]:
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
    """The answers of a worker to a question of :mod:`vlarig.envs.simulation.check`, as they come."""
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


#: Part of the room for leaks; the room is the share less the memory of a simulator whose envs all run. When this part is used up, the
#: process is replaced where an episode begins, which costs no episode. The rest is for an episode that needs more memory than others,
#: and for what a leak adds until an episode begins.
ROOM_FOR_LEAKS = 0.5

_GB = 10**9

#: Bytes of the beginning, and of the end, that a log keeps. It may be this much longer before its middle is left out.
KEPT_BYTES = 2 * 2**20

LEFT_OUT = b"\n[the middle of this log is left out; its first and last %d MiB are kept]\n" % (KEPT_BYTES // 2**20)


class MemoryShare:
    """A simulator's share of the machine's memory in bytes: when to replace its process before it exceeds the share and is killed."""

    def __init__(self, pid: int, share: int | None) -> None:
        self._pid = pid
        self._share = share
        self._begun: set[int] = set()
        self._settled: int | None = None

    def leak(self, env: int) -> str | None:
        """Why the process should be replaced before an episode begins in ``env``, in words; ``None`` if it should not.

        Each env takes memory when it begins its first episode in the process. The memory at the first second episode of an env is what
        a fresh process needs too; growth is counted from there. So every process finishes some episodes, also with a small share.
        """
        if self._share is None:
            return None
        if env not in self._begun:
            self._begun.add(env)
            return None
        resident = resident_bytes(self._pid)
        if self._settled is None:
            self._settled = resident
        if resident <= self._settled + ROOM_FOR_LEAKS * (self._share - self._settled):
            return None
        return f"grew from {self._settled / _GB:.1f} to {resident / _GB:.1f} GB, its share of the memory is {self._share / _GB:.1f} GB"


class Simulator:
    """A worker's process that has loaded its adapter, as :meth:`start` makes it. Only the heads of frames are read.

    Attributes:
        first: The frame that it sent when it was loaded.
        welcome: That frame's message.
    """

    first: Frame
    welcome: Welcome

    def __init__(
        self, child: Child, worker_spec: WorkerSpec, output: Callable[[bytes], None], memory_bytes: int | None
    ) -> None:
        self._child = child
        self._output = output
        self._patience = worker_spec.suite.patience
        self._memory = MemoryShare(child.pid, memory_bytes)
        self._steps: dict[int, int] = {}

    @classmethod
    async def start(
        cls, launcher: Launcher, worker_spec: WorkerSpec, output: Callable[[bytes], None], memory_bytes: int | None = None
    ) -> Self:
        """Start the process and wait until its adapter is loaded.

        Raises:
            CodeChangedError: Its code changed since the run began.
            ChildDied: The process died while it loaded.
        """
        adapter = worker_spec.suite.adapter
        await asyncio.to_thread(check_unchanged, worker_spec.files.items())
        config = ChildConfig(
            command=worker_spec.command("simulator"),
            environment=worker_spec.environment(),
            greeting={"adapter": adapter, "packages": worker_spec.packages()},
            load_seconds=worker_spec.suite.patience.load,
            output=output,
            memory_bytes=memory_bytes,
        )
        child = await launcher.start(config)
        simulator = cls(child, worker_spec, output, memory_bytes)
        try:
            simulator.first = await child.receive()
            simulator.welcome = _welcome(simulator.first, adapter)
            excess = excess_of(child.pid, memory_bytes)  # the launcher may check later
            if excess is not None:
                raise ChildDied(MEMORY, f"the simulator {excess}")
            await asyncio.to_thread(check_unchanged, worker_spec.files.items())  # now that it has been read
        except ChildDied as death:
            await child.end()
            reason = f"{adapter} did not load: {death}"
            raise VlarigError(reason) if death.kind == MEMORY else ChildDied(LOST, reason) from None
        except BaseException:
            await child.end()
            raise
        return simulator

    @property
    def pid(self) -> int:
        return self._child.pid

    async def send(self, frame: Frame) -> None:
        """Send it a request.

        Raises:
            BadMessageError: The frame is no request.
        """
        if frame.kind == START:
            leak = self._memory.leak(frame.env)
            if leak is not None:
                self._child.kill(LOST, f"the simulator {leak}")
            self._steps[frame.env] = frame.steps
            await self._child.send(frame, self._patience.reset)
        elif frame.kind == STEP:
            steps = min(frame.steps, self._steps.get(frame.env, 1))
            await self._child.send(frame, self._patience.step * max(1, steps))
        elif frame.kind == PREPARE:
            await self._child.send(frame, self._patience.prepare)
        else:
            raise BadMessageError(f"a message of kind {frame.kind} out of turn; expected Start, Step or Prepare")

    async def sent(self) -> None:
        await self._child.sent()

    async def receive(self) -> Frame:
        try:
            return await self._child.receive()
        except ChildDied as death:
            with contextlib.suppress(OSError):  # the disk is full
                self._output(f"supervisor: {death}\n".encode())
            raise

    async def end(self, seconds: float = 0.0) -> None:
        await self._child.end(seconds)


def _welcome(frame: Frame, adapter: str) -> Welcome:
    """A worker's first message."""
    reply = decode(frame)
    if isinstance(reply, Failure):
        raise VlarigError(reply.message, traceback=reply.traceback)
    if not isinstance(reply, Welcome):
        raise BadMessageError(f"{adapter} sent {type(reply).__name__} instead of Welcome")
    return reply


class WorkerLog:
    """A worker's log, a file of bounded size: the beginning and the end of its output. What is there already stays, and counts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        """Make sure that it can be written.

        Raises:
            OSError: It cannot.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab"):
            pass

    def add(self, data: bytes) -> None:
        """Append to the file, and leave out its middle where it has become too long."""
        with self._path.open("a+b") as file:
            file.write(data)
            file.flush()
            if file.tell() > 3 * KEPT_BYTES:
                file.seek(-KEPT_BYTES, os.SEEK_END)
                last = file.read()
                file.truncate(KEPT_BYTES)
                file.write(LEFT_OUT + last)
