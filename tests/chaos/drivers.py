"""Faults of a driver: it dies in a worker's first instant, or a policy blocks its interpreter for a minute.

By hand, after a change to ``harness/children``: ``python tests/chaos/drivers.py`` (some minutes) writes ``drivers.json`` beside
this file; ``tests/harness/test_children.py`` plays a part of it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.processes import carrying, children, is_launcher
from vlarig.envs.framing import Frame
from vlarig.harness.children.child import Child, Launcher
from vlarig.harness.children.child_config import ChildConfig, ChildDied

DIGEST = Path(__file__).with_suffix(".json")

#: Seconds within which the child processes of a dead driver must have ended.
GONE_SECONDS = 30.0

#: Most bytes that a leaking child may take.
SHARE = 300 * 10**6

#: Starts a worker's first instants again and again, and says which process starts them.
DRIVER = """
import asyncio, os, sys
from vlarig.harness.children.child import ChildConfig, Launcher

async def main():
    async with Launcher() as launcher:
        command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
        config = ChildConfig(command, dict(os.environ), {}, 60, lambda data: None)
        await launcher.start(config)
        print(launcher._process.pid, flush=True)
        while True:
            await launcher.start(config)

asyncio.run(main())
"""

#: A child that greets, reads one request, and then does as its argument says.
CHILD = """
import os, socket, struct, sys, time
open(0, "rb", buffering=0, closefd=False).readline()
channel = socket.socket(fileno=os.dup(0))
head = struct.Struct(">IBHIQ")
channel.sendall(head.pack(0, 0, 0, 0, 0))
number = head.unpack(channel.recv(head.size))[0]
if sys.argv[1] == "leak":
    hoard = []
    while True:
        hoard.append(b"x" * 5_000_000)
        time.sleep(0.02)
time.sleep(0.3)
channel.sendall(head.pack(number, 0, 0, 0, 7) + b"in time")
time.sleep(600)
"""


class Death(NamedTuple):
    """The result of a driver's death in a worker's first instant.

    Attributes:
        before_exec: Whether the worker had not yet become its program.
        left: Processes that outlived the driver.
        seconds: Until all had ended.
    """

    before_exec: bool
    left: list[int]
    seconds: float


class Held(NamedTuple):
    """The ends of two children whose driver's interpreter was blocked.

    Attributes:
        leaking: How the one that leaked ended.
        dead: Whether that one was dead when the interpreter was released.
        answer: The driver's reading of the other one, which had answered in time.
    """

    leaking: ChildDied
    dead: bool
    answer: bytes


def die_in_a_first_instant(stopped: bool) -> Death:
    """Kill a driver as soon as one more worker has started; ``stopped``: stop it and that worker before."""
    mark = "FIRST_INSTANT", str(time.monotonic_ns())
    marked = os.environ | dict([mark])
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, env=marked) as driver:
        assert driver.stdout is not None
        launcher = int(driver.stdout.readline())
        seen = set(children(launcher))
        while not (new := set(children(launcher)) - seen):
            pass
        before_exec = any(map(is_launcher, new))
        if stopped:
            for pid in (driver.pid, *new):
                os.kill(pid, signal.SIGSTOP)
        driver.kill()
    began = time.monotonic()
    while (left := carrying(*mark)) and time.monotonic() < began + GONE_SECONDS:
        time.sleep(0.02)
    return Death(before_exec, left, time.monotonic() - began)


def hold_the_interpreter(seconds: float) -> Held:
    """Block this process's interpreter while one child leaks and another one answers."""
    return asyncio.run(_hold_the_interpreter(seconds))


async def _hold_the_interpreter(seconds: float) -> Held:
    async with Launcher() as launcher:
        leaking, prompt = await _child(launcher, "leak", SHARE), await _child(launcher, "answer", None)
        await leaking.send(Frame(1, 0, 0, 0, b""), 600)
        await prompt.send(Frame(1, 0, 0, 0, b""), 1.0)
        await asyncio.sleep(0.1)
        assert launcher._process is not None
        ctypes.PyDLL(None).sleep(int(seconds))  # PyDLL keeps the GIL
        dead = leaking.pid not in children(launcher._process.pid)
        answer = bytes((await prompt.receive()).body)
        try:
            raise AssertionError(f"the leaking child answered {await leaking.receive()}")
        except ChildDied as death:
            return Held(death, dead, answer)
        finally:
            await leaking.end()
            await prompt.end()


async def _child(launcher: Launcher, what: str, memory_bytes: int | None) -> Child:
    child = await launcher.start(
        ChildConfig(
            command=[sys.executable, "-I", "-S", "-c", CHILD, what],
            environment=dict(os.environ),
            greeting={},
            load_seconds=30.0,
            output=lambda data: None,
            memory_bytes=memory_bytes,
        )
    )
    await child.receive()
    return child


def main() -> None:
    """Run all faults and write the digest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deaths", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=60, help="for which the interpreter is held")
    parser.add_argument("--out", type=Path, default=DIGEST)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    longest = 0.0
    for number in range(arguments.deaths):
        death = die_in_a_first_instant(stopped=bool(number % 2))
        counts["stopped, then killed" if number % 2 else "killed"] += 1
        counts["before the worker's exec"] += death.before_exec
        counts["processes left"] += len(death.left)
        longest = max(longest, death.seconds)
    held = hold_the_interpreter(arguments.seconds)
    digest = {
        "git": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "first instants": {**counts, "longest until all were gone, s": round(longest, 2)},
        "interpreter held": {
            "seconds": arguments.seconds,
            "leaking child": f"{held.leaking.kind}: {held.leaking}",
            "gone before the interpreter was let go": held.dead,
            "answer of the other child": held.answer.decode(),
        },
    }
    arguments.out.write_text(json.dumps(digest, indent=1) + "\n")


if __name__ == "__main__":
    main()
