"""Messages that are broken at random: every decoder of a socket's bytes refuses them in one way, or returns a message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from fuzzing.campaign import judge, play_block
from fuzzing.decoders import Decoder, all_decoders

from vlarig.envs.errors import BadMessageError

DECODERS = {decoder.name: decoder for decoder in all_decoders()}


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS.keys())
def test_what_is_broken_is_refused_and_what_is_whole_is_accepted(decoder: Decoder) -> None:
    for messages in decoder.seeds.values():
        for data in messages:
            assert judge(decoder, data)[0] == "accepted"
    tally = play_block(decoder)
    assert not tally.violations, tally.violations[0]
    assert tally.longest < 0.5


def raises(error: Exception) -> Any:
    raise error


BLIND = {
    "another error": lambda data: msgpack.unpackb(data),
    "a long refusal": lambda data: raises(BadMessageError("x" * 1000)),
    "a refusal of two lines": lambda data: raises(BadMessageError("one\ntwo")),
    "no reason": lambda data: raises(BadMessageError("")),
    "an end of the process": lambda data: raises(SystemExit(0)),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("decode", BLIND.values(), ids=BLIND.keys())
def test_a_decoder_that_breaks_the_promise_is_found_out(decode: Any) -> None:
    assert play_block(replace(DECODERS["openpi"], decode=decode), size=300).violations
