"""One replica's process as the driver sees it: the line to it, the watch over it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..envs.children import exits, how_it_ended, kill_group, kill_marked, mark
from ..envs.errors import BadMessageError
from ..envs.framing import read_frame, write_frame
from ..envs.untrusted import one_line
from ..envs.wire import MAX_MESSAGE_BYTES
from ..policies.replica import Arguments
from ..policies.replica_messages import LOADED, ActReply, Description, Failed, Message, decode, encode

#: Seconds between two looks at the process. Waiting is counted in them: however long we were stopped ourselves, by a signal or with the
#: whole machine, no more than one has passed.
TICK = 0.25

#: Seconds that a process gets to exit once its line is closed.
EXIT_SECONDS = 5.0

#: Seconds after which a process that was killed, and is still there, is left to the kernel: a driver of the graphics card may hold it.
KILL_SECONDS = 10.0

logger = logging.getLogger("vlarig.policies.replica")


class ReplicaDied(Exception):
    """The process ended, or was killed; says how."""


@dataclass(frozen=True)
class Patience:
    """How long a replica may take, in seconds of the time in which we run; much, since what is slow is not broken.

    Attributes:
        load: To load its policy, which may have to be downloaded.
        answer: To answer a batch, the first of which may be compiled for.
    """

    load: float = 3600.0
    answer: float = 600.0


PATIENCE = Patience()


@dataclass(frozen=True)
class ReplicaConfig:
    """What a replica is made of.

    Attributes:
        policy: The policy's name.
        options: The policy's options.
        environment: The process's environment variables.
        files: Open files that it inherits, by their numbers.
        patience: How long it may take.
    """

    policy: str
    options: Mapping[str, str]
    environment: Mapping[str, str]
    files: tuple[int, ...] = ()
    patience: Patience = PATIENCE


class ReplicaProcess:
    """A replica's process: :meth:`load` it, :meth:`exchange` messages until that raises, and :meth:`end` it.

    Args:
        number: Its number among its siblings, for messages about it.
        config: What it is made of.
    """

    def __init__(self, number: int, config: ReplicaConfig) -> None:
        self._number = number
        self._config = config
        self._mark = mark()
        self._verdict: str | None = None
        self._last_line = ""
        self._received: asyncio.Queue[tuple[int, Message] | BadMessageError | None] = asyncio.Queue()
        self._numbers = itertools.count()
        self._watch(None)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def load(self) -> Description:
        """Start the process and wait until its policy is loaded.

        Raises:
            PolicyError: The policy cannot be made, and says why. (``VlarigError``: or something else that the user can mend.)
            ReplicaDied: The process died on the way.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._spawn(theirs.fileno())
            except OSError as error:
                ours.close()
                raise ReplicaDied(f"no process can be started for it ({error})") from None
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=2**20)
        self._tasks = [asyncio.create_task(work) for work in (self._keep_watch(), self._listen(), self._read())]
        try:
            self._watch(self._config.patience.load)
            description = await self._receive(LOADED)
            if not isinstance(description, Description):
                raise await self._die(f"it said {type(description).__name__} instead of Description")
        except BaseException:
            await self._bury()
            raise
        self._watch(None)
        return description

    async def exchange(self, messages: Sequence[Message]) -> list[Message]:
        """Send a request, in one or more messages, and return its answer's.

        Raises:
            PolicyError: The policy failed.
            VlarigError: It says that the user can mend something.
            ReplicaDied: The process died, or has been dead, or took too long and was killed.
        """
        number = next(self._numbers)
        frames = [_frame(message, number) for message in messages]
        self._watch(self._config.patience.answer)
        try:
            for frame in frames:  # at once: who gives up waiting leaves no half of a request behind
                write_frame(self._writer, frame)
            await self._writer.drain()
            answer = [await self._receive(number)]
            if isinstance(answer[0], ActReply):
                answer += [await self._receive(number) for _ in range(answer[0].count)]
        except OSError:
            raise await self._die() from None
        finally:
            self._watch(None)
        return answer

    async def end(self) -> None:
        """End the process and all that it started, whatever state they are in."""
        self._verdict = self._verdict or "it was ended"
        self._writer.close()
        await exits(self._process, EXIT_SECONDS)
        await self._bury()

    async def _receive(self, number: int) -> Message:
        """The next message of that number: what answers a request that nobody waits for any more is skipped."""
        while True:
            received = await self._received.get()
            if received is None:
                self._received.put_nowait(None)  # for the next caller
                raise await self._die()
            if isinstance(received, BadMessageError):
                raise await self._die(f"it wrote what is no answer ({received})")
            answered, message = received
            if answered != number:
                continue
            if isinstance(message, Failed):
                raise message.error()
            return message

    async def _read(self) -> None:
        """Take what it sends, whether or not anybody waits: who gives up waiting leaves no half of an answer behind."""
        try:
            while True:
                self._received.put_nowait(decode(await read_frame(self._reader)))
        except BadMessageError as error:
            self._received.put_nowait(error)
        except (asyncio.IncompleteReadError, OSError):
            pass
        self._received.put_nowait(None)

    def _watch(self, patience: float | None) -> None:
        """Kill the process unless it answers within ``patience`` seconds from now; do not with ``None``."""
        self._patience, self._waited = patience, -TICK  # the tick that has begun does not count

    async def _keep_watch(self) -> None:
        while self._process.poll() is None:
            await asyncio.sleep(TICK)
            self._waited += TICK
            if self._patience is not None and self._waited >= self._patience:
                self._verdict = self._verdict or f"it gave no answer within {self._patience:g} s and was killed"
                kill_group(self._process)
        await asyncio.sleep(TICK)  # what it said last is read meanwhile
        self._writer.transport.abort()

    async def _listen(self) -> None:
        """Pass on to ``logging`` what the policy and its libraries print."""
        assert self._process.stdout is not None
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, self._process.stdout)
        with contextlib.closing(transport):
            rest = ""
            while data := await reader.read(2**16):
                *lines, rest = (rest + data.decode(errors="replace")).replace("\r", "\n").split("\n")
                for line in filter(str.strip, lines):
                    self._last_line = line
                    logger.warning("replica %d: %s", self._number, line)
                rest = rest[-4096:]

    async def _die(self, reason: str | None = None) -> ReplicaDied:
        """End what is left of the process; the exception that says how it went."""
        self._verdict = self._verdict or (f"{reason} and was killed" if reason else None)
        if self._verdict is None and not await exits(self._process, EXIT_SECONDS):
            self._verdict = "it closed its end of the line and was killed"
        gone = await self._bury()
        story = self._verdict or f"it {how_it_ended(self._process.returncode)}"
        said = f"; it said last: {one_line(self._last_line)}" if self._last_line else ""
        return ReplicaDied(f"{story}{said}" if gone else f"{story}, but does not end{said}")

    async def _bury(self) -> bool:
        """Whether the process is gone, after it was killed."""
        kill_group(self._process)
        kill_marked(self._mark)
        gone = await exits(self._process, KILL_SECONDS)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._writer.transport.abort()
        await asyncio.wait(self._tasks, timeout=TICK)
        for task in self._tasks:
            task.cancel()
        return gone

    def _spawn(self, channel: int) -> subprocess.Popen[bytes]:
        """Start the process, in a group of its own; ``channel`` is its end of the line."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "vlarig.policies.replica"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._config.environment, **self._mark},
            pass_fds=[channel, *self._config.files],
            start_new_session=True,
        )
        assert process.stdin is not None
        arguments = Arguments(channel, self._config.policy, dict(self._config.options), tuple(sys.path))
        with contextlib.suppress(OSError):  # it may be dead already, as the line will tell
            process.stdin.write(json.dumps(dataclasses.asdict(arguments)).encode() + b"\n")
            process.stdin.flush()
        return process


def _frame(message: Message, number: int) -> bytes:
    """A message of a request of that number as bytes.

    Raises:
        BadMessageError: It cannot be sent.
    """
    data = encode(message, number)
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(
            f"a request of {len(data)} bytes, and a replica takes at most {MAX_MESSAGE_BYTES}; show smaller or fewer images, or leave "
            "out --replicas"
        )
    return data
