"""``vlarig serve envs``: lend this machine's simulators to sweeps that run elsewhere."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...envs.access import required_token
from ...envs.errors import VlarigError
from ...envs.tls import server_context
from ..command_line import parse
from ..machines.env_server import EnvServer, EnvServerConfig
from ..machines.remote_machines import DEFAULT_PORT
from ..printable import log_to_stderr
from ..screen import Screen
from ..termination import stop_on_signals

DESCRIPTION = """Lend simulators to sweeps that run on another machine: each of their workers is a connection, and ends with it.

The machine needs the suites' runtimes and assets, and the same vlarig as the one that sweeps; where they differ the sweep reports
it and does not begin. SIGTERM or Ctrl-C ends the server; a sweep waits an hour for it to come back, and uses other workers meanwhile.

  vlarig serve envs                                                 # for sweeps on this machine alone
  vlarig serve envs --host 0.0.0.0 --token-file token               # for clients that show the token
  vlarig serve envs --host 0.0.0.0 --token-file token --certificate node1.pem --key node1.key
  vlarig sweep tabletop --policy expert --hosts node1 node2:9000    # on the machine that sweeps
"""


@dataclass(frozen=True)
class ServeEnvs:
    """Options of ``vlarig serve envs``."""

    suites: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SUITE...")] = ()
    """Suites to lend. Default: all whose runtimes are installed."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but the loopback interface's requires a token."""
    port: int = DEFAULT_PORT
    """Port to listen on; 0 for any that is free."""
    token_env: Annotated[str | None, tyro.conf.arg(metavar="VARIABLE")] = None
    """Environment variable with the token that clients must show."""
    token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File with the token that clients must show. Default: on the loopback interface one of your own, which your sweeps find."""
    certificate: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Certificate to encrypt with, in PEM format; clients then write wss://."""
    key: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The certificate's private key."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Most simulator processes at a time. Default: one a core."""
    logs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("logs")
    """Folder of the simulators' logs."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise VlarigError(f"--workers is {self.workers}; expected 1 or more")
        if not 0 <= self.port < 2**16:
            raise VlarigError(f"--port is {self.port}; expected 0 to 65535")
        if (self.certificate is None) != (self.key is None):
            raise VlarigError("--certificate and --key go together; give both, or neither")

    def config(self) -> EnvServerConfig:
        encryption = None
        if self.certificate is not None and self.key is not None:
            encryption = server_context(self.certificate, self.key)
        return EnvServerConfig(
            host=self.host,
            port=self.port,
            token=required_token(self.host, self.token_env, self.token_file),
            encryption=encryption,
            suites=self.suites,
            workers=self.workers,
            logs=self.logs,
        )


def main(arguments: list[str]) -> int:
    """Parse, and serve until a signal."""
    options = parse(ServeEnvs, arguments, "vlarig serve envs", DESCRIPTION)
    log_to_stderr("%(asctime)s %(message)s")
    logging.getLogger("vlarig").setLevel(logging.INFO)
    asyncio.run(_serve(options.config()))
    return 0


async def _serve(config: EnvServerConfig) -> None:
    stop = stop_on_signals()
    screen = Screen(soft_wrap=True)
    async with EnvServer(config) as server:
        capacity = server.capacity()
        scheme = "ws" if config.encryption is None else "wss"
        lent = ", ".join(config.suites) or "every installed suite"
        screen.print(
            f"lending {lent} at {scheme}://{config.host}:{server.port}: {capacity.workers} workers, "
            f"{capacity.cores} cores, {capacity.memory / 10**9:.1f} GB free"
        )
        await stop.wait()
    screen.print("stopped")
