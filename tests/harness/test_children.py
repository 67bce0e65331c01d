"""Children of a launcher: their failures, the requests that are charged, and that none outlives its driver."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chaos.drivers import die_in_a_first_instant, hold_the_interpreter
from chaos.processes import children, is_stopped

from vlarig.envs.errors import BadMessageError
from vlarig.envs.framing import HEAD_BYTES, MOST_ENVS, Frame, frame_of, read_head
from vlarig.envs.messages import CRASH, HANG, LOST, MEMORY
from vlarig.envs.wire import MAX_MESSAGE_BYTES
from vlarig.harness.children.child import Child, Launcher
from vlarig.harness.children.child_config import ChildConfig, ChildDied

MB = 10**6

#: A child that replies to each request with the result of ``act`` in its program.
PROGRAM = """
import os, socket, struct, sys, time
line = open(0, "rb", buffering=0, closefd=False).readline()
channel = socket.socket(fileno=os.dup(0))
head = struct.Struct(">IBHIQ")

def reply(number, body=b"", kind=0):
    channel.sendall(head.pack(number, kind, 0, 0, len(body)) + body)

{act}

reply(0, line)
while True:
    data = b""
    while len(data) < head.size:
        piece = channel.recv(head.size - len(data))
        if not piece:
            sys.exit()
        data += piece
    number, kind, env, steps, size = head.unpack(data)
    body = b""
    while len(body) < size:
        body += channel.recv(size - len(body))
    reply(number, act(number, body) or b"")
"""


def program(*lines: str) -> str:
    """A child whose ``act(number, body)`` consists of these lines."""
    return PROGRAM.replace("{act}", "\n    ".join(["def act(number, body):", *lines]))


def config(*lines: str, load_seconds: float = 30.0, memory_bytes: int | None = None) -> ChildConfig:
    return ChildConfig(
        command=[sys.executable, "-I", "-S", "-c", program(*(lines or ["pass"]))],
        environment=dict(os.environ),
        greeting={"hello": "child"},
        load_seconds=load_seconds,
        output=lambda data: None,
        memory_bytes=memory_bytes,
        name="the child",
    )


@asynccontextmanager
async def started(*lines: str, memory_bytes: int | None = None) -> AsyncIterator[Child]:
    async with Launcher() as launcher:
        child = await launcher.start(config(*lines, memory_bytes=memory_bytes))
        try:
            assert bytes((await child.receive()).body) == b'{"hello": "child"}\n'
            yield child
        finally:
            await child.end()


def order(number: int, body: bytes = b"") -> Frame:
    return Frame(number, 0, 0, 0, body)


async def death_of(child: Child) -> ChildDied:
    with pytest.raises(ChildDied) as death:
        await child.receive()
    return death.value


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_requests_are_answered_in_order() -> None:
    async def run() -> list[bytes]:
        async with started("return body * 200_000") as child:
            for number in range(1, 6):
                await child.send(order(number, str(number).encode()), 30)
            return [bytes((await child.receive()).body) for _ in range(5)]

    assert asyncio.run(run()) == [str(number).encode() * 200_000 for number in range(1, 6)]


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("os.abort()", CRASH, "the child's process was ended by SIGABRT"),
        ("sys.exit(3)", CRASH, "the child's process exited with status 3"),
        ("time.sleep(60)", HANG, "the child gave no answer within 0.5 s and was killed"),
        ("import signal; os.kill(os.getpid(), signal.SIGSTOP)", LOST, "the child's process was stopped by a signal"),
        ("os.fork() or time.sleep(60); os.abort()", CRASH, "the child's process was ended by SIGABRT"),
        (
            "channel.close(); os.close(0); time.sleep(60)",
            CRASH,
            "the child's process closed its end of the line and was killed",
        ),
        ("reply(number + 1)", CRASH, "wrote an invalid reply (it has the number 2) and was killed"),
        ("reply(number); reply(number)", CRASH, "wrote an invalid reply (it has the number 1) and was killed"),
        ("channel.sendall(b'warning: the physics is tired')", CRASH, "wrote an invalid reply"),
        (f"channel.sendall(head.pack(1, 0, 0, 0, {MAX_MESSAGE_BYTES + 1}))", CRASH, "a message of 67108865 bytes; at most"),
        (f"channel.sendall(head.pack(1, 0, {MOST_ENVS}, 0, 0))", CRASH, "envs are numbered from 0 to 1023"),
    ],
)
def test_a_death_is_charged_to_the_request_that_was_running(code: str, kind: str, reason: str) -> None:
    async def run() -> ChildDied:
        async with started(f"if number == 1: {code}" if "\n" not in code else code) as child:
            patience = 0.5 if "0.5" in reason or kind == LOST else 30
            await child.send(order(1), patience)
            await child.send(order(2), 30)
            while True:
                try:
                    await child.receive()
                except ChildDied as death:
                    return death

    death = asyncio.run(run())
    assert death.kind == kind
    assert reason in str(death)
    assert death.running == (2 if "reply(number); reply" in code else 1)


def test_an_idle_childs_death_is_charged_to_no_request() -> None:
    async def run() -> ChildDied:
        async with started() as child:
            os.kill(child.pid, signal.SIGKILL)
            while is_there(child.pid):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await child.send(order(1), 30)
            return await death_of(child)

    death = asyncio.run(run())
    assert (death.kind, death.running) == (CRASH, 0)
    assert "was ended by SIGKILL" in str(death)


def test_growth_beyond_the_share_ends_the_child() -> None:
    async def run() -> ChildDied:
        async with started("hoard = b'x' * int(body)", "time.sleep(60 if number == 2 else 0)", memory_bytes=200 * MB) as child:
            await child.send(order(1, b"100_000_000"), 30)
            await child.receive()
            await child.send(order(2, b"300_000_000"), 60)
            return await death_of(child)

    death = asyncio.run(run())
    assert (death.kind, death.running) == (MEMORY, 2)
    assert "its share of the memory is 0.2 GB" in str(death)


@pytest.mark.slow
def test_while_the_interpreter_is_held_a_leak_is_stopped_and_an_answer_is_not_too_late() -> None:
    """A policy of the driver's may hold the GIL for minutes; here for seconds."""
    held = hold_the_interpreter(seconds=4)
    assert (held.leaking.kind, held.leaking.running) == (MEMORY, 1)
    assert held.dead
    assert held.answer == b"in time"


