"""A fleet that Ray places: workers on the nodes of a Ray cluster, which may be lost and joined while a sweep runs.

Ray decides where a worker runs, and restarts it elsewhere when its node is lost; the sweep polls it for new nodes. A worker's actor
carries its frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...benchmarks.suite import Footprint
from ...envs.api import Episode
from ...envs.errors import BadMessageError, VlarigError, not_importable
from ...envs.framing import Frame, frame_of
from ...envs.home import home
from ...envs.messages import LOST, StartWorker, decode
from ...envs.wire import MAX_MESSAGE_BYTES
from ..children.child import Launcher
from ..children.child_config import ChildDied
from ..children.liveness import CLOSE_SECONDS, within
from ..children.simulator import Simulator, WorkerLog, WorkerSpec
from ..children.supervisor import MachineAwayError, WorkerLine
from ..sizing import Machine, Size, choose_size, memory_line, size_in_words
from ..workers import Worker, started
from .env_server import last_words, ready, recipe_of, start_simulator
from .fleets import Fleet, Lease, workers_for
from .remote_machines import order_for, ready_in, reply_in, welcome_in

#: Variable with Ray's way of authentication, and the only accepted value: any program that reaches a cluster without it can run any
#: code on the nodes.
AUTHENTICATION, AUTHENTICATED = "RAY_AUTH_MODE", "token"

#: Seconds that Ray may take to place a worker and to start it.
PLACE_SECONDS = 120.0

#: Seconds that Ray may take to notice that a worker's node is lost and to place the worker again; then other workers play its episodes.
PLACE_AGAIN_SECONDS = 15.0

#: Ray's variable for the largest result in bytes that an actor sends in its message to the caller (src/ray/common/ray_config_def.h,
#: 2.60.0). A larger one goes through its node's store of objects, which takes longer; Ray's default, 100 KiB, is half an image of 256 x
#: 256 pixels.
IN_ITS_MESSAGE = {"RAY_max_direct_call_object_size": str(MAX_MESSAGE_BYTES)}

#: Seconds between two queries of the cluster's free cores.
POLL_SECONDS = 2.0


class RayWorker:
    """A worker on the node where Ray has placed this actor, and what carries its frames, as bytes.

    Args:
        log: Name of the worker's log, in vlarig's home there.
    """

    def __init__(self, log: str) -> None:
        self._log = WorkerLog(home() / "logs" / log)
        self._launcher = Launcher()
        self._starting = asyncio.Lock()
        self._lease = ""
        self._simulator: Simulator | None = None
        self._listener: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    async def describe(self) -> tuple[str, str]:
        """The node's address, and the version of vlarig there."""
        import ray.util

        return ray.util.get_node_ip_address(), version("vlarig")

    async def start(self, order: bytes) -> list[bytes]:
        """Start the worker, in place of the one before: what the driver gets to know of it, and its first frame."""
        request = decode(frame_of(order))
        assert isinstance(request, StartWorker), request
        async with self._starting:
            await self.end(self._lease)
            try:
                worker_spec = recipe_of(request)
                simulator = await start_simulator(self._launcher, worker_spec, self._log, request.memory)
            except (VlarigError, ChildDied) as error:
                return [last_words(error).encoded()]
            self._lease, self._simulator = request.lease, simulator
            self._listener = asyncio.create_task(self._listen(simulator))
            return [ready(worker_spec, simulator.pid).encoded(), simulator.first.encoded()]

    async def carry(self, lease: str, message: bytes) -> bytes:
        """The reply to a request, or the worker's death."""
        if lease != self._lease or self._simulator is None or self._listener is None or self._listener.done():
            return last_words(ChildDied(LOST, "it has ended")).encoded()
        frame = frame_of(message)
        answered = self._waiting[frame.id] = asyncio.get_running_loop().create_future()
        await self._simulator.send(frame)
        return await answered

    async def end(self, lease: str) -> None:
        if lease == self._lease and self._simulator is not None and self._listener is not None:
            simulator, self._simulator = self._simulator, None
            await simulator.end()
            self._listener.cancel()
            await asyncio.wait({self._listener})

    async def _listen(self, simulator: Simulator) -> None:
        """Give each request its reply; then give the worker's death, which says what was running, to all that have none."""
        last = ChildDied(LOST, "it was ended")
        try:
            while True:
                frame = await simulator.receive()
                self._waiting.pop(frame.id).set_result(frame.encoded())
        except ChildDied as death:
            last = death
        finally:
            for answered in self._waiting.values():
                answered.set_result(last_words(last).encoded())
            self._waiting.clear()


