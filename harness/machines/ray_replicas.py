"""Replicas of a policy on the nodes of a Ray cluster: some on each node, where the weights are loaded once.

Ray places them, starts them anew elsewhere when their node is lost, and carries requests and replies, as bytes of the wire's own form.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ...envs.embodiments import Embodiment
from ...envs.errors import VlarigError
from ...policies.api import Policy, PolicyError, PolicyLost, Reply, Request
from ...policies.replica_messages import (
    OTHER,
    POLICY,
    Acted,
    Check,
    Done,
    Failed,
    Given,
    Greeting,
    MakeStrict,
    Question,
    Rows,
    decode,
    encode,
)
from ...policies.replicas import Replica, ReplicatedPolicy

T = TypeVar("T")

#: Kind of :class:`~vlarig.policies.replica_messages.Failed` that stands for :class:`~vlarig.policies.api.PolicyLost`.
LOST = "lost"

#: Seconds between two looks at whether an answer is still wanted.
LOOK_SECONDS = 0.2

#: Seconds that Ray may take to place replicas and to start them, weights included.
PLACE_SECONDS = 1800.0


class RayReplicaHost:
    """The replicas of one node; an actor. Every answer is a list of encoded messages.

    Args:
        policy: The policy's name.
        options: What it is told.
        count: How many replicas.
    """

    def __init__(self, policy: str, options: Mapping[str, str], count: int) -> None:
        self._life = secrets.token_hex(8)
        self._make = lambda: ReplicatedPolicy(policy, options, count).replicas
        self._made: Sequence[Replica] = ()
        self._making = threading.Lock()

    def greeting(self) -> tuple[str, list[bytes]]:
        """What tells this life of the actor from others, and what the policy says of itself."""

        def answers() -> list[bytes]:
            with self._making:
                self._made = self._made or self._make()
            greeting = self._made[0].greeting
            assert greeting is not None
            return [encode(greeting)]

        return self._life, self._answered(self._life, answers)

    def act(self, life: str, index: int, questions: Sequence[bytes]) -> list[bytes]:
        """Have a replica answer a batch."""

        def answers() -> list[bytes]:
            replica = self._made[index]
            asked = [question for question in map(decode, questions) if isinstance(question, Question)]
            replies = replica.act([question.request() for question in asked])
            head = Acted(0, len(replies), replica.version)
            return [encode(head), *(encode(Given(0, reply.actions, reply.extras)) for reply in replies)]

        return self._answered(life, answers)

    def tell(self, life: str, index: int, message: bytes) -> list[bytes]:
        """Have a replica do what is no batch."""

        def answers() -> list[bytes]:
            replica, told, rows = self._made[index], decode(message), None
            if isinstance(told, Check):
                replica.check(told.suite, told.embodiment)
            elif isinstance(told, MakeStrict):
                replica.make_strict()
            elif isinstance(told, Rows):
                rows = replica.rows(told.embodiment)
            return [encode(Done(0, rows))]

        return self._answered(life, answers)

    def revive(self, index: int) -> list[bytes]:
        """Have a replica that died started anew, told what it was told before."""

        def answers() -> list[bytes]:
            self._made[index].revive()
            return [encode(Done(0))]

        return self._answered(self._life, answers)

    def _answered(self, life: str, answers: Callable[[], list[bytes]]) -> list[bytes]:
        """What ``answers`` gives, or what went wrong."""
        try:
            if life != self._life:
                raise PolicyLost("its node was lost")
            return answers()
        except PolicyLost as loss:
            return [encode(Failed(0, LOST, str(loss)))]
        except VlarigError as error:
            return [encode(Failed(0, POLICY if isinstance(error, PolicyError) else OTHER, str(error), error.traceback))]


class RayReplica:
    """One replica as the driver sees it.

    Args:
        number: Its number among all.
        host: Its node's actor.
        index: Its number there.
    """

    def __init__(self, number: int, host: Any, index: int) -> None:
        self.version = 0
        self._number = number
        self._host = host
        self._index = index
        self._life = ""
        self._said: list[Check | MakeStrict] = []
        self._interrupted = threading.Event()

    def greet(self) -> Greeting:
        """What its policy says of itself, when its actor stands. It goes by the actor's present life from then on.

        Raises:
            PolicyError: The policy cannot be made, and says why.
            PolicyLost: The actor's node was lost meanwhile.
        """
        self._life, answer = self._get(self._host.greeting.remote(), PLACE_SECONDS)
        (decoded,) = self._checked(answer)
        assert isinstance(decoded, Greeting), decoded
        self.name, self.horizon, self.rounds_by_batch = decoded.name, decoded.horizon, decoded.rounds_by_batch
        return decoded

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The policy's reply to each request.

        Raises:
            PolicyError: The policy failed.
            PolicyLost: The process or its node is gone; :meth:`revive` it.
        """
        questions = [encode(Question.of(0, request)) for request in requests]
        head, *replies = self._checked(self._get(self._host.act.remote(self._life, self._index, questions)))
        assert isinstance(head, Acted), head
        self.version = head.version
        return [given.reply() for given in replies if isinstance(given, Given)]

    def rows(self, embodiment: Embodiment) -> int | None:
        """Rows of its answers to this embodiment. Raises like :meth:`act`."""
        (done,) = self._told(Rows(0, embodiment))
        assert isinstance(done, Done), done
        return done.rows

    def tell(self, message: Check | MakeStrict) -> None:
        """Have it do something that it is to do again whenever it is started anew. Raises like :meth:`act`."""
        self._told(message)
        self._said.append(message)

    def revive(self) -> None:
        """Wait until it is there again: its process, or its node's actor, which Ray places anew.

        Raises:
            VlarigError: It dies again and again.
            PolicyLost: :meth:`interrupt` was called meanwhile.
        """
        while True:
            before = self._life
            with contextlib.suppress(_NodeLost):
                self.greet()
                self._checked(self._get(self._host.revive.remote(self._index), PLACE_SECONDS))
                if self._life != before:
                    for message in self._said:
                        self._told(message)
                return

    def interrupt(self) -> None:
        """Have what is under way in another thread end at once, with :class:`~vlarig.policies.api.PolicyLost`."""
        self._interrupted.set()

    def _told(self, message: Check | MakeStrict | Rows) -> list[Any]:
        return self._checked(self._get(self._host.tell.remote(self._life, self._index, encode(message))))

    def _get(self, answer: Any, seconds: float = math.inf) -> Any:
        """What Ray brings.

        Raises:
            PolicyLost: It will bring nothing: the actor's process or node is gone, or nobody wants it any more.
        """
        import ray
        import ray.exceptions

        for _ in itertools.count():
            ready, _ = ray.wait([answer], timeout=LOOK_SECONDS)
            if ready:
                break
            seconds -= LOOK_SECONDS
            if self._interrupted.is_set():
                raise PolicyLost(f"replica {self._number} was interrupted")
            if seconds <= 0:
                raise PolicyError(f"Ray has no room for replica {self._number} of the policy, or it does not stand in time")
        try:
            return ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            story = str(cause) if isinstance(cause, VlarigError) else f"the policy failed ({cause})"
            raise PolicyError(story, traceback=str(error)) from None
        except ray.exceptions.RayError as error:
            raise _NodeLost(f"replica {self._number} is gone: {str(error).splitlines()[0]}") from None

    def _checked(self, answer: Sequence[bytes]) -> list[Any]:
        messages = [decode(data) for data in answer]
        if isinstance(messages[0], Failed):
            raise PolicyLost(messages[0].message) if messages[0].kind == LOST else messages[0].error()
        return messages


