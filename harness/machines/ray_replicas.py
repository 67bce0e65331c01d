"""Replicas of a policy on the nodes of a Ray cluster: some on each node, where the weights are loaded once.

Ray places them, restarts them elsewhere when their node is lost, and carries requests and replies as bytes of the wire's own form.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...envs.errors import VlarigError
from ...policies.api import PolicyError, PolicyLost
from ...policies.pool import Member, PolicyPool
from ...policies.replica_messages import (
    Description,
    Done,
    Failed,
    LoadWeights,
    Message,
    Order,
    decode,
    encode,
)
from ..replicas import Replica, replicated_policy

#: Seconds between two checks whether an answer is still wanted.
POLL_SECONDS = 0.2

#: Seconds that Ray may take to place replicas and to start them, weights included.
PLACE_SECONDS = 1800.0


class RayReplicaHost:
    """The replicas of one node; an actor. Every answer is a list of encoded messages."""

    def __init__(self, policy: str, options: Mapping[str, str], count: int) -> None:
        self._life = secrets.token_hex(8)
        self._make = lambda: replicated_policy(policy, options, count).members
        self._made: Sequence[Replica] = ()
        self._making = threading.Lock()
        self._weights: tempfile.TemporaryDirectory[str] | None = None

    def describe(self) -> tuple[str, list[bytes]]:
        """An id of this life of the actor, and the policy's description."""

        def answer() -> list[Message]:
            with self._making:
                self._made = self._made or self._make()
            return [self._made[0].description]

        return self._life, self._answered(self._life, answer)

    def keep(self, life: str, order: bytes, weights: bytes) -> list[bytes]:
        """Store weights for the replicas of this node, in place of older ones; returns the order that loads them from there."""

        def answer() -> list[Message]:
            (load,) = _decoded([order])
            assert isinstance(load, LoadWeights), load
            with self._making:
                self._weights = self._weights or tempfile.TemporaryDirectory(prefix="vlarig-weights-")
                file = Path(self._weights.name, Path(load.path).name)
                if not file.exists():
                    for older in file.parent.iterdir():
                        older.unlink()
                    file.write_bytes(weights)
            return [LoadWeights(load.version, str(file))]

        return self._answered(life, answer)

    def exchange(self, life: str, index: int, messages: Sequence[bytes]) -> list[bytes]:
        return self._answered(life, lambda: self._made[index].exchange(_decoded(messages)))

    def revive(self, life: str, index: int, orders: Sequence[bytes]) -> list[bytes]:
        def answer() -> list[Message]:
            self._made[index].revive([order for order in _decoded(orders) if isinstance(order, Order)])
            return [Done()]

        return self._answered(life, answer)

    def _answered(self, life: str, answer: Callable[[], list[Message]]) -> list[bytes]:
        try:
            if life != self._life:
                raise PolicyLost("its node was lost")
            return [encode(message) for message in answer()]
        except (PolicyLost, VlarigError) as error:
            return [encode(Failed.of(error))]


