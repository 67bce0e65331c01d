"""``vlarig policy`` and ``vlarig serve``: inspect policies and write them, and lend one, or simulators, to other programs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from rich.text import Text
from tyro.conf import FlagCreatePairsOff, Positional, arg

from ...envs.access import required_token
from ...envs.embodiments import Embodiment
from ...envs.errors import VlarigError
from ...envs.sources import source_hashes
from ...envs.tls import server_context
from ...policies.api import Policy, PolicyError
from ...policies.batching import Batching
from ...policies.conventions import find_embodiment
from ...policies.registry import loaded_policy, option_sources, parse_options, policy_sources
from ...policies.remote.openpi_layouts import find_layout
from ...policies.remote.serving import PolicyServer, ServerConfig
from ..command_line import parse
from ..machines.env_server import EnvServer, EnvServerConfig
from ..machines.remote_machines import DEFAULT_PORT
from ..replicas import replicated_policy
from ..screen import Screen
from ..termination import stop_on_signals

POLICY_HELP = """Inspect Qwen-VLA, a checkpoint or a preset, and write a preset, or a checkpoint in another precision, to a folder.

  vlarig policy inspect                      # the checkpoint that vlarig brings along
  vlarig policy inspect --preset 4b          # parameters by part, as the paper prints them
  vlarig policy inspect FOLDER               # a checkpoint: its sizes, robots, statistics and prompts
  vlarig policy create --preset small --out FOLDER
  vlarig policy convert runs/sft/policy --dtype bfloat16 --out FOLDER
"""


@dataclass(frozen=True)
class Inspect:
    """Show parameter counts by part, robots, statistics and prompts."""

    checkpoint: Positional[Annotated[str | None, arg(metavar="[CHECKPOINT]")]] = None
    """A checkpoint's folder, or a hub's owner/name. Default: the one that vlarig brings along."""
    preset: str | None = None
    """A preset instead: 4b, small, tiny."""

    def run(self) -> None:
        from ...policies.qwen_vla.inspection import inspection
        from ...policies.qwen_vla.named import PRESETS

        if None not in (self.checkpoint, self.preset):
            raise PolicyError("name one checkpoint or one preset, as in: vlarig policy inspect --preset small")
        if self.preset is not None and self.preset not in PRESETS:
            raise PolicyError(f"unknown preset {self.preset!r}; presets are {', '.join(PRESETS)}")
        screen = Screen()
        for part in inspection(self.preset or self.checkpoint or ""):
            screen.print(part, soft_wrap=isinstance(part, Text))


@dataclass(frozen=True)
class Create:
    """Write a preset with random weights, or with a trained backbone, to a folder."""

    preset: str
    """4b, small or tiny."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Where to write it."""
    seed: int = 0
    """Seed of the random weights."""
    backbone: str | None = None
    """Folder or hub id of a trained Qwen3.5 to take the backbone and its tokenizer from."""

    def run(self) -> None:
        from ...policies.qwen_vla.checkpoint import load, save_checkpoint
        from ...policies.qwen_vla.named import PRESETS

        if self.preset not in PRESETS:
            raise PolicyError(f"unknown preset {self.preset!r}; presets are {', '.join(PRESETS)}")
        save_checkpoint(self.out, load(self.preset, seed=self.seed, backbone=self.backbone))
        Screen(soft_wrap=True).print(f"written to {self.out}; inspect it with: vlarig policy inspect {self.out}")


@dataclass(frozen=True)
class Convert:
    """Write a checkpoint in another precision, or with a number of steps to run; bfloat16 takes half the space of float32."""

    checkpoint: Positional[Annotated[str, arg(metavar="CHECKPOINT")]]
    """A checkpoint's folder, or a hub's owner/name."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Where to write it."""
    dtype: Literal["float32", "bfloat16"]
    """Precision of the weights."""
    n_action_steps: Annotated[int | None, arg(metavar="N")] = None
    """Steps of a chunk that are run where a user names none, such as what a sweep found best. Default: the checkpoint's."""

    def run(self) -> None:
        import torch

        from ...policies.qwen_vla.checkpoint import load_checkpoint, save_checkpoint
        from ...policies.qwen_vla.named import find_checkpoint

        bundle = load_checkpoint(find_checkpoint(self.checkpoint), dtype=getattr(torch, self.dtype))
        if self.n_action_steps is not None:
            config = replace(bundle.description.config, n_action_steps=self.n_action_steps)
            bundle = replace(bundle, description=replace(bundle.description, config=config))
        save_checkpoint(self.out, bundle)
        Screen(soft_wrap=True).print(f"written to {self.out}; inspect it with: vlarig policy inspect {self.out}")


