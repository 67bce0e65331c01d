"""Policies for replicas: one with a state of its episodes, and the failures of its process."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlarig.envs.api import Needs
from vlarig.envs.embodiments import Embodiment
from vlarig.policies.api import Policy, PolicyError, Recorded, Reply, Request

from .env import TOY_POINT
from .policies import ImageReader


class Notebook(Policy):
    """Its answer is a function of all observations of the episode so far: a request that reaches another replica changes it."""

    name, revision, horizon = "notebook", "5", None
    needs = Needs(privileged=True)
    embodiments = (TOY_POINT,)
    reads_state = False
    table_note, n_action_steps = "keeps notes", 8
    transport_options = frozenset({"patience", "trap", "note", "births"})  # files that a test writes while it plays

    def __init__(self) -> None:
        self.states: dict[int, tuple[str, bytes]] = {}
        self.version = 0
        self.times_strict = 0
        self.checked: list[str] = []

    def check(self, suite: str, embodiment: Embodiment) -> None:
        if suite == "elsewhere":
            raise PolicyError("the notebook does not go elsewhere")
        self.checked.append(suite)

    def strict(self) -> None:
        self.times_strict += 1

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        self.version += len(requests)
        return [self.act_one(request, len(requests)) for request in requests]

    def act_one(self, request: Request, batch: int) -> Reply:
        key, state = ("", b"") if request.chunk == 0 else self.states[request.env]
        assert request.chunk == 0 or key == request.key, (key, request.key)
        shown = [request.seed, request.observation["instruction"], sorted(request.observation["images"])]
        hashed = hashlib.sha256(state + repr(shown).encode())
        for array in (request.observation["state"], *request.observation["images"].values(), *request.privileged.values()):
            hashed.update(array.tobytes())
        state = hashed.digest()
        self.states[request.env] = request.key, state
        rng = np.random.default_rng(list(state))
        actions = rng.uniform(-1, 1, (request.n_action_steps, request.embodiment.action_size))
        arrays = {"pid": os.getpid(), "batch": batch, "strict": self.times_strict, "checked": self.checked}
        arrays |= {"devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "note": np.frombuffer(state, np.uint8)}
        return Reply(actions, Recorded(arrays=arrays))


class Forgetful(Notebook):
    """It declares that it keeps no state, and keeps none."""

    stateful = False

    def act_one(self, request: Request, batch: int) -> Reply:
        self.states[request.env] = request.key, b""
        return super().act_one(request, batch)


class Trapped(Notebook):
    """Ends, hangs or dies as a file says that is there when it acts; the file is deleted then, unless it says ``always``."""

    def __init__(self, trap: str) -> None:
        super().__init__()
        self.trap = Path(trap)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        kind = self.sprung(requests)
        if kind:
            print("I feel strange")
            befall(kind)
        return super().act(requests)

    def sprung(self, requests: Sequence[Request]) -> str:
        mine = self.trap.with_name(f"{self.trap.name}-{os.getpid()}")
        try:
            self.trap.rename(mine)  # one replica alone can
        except FileNotFoundError:
            return ""
        order = mine.read_text()
        kind, _, wanted = order.partition(" ")
        if not any(wanted in request.key for request in requests):
            mine.rename(self.trap)
            return ""
        if kind.startswith("always-"):
            mine.rename(self.trap)
        return kind.removeprefix("always-")


def befall(kind: str) -> None:
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "exit":
        os._exit(3)
    elif kind == "hang":
        time.sleep(1000)
    elif kind == "leave":
        raise SystemExit(0)
    elif kind == "interrupt":
        raise KeyboardInterrupt
    elif kind == "raise":
        raise KeyError("ego_view")
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    raise AssertionError(kind)


class Odd(Notebook):
    """It records what its option names."""

    def __init__(self, recorded: str) -> None:
        super().__init__()
        self.kind = recorded

    def act_one(self, request: Request, batch: int) -> Reply:
        kinds: dict[str, Any] = {"object": object(), "numbers": 2**64, "half": np.zeros(2, np.float16), "deep": []}
        for _ in range(2000):
            kinds["deep"] = [kinds["deep"]]
        return Reply(super().act_one(request, batch).actions, Recorded(arrays={"odd": kinds[self.kind]}))


class Stillborn(Notebook):
    """Its process dies before it is ready."""

    def __init__(self) -> None:
        sys.stderr.write("libfoo.so: cannot open shared object file\n")
        os._exit(7)


class Fickle(Notebook):
    """It is another policy each time."""

    def __init__(self) -> None:
        super().__init__()
        self.revision = str(os.getpid())


class Served(Trapped):
    """It needs nothing that clients of a policy server do not send."""

    needs = Needs(images=False)
    reads_state = True


class ServedReader(ImageReader):
    """A function of each request alone."""

    stateful = False


class Slow(Notebook):
    """It computes for a while, and leaves a note when it is closed."""

    def __init__(self, note: str) -> None:
        super().__init__()
        self.note = Path(note)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(1.5)
        return super().act(requests)

    def close(self) -> None:
        self.note.write_text("closed")


class Limited(Notebook):
    """It can be loaded twice and no more."""

    def __init__(self, births: str) -> None:
        super().__init__()
        with Path(births).open("a+") as file:
            file.write("one\n")
            file.flush()
            file.seek(0)
            if len(file.readlines()) > 2:
                os._exit(9)
