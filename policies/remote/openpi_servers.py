"""Several openpi servers of one policy, on machines of their own: ``openpi:ws://gpu1:8000,ws://gpu2:8000``, or ``openpi:FILE``."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...envs import backoff
from ..api import Policy, PolicyError, PolicyLost, Reply, Request
from ..calls import carry_out
from ..pool import Member, PolicyPool
from ..replica_messages import Description, Order
from .openpi import OpenpiPolicy, ServerLostError
from .wire import refuse_secrets

T = TypeVar("T")

logger = logging.getLogger(__name__)


def openpi_policy(argument: str, **settings: Any) -> Policy:
    """The policy behind one server, or behind several that share the work.

    Args:
        argument: An address, some with commas between them, or a file with one a line, in which a ``#`` begins a comment.
        settings: The fields of :class:`~vlarig.policies.remote.openpi.Settings`, as given.
    """
    addresses = _addresses(argument)
    if len(addresses) == 1:
        return OpenpiPolicy(addresses[0], **settings)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(contextlib.closing(OpenpiServer(address, settings))) for address in addresses]
        return PolicyPool(servers, stack, _disagreement)


class OpenpiServer(Member):
    """One of several servers; a lost connection is made again when the server is back.

    Args:
        address: Its address.
        settings: The fields of :class:`~vlarig.policies.remote.openpi.Settings`, as given.
    """

    def __init__(self, address: str, settings: dict[str, Any]) -> None:
        self.address = address
        self.label = f"the policy server at {address}"
        self._settings = settings
        self._interrupted = threading.Event()
        self._connect()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return self._use(lambda policy: policy.act(requests))

    def value(self, requests: Sequence[Request]) -> np.ndarray:
        """Servers have no values."""
        return self._use(lambda policy: policy.value(requests))

    def do(self, order: Order) -> int | None:
        return self._use(lambda policy: carry_out(policy, order))

    def revive(self, orders: Sequence[Order]) -> None:
        """Wait until the server is there again. No order is repeated: what they ensure is announced with the policy.

        Raises:
            PolicyLost: :meth:`interrupt` was called meanwhile.
        """
        self._interrupted.clear()
        patience, reason = backoff.Backoff(backoff.LONGEST_ABSENCE), ""
        while self._policy is None:
            pause = patience.failed()
            if pause is None:
                raise PolicyError(f"{reason}; it was away for {patience.paused:.0f} s, and is given up")
            if self._interrupted.wait(pause):
                raise PolicyLost(f"{self.label} is lost")
            try:
                self._connect()
                logger.warning("%s is back", self.label)
            except ServerLostError as lost:
                reason = str(lost)

    def interrupt(self) -> None:
        """Stop waiting for a server whose connection is lost."""
        self._interrupted.set()

    def close(self) -> None:
        policy, self._policy = self._policy, None
        if policy is not None:
            policy.close()

    def _connect(self) -> None:
        self._policy: OpenpiPolicy | None = OpenpiPolicy(self.address, **self._settings)
        self.description = Description.of(self._policy, {})

    def _use(self, work: Callable[[OpenpiPolicy], T]) -> T:
        """Have the server's policy do something. Raises like :meth:`~.pool.Member.exchange`."""
        if self._policy is None:
            raise PolicyLost(f"{self.label} is lost")
        try:
            return work(self._policy)
        except ServerLostError as lost:
            self.close()
            raise PolicyLost(str(lost)) from None


def _disagreement(first: OpenpiServer, other: OpenpiServer, difference: str) -> str:
    return f"the policy servers at {first.address} and {other.address} do not serve the same policy: {difference}"


def _addresses(argument: str) -> list[str]:
    refuse_secrets(argument, "openpi")
    if argument.startswith(("ws://", "wss://")):
        addresses = [address.strip() for address in argument.split(",")]
    else:
        try:
            lines = Path(argument).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise PolicyError(
                f"{argument!r} is no address of a policy server, and no file with addresses; write openpi:ws://HOST:PORT"
            ) from None
        addresses = [text for line in lines if (text := line.partition("#")[0].strip())]
    if not addresses:
        raise PolicyError(f"the file {argument} names no policy server; write an address a line, such as ws://gpu1:8000")
    for address in addresses:
        refuse_secrets(address, "openpi")
        if addresses.count(address) > 1:
            raise PolicyError(f"the policy server {address} is named twice; name each once")
    return addresses