def test_a_program_that_is_not_there_is_named() -> None:
    async def run() -> None:
        async with Launcher() as launcher:
            nothing = ChildConfig(["/nowhere/python"], {}, {}, 30, lambda data: None)
            child = await launcher.start(nothing)
            death = await death_of(child)
            assert death.kind == LOST
            assert "it cannot be started" in str(death)
            assert "No such file" in str(death)
            await child.end()

    asyncio.run(run())


def test_children_leave_no_file_open_and_no_process() -> None:
    async def run() -> None:
        async with Launcher() as launcher:
            for count in range(12):
                child = await launcher.start(config())
                await child.receive()
                if count % 2:
                    os.kill(child.pid, signal.SIGKILL)
                await child.end()
                if count == 1:
                    before = open_files(), open_files(launcher._process.pid)
            assert (open_files(), open_files(launcher._process.pid)) == before

    others = children(os.getpid())  # such as the tracker of multiprocessing's, which an earlier test started
    asyncio.run(run())
    assert children(os.getpid()) == others


def open_files(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_too_many_open_files_is_no_fault_of_an_episode() -> None:
    import resource

    async def run() -> None:
        async with Launcher() as launcher:
            first = await launcher.start(config())
            await first.receive()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            # A limit bounds the number that a new file gets, which is the lowest free one, and not how many are open.
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, hard))
            try:
                with pytest.raises(ChildDied, match=r"it cannot be started.*Too many open files") as death:
                    await launcher.start(config())
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert death.value.kind == LOST
            await first.end()

    asyncio.run(run())


def test_what_a_child_inherits(tmp_path: Path) -> None:
    """The child gets its file, by a path; nothing else of the driver's, and nothing secret."""
    given = tmp_path / "given"
    given.write_text("weights")
    listing = "return repr((open(os.environ['GIVEN']).read(), len(os.listdir('/proc/self/fd')))).encode()"

    async def run() -> bytes:
        with given.open() as file:
            given_config = ChildConfig(
                command=[sys.executable, "-I", "-S", "-c", program(listing)],
                environment={"PATH": "/bin"},
                greeting={},
                load_seconds=30,
                output=lambda data: None,
                files={"GIVEN": file.fileno()},
            )
            async with Launcher() as launcher:
                child = await launcher.start(given_config)
                await child.receive()
                await child.send(order(1), 30)
                content = bytes((await child.receive()).body)
                await child.end()
        return content

    # Its standard streams, the channel, the file, and the listing itself.
    assert asyncio.run(run()) == b"('weights', 6)"