class RaySimulator:
    """A worker as the driver sees it, behind the actor ``worker`` of a :class:`RayWorker`.

    Args:
        worker: The actor.
        lease: Id of the worker's process there.
        pid: Process id on its node.
    """

    def __init__(self, worker: Any, lease: str, pid: int) -> None:
        self.pid = pid
        self._worker = worker
        self._lease = lease
        self._done: asyncio.Queue[asyncio.Future[bytes]] = asyncio.Queue()

    async def send(self, frame: Frame) -> None:
        _result(self._worker.carry.remote(self._lease, frame.encoded())).add_done_callback(self._done.put_nowait)

    async def receive(self) -> Frame:
        import ray.exceptions

        call = await self._done.get()
        try:
            return reply_in(call.result())
        except (BadMessageError, ray.exceptions.RayError) as error:
            raise ChildDied(LOST, f"Ray has lost it ({_first_line(error)})") from None

    async def end(self, seconds: float = 0.0) -> None:
        import ray.exceptions

        with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
            await within(_result(self._worker.end.remote(self._lease)), CLOSE_SECONDS)


class PlacedWorker(Worker):
    """A worker on the node where Ray has placed it; ``actor`` is that of a :class:`RayWorker`."""

    def __init__(self, number: int, actor: Any, log: str, worker_spec: WorkerSpec, memory_bytes: int) -> None:
        super().__init__(number, worker_spec, memory_bytes, f"logs/{log} in vlarig's home on its node", "ray")
        self.actor = actor
        self._patience = PLACE_SECONDS

    async def launch(self) -> WorkerLine:
        import ray.exceptions

        lease = secrets.token_hex(16)
        try:
            placed = self.actor.describe.options(max_task_retries=-1).remote()
            host, vlarig = await within(_result(placed), self._patience)
            order = order_for(self._worker_spec, self._memory_bytes, lease)
            answer, *rest = await _result(self.actor.start.remote(order.encoded()))
        except TimeoutError:
            raise MachineAwayError(f"Ray has placed it nowhere within {self._patience:g} s") from None
        except ray.exceptions.RayError as error:
            raise MachineAwayError(f"Ray cannot run it ({_first_line(error)})") from None
        simulator = RaySimulator(self.actor, lease, 0)
        try:
            simulator.pid = ready_in(answer, self._worker_spec, f"the node {host} of the Ray cluster", vlarig).pid
            embodiment = welcome_in(*rest).embodiment
        except BaseException as error:
            await simulator.end()
            if isinstance(error, BadMessageError):
                raise ChildDied(LOST, str(error)) from None
            raise
        self._patience = PLACE_AGAIN_SECONDS
        return WorkerLine(simulator, embodiment)


