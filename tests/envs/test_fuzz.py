"""Messages broken by the million: every decoder of untrusted bytes refuses them in one way, or returns a message.

The millions run by hand (``python tests/envs/fuzz_wire.py``), and ``fuzz_wire.json`` has their outcomes. Here a part of
them is played again.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from conftest import TESTS
from fuzzing.campaign import BLOCK, judge, play_block
from fuzzing.decoders import Decoder, all_decoders
from fuzzing.mutations import Mutator

from vlarig.envs.errors import BadMessageError

DIGEST = json.loads(Path(__file__).with_name("fuzz_wire.json").read_text())
DECODERS = {decoder.name: decoder for decoder in all_decoders()}

each_decoder = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS.keys())


@each_decoder
def test_a_million_messages_kept_the_promise(decoder: Decoder) -> None:
    played = DIGEST["decoders"][decoder.name]
    assert played["messages"] >= 1_000_000
    assert played["messages"] == sum(played["kinds"].values()) == sum(played["ways"].values())
    assert played["violations"] == 0
    for kind, messages in decoder.seeds.items():
        share = (played["kinds"].get(f"{kind} accepted", 0) + played["kinds"][f"{kind} refused"]) / played["messages"]
        assert share > 0.5 * len(messages) / sum(map(len, decoder.seeds.values())), kind
    assert 0.005 < sum(count for kind, count in played["kinds"].items() if kind.endswith("accepted")) / played["messages"] < 0.5
    assert played["memory_grown_mb"] <= 200
    assert played["longest_decode_ms"] < 500


@each_decoder
def test_a_part_of_the_million_comes_out_again(decoder: Decoder) -> None:
    tally = play_block(decoder, DIGEST["seed"], 0)
    assert not tally.violations, tally.violations[0]
    assert tally.kinds.total() == BLOCK == DIGEST["block"]
    codecs = {"msgpack": ".".join(map(str, msgpack.version)), "msgspec": msgspec.__version__}
    if codecs.items() <= DIGEST["versions"].items():
        hint = "the decoders, the messages or their mutations changed; run tests/envs/fuzz_wire.py"
        assert dict(sorted(tally.kinds.items())) == DIGEST["decoders"][decoder.name]["first_block"], hint


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
    assert play_block(replace(DECODERS["openpi"], decode=decode), 0, 0, size=300).violations


def test_a_value_that_changes_on_its_way_is_found_out() -> None:
    calls = iter(range(100))
    data = DECODERS["wire"].seeds["Died"][0]
    assert judge(DECODERS["wire"], data)[0] == "accepted"
    assert (
        "changed" in judge(replace(DECODERS["wire"], encode=lambda value: b"%d" % next(calls), decode=lambda data: 0), data)[0]
    )
    assert "its encoding raised" in judge(replace(DECODERS["wire"], encode=lambda value: raises(ValueError())), data)[0]


@each_decoder
def test_every_way_of_breaking_is_used_and_what_is_whole_is_accepted(decoder: Decoder) -> None:
    for messages in decoder.seeds.values():
        for data in messages:
            assert judge(decoder, data)[0] == "accepted"
    used = {way.split()[0] for way in DIGEST["decoders"][decoder.name]["ways"]}
    mutator = Mutator(decoder.seeds, decoder.form, random.Random(0))
    assert used == {way.__name__.strip("_") for way in (*mutator.tree_ways, *mutator.byte_ways)}


#: By how many MB a decoder may grow over all bombs: at least what the largest message has, at most three copies of it and what the
#: values of the most expensive ones take.
GROWTH = {"wire": (64, 240), "messages": (64, 240), "openpi": (16, 110)}


@pytest.mark.slow
@pytest.mark.parametrize("name", GROWTH)
def test_the_worst_that_a_message_can_ask_for_costs_bounded_memory(name: str) -> None:
    command = [sys.executable, "-m", "fuzzing.bombs", name]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    least, most = GROWTH[name]
    assert least <= int(done.stdout) <= most, done.stderr
    assert done.stderr.count(", refused: ") >= 20
