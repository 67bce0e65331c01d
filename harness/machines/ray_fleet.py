"""A fleet that Ray places: workers on the nodes of a Ray cluster, which may be lost and joined while a sweep runs.

Ray decides where a worker runs, and restarts it elsewhere when its node is lost; the sweep polls it for new nodes. Ray carries none of
the sweep's messages: a worker's env server listens on its node, and the sweep connects to it, see :mod:`.machines.env_server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import secrets
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...benchmarks.suite import Footprint, Suite
from ...envs.api import Episode
from ...envs.background import BackgroundLoop
from ...envs.errors import VlarigError, not_importable
from ...envs.home import home
from ...envs.tls import server_context
from ..children.line import WorkerLine
from ..children.liveness import within
from ..children.supervisor import MachineAwayError
from ..sizing import Machine, Size, choose_size, memory_line, size_in_words
from ..worker_spec import WorkerSpec
from ..workers import Worker, started
from .env_server import EnvServer, EnvServerConfig
from .fleets import Lease, workers_for
from .remote_machines import RemoteMachine, RemoteWorkerFactory

#: Variable with Ray's way of authentication, and the only accepted value: any program that reaches a cluster without it can run any
#: code on the nodes.
AUTHENTICATION, AUTHENTICATED = "RAY_AUTH_MODE", "token"

#: Seconds that Ray may take to place a worker and to start it.
PLACE_SECONDS = 120.0

#: Seconds that Ray may take to notice that a worker's node is lost and to place the worker again; then other workers play its episodes.
PLACE_AGAIN_SECONDS = 15.0

#: Seconds between two queries of the cluster's free cores.
POLL_SECONDS = 2.0

#: Ray's own variables for encryption (its documentation, "TLS authentication"): where it is on, it is on here, with the same files.
USE_TLS, TLS_CERTIFICATE, TLS_KEY, TLS_AUTHORITY = (
    "RAY_USE_TLS",
    "RAY_TLS_SERVER_CERT",
    "RAY_TLS_SERVER_KEY",
    "RAY_TLS_CA_CERT",
)


class RayWorker:
    """An env server for one worker. It lives as long as its actor, and requires a token that only its sweep has."""

    def __init__(self, suite: str, token: str) -> None:
        import ray.util

        self._host = ray.util.get_node_ip_address()
        self._encryption = _encryption()
        config = EnvServerConfig(
            host=self._host,
            port=0,
            token=token,
            encryption=self._encryption,
            suites=(suite,),
            workers=1,
            logs=home() / "logs",
        )
        self._loop = BackgroundLoop("vlarig-envs")
        self._server = self._loop.run(self._open(config))

    def address(self) -> str:
        scheme = "ws" if self._encryption is None else "wss"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._server.port}"

    async def _open(self, config: EnvServerConfig) -> EnvServer:
        return await EnvServer(config).__aenter__()


def authority() -> Path | None:
    """File with the authorities that a client of these servers trusts; ``None`` where Ray does not encrypt."""
    file = os.environ.get(TLS_AUTHORITY)
    return Path(file) if file and os.environ.get(USE_TLS) == "1" else None


def _encryption() -> ssl.SSLContext | None:
    if os.environ.get(USE_TLS) != "1":
        return None
    return server_context(Path(os.environ.get(TLS_CERTIFICATE, "")), Path(os.environ.get(TLS_KEY, "")))


class RayWorkerFactory:
    """Starts a worker on the node where Ray has placed it; ``worker`` is the actor of a :class:`RayWorker`."""

    def __init__(self, worker: Any, token: str, worker_spec: WorkerSpec, memory_bytes: int) -> None:
        self._worker = worker
        self._token = token
        self._worker_spec = worker_spec
        self._memory_bytes = memory_bytes
        self._patience = PLACE_SECONDS
        self.where = "Ray's logs of the node"

    @property
    def suite(self) -> Suite:
        return self._worker_spec.suite

    async def launch(self) -> WorkerLine:
        """Find the worker's node, and start it there. Raises like :meth:`.machines.remote_machines.RemoteWorkerFactory.launch`."""
        import ray.exceptions

        try:
            url = await within(asyncio.wrap_future(self._worker.address.remote().future()), self._patience)
        except TimeoutError:
            raise MachineAwayError(f"Ray has placed it nowhere within {self._patience:g} s") from None
        except ray.exceptions.RayError as error:
            raise MachineAwayError(f"Ray cannot run it ({str(error).splitlines()[0]})") from None
        factory = RemoteWorkerFactory(RemoteMachine(url, self._token, authority()), self._worker_spec, self._memory_bytes)
        self.where = factory.where
        line = await factory.launch()
        self._patience = PLACE_AGAIN_SECONDS
        return line


class RayFleet:
    """The nodes of a Ray cluster. Use it inside :func:`connected` only.

    Args:
        workers: Workers in all; one for each free core, also of nodes that join, when ``None``.
        num_envs: Envs in all, without those of workers on nodes that join; as many as memory allows when ``None``.
    """

    def __init__(self, workers: int | None = None, num_envs: int | None = None) -> None:
        self._workers = workers
        self._num_envs = num_envs
        self._actors: dict[Worker, Any] = {}
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
    async def launch(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[list[Worker]]:
        """Workers as Ray places them, those that join later among them when they are ended."""
        try:
            async with started([self._start_worker(worker_spec, lease) for _ in range(lease.workers)]) as workers:
                yield list(workers)
        finally:
            await asyncio.gather(*(worker.__aexit__() for worker in self._actors))
            for worker in list(self._actors):
                self._dismiss(worker)

    async def joining(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[tuple[Worker, int]]:
        """A worker for each core that becomes free."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            wanted = (self._workers or math.inf) - len(self._actors)
            newcomers = [
                self._start_worker(worker_spec, lease) for _ in range(int(min(wanted, await asyncio.to_thread(_free_cores))))
            ]
            outcomes = await asyncio.gather(*(worker.__aenter__() for worker in newcomers), return_exceptions=True)
            for worker, outcome in zip(newcomers, outcomes, strict=True):
                if isinstance(outcome, BaseException):  # its node is lost already
                    self._dismiss(worker)
                else:
                    yield worker, lease.sizes[0].envs_per_worker

    def _start_worker(self, worker_spec: WorkerSpec, lease: Lease) -> Worker:
        import ray

        (size,) = lease.sizes
        token = secrets.token_hex(16)
        options = {
            "num_cpus": 1,
            "memory": size.memory // size.workers,
            "max_restarts": -1,
            "max_task_retries": -1,
            "scheduling_strategy": "SPREAD",
        }
        actor = ray.remote(**options)(RayWorker).remote(worker_spec.suite.name, token)
        worker = Worker(next(self._numbers), RayWorkerFactory(actor, token, worker_spec, size.memory_share), "ray")
        self._actors[worker] = actor
        return worker

    def _dismiss(self, worker: Worker) -> None:
        import ray

        ray.kill(self._actors.pop(worker))


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
