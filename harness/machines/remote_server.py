"""A sim server on another machine, hired from the env server there."""

from __future__ import annotations

import secrets
from importlib.metadata import version

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from ...benchmarks.suite import Suite
from ...envs.errors import BadMessageError, VlarigError
from ...envs.messages import REFUSED, Failure, Hire, Hired, Offer, decode, encode
from ...envs.sources import CodeChangedError
from ..simulation.liveness import KEEPALIVE, hang_up
from ..workplace import Workplace
from .client import ServerGone, SimClient, receive_welcome
from .remote_machines import RemoteMachine


class RemoteServer:
    """A sim server behind an env server. It lives as long as our connection.

    Args:
        machine: Where it runs.
        workplace: What the run says that it is made of; the other machine has to agree.
        memory_bytes: Most memory that its simulator may take; no bound when ``None``.
    """

    def __init__(self, machine: RemoteMachine, workplace: Workplace, memory_bytes: int | None = None) -> None:
        self._machine = machine
        self._workplace = workplace
        self._memory_bytes = memory_bytes
        self._lease = secrets.token_hex(16)
        self._connection: ClientConnection | None = None
        self._pid: int | None = None

    @property
    def suite(self) -> Suite:
        """Whose simulator it loads."""
        return self._workplace.suite

    @property
    def where(self) -> str:
        """Where its output is."""
        return f"the logs of the env server at {self._machine.url}"

    @property
    def pid(self) -> int | None:
        """Its process id on its machine, for as long as we are connected."""
        return self._pid

    async def launch(self) -> SimClient:
        """Hire a sim server. That may take for ever: bound it.

        Raises:
            VlarigError: The env server refuses, or what it has is not what the run is made of.
            ServerGone: The sim server died; ``MachineAwayError`` where nobody answers.
        """
        self._connection, offer = await self._machine.reach()
        try:
            renderer = "" if self._workplace.renderer is None else self._workplace.renderer.name
            await self._connection.send(encode(Hire(self.suite.name, self._memory_bytes, self._lease, renderer)))
            hired = decode(await self._connection.recv())
            if isinstance(hired, Failure):
                story = f"{self._machine.name} ({offer.host}): {hired.message}"
                raise VlarigError(story, traceback=hired.traceback) if hired.kind == REFUSED else ServerGone(story)
            if not isinstance(hired, Hired):
                raise ServerGone(f"it answered Hire with {type(hired).__name__}")
            self._check_alike(hired, offer)
            welcome = await receive_welcome(self._connection)
        except (BadMessageError, ConnectionClosed) as error:
            raise ServerGone(str(error)) from None
        self._pid = hired.pid
        return SimClient(self._connection, welcome.embodiment, KEEPALIVE)

    async def end(self) -> None:
        """End the connection, and so the server."""
        self._pid = None
        if self._connection is not None:
            await hang_up(self._connection)
            self._connection = None

    def _check_alike(self, hired: Hired, offer: Offer) -> None:
        """Make sure that the other machine's simulator is the run's.

        Raises:
            VlarigError: They differ; says in what, and what to type there. ``CodeChangedError`` where the code differs.
        """
        ours, place = self._workplace, f"{self._machine.name} ({offer.host})"
        if hired.code != ours.code():
            names = " or ".join(["vlarig", *sorted({source.name for source in ours.sources})])
            raise CodeChangedError(
                f"{place} runs other code of {names} (version {offer.vlarig}) than this machine (version {version('vlarig')}) when the "
                "run began, so its results need not be the same; install the same on both"
            )
        if hired.runtime != ours.runtime.lock_sha256:
            raise VlarigError(
                f"{place} has the runtime {ours.suite.runtime!r} with other packages ({hired.runtime[:12]}) than this machine "
                f"({ours.runtime.lock_sha256[:12]}); type 'vlarig runtime install {ours.suite.runtime}' on both"
            )
        renderer = "" if ours.renderer is None else ours.renderer.name
        if hired.renderer != renderer:
            raise VlarigError(
                f"{place} draws with {hired.renderer or 'its own means'}, this machine with {renderer or 'its own means'}, so its "
                "pictures need not be the same; 'vlarig doctor' on both says what each has"
            )
        for bundle in ours.assets:
            if hired.assets.get(bundle.name) != bundle.identity:
                raise VlarigError(
                    f"{place} has other {bundle.name} assets ({hired.assets.get(bundle.name)}) than this machine ({bundle.identity}); "
                    "point VLARIG_ASSETS at the same files on both"
                )
