"""The simulator's side of ``steps.py``: our loops and upstream's own, in one process without the harness.

Run by the runtime's interpreter with the name of a function of :data:`ANSWERS`. It reads a line of JSON from standard input, with the
files of the packages that the driver shares, and answers with a line of JSON on standard output.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import numpy as np

#: Images and bare physics steps of a measurement.
IMAGES = 8


def cpu(work: Callable[[], Any], count: int = 1) -> float:
    """CPU milliseconds of this process for one of ``count`` calls."""
    began = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - began) / count * 1e3


def play(env: Any, start: Any, actions: np.ndarray) -> None:
    """Our loop over an episode that has begun."""
    n_action_steps = start.episode.protocol.n_action_steps
    for step in range(0, len(actions), n_action_steps):
        env.step_chunk(actions[step : step + n_action_steps])


def measure(request: dict[str, Any], make: Callable[[], Any], starts: list[Any]) -> dict[str, Any]:
    """CPU milliseconds of a reset and of a step by loop, those of an image and of bare physics; and whether states are equal.

    The first of ``starts`` is without images, the second with them. States are those of the loops with images: LIBERO's env
    without cameras ends in another state than its env with them.
    """
    env, actions = make(), np.array(request["actions"], dtype=np.float32)
    theirs, same = {}, False
    for name, seeing in request["upstreams"].items():
        ours = starts[1 if seeing else 0]
        env.open(ours.episode, ours.needs)
        loop = theirs[name] = resolve_name(request["upstream"])(ours.episode, seeing)
        loop.follow(env)
        play(env, ours, actions)
        loop.reset(ours.episode)
        for action in actions:
            loop.step(action)
        if seeing:
            same = all(np.array_equal(mine, yours) for mine, yours in zip(loop.state_of(env), loop.state(), strict=True))
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in (*request["loops"], *theirs)}
    parts: dict[str, list[float]] = {}
    for _ in range(request["turns"]):
        for name, start in zip(request["loops"], starts, strict=True):
            reset = cpu(partial(env.open, start.episode, start.needs))
            costs[name].append((reset, cpu(partial(play, env, start, actions)) / len(actions)))
        for camera in starts[1].episode.protocol.cameras:
            rendered = cpu(partial(env.render_view, camera.as_drawn), IMAGES)
            parts.setdefault(f"our image, {camera.view}", []).append(rendered)
        physics = theirs["upstream"].bare_physics(env)
        if physics is not None:
            parts.setdefault("bare physics of a step", []).append(cpu(physics, IMAGES))
        for name, each in theirs.items():
            begin = partial(each.begin_again, starts[1].episode)
            costs[name].append((cpu(begin), cpu(lambda each=each: [each.step(action) for action in actions]) / len(actions)))
    return {"costs": costs, "parts": parts, "same": same}


def memory(_: dict[str, Any], make: Callable[[], Any], starts: list[Any]) -> float:
    """MB of this process when each initial state's env has begun and stepped."""
    envs = [make()]
    envs += [envs[0].sibling() for _ in starts[1:]]
    for env, start in zip(envs, starts, strict=True):
        env.open(start.episode, start.needs)
        env.step_chunk(np.zeros((start.episode.protocol.n_action_steps, env.embodiment.action_size), dtype=np.float32))
    return proportional_megabytes()


def upstream_memory(request: dict[str, Any], _: Callable[[], Any], starts: list[Any]) -> float:
    """The same of upstream's env with images; MuJoCo's cache of files is off, as in ours."""
    loop = resolve_name(request["upstream"])(starts[0].episode, True)
    loop.begin_again(starts[0].episode)
    loop.step(np.zeros(request["action_size"], dtype=np.float32))
    return proportional_megabytes()


def proportional_megabytes() -> float:
    """Memory of this process, its share of what it has in common with others (proportional set size)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def start_up(_: dict[str, Any], make: Callable[[], Any], starts: list[Any]) -> list[float]:
    """Wall seconds until the first observation, the simulator's import included; then of the same episode in the scene loaded again."""
    seconds, began = [], time.perf_counter()
    env = make()
    for _ in range(2):
        env.open(starts[0].episode, starts[0].needs)
        seconds.append(time.perf_counter() - began)
        env.close()
        began = time.perf_counter()
    return seconds


def bare(request: dict[str, Any], make: Callable[[], Any], starts: list[Any]) -> float:
    """Steps a second of the episodes, resets included, in ``request["envs"]`` envs that run a chunk in turn.

    Loads, writes ``ready``, waits for a line, plays.
    """
    env, actions = make(), np.array(request["actions"], dtype=np.float32)
    env.open(starts[0].episode, starts[0].needs)
    env.step_chunk(actions)
    playing = [env, *(env.sibling() for _ in range(request["envs"] - 1))]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    steps, began = 0, time.perf_counter()
    waiting, under_way = iter(starts), set()
    while playing:
        for env in list(playing):
            if env not in under_way:
                start = next(waiting, None)
                if start is None:
                    playing.remove(env)
                    continue
                env.open(start.episode, start.needs)
                under_way.add(env)
            result = env.step_chunk(actions)
            steps += len(result.steps)
            if result.over:
                under_way.discard(env)
    return steps / (time.perf_counter() - began)


ANSWERS = {each.__name__: each for each in (measure, memory, upstream_memory, start_up, bare)}


def main() -> None:
    request = json.loads(sys.stdin.readline())
    room = ModuleType("vlarig")
    room.__path__ = []
    sys.modules["vlarig"] = room
    spec = importlib.util.spec_from_file_location("vlarig.envs", request["package"])
    sys.modules["vlarig.envs"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["vlarig.envs"])
    messages, wire = importlib.import_module("vlarig.envs.messages"), importlib.import_module("vlarig.envs.wire")
    starts = [wire.unpack(base64.b64decode(text), messages.Start) for text in request["starts"]]
    module, _, name = request["adapter"].partition(":")

    def make() -> Any:
        return getattr(importlib.import_module(module), name)()

    answer = ANSWERS[sys.argv[1]](request, make, starts)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # upstream's renderers raise while an interpreter ends


if __name__ == "__main__":
    main()