COMMANDS: dict[str, type[Inspect | Create | Convert]] = {"inspect": Inspect, "create": Create, "convert": Convert}


def main(arguments: list[str]) -> int:
    command = parse(COMMANDS, arguments, "vlarig policy", POLICY_HELP)
    if not isinstance(command, Inspect) or command.preset != "4b":  # the paper's size is shown without PyTorch
        from ...policies.qwen_vla.named import policy_class

        policy_class()
    command.run()
    return 0


SERVE_ENVS_HELP = """Lend simulators to sweeps that run on another machine: each of their workers is a connection, and ends with it.

The machine needs the suites' runtimes and assets, and the same vlarig as the one that sweeps; where they differ the sweep reports
it and does not begin. SIGTERM or Ctrl-C ends the server; a sweep waits an hour for it to come back, and uses other workers meanwhile.

  vlarig serve envs                                                 # for sweeps on this machine alone
  vlarig serve envs --host 0.0.0.0 --token-file token               # for clients that show the token
  vlarig serve envs --host 0.0.0.0 --token-file token --certificate node1.pem --key node1.key
  vlarig sweep tabletop --policy expert --hosts node1 node2:9000    # on the machine that sweeps
"""

SERVE_POLICY_HELP = """Serve a policy by openpi's websocket protocol: to a sweep elsewhere, or to any program that uses openpi-client.

Requests of all clients are answered in batches. SIGTERM or Ctrl-C ends it: requests under way get ten seconds to be answered.
A second signal ends it at once. GET /healthz answers OK. Errors of the policy are logged here; clients learn only that it failed.

  vlarig serve policy --policy qwen-vla:CHECKPOINT --embodiment libero_panda
  vlarig sweep libero_spatial --policy openpi:ws://127.0.0.1:8000

  vlarig serve policy --policy random --embodiment libero_panda --layout libero --no-token   # for openpi's own LIBERO client
  vlarig serve policy --policy qwen-vla:CHECKPOINT --host 0.0.0.0 --token-file token         # clients show the token

With --certificate server.pem --key server.key it encrypts, and clients connect to wss://HOST:PORT.
"""


@dataclass(frozen=True, kw_only=True)
class _Listening:
    """Where a server listens, and who may connect."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but the loopback interface's requires a token."""
    port: int = 8000
    """Port to listen on; 0 for any that is free."""
    token_env: Annotated[str | None, arg(metavar="VARIABLE")] = None
    """Environment variable with the token that clients must show."""
    token_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """File with the token that clients must show. Default: on the loopback interface one of your own, which your sweeps find."""
    certificate: Annotated[Path | None, arg(metavar="FILE")] = None
    """Certificate to encrypt with, in PEM format; clients then write wss://."""
    key: Annotated[Path | None, arg(metavar="FILE")] = None
    """The certificate's private key."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise VlarigError(f"--port is {self.port}; expected 0 to 65535")
        if (self.certificate is None) != (self.key is None):
            raise VlarigError("--certificate and --key go together; give both, or neither")

    def token(self) -> str:
        return required_token(self.host, self.token_env, self.token_file)

    def encryption(self) -> ssl.SSLContext | None:
        if self.certificate is None or self.key is None:
            return None
        return server_context(self.certificate, self.key)


@dataclass(frozen=True)
class ServeEnvs(_Listening):
    """Options of ``vlarig serve envs``."""

    suites: Annotated[tuple[str, ...], Positional, arg(metavar="SUITE...")] = ()
    """Suites to lend. Default: all whose runtimes are installed."""
    port: int = field(default=DEFAULT_PORT, kw_only=True)
    """Port to listen on; 0 for any that is free."""
    workers: Annotated[int | None, arg(metavar="N")] = None
    """Most simulator processes at a time. Default: one a core."""
    logs: Annotated[Path, arg(metavar="DIR")] = Path("logs")
    """Folder of the simulators' logs."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise VlarigError(f"--workers is {self.workers}; expected 1 or more")
        super().__post_init__()

    def config(self) -> EnvServerConfig:
        return EnvServerConfig(
            host=self.host,
            port=self.port,
            encryption=self.encryption(),
            token=self.token(),
            suites=self.suites,
            workers=self.workers,
            logs=self.logs,
        )


def serve_envs(arguments: list[str]) -> int:
    options = parse(ServeEnvs, arguments, "vlarig serve envs", SERVE_ENVS_HELP)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("vlarig").setLevel(logging.INFO)
    asyncio.run(_lend(options.config()))
    return 0