class RayFleet(Fleet):
    """The nodes of a Ray cluster. Use it inside :func:`connected` only.

    Args:
        workers: Workers in all; one for each free core, also of nodes that join, when ``None``.
        num_envs: Envs in all, without those of workers on nodes that join; as many as memory allows when ``None``.
    """

    def __init__(self, workers: int | None = None, num_envs: int | None = None) -> None:
        self._workers = workers
        self._num_envs = num_envs
        self._placed: list[PlacedWorker] = []
        self._numbers = itertools.count()

    def for_envs(self, count: int, share: float) -> RayFleet:
        return RayFleet(workers_for(count, self._workers or _free_cores(), share), count)

    def lease(self, footprint: Footprint, episodes: Sequence[Episode]) -> Lease:
        """On each node as many workers as its cores and memory allow."""
        nodes = _nodes()
        if not nodes:
            raise VlarigError("the Ray cluster has no node with a core; start one with 'ray start --address=HEAD --num-cpus=N'")
        sizes = [choose_size(footprint, episodes, node) for node in nodes]
        room = min(sum(size.workers for size in sizes), _free_cores())
        if room < 1:
            raise VlarigError("no core of the Ray cluster is free; wait, add a node, or take fewer --replicas")
        workers = min(self._workers or room, room, len(episodes), self._num_envs or room)
        each = math.ceil(self._num_envs / workers) if self._num_envs else min(size.envs_per_worker for size in sizes)
        num_envs = self._num_envs or workers * each
        sizes = [
            choose_size(footprint, episodes, node, size.workers, size.workers * each)
            for node, size in zip(nodes, sizes, strict=True)
        ]
        share = min(size.memory_share for size in sizes)
        memory = workers * max(size.memory // size.workers for size in sizes)
        free = sum(node.memory for node in nodes)
        reason = (
            f"{size_in_words(workers, num_envs)} on {len(nodes)} nodes of a Ray cluster ({sum(node.cores for node in nodes)} cores); "
            f"{memory_line(memory, free)}"
        )
        return Lease((Size(workers, num_envs, memory, share, reason),), num_envs, reason)

    @contextlib.asynccontextmanager
    async def launch(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[Sequence[Worker]]:
        """Workers as Ray places them, those that join later among them when they are ended."""
        try:
            async with started([self._start_worker(worker_spec, lease) for _ in range(lease.workers)]) as workers:
                yield workers
        finally:
            await asyncio.gather(*(worker.__aexit__() for worker in self._placed))
            for worker in list(self._placed):
                self._dismiss(worker)

    async def joining(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[tuple[Worker, int]]:
        """A worker for each core that becomes free."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            wanted = (self._workers or math.inf) - len(self._placed)
            newcomers = [
                self._start_worker(worker_spec, lease) for _ in range(int(min(wanted, await asyncio.to_thread(_free_cores))))
            ]
            outcomes = await asyncio.gather(*(worker.__aenter__() for worker in newcomers), return_exceptions=True)
            for worker, outcome in zip(newcomers, outcomes, strict=True):
                if isinstance(outcome, BaseException):  # its node is lost already
                    self._dismiss(worker)
                else:
                    yield worker, lease.sizes[0].envs_per_worker

    def _start_worker(self, worker_spec: WorkerSpec, lease: Lease) -> PlacedWorker:
        import ray

        (size,) = lease.sizes
        number = next(self._numbers)
        log = f"{worker_spec.suite.name}-ray-worker-{number}.log"
        options = {
            "num_cpus": 1,
            "memory": size.memory // size.workers,
            "max_restarts": -1,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": IN_ITS_MESSAGE},
        }
        actor = ray.remote(**options)(RayWorker).remote(log)
        self._placed.append(PlacedWorker(number, actor, log, worker_spec, size.memory_share))
        return self._placed[-1]

    def _dismiss(self, worker: PlacedWorker) -> None:
        import ray

        self._placed.remove(worker)
        ray.kill(worker.actor)


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """A connection to the Ray cluster that the environment's ``RAY_ADDRESS`` names, or that runs on this machine."""
    if os.environ.setdefault(AUTHENTICATION, AUTHENTICATED).lower() != AUTHENTICATED:
        raise VlarigError(
            f"{AUTHENTICATION} is {os.environ[AUTHENTICATION]!r}: any program that reaches the Ray cluster can run code on its nodes; "
            "start it with RAY_AUTH_MODE=token, here and on every node"
        )
    try:
        import ray
    except ImportError as error:
        raise VlarigError(not_importable("the placement on Ray needs", error, "ray")) from None
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "auto"),
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except Exception as error:  # ConnectionError, RuntimeError, AuthenticationError and gRPC's own
        raise VlarigError(
            f"no Ray cluster can be used ({' '.join(str(error).split())[:300]}); start one with 'ray start --head', or set RAY_ADDRESS"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _result(call: Any) -> asyncio.Future[Any]:
    """The result of a call to an actor."""
    return asyncio.wrap_future(call.future())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _free_cores() -> int:
    """Cores of the cluster that are not reserved."""
    import ray

    return int(ray.available_resources().get("CPU", 0))


def _nodes() -> list[Machine]:
    """Cores and memory of the cluster's living nodes."""
    import ray

    found = []
    for node in ray.nodes():
        cores = int(node["Resources"].get("CPU", 0)) if node["Alive"] else 0
        if cores:
            found.append(Machine(cores, int(node["Resources"].get("memory", 0))))
    return found
