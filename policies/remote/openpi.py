"""A remote policy behind openpi's websocket protocol: ``vlarig sweep SUITE --policy openpi:ws://HOST:PORT``."""

from __future__ import annotations

import hashlib
import ssl
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ...envs.access import shown_token
from ...envs.api import Needs
from ...envs.embodiments import Embodiment
from ...envs.errors import BadMessageError
from ...envs.tls import client_context
from ..api import Policy, PolicyError, Reply, Request
from ..conventions import differences, find_embodiment, refuse_differences
from ..images import ImageFit
from ..options import ImageSize, Options, Seconds, read_options
from .access import TOKEN_VARIABLE, refuse_secrets
from .announcement import CHUNK, CLIENT, ENV, EPISODE, METADATA_KEY, N_ACTION_STEPS, SEED, Announcement
from .openpi_layouts import LAYOUTS, ObservationLayout, find_layout
from .openpi_pool import ConnectionPool
from .openpi_wire import pack, unpack


class Settings(Options):
    """Options of the remote policy, given as ``--policy-options NAME=VALUE``."""

    layout: str | None = None
    """The keys of the observations that the server reads."""
    convention: str | None = None
    """What the server's numbers mean: name of an embodiment, or a JSON file with one."""
    horizon: Annotated[int, Field(ge=1)] | None = None
    """Steps of each answer."""
    image_size: ImageSize | None = None
    """Size of an image, where it is not the layout's."""
    image_fit: ImageFit | None = None
    """How an image gets that size, where it is not the layout's way."""
    revision: str | None = None
    """Names the policy's revision, such as its checkpoint, where the server announces none."""
    connections: Annotated[int, Field(ge=1, le=1024)] = 64
    """Most connections at a time, each with one request under way."""
    timeout: Seconds = 120.0
    """Seconds that an answer may take."""
    connect_timeout: Seconds = 20.0
    """Seconds that a connection may take."""
    token_file: Path | None = None
    """File with the token to show; else the environment's VLARIG_POLICY_TOKEN, or on this machine the user's own."""
    ca_file: Path | None = None
    """For wss://: file with the certificate of the authority to trust, or the server's own; else the system's are."""

    def encryption(self, address: str) -> ssl.SSLContext | None:
        """How to check the certificate of the server at ``address``; ``None`` for one in the clear."""
        if address.startswith("wss://"):
            return client_context(self.ca_file)
        if self.ca_file is not None:
            raise PolicyError(
                f"ca_file={self.ca_file} names a certificate to trust, and {address} is not encrypted; write wss://"
            )
        return None


