"""``vlarig serve-policy``: let other programs ask a policy, by openpi's websocket protocol."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...envs.access import find_token
from ...envs.embodiments import Embodiment
from ...envs.sources import source_hashes
from ...envs.tls import server_context
from ...policies.api import Policy, PolicyError
from ...policies.batching import Batching
from ...policies.conventions import find_embodiment
from ...policies.openpi_layouts import find_layout
from ...policies.registry import loaded_policy, parse_options, policy_sources
from ...policies.serving import PolicyServer, ServerConfig
from ..command_line import parse
from ..printable import log_to_stderr
from ..replicas import replicated_policy
from ..screen import Screen
from ..termination import stop_on_signals

DESCRIPTION = """Serve a policy by openpi's websocket protocol: to a sweep elsewhere, or to any program that uses openpi-client.

Requests of all clients are answered in batches. SIGTERM or Ctrl-C ends it: what is under way gets ten seconds to be answered.
A second one ends it at once. GET /healthz says OK. What goes wrong in the policy is logged here, and clients are told only that it did.

  vlarig serve-policy --policy qwen-vla:CHECKPOINT --embodiment libero_panda
  vlarig sweep libero_spatial --policy openpi:ws://127.0.0.1:8000

  vlarig serve-policy --policy random --embodiment libero_panda --layout libero        # for openpi's own LIBERO client
  vlarig serve-policy --policy qwen-vla:CHECKPOINT --host 0.0.0.0 --token-file token   # clients show the token

With --certificate server.pem --key server.key it encrypts, and clients connect to wss://HOST:PORT.
"""


@dataclass(frozen=True)
class ServePolicy:
    """What ``vlarig serve-policy`` can be told."""

    policy: Annotated[str, tyro.conf.arg(metavar="POLICY")]
    """Whom to serve, as in 'vlarig sweep'."""
    policy_options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE...")] = ()
    """What the policy is told; announced as a part of its revision."""
    embodiment: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Whom the policy moves for all clients: an embodiment's name, an installed suite's too, or a JSON file with one. Default: the
    policy's only one."""
    layout: Annotated[str, tyro.conf.arg(metavar="NAME")] = "vlarig"
    """Under which keys clients send what they see: vlarig (every view by its tag), libero, droid or aloha as openpi's policies."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but the loopback interface's asks for a token."""
    port: int = 8000
    """Port to listen on; 0 for any that is free."""
    token_env: Annotated[str | None, tyro.conf.arg(metavar="VARIABLE")] = None
    """Environment variable with the token that clients must show."""
    token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File with the token that clients must show."""
    certificate: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Certificate to encrypt with, in PEM format; clients then write wss://."""
    key: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The certificate's private key."""
    replicas: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Processes in which the policy acts, side by side; one that dies is started anew. Default: none but the server's own."""
    max_batch: Annotated[int, tyro.conf.arg(metavar="N")] = 64
    """Most requests that the policy answers at once."""
    wait_ms: Annotated[float, tyro.conf.arg(metavar="MS")] = 5.0
    """How long a batch that is not full waits for more."""
    max_connections: Annotated[int, tyro.conf.arg(metavar="N")] = 256
    """Most connections at a time."""
    execute: Annotated[int, tyro.conf.arg(metavar="ROWS")] = 8
    """Rows of an answer to a client that does not say how many it wants, from a policy that has no horizon of its own."""
    seed: int = 0
    """What the draws for clients follow from that send no seeds of their own."""
    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Answer one request at a time, in one thread and in float32."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_connections", "execute"):
            if getattr(self, name) < 1:
                raise PolicyError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected 1 or more")
        if not 0 <= self.wait_ms <= 60_000:
            raise PolicyError(f"--wait-ms is {self.wait_ms:g}; expected 0 to 60000")
        if not 0 <= self.port < 2**16:
            raise PolicyError(f"--port is {self.port}; expected 0 to 65535")
        if self.replicas is not None and self.replicas < 1:
            raise PolicyError(f"--replicas is {self.replicas}; expected 1 or more")
        if (self.certificate is None) != (self.key is None):
            raise PolicyError("--certificate and --key go together; give both, or neither")

    def server_config(self) -> ServerConfig:
        """The part that is about the server.

        Raises:
            VlarigError: The token or the certificate is not there, or not what it should be.
        """
        encryption = None
        if self.certificate is not None and self.key is not None:
            encryption = server_context(self.certificate, self.key)
        return ServerConfig(
            host=self.host,
            port=self.port,
            token=find_token(self.token_env, self.token_file),
            encryption=encryption,
            batching=Batching(self.max_batch, self.wait_ms / 1000, alone_on_failure=True),
            strict=self.strict,
            options=parse_options(self.policy_options),
            sources=source_hashes(policy_sources(self.policy)),
            execute=self.execute,
            seed=self.seed,
            most_connections=self.max_connections,
        )


def main(arguments: list[str]) -> int:
    """Parse, and serve until a signal."""
    told = parse(ServePolicy, arguments, "vlarig serve-policy", DESCRIPTION)
    layout, config = find_layout(told.layout), told.server_config()
    log_to_stderr("%(asctime)s %(levelname)s %(name)s: %(message)s")
    if told.replicas is None:
        loaded = loaded_policy(told.policy, config.options)
    else:
        loaded = closing(replicated_policy(told.policy, config.options, told.replicas))
    with loaded as policy:
        asyncio.run(_serve(PolicyServer(policy, _embodiment(told, policy), layout, config)))
    return 0


def _embodiment(told: ServePolicy, policy: Policy) -> Embodiment:
    """The embodiment that the user names, one of the policy's own first, or the policy's only one."""
    own: tuple[Embodiment, ...] = tuple(policy.embodiments)
    if told.embodiment is not None:
        named = [each for each in own if each.name == told.embodiment]
        return named[0] if named else find_embodiment(told.embodiment)
    if len(own) == 1:
        return own[0]
    names = f"it knows {', '.join(each.name for each in own)}" if own else "it says of none"
    raise PolicyError(f"whom does the policy {told.policy!r} move? Name one by --embodiment, such as libero_panda ({names})")


async def _serve(server: PolicyServer) -> None:
    stop = stop_on_signals()
    screen = Screen(soft_wrap=True)
    async with server:
        said = server.announcement
        screen.print(f"serving {said.name} for {said.embodiment.name} at {server.address}, layout {said.layout}")
        await stop.wait()
    screen.print(f"stopped after {server.answered} answers")
