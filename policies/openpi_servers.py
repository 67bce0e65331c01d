"""Several openpi servers of one policy, on machines of their own: ``openpi:ws://gpu1:8000,ws://gpu2:8000``, or ``openpi:FILE``."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..envs.embodiments import Embodiment
from .access import refuse_secrets
from .api import Policy, PolicyError, PolicyLost, Reply, Request
from .openpi import OpenpiPolicy
from .openpi_pool import ServerGoneError

T = TypeVar("T")

#: Seconds between two looks at a server that is gone, doubled with every further one, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0

#: Seconds for which a server that is gone is looked for: its machine may be started anew, or its network mended.
LONGEST_ABSENCE = 3600.0

#: What the servers must agree on.
_COMMON = ("name", "revision", "needs", "horizon", "reads_state", "embodiments")

logger = logging.getLogger(__name__)


def openpi_policy(argument: str, **settings: Any) -> Policy:
    """The policy behind one server, or behind several that share the work.

    Args:
        argument: An address, some with commas between them, or a file with one a line, in which a ``#`` begins a comment.
        settings: The fields of :class:`~vlarig.policies.openpi.Settings`, as typed.

    Raises:
        PolicyError: An address is none or comes twice, a server is not there, or they do not serve the same policy.
    """
    addresses = _addresses(argument)
    if len(addresses) == 1:
        return OpenpiPolicy(addresses[0], **settings)
    return OpenpiServers(addresses, settings)


class OpenpiServer:
    """One of several servers. One that is gone is connected with again when it is back.

    Args:
        address: Its address.
        settings: The fields of :class:`~vlarig.policies.openpi.Settings`, as typed.
    """

    def __init__(self, address: str, settings: dict[str, Any]) -> None:
        self.address = address
        self._settings = settings
        self._unwanted = threading.Event()
        self._policy: OpenpiPolicy | None = OpenpiPolicy(address, **settings)
        self.says = {name: getattr(self._policy, name) for name in _COMMON}
        """What it says of its policy."""
        self.name, self.horizon = self._policy.name, self._policy.horizon

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The server's answer to each request.

        Raises:
            PolicyError: The policy failed.
            PolicyLost: The server is gone; :meth:`revive` it.
        """
        return self.do(lambda policy: policy.act(requests))

    def do(self, work: Callable[[OpenpiPolicy], T]) -> T:
        """Have the server's policy do something. Raises like :meth:`act`."""
        if self._policy is None:
            raise PolicyLost(f"the policy server at {self.address} is gone")
        try:
            return work(self._policy)
        except ServerGoneError as gone:
            self.close()
            raise PolicyLost(str(gone)) from None

    def revive(self) -> None:
        """Wait until the server is there again.

        Raises:
            PolicyError: It does not come back, or serves another policy now.
            PolicyLost: :meth:`interrupt` was called meanwhile.
        """
        waited = 0.0
        for count in itertools.count():
            if self._policy is not None:
                return
            try:
                policy = OpenpiPolicy(self.address, **self._settings)
            except ServerGoneError as gone:
                if waited >= LONGEST_ABSENCE:
                    raise PolicyError(f"{gone}; it was away for {waited:.0f} s, and is given up") from None
                pause = min(FIRST_PAUSE * 2.0**count, LONGEST_PAUSE)
                waited += pause
                if self._unwanted.wait(pause):
                    raise PolicyLost("nobody waits for it any more") from None
                continue
            if {name: getattr(policy, name) for name in _COMMON} != self.says:
                policy.close()
                raise PolicyError(
                    f"the policy server at {self.address} came back with another policy; begin a new run for that one"
                )
            logger.warning("the policy server at %s is back", self.address)
            self._policy = policy

    def interrupt(self) -> None:
        """Do not wait any more for a server that is gone."""
        self._unwanted.set()

    def close(self) -> None:
        """End the connections."""
        if self._policy is not None:
            self._policy.close()
            self._policy = None


class OpenpiServers:
    """A policy whose :attr:`replicas` are servers; a :class:`~vlarig.policies.batching.Batcher` asks them. Close it after use.

    Args:
        addresses: Their addresses.
        settings: The fields of :class:`~vlarig.policies.openpi.Settings`, as typed.

    Raises:
        PolicyError: A server is not there, or they do not serve the same policy.
    """

    transport_options = OpenpiPolicy.transport_options
    """Options that change no answer."""

    def __init__(self, addresses: Sequence[str], settings: dict[str, Any]) -> None:
        self.replicas: tuple[OpenpiServer, ...] = ()
        try:
            for address in addresses:
                self.replicas += (OpenpiServer(address, settings),)
            self._agree()
        except BaseException:
            self.close()
            raise

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The first server's replies, for who asks no batcher."""
        return _insist(self.replicas[0], lambda policy: policy.act(requests))

    def check(self, suite: str, embodiment: Embodiment) -> None:
        """Make sure that the policy fits the suite.

        Raises:
            PolicyError: It does not.
        """
        _insist(self.replicas[0], lambda policy: policy.check(suite, embodiment))

    def make_strict(self) -> None:
        """Make sure that every server computes strictly.

        Raises:
            PolicyError: One does not say so.
        """
        for each in self.replicas:
            _insist(each, OpenpiPolicy.make_strict)

    def close(self) -> None:
        """End the connections."""
        for each in self.replicas:
            each.close()

    def _agree(self) -> None:
        """Make sure that all servers say the same, and take it over."""
        first = self.replicas[0]
        for other in self.replicas[1:]:
            for name in _COMMON:
                if first.says[name] != other.says[name]:
                    raise PolicyError(
                        f"the policy servers at {first.address} and {other.address} do not serve the same policy: {name} is "
                        f"{first.says[name]!r} and {other.says[name]!r}"
                    )
        self.name, self.revision = first.says["name"], first.says["revision"]
        self.needs, self.horizon = first.says["needs"], first.says["horizon"]
        self.reads_state, self.embodiments = first.says["reads_state"], first.says["embodiments"]


def _insist(server: OpenpiServer, work: Callable[[OpenpiPolicy], T]) -> T:
    while True:
        try:
            return server.do(work)
        except PolicyLost:
            server.revive()


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
