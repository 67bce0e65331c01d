"""A pool: one policy in several processes or on several servers, which act side by side.

A :class:`Member` is one of them and contains its transport alone. The pool is common to all kinds of members: it makes sure that they
are the same policy, sends every order to all of them, also after a restart, and keeps the number of steps of their answers. A
:class:`~.batching.Batcher` has the members act side by side.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ..envs.embodiments import Embodiment
from .api import Policy, PolicyError, PolicyLost, Reply, Request, weights_revision
from .replica_messages import (
    ActReply,
    ActRequest,
    Check,
    Description,
    Done,
    HorizonFor,
    LoadWeights,
    Message,
    Order,
    PackedReply,
    PackedRequest,
    Record,
    Strict,
    ValueReply,
    ValueRequest,
    save_weights,
)

T = TypeVar("T")


class Member:
    """One member of a pool. All but :meth:`interrupt` is called by one thread at a time.

    What it does goes through :meth:`exchange`, unless a subclass does it otherwise.
    """

    label: str
    """Names it in messages: ``replica 0 of the policy 'random'``."""

    description: Description
    """The description of its policy; read again after :meth:`revive`."""

    version: int = 0
    """The policy's version when it acted last; 0 for one that does not learn."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The policy's reply to each request. Raises like :meth:`exchange`."""
        batch = [ActRequest(), *map(PackedRequest, requests)]
        head, *replies = self.exchange(batch)
        assert isinstance(head, ActReply), head
        self.version = head.version
        return [packed.reply for packed in replies if isinstance(packed, PackedReply)]

    def value(self, requests: Sequence[Request]) -> np.ndarray:
        """The policy's value at each request, ``float32[B]``. Raises like :meth:`exchange`."""
        (reply,) = self.exchange([ValueRequest(), *map(PackedRequest, requests)])
        assert isinstance(reply, ValueReply), reply
        return reply.values

    def do(self, order: Order) -> int | None:
        """Carry out an order; the steps that answer :class:`~.replica_messages.HorizonFor`. Raises like :meth:`exchange`."""
        (done,) = self.exchange([order])
        assert isinstance(done, Done), done
        return done.steps

    def exchange(self, messages: Sequence[Message]) -> list[Message]:
        """Send a request, in one or more messages, and return its answer's.

        Raises:
            PolicyLost: The process is dead or the server lost, and with it the state of its episodes; :meth:`revive` it.
        """
        raise NotImplementedError

    def revive(self, orders: Sequence[Order]) -> None:
        """Restart it where it is lost, and have it carry out again the orders that it lost.

        Raises:
            PolicyLost: :meth:`interrupt` was called meanwhile.
            PolicyError: It is given up.
        """
        raise NotImplementedError

    def interrupt(self) -> None:
        """End the work under way in another thread at once, with :class:`~.api.PolicyLost`, where that can be done."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


M = TypeVar("M", bound=Member)


class PolicyPool(Policy, Generic[M]):
    """A policy whose members act side by side. Close it after use.

    Args:
        members: One or more.
        resources: What is closed with the pool, the members too. The pool owns it where the members agree.
        disagreement: Makes the sentence for two members that are not the same policy, from both and from ``revision is '1' and '2'``.
    """

    def __init__(self, members: Sequence[M], resources: contextlib.ExitStack, disagreement: Callable[[M, M, str], str]) -> None:
        self.members = tuple(members)
        self._description = described = members[0].description
        for other in members[1:]:
            for field in described.__struct_fields__:
                ours, theirs = getattr(described, field), getattr(other.description, field)
                if ours != theirs:
                    raise PolicyError(disagreement(members[0], other, f"{field} is {ours!r} and {theirs!r}"))
        for name in set(described.__struct_fields__) - {"sources", "transport_options"}:
            setattr(self, name, getattr(described, name))
        self.transport_options = frozenset(described.transport_options)
        self._orders: list[Order] = []
        """The orders that every member has carried out, and carries out again after a restart."""
        self._steps: dict[str, tuple[Embodiment, int | None]] = {}
        self._weights: Path | None = None
        """Folder of the newest weights."""
        self._resources = resources.pop_all()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The first member's replies, for a caller without a batcher."""
        return self._insist(self.members[0], lambda member: member.act(requests))

    def check(self, suite: str, embodiment: Embodiment) -> None:
        self._order(Check(suite, embodiment))

    def strict(self) -> None:
        self._order(Strict())

    def record(self, options: Mapping[str, Any] | None) -> None:
        self._order(Record(None if options is None else dict(options)))

    def value(self, requests: Sequence[Request]) -> np.ndarray:
        """The first member's values, ``float32[B]``."""
        return self._insist(self.members[0], lambda member: member.value(requests))

    def load_weights(self, version: int, state: Mapping[str, Any]) -> None:
        """Have every member take new weights, one that restarts later too."""
        if self._weights is None:
            self._weights = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="vlarig-weights-")))
        file = self._weights / f"{version}.safetensors"
        save_weights(state, file)
        self._order(LoadWeights(version, str(file)))
        self.version, self.revision = version, weights_revision(self._description.revision, version)
        for other in set(self._weights.iterdir()) - {file}:
            other.unlink()

    def horizon_for(self, embodiment: Embodiment) -> int | None:
        """The steps of each chunk for this embodiment; ``None``: as many as a request's ``n_action_steps``."""
        known, steps = self._steps.get(embodiment.name, (None, None))
        if known != embodiment:
            steps = self._insist(self.members[0], lambda member: member.do(HorizonFor(embodiment)))
            self._steps[embodiment.name] = embodiment, steps
        return steps

    def revive(self, member: M) -> None:
        """Restart a member after :class:`~.api.PolicyLost`.

        Raises:
            PolicyLost: It was interrupted meanwhile.
        """
        member.revive(self._orders)
        if member.description != self._description:
            member.close()
            raise PolicyError(f"{member.label} describes another policy than before; begin a new run for that one")

    def close(self) -> None:
        """End the members; a second call does nothing."""
        self._resources.close()

    def _order(self, order: Order) -> None:
        for each in self.members:
            self._insist(each, lambda member: member.do(order))
        if not isinstance(order, Check):  # only the newest counts
            self._orders = [each for each in self._orders if type(each) is not type(order)]
        self._orders.append(order)

    def _insist(self, member: M, work: Callable[[M], T]) -> T:
        """Have a member do work that needs no state, again after every loss of the member."""
        while True:
            try:
                return work(member)
            except PolicyLost:
                self.revive(member)
