"""A remote policy behind vla-eval's protocol: ``vlarig sweep SUITE --policy vla-eval:ws://HOST:PORT``.

Its servers (allenai/vla-evaluation-harness src/vla_eval/model_servers/predict.py, vla-eval 0.8.0) hand out their chunks one step an
observation, so by default each step is a request. One that was started with ``--args.chunk_size=null`` answers with whole
chunks; ``horizon=STEPS`` then gives their number of steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ...envs.api import Needs
from ...envs.embodiments import Embodiment
from ...envs.untrusted import one_line
from ..api import Policy, PolicyError, Reply, Request
from ..conventions import find_embodiment, refuse_differences
from ..images import ImageFit, fit_image
from ..options import ImageSize, Options, Seconds, Views, read_options
from .access import refuse_secrets
from .vla_eval_sessions import Sessions
from .vla_eval_specs import announced_differences, read_hello
from .vla_eval_wire import pack_payload


class VlaEvalOptions(Options):
    """Options of the remote policy, given as ``--policy-options NAME=VALUE``."""

    convention: str | None = None
    """the embodiment that the server's policy moves: its name, or a JSON file with one"""
    images: Views | None = None
    """VIEW:NAME,..., the server's name for each view that it is shown"""
    image_size: ImageSize | None = None
    """224 or HEIGHTxWIDTH; as the env shows them where it is left out"""
    image_fit: ImageFit = "pad"
    """how an image gets that size: pad, stretch or crop"""
    state_key: Annotated[str, Field(min_length=1)] = "states"
    """the server's name for the state vector"""
    horizon: Annotated[int, Field(ge=1, le=4096)] = 1
    """steps of each answer"""
    announced: Literal["checked", "ignored"] = "checked"
    """ignored where the server announces conventions that are not so"""
    revision: str | None = None
    """names the checkpoint behind the server, which announces none"""
    timeout: Seconds = 120.0
    """seconds that an answer may take"""
    connect_timeout: Seconds = 20.0
    """seconds that a connection may take"""


class VlaEvalPolicy(Policy):
    """Plays what a vla-eval model server answers: a connection for each env, all with requests at once, so that the server can batch.

    The server announces some of its conventions (a rotation's representation, a gripper's signs), and one that contradicts the env's
    stops the run. It cannot announce units, frames, or which of its images is which view, so the user declares them: silence stops the
    run too.

    Args:
        argument: Address of the server, ``ws://HOST:PORT`` or ``wss://HOST:PORT``.
        options: What :class:`VlaEvalOptions` names.
    """

    name = "vla-eval"

    transport_options = frozenset({"timeout", "connect_timeout"})
    """Options that change no answer."""

    def __init__(self, argument: str, **options: Any) -> None:
        self._options = read_options(VlaEvalOptions, options, f"the policy {self.name!r}")
        refuse_secrets(argument, self.name)
        if not argument.startswith(("ws://", "wss://")):
            raise PolicyError(f"{argument!r} is no address of a model server; write vla-eval:ws://HOST:PORT")
        self._address = argument
        self._sessions = Sessions(argument, self._options.timeout, self._options.connect_timeout)
        try:
            self._announced = read_hello(self._sessions.hello, argument)
            self._embodiment = self._declared()
        except BaseException:
            self._sessions.close()
            raise
        self.embodiments = (self._embodiment,)
        self._views = self._options.images or {}
        self.needs = Needs(images=self._announced.reads_images or bool(self._views))
        self.reads_state = self._announced.reads_state
        self.horizon = self._options.horizon
        digest = hashlib.sha256(pack_payload(self._sessions.hello)).hexdigest()[:8]  # the declared revision is beside it
        server, version = one_line(self._announced.model_server)[:80], one_line(self._announced.harness_version)[:40]
        self.revision = f"{self._options.revision} {server}-{version}-{digest}"

    def check(self, suite: str, embodiment: Embodiment) -> None:
        refuse_differences(self.name, suite, self._embodiment, embodiment, self.reads_state)
        for view in self._views:
            if view not in embodiment.cameras:
                raise PolicyError(
                    f"images={view}:{self._views[view]} names a view that {embodiment.name} does not have; "
                    f"it has {', '.join(embodiment.cameras)}"
                )
        found = announced_differences(self._announced, embodiment) if self._options.announced == "checked" else []
        if found:
            raise PolicyError(
                f"the vla-eval server at {self._address} does not fit suite {suite!r} ({embodiment.name}): {'; '.join(found)} "
                "(--policy-options announced=ignored where what it announces is not so)"
            )

    def strict(self) -> None:
        """Refuse: a client cannot make such a server compute strictly."""
        raise PolicyError(f"the vla-eval server at {self._address} cannot be made to compute strictly; leave --strict out")

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        answers = self._sessions.ask(requests, [self._observation(request) for request in requests])
        return [Reply(self._actions(answer)) for answer in answers]

    def close(self) -> None:
        self._sessions.close()

    def _declared(self) -> Embodiment:
        missing = []
        if self._options.convention is None:
            missing.append("convention=EMBODIMENT (such as libero_panda, or a JSON file)")
        if self._options.images is None and self._announced.reads_images:
            names = self._announced.image_names
            known = f"; it announces {', '.join(names)}" if names else ""
            missing.append(f"images=VIEW:NAME,... (such as ego:agentview{known})")
        if self._options.revision is None:
            missing.append("revision=NAME (of the checkpoint, so that a run is not resumed with another)")
        if missing or self._options.convention is None:
            raise PolicyError(
                f"the vla-eval server at {self._address} does not say all that its numbers mean, or whose they are; declare it: "
                f"--policy-options {' '.join(missing)}"
            )
        return find_embodiment(self._options.convention)

    def _observation(self, request: Request) -> dict[str, Any]:
        seen = request.observation
        observation: dict[str, Any] = {"images": self._shown(request), "task_description": seen["instruction"]}
        if self.reads_state:
            observation[self._options.state_key] = np.asarray(seen["state"], np.float32)
        return observation

    def _shown(self, request: Request) -> dict[str, np.ndarray]:
        images, shown = request.observation["images"], {}
        for view, name in self._views.items():
            if view not in images:
                raise PolicyError(
                    f"images={view}:{name} names a view that the protocol does not show; it shows {', '.join(images) or 'none'}"
                )
            image = images[view][-1]
            shown[name] = (
                image
                if self._options.image_size is None
                else fit_image(image, *self._options.image_size, self._options.image_fit)
            )
        return shown

    def _actions(self, payload: dict[str, Any]) -> np.ndarray:
        """The steps in an answer, ``float32[H, A]``."""
        actions = payload.get("actions", payload.get("action"))
        try:
            steps = np.asarray(actions, np.float32)
        except (TypeError, ValueError):
            steps = np.zeros(())
        if steps.ndim not in (1, 2):
            raise PolicyError(
                f"the vla-eval server at {self._address} answered without an array 'actions' of one or more steps"
            )
        steps = steps[None] if steps.ndim == 1 else steps
        if len(steps) != self.horizon:
            hint = f"declare horizon={len(steps)}"
            if len(steps) == 1:
                hint = "start it with --args.chunk_size=null for whole chunks, or leave horizon out"
            raise PolicyError(
                f"the vla-eval server at {self._address} answers with {len(steps)} step{'s' * (len(steps) != 1)} at a time and "
                f"horizon is {self.horizon}; {hint}"
            )
        return steps
