"""Connections that stop reading while the other end does not read."""

from __future__ import annotations

from websockets.asyncio.server import ServerConnection


class PatientConnection(ServerConnection):
    """A server's connection from which nothing is read while its other end does not read what was written.

    websockets answers every ping at once, whether or not the answers are read. So a client that sends pings and reads nothing would
    fill the server's memory as fast as it can send. Pass it as ``create_connection`` of a server.
    """

    def pause_writing(self) -> None:
        """Called when much of what was written has not been read."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Called when most of it has been read."""
        super().resume_writing()
        self.transport.resume_reading()