class RayReplicas:
    """A policy with :attr:`replicas` on a Ray cluster; a :class:`~vlarig.policies.batching.Batcher` asks them. Close it after use.

    Args:
        policy: The policy's name.
        options: What it is told.
        counts: How many replicas on each of so many nodes.
        gpus: Whether each takes a GPU, instead of a core.

    Raises:
        VlarigError: The policy cannot be made, or Ray has no room for it.
    """

    def __init__(self, policy: str, options: Mapping[str, str], counts: Sequence[int], gpus: bool) -> None:
        import ray

        self._hosts: list[Any] = []
        replicas: list[RayReplica] = []
        for count in counts:
            options_of_ray: dict[str, Any] = {
                "max_restarts": -1,
                "max_task_retries": 0,
                "max_concurrency": count + 1,
                "scheduling_strategy": "SPREAD",
                "num_cpus": 0 if gpus else count,
                "num_gpus": count if gpus else 0,
            }
            self._hosts.append(ray.remote(**options_of_ray)(RayReplicaHost).remote(policy, dict(options), count))
            replicas += [RayReplica(len(replicas) + index, self._hosts[-1], index) for index in range(count)]
        self.replicas = tuple(replicas)
        try:
            greetings = [replica.greet() for replica in self.replicas]
        except PolicyLost as loss:
            self.close()
            raise PolicyError(str(loss)) from None
        except BaseException:
            self.close()
            raise
        greeting = greetings[0]
        self.name, self.revision, self.needs, self.horizon = greeting.name, greeting.revision, greeting.needs, greeting.horizon
        self.rounds_by_batch, self.keeps_notes = greeting.rounds_by_batch, greeting.keeps_notes
        self.reads_state, self.embodiments = greeting.reads_state, greeting.embodiments
        self.transport_options = frozenset(greeting.transport_options)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The first replica's replies, for who asks no batcher."""
        return self._insist(self.replicas[0], lambda replica: replica.act(requests))

    def check(self, suite: str, embodiment: Embodiment) -> None:
        """Make sure that the policy fits the suite.

        Raises:
            PolicyError: It does not.
        """
        for each in self.replicas:
            self._insist(each, lambda replica: replica.tell(Check(0, suite, embodiment)))

    def make_strict(self) -> None:
        """Have every replica compute in one thread and in float32."""
        for each in self.replicas:
            self._insist(each, lambda replica: replica.tell(MakeStrict(0)))

    def rows(self, embodiment: Embodiment) -> int | None:
        """Rows of each answer to this embodiment; ``None``: as many as a request's ``execute``."""
        return self._insist(self.replicas[0], lambda replica: replica.rows(embodiment))

    def close(self) -> None:
        """End the replicas; a second call does nothing."""
        import ray

        for host in self._hosts:
            ray.kill(host)
        self._hosts = []

    def _insist(self, replica: RayReplica, work: Callable[[RayReplica], T]) -> T:
        while True:
            try:
                return work(replica)
            except PolicyLost:
                replica.revive()


@contextlib.contextmanager
def ray_replicas(policy: str, options: Mapping[str, str], count: int) -> Iterator[Policy]:
    """A policy's replicas on the connected Ray cluster, for as long as the context lasts. Raises like :class:`RayReplicas`."""
    gpus, counts = _spread(count)
    replicas = RayReplicas(policy, options, counts, gpus)
    try:
        yield replicas
    finally:
        replicas.close()


def _spread(count: int) -> tuple[bool, list[int]]:
    """Whether the cluster has GPUs, and how many of ``count`` replicas each node gets: one a GPU, or else evenly."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = [int(node.get("GPU", 0)) for node in nodes if node.get("GPU", 0) >= 1]
    gpus = bool(room)
    room = room or [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if sum(room) < count:
        raise VlarigError(
            f"{count} replicas of the policy were asked for, and the Ray cluster has {sum(room)} {'GPUs' if gpus else 'cores'} for them"
        )
    counts = [0] * len(room)
    for _ in range(count):
        free = [number for number, most in enumerate(room) if counts[number] < most]
        fullest = min(free, key=lambda number: counts[number])
        counts[fullest] += 1
    return gpus, [each for each in counts if each]


class _NodeLost(PolicyLost):
    """The actor is gone, and not only its policy's process."""