async def _lend(config: EnvServerConfig) -> None:
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


@dataclass(frozen=True)
class ServePolicy(_Listening):
    """Options of ``vlarig serve policy``."""

    policy: Annotated[str, arg(metavar="POLICY")]
    """Policy to serve, as in 'vlarig sweep'."""
    policy_options: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE...")] = ()
    """Options of the policy; announced as a part of its revision."""
    embodiment: Annotated[str | None, arg(metavar="NAME")] = None
    """Embodiment that the policy moves for all clients: its name, an installed suite's too, or a JSON file with one. Default: the
    policy's only one."""
    layout: Annotated[str, arg(metavar="NAME")] = "vlarig"
    """Keys of clients' observations: vlarig (every view by its tag), libero, droid or aloha as openpi's policies."""
    no_token: Annotated[bool, FlagCreatePairsOff] = False
    """Let every user of this machine use the policy, for clients that cannot send a token; on the loopback interface alone."""
    replicas: Annotated[int | None, arg(metavar="N")] = None
    """Processes in which the policy acts, side by side; one that dies is restarted. Default: none but the server's own."""
    max_batch: Annotated[int, arg(metavar="N")] = 64
    """Most requests that the policy answers at once."""
    wait_ms: Annotated[float, arg(metavar="MS")] = 5.0
    """How long a batch that is not full waits for more."""
    max_connections: Annotated[int, arg(metavar="N")] = 256
    """Most connections at a time."""
    n_action_steps: Annotated[int, arg(metavar="STEPS")] = 8
    """Steps of an answer to a client that requests no number of them, from a policy without a horizon of its own."""
    seed: int = 0
    """Seed of the random numbers for clients that send no seeds of their own."""
    strict: Annotated[bool, FlagCreatePairsOff] = False
    """Answer one request at a time, in one thread and in float32."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_connections", "n_action_steps"):
            if getattr(self, name) < 1:
                raise PolicyError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected 1 or more")
        if not 0 <= self.wait_ms <= 60_000:
            raise PolicyError(f"--wait-ms is {self.wait_ms:g}; expected 0 to 60000")
        super().__post_init__()
        if self.replicas is not None and self.replicas < 1:
            raise PolicyError(f"--replicas is {self.replicas}; expected 1 or more")
        if self.no_token and (self.token_env, self.token_file) != (None, None):
            raise PolicyError("--no-token goes with no --token-env and no --token-file; give one of them")

    def server_config(self) -> ServerConfig:
        return ServerConfig(
            host=self.host,
            port=self.port,
            encryption=self.encryption(),
            token="" if self.no_token else self.token(),
            batching=Batching(self.max_batch, self.wait_ms / 1000, alone_on_failure=True),
            strict=self.strict,
            options=parse_options(self.policy_options),
            sources=source_hashes(policy_sources(self.policy)),
            n_action_steps=self.n_action_steps,
            seed=self.seed,
            most_connections=self.max_connections,
        )


def serve_policy(arguments: list[str]) -> int:
    options = parse(ServePolicy, arguments, "vlarig serve policy", SERVE_POLICY_HELP)
    layout, config = find_layout(options.layout), options.server_config()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if options.replicas is None:
        loaded = loaded_policy(options.policy, config.options)
    else:
        loaded = closing(replicated_policy(options.policy, config.options, options.replicas))
    with loaded as policy:
        files = source_hashes(option_sources(options.policy, policy, config.options))
        config = replace(config, sources={**config.sources, **files})
        asyncio.run(_serve(PolicyServer(policy, _embodiment(options, policy), layout, config)))
    return 0


def _embodiment(options: ServePolicy, policy: Policy) -> Embodiment:
    """The embodiment that the user names, one of the policy's own first, or the policy's only one."""
    own: tuple[Embodiment, ...] = tuple(policy.embodiments)
    if options.embodiment is not None:
        named = [each for each in own if each.name == options.embodiment]
        return named[0] if named else find_embodiment(options.embodiment)
    if len(own) == 1:
        return own[0]
    names = f"it knows {', '.join(each.name for each in own)}" if own else "it declares none"
    raise PolicyError(
        f"the policy {options.policy!r} needs an embodiment: name one by --embodiment, such as libero_panda ({names})"
    )


async def _serve(server: PolicyServer) -> None:
    stop = stop_on_signals()
    screen = Screen(soft_wrap=True)
    async with server:
        served = server.announcement
        screen.print(f"serving {served.name} for {served.embodiment.name} at {server.address}, layout {served.layout}")
        await stop.wait()
    screen.print(f"stopped after {server.answered} answers")
