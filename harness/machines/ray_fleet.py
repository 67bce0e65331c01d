"""A fleet that Ray places: workers on the nodes of a Ray cluster, which may be lost and joined while a sweep runs.

Ray decides where a worker runs, starts it anew elsewhere when its node is lost, and is asked now and then whether there are more nodes.
It moves none of our messages: a worker's env server listens on its node, and the sweep connects to it, see :mod:`.machines.env_server`.
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
from pathlib import Path
from typing import Any

from ...benchmarks.suite import Footprint, Suite
from ...envs.api import Episode
from ...envs.errors import VlarigError
from ..children.line import WorkerLine
from ..children.liveness import within
from ..children.supervisor import MachineAwayError
from ..machine import Machine
from ..sizing import Size, choose_size, memory_line
from ..worker_spec import WorkerSpec
from ..workers import Worker, standing
from .fleets import Lease
from .ray_worker import RayWorker, authority
from .remote_machines import RemoteMachine
from .remote_place import RemotePlace

#: Variable with Ray's way of authentication, and the only one that is accepted: everybody who reaches a cluster without it can run
#: any code on its nodes.
AUTHENTICATION, AUTHENTICATED = "RAY_AUTH_MODE", "token"

#: Seconds that Ray may take to place a worker and to start it.
PLACE_SECONDS = 120.0

#: Seconds that it may take to notice that a worker's node is lost and to place it again, before other workers play its episodes; it is
#: waited for meanwhile.
PLACE_AGAIN_SECONDS = 15.0

#: Seconds between two looks at the cluster.
LOOK_SECONDS = 2.0


class RayPlace:
    """Whichever node Ray has placed a worker on.

    Args:
        worker: The actor, see :class:`.machines.ray_worker.RayWorker`.
        token: Its secret.
        worker_spec: What the run says that it is made of.
        memory_bytes: Most memory that its simulator may take.
    """

    def __init__(self, worker: Any, token: str, worker_spec: WorkerSpec, memory_bytes: int) -> None:
        self._worker = worker
        self._token = token
        self._worker_spec = worker_spec
        self._memory_bytes = memory_bytes
        self._patience = PLACE_SECONDS
        self.where = "Ray's logs of the node"
        """Where its output is."""

    @property
    def suite(self) -> Suite:
        """Whose simulator it loads."""
        return self._worker_spec.suite

    async def launch(self) -> WorkerLine:
        """Ask Ray where the worker is, and start it. Raises like :meth:`.machines.remote_place.RemotePlace.launch`."""
        import ray.exceptions

        try:
            url = await within(asyncio.wrap_future(self._worker.address.remote().future()), self._patience)
        except TimeoutError:
            raise MachineAwayError(f"Ray has placed it nowhere within {self._patience:g} s") from None
        except ray.exceptions.RayError as error:
            raise MachineAwayError(f"Ray cannot run it ({str(error).splitlines()[0]})") from None
        place = RemotePlace(RemoteMachine(url, self._token, authority()), self._worker_spec, self._memory_bytes)
        self.where = place.where
        line = await place.launch()
        self._patience = PLACE_AGAIN_SECONDS
        return line


class RayFleet:
    """The nodes of a Ray cluster. Inside :func:`connected` alone.

    Args:
        workers: Workers in all that the user asks for, if he does; else one for each core that is free, also of nodes that join.
        slots: Slots that the user asks for, if he does.
    """

    def __init__(self, workers: int | None = None, slots: int | None = None) -> None:
        self._workers = workers
        self._slots = slots
        self._hosts: dict[Worker, Any] = {}
        self._numbers = itertools.count()

    def for_envs(self, count: int, share: float) -> RayFleet:
        """Workers for so many envs, on a share of the cores that are free."""
        workers = max(1, min(count, round((self._workers or _free_cores()) * share)))
        return RayFleet(workers, math.ceil(count / workers))

    def lease(self, footprint: Footprint, episodes: Sequence[Episode]) -> Lease:
        """On each node as many as its cores and memory allow.

        Raises:
            VlarigError: The cluster has no core to spare.
        """
        nodes = _nodes()
        if not nodes:
            raise VlarigError(
                "the Ray cluster has no node with a core for us; start one with 'ray start --address=HEAD --num-cpus=N'"
            )
        sizes = [choose_size(footprint, episodes, node, None, self._slots) for node in nodes]
        slots = min(size.slots for size in sizes)
        sizes = [choose_size(footprint, episodes, node, None, slots) for node in nodes]
        room = min(sum(size.workers for size in sizes), _free_cores())
        if room < 1:
            raise VlarigError("no core of the Ray cluster is free; wait, add a node, or take fewer --replicas")
        workers = min(self._workers or room, room, len(episodes))
        share = min(size.memory_share for size in sizes)
        memory = workers * max(size.memory // size.workers for size in sizes)
        free = sum(node.memory for node in nodes)
        reason = (
            f"{workers} workers x {slots} slots on {len(nodes)} nodes of a Ray cluster ({sum(node.cores for node in nodes)} cores); "
            f"{memory_line(memory, free)}"
        )
        return Lease((Size(workers, slots, memory, share, reason),), reason)

    @contextlib.asynccontextmanager
    async def launch(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[list[Worker]]:
        """Workers as Ray places them, those that join later among them when they are ended."""
        try:
            async with standing([self._start_worker(worker_spec, lease) for _ in range(lease.workers)]) as hosts:
                yield list(hosts)
        finally:
            await asyncio.gather(*(host.__aexit__() for host in self._hosts))
            for host in list(self._hosts):
                self._dismiss(host)

    async def joining(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[tuple[Worker, int]]:
        """A worker for each core that is more than there were workers."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            wanted = (self._workers or math.inf) - len(self._hosts)
            newcomers = [
                self._start_worker(worker_spec, lease) for _ in range(int(min(wanted, await asyncio.to_thread(_free_cores))))
            ]
            stand = await asyncio.gather(*(host.__aenter__() for host in newcomers), return_exceptions=True)
            for host, outcome in zip(newcomers, stand, strict=True):
                if isinstance(outcome, BaseException):  # its node is gone already
                    self._dismiss(host)
                else:
                    yield host, lease.slots

    def _start_worker(self, worker_spec: WorkerSpec, lease: Lease) -> Worker:
        """A worker more, wherever Ray has room for it."""
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
        host = Worker(next(self._numbers), RayPlace(actor, token, worker_spec, size.memory_share), "ray")
        self._hosts[host] = actor
        return host

    def _dismiss(self, host: Worker) -> None:
        import ray

        ray.kill(self._hosts.pop(host))


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """A connection to the Ray cluster that the environment's ``RAY_ADDRESS`` names, or that runs on this machine.

    Raises:
        VlarigError: Ray is not installed, there is no cluster, or it lets everybody in.
    """
    if os.environ.setdefault(AUTHENTICATION, AUTHENTICATED).lower() != AUTHENTICATED:
        raise VlarigError(
            f"{AUTHENTICATION} is {os.environ[AUTHENTICATION]!r}: whoever reaches such a Ray cluster can run anything on its nodes; "
            "start it with RAY_AUTH_MODE=token, here and on every node"
        )
    try:
        import ray
    except ImportError:
        raise VlarigError("ray is not installed, which --placement ray needs; run: pip install 'vlarig[ray]'") from None
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
    """Cores of the cluster that nobody has asked for."""
    import ray

    return int(ray.available_resources().get("CPU", 0))


def _nodes() -> list[Machine]:
    """What the cluster's living nodes have for us."""
    import ray

    found = []
    for node in ray.nodes():
        cores = int(node["Resources"].get("CPU", 0)) if node["Alive"] else 0
        if cores:
            found.append(Machine(cores, int(node["Resources"].get("memory", 0))))
    return found