class OpenpiPolicy(Policy):
    """Plays what an openpi server answers. A batch goes out over several connections at once, so that the server can batch too.

    Our server (``vlarig serve policy``) announces the embodiment that its policy moves, the observation layout that it reads and
    its steps an answer. Any other announces nothing, and the user has to declare it: without a declaration the run stops, and so it
    does where a declaration contradicts an announcement.

    Args:
        argument: Address of the server, ``ws://HOST:PORT`` or ``wss://HOST:PORT``.
        settings: The fields of :class:`Settings`, as given.
    """

    transport_options = frozenset({"ca_file", "connections", "timeout", "connect_timeout", "token_file"})
    """Options that change no answer."""

    def __init__(self, argument: str, **settings: Any) -> None:
        options = read_options(Settings, settings, "the openpi policy")
        refuse_secrets(argument, "openpi")
        if not argument.startswith(("ws://", "wss://")):
            raise PolicyError(f"{argument!r} is no address of a policy server; write openpi:ws://HOST:PORT")
        self._address = argument
        encryption = options.encryption(argument)
        token = shown_token(argument, TOKEN_VARIABLE, options.token_file)
        self._pool = ConnectionPool(
            argument, token, options.connections, options.timeout, options.connect_timeout, encryption=encryption
        )
        try:
            self._announced = self._read_metadata()
            self._settle(options)
        except BaseException:
            self._pool.close()
            raise
        self._client = uuid.uuid4().hex

    def check(self, suite: str, embodiment: Embodiment) -> None:
        refuse_differences(self.name, suite, self._embodiment, embodiment, self.reads_state)
        self._layout.refuse_unfit(f"suite {suite!r}", embodiment, self.needs.images, self.reads_state)

    def strict(self) -> None:
        """Make sure that the server computes strictly; a client cannot switch that on."""
        if self._announced is None or not self._announced.strict:
            raise PolicyError(
                f"the policy server at {self._address} does not announce that it is strict; start it with --strict"
            )

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The server's answer to each request.

        Raises:
            PolicyLost: The server reports that the replica with one of our episodes died.
        """
        answers = self._pool.exchange([pack(self._message(request)) for request in requests])
        return [Reply(self._actions(answer)) for answer in answers]

    def close(self) -> None:
        self._pool.close()

    def _read_metadata(self) -> Announcement | None:
        if METADATA_KEY not in self._pool.metadata:
            return None
        try:
            return Announcement.from_data(self._pool.metadata[METADATA_KEY])
        except PolicyError as error:
            raise PolicyError(f"{error} ({self._address})") from None

    def _settle(self, options: Settings) -> None:
        """Merge the announcement with the declared options."""
        announced = self._announced
        if announced is None:
            layout, embodiment = self._declared(options)
            # A server that announces nothing is identified by its metadata beside the declared revision.
            digest = hashlib.sha256(pack(self._pool.metadata)).hexdigest()[:8]
            self.name, self.revision = "openpi", f"{options.revision} metadata-{digest}"
            self.horizon = options.horizon
            reads_images, reads_state = True, True
        else:
            self._refuse_contradictions(options, announced)
            layout, embodiment = find_layout(announced.layout), announced.embodiment
            self.name, self.revision = announced.name, announced.identity
            self.horizon, self.n_action_steps = announced.horizon, announced.n_action_steps
            reads_images, reads_state = announced.reads_images, announced.reads_state
            self.table_note = announced.table_note
        size, fit = options.image_size or layout.image_size, options.image_fit or layout.image_fit
        self._layout = replace(layout, image_size=size, image_fit=fit)
        self._embodiment, self.embodiments = embodiment, (embodiment,)
        self.reads_state = reads_state
        self.needs = Needs(images=reads_images)

    def _declared(self, options: Settings) -> tuple[ObservationLayout, Embodiment]:
        missing = [name for name in ("layout", "convention", "horizon", "revision") if getattr(options, name) is None]
        if missing or options.layout is None or options.convention is None:
            examples = {
                "layout": f"layout=NAME ({', '.join(LAYOUTS)})",
                "convention": "convention=EMBODIMENT (such as libero_panda, or a JSON file)",
                "horizon": "horizon=STEPS",
                "revision": "revision=NAME (of the checkpoint, so that a run is not resumed with another)",
            }
            raise PolicyError(
                f"the policy server at {self._address} does not say what its numbers mean, or whose they are; declare it: "
                f"--policy-options {' '.join(examples[name] for name in missing)}"
            )
        return find_layout(options.layout), find_embodiment(options.convention)

    def _refuse_contradictions(self, options: Settings, announced: Announcement) -> None:
        for name in ("layout", "horizon", "revision"):
            declared, served = getattr(options, name), getattr(announced, name)
            if declared is not None and declared != served:
                raise PolicyError(
                    f"the policy server at {self._address} announces {name} {served}, and {name}={declared} was declared; leave it out"
                )
        if options.convention is not None:
            found = differences(find_embodiment(options.convention), announced.embodiment, announced.reads_state)
            if found:
                raise PolicyError(
                    f"the policy server at {self._address} announces the conventions of {announced.embodiment.name}, and "
                    f"convention={options.convention} was declared, which differs: {found[0].replace('the env', 'the server')}"
                )

    def _message(self, request: Request) -> dict[str, Any]:
        message = self._layout.message(request.observation, self.needs.images)
        if self._announced is not None:
            message |= {
                CLIENT: self._client,
                ENV: request.env,
                EPISODE: request.key,
                CHUNK: request.chunk,
                SEED: request.seed,
                N_ACTION_STEPS: request.n_action_steps,
            }
        return message

    def _actions(self, answer: bytes) -> np.ndarray:
        try:
            value = unpack(answer)
        except BadMessageError as error:
            raise PolicyError(f"the policy server at {self._address} answered with {error}") from None
        actions = value.get("actions") if isinstance(value, dict) else None
        if not isinstance(actions, np.ndarray):
            raise PolicyError(
                f"the policy server at {self._address} answered without an array 'actions'; is it an openpi server?"
            )
        return actions