class RayReplica(Member):
    """One replica as the driver sees it: ``number`` among all, and ``index`` of its node's actor ``host``."""

    def __init__(self, number: int, policy: str, host: Any, index: int, weights: _Weights) -> None:
        self.label = f"replica {number} of the policy {policy!r}"
        self._host = host
        self._index = index
        self._life = ""
        self._weights = weights
        self._interrupted = threading.Event()

    def find(self) -> None:
        """Wait until its actor is placed, and read the policy's description and the id of the actor's present life.

        Raises:
            PolicyLost: The actor's node was lost meanwhile, or :meth:`interrupt` was called.
        """
        self._life, answer = self._get(self._host.describe.remote(), PLACE_SECONDS)
        (description,) = _decoded(answer)
        assert isinstance(description, Description), description
        self.description = description

    def exchange(self, messages: Sequence[Message]) -> list[Message]:
        """Send a request and return its answer.

        Raises:
            PolicyLost: The process or its node is dead; :meth:`revive` it.
        """
        self._interrupted.clear()
        return self._exchange([encode(message) for message in messages])

    def do(self, order: Order) -> int | None:
        """Carry out an order; weights are copied to its node first. Raises like :meth:`exchange`."""
        self._interrupted.clear()
        return super().do(self._kept(order))

    def revive(self, orders: Sequence[Order]) -> None:
        """Wait until its process has restarted, or Ray has placed its node's actor again.

        Raises:
            PolicyLost: :meth:`interrupt` was called meanwhile.
        """
        self._interrupted.clear()
        before = self._life
        while True:
            try:
                self.find()
                encoded = [encode(self._kept(order)) for order in orders]
                _decoded(self._get(self._host.revive.remote(self._life, self._index, encoded), PLACE_SECONDS))
                if self._life != before:  # its process is a new one too, which may not have the orders
                    for order in encoded:
                        self._exchange([order])
                return
            except PolicyLost:
                if self._interrupted.is_set():
                    raise

    def interrupt(self) -> None:
        """End at once what is under way in another thread, with ``PolicyLost``."""
        self._interrupted.set()

    def close(self) -> None:
        """End its actor, and its siblings there."""
        import ray

        ray.kill(self._host)

    def _kept(self, order: Order) -> Order:
        """The order as it is carried out on the replica's node. Raises like :meth:`exchange`."""
        if not isinstance(order, LoadWeights):
            return order
        answer = self._get(self._host.keep.remote(self._life, encode(order), self._weights.reference(order)))
        (kept,) = _decoded(answer)
        assert isinstance(kept, LoadWeights), kept
        return kept

    def _exchange(self, messages: Sequence[bytes]) -> list[Message]:
        return _decoded(self._get(self._host.exchange.remote(self._life, self._index, messages)))

    def _get(self, answer: Any, seconds: float = math.inf) -> Any:
        """The result of a call to the actor.

        Raises:
            PolicyLost: There will be none: the actor's process or node is dead, or the call was interrupted.
        """
        import ray
        import ray.exceptions

        while not ray.wait([answer], timeout=POLL_SECONDS)[0]:
            seconds -= POLL_SECONDS
            if self._interrupted.is_set():
                raise PolicyLost(f"{self.label} was interrupted")
            if seconds <= 0:
                raise PolicyError(f"Ray has no room for {self.label}, or it is not ready in time")
        try:
            return ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            reason = str(cause) if isinstance(cause, VlarigError) else f"the policy failed ({cause})"
            raise PolicyError(reason, traceback=str(error)) from None
        except ray.exceptions.RayError as error:
            raise PolicyLost(f"{self.label} is dead: {str(error).splitlines()[0]}") from None


class _Weights:
    """The newest weights in Ray's object store, put there once for all nodes."""

    def __init__(self) -> None:
        self._path = ""
        self._reference: Any = None

    def reference(self, order: LoadWeights) -> Any:
        import ray

        if self._path != order.path:
            self._path, self._reference = order.path, ray.put(Path(order.path).read_bytes())
        return self._reference


def ray_replicas(policy: str, options: Mapping[str, str], count: int) -> PolicyPool[RayReplica]:
    """A policy's replicas on the connected Ray cluster, ``count`` on all nodes together. Close it after use."""
    import ray

    gpus, counts = _spread(count)
    with contextlib.ExitStack() as stack:
        replicas: list[RayReplica] = []
        weights = _Weights()
        for here in counts:
            options_of_ray: dict[str, Any] = {
                "max_restarts": -1,
                "max_task_retries": 0,
                "max_concurrency": here + 1,
                "scheduling_strategy": "SPREAD",
                "num_cpus": 0 if gpus else here,
                "num_gpus": here if gpus else 0,
            }
            host: Any = ray.remote(**options_of_ray)(RayReplicaHost).remote(policy, dict(options), here)
            stack.callback(ray.kill, host)
            replicas += [RayReplica(len(replicas) + index, policy, host, index, weights) for index in range(here)]
        try:
            for replica in replicas:
                replica.find()
        except PolicyLost as loss:
            raise PolicyError(str(loss)) from None
        return PolicyPool(
            replicas,
            stack,
            lambda _, other, difference: (
                f"replicas of the policy {policy!r} describe themselves differently: {difference}; make the nodes of the Ray "
                f"cluster alike ({other.label} differs)"
            ),
        )


def _spread(count: int) -> tuple[bool, list[int]]:
    """Whether the cluster has GPUs, and how many of ``count`` replicas each node gets: one a GPU, or else evenly."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = [int(node.get("GPU", 0)) for node in nodes if node.get("GPU", 0) >= 1]
    gpus = bool(room)
    room = room or [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if sum(room) < count:
        raise VlarigError(
            f"{count} replicas of the policy were requested, and the Ray cluster has {sum(room)} {'GPUs' if gpus else 'cores'} for them"
        )
    counts = [0] * len(room)
    for _ in range(count):
        free = [number for number, most in enumerate(room) if counts[number] < most]
        fullest = min(free, key=lambda number: counts[number])
        counts[fullest] += 1
    return gpus, [each for each in counts if each]


def _decoded(answer: Sequence[bytes]) -> list[Message]:
    """Decode messages; raises the error of a failure among them."""
    messages = [decode(data) for data in answer]
    if messages and isinstance(messages[0], Failed):
        raise messages[0].error()
    return messages
