"""The conditions for every message, and messages that are sampled to break them."""

from __future__ import annotations

import gc
import itertools
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from vlarig.envs.errors import BadMessageError

from .decoders import Decoder
from .mutations import Mutator

#: Messages that a test breaks.
BLOCK = 5000

#: Longest refusal, in characters.
LONGEST_REFUSAL = 400


@dataclass
class Tally:
    """The outcomes of messages.

    Attributes:
        violations: The messages for which the conditions did not hold, in hex, and what happened.
        longest: Most processor time that decoding one took, in seconds.
    """

    violations: list[str] = field(default_factory=list)
    longest: float = 0.0


def play_block(decoder: Decoder, size: int = BLOCK) -> Tally:
    """Break ``size`` messages and judge the decoder's outcomes."""
    mutator = Mutator(decoder.seeds, decoder.form, random.Random(decoder.name))
    tally = Tally()
    # A collection of the garbage of everything that this process has run before takes half a second of a message's time.
    gc.disable()
    try:
        for _ in range(size):
            data = mutator.message()
            outcome, seconds = judge(decoder, data)
            if outcome not in ("accepted", "refused"):
                tally.violations.append(f"{decoder.name}: {outcome}: {data[:2000].hex()}")
            tally.longest = max(tally.longest, seconds)
    finally:
        gc.enable()
    return tally


def judge(decoder: Decoder, data: bytes) -> tuple[str, float]:
    """``accepted``, ``refused`` or what should not have happened; and the processor time of decoding, in seconds.

    A message is refused by a :class:`BadMessageError` of one printable line. What is accepted comes back from its own encoding.
    """
    began = time.thread_time()
    try:
        value = decoder.decode(data)
    except BadMessageError as error:
        seconds = time.thread_time() - began
        line = str(error)
        if not line or len(line) > LONGEST_REFUSAL or not line.isprintable():
            return f"refused with {line[:LONGEST_REFUSAL]!r}", seconds
        return "refused", seconds
    except BaseException as error:
        return f"raised {error!r}"[:LONGEST_REFUSAL], time.thread_time() - began
    seconds = time.thread_time() - began
    try:
        once = decoder.encode(value)
        twice = decoder.encode(decoder.decode(once))
    except BaseException as error:
        return f"accepted, and its encoding raised {error!r}"[:LONGEST_REFUSAL], seconds
    return ("accepted" if once == twice else "accepted, and changed by its encoding"), seconds


def broken_messages(decoder: Decoder, count: int) -> list[bytes]:
    """Messages that the decoder refuses."""
    mutator = Mutator(decoder.seeds, decoder.form, random.Random(0))
    messages = (mutator.message() for _ in itertools.count())
    return list(itertools.islice((data for data in messages if judge(decoder, data)[0] == "refused"), count))


def most_memory(process: str | int = "self") -> int:
    """Most memory that a process had at any time since its program began, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kilobytes) // 1024