@pytest.mark.parametrize("number", range(4))
def test_a_driver_that_dies_in_a_workers_first_instant_leaves_no_process(number: int) -> None:
    """Even numbers: it is killed; odd ones: it is stopped and then killed, and so may be whatever it has just started."""
    assert die_in_a_first_instant(stopped=bool(number % 2)).left == []


def test_a_launcher_that_is_stopped_goes_on_when_it_is_needed() -> None:
    async def run() -> None:
        async with Launcher() as launcher:
            first = await launcher.start(config())
            await first.receive()
            assert launcher._process is not None
            os.kill(launcher._process.pid, signal.SIGSTOP)
            while not is_stopped(launcher._process.pid):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            second = await launcher.start(config())
            await second.receive()
            for child in (first, second):
                await child.end()

    asyncio.run(run())


def test_a_launcher_that_was_stopped_watches_memory_nevertheless() -> None:
    async def run() -> ChildDied:
        leak = ("hoard = []", "while True:", "    hoard.append(b'x' * 2_000_000)", "    time.sleep(0.02)")
        async with Launcher() as launcher:
            child = await launcher.start(config(*leak, memory_bytes=100 * MB))
            await child.receive()
            assert launcher._process is not None
            os.kill(launcher._process.pid, signal.SIGSTOP)
            await child.send(order(1), 10)
            try:
                return await death_of(child)
            finally:
                await child.end()

    assert asyncio.run(run()).kind == MEMORY


def test_a_launcher_that_dies_while_it_starts_a_child_charges_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with Launcher() as launcher:
            first = await launcher.start(config())
            assert launcher._process is not None
            os.kill(launcher._process.pid, signal.SIGSTOP)
            monkeypatch.setattr(launcher, "_wake", lambda: None)
            starting = asyncio.create_task(launcher.start(config()))
            await asyncio.sleep(0.2)
            launcher._process.kill()
            with pytest.raises(ChildDied, match="its launcher ended") as death:
                await starting
            assert death.value.kind == LOST
            monkeypatch.undo()
            await first.end()
            await (await launcher.start(config())).end()

    asyncio.run(run())


def test_another_thread_may_fork_meanwhile() -> None:
    """A policy forks helpers: they inherit the driver's ends of the lines, and a child's end is noticed nevertheless."""

    async def run() -> ChildDied:
        async with started("os.abort()") as child:
            helpers: list[int] = []

            def fork() -> None:
                helpers.append(os.fork())
                if not helpers[0]:
                    signal.pause()

            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()
            try:
                await child.send(order(1), 30)
                death = await asyncio.wait_for(death_of(child), 10)
                await asyncio.wait_for(child.end(), 10)
            finally:
                os.kill(helpers[0], signal.SIGKILL)
                os.waitpid(helpers[0], 0)  # noqa: ASYNC222
            return death

    assert asyncio.run(run()).running == 1


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("hello", "a text message"),
        (b"", "a message of 0 bytes"),
        (b"\0" * (HEAD_BYTES - 1), "bytes; a frame has"),
        (Frame(1, 0, 0, 0, b"abc").head() + b"ab", "whose body should have 3"),
        (Frame(1, 0, 0, 0, b"abc").head() + b"abcd", "whose body should have 3"),
        (b"\xff" * HEAD_BYTES, "at most 67108864 are allowed"),
    ],
)
def test_a_websockets_message_that_is_no_frame(message: bytes | str, error: str) -> None:
    with pytest.raises(BadMessageError, match=error):
        frame_of(message)


def test_a_frame_travels() -> None:
    frame = Frame(2**32 - 1, 255, MOST_ENVS - 1, 2**32 - 1, b"body")
    assert read_head(frame.head()).frame(b"body") == frame
    assert frame_of(frame.head() + frame.body) == frame
