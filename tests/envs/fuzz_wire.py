"""Break messages for every decoder by the million, and write down what became of them.

By hand, after a change to a decoder, to the messages or to their mutations:
``python tests/envs/fuzz_wire.py --messages 1000000 --seed 0`` (minutes) writes ``fuzz_wire.json`` beside this file, whose first
blocks ``test_fuzz.py`` plays again.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgpack
import msgspec
import numpy as np
from fuzzing.campaign import BLOCK, Tally, most_memory, play_block
from fuzzing.decoders import Decoder, all_decoders

DIGEST = Path(__file__).with_suffix(".json")

#: Seconds after which a block counts as a hang.
_HANG = 300


def play_part(seed: int, name: str, blocks: range) -> None:
    """Play some of a decoder's blocks and print what became of each."""
    (decoder,) = (each for each in all_decoders() if each.name == name)
    before = most_memory()
    for block in blocks:
        faulthandler.dump_traceback_later(_HANG, exit=True)
        tally = play_block(decoder, seed, block)
        print(json.dumps({"block": block, "grown_mb": most_memory() - before, **vars(tally)}), flush=True)


def play_all(seed: int, decoder: Decoder, blocks: int, processes: int) -> dict[str, Any]:
    """Play a decoder's blocks in several processes; a process that ends early is a violation too."""
    parts = [["--part", decoder.name, str(first), str(blocks), str(processes)] for first in range(processes)]
    running = [
        subprocess.Popen([sys.executable, __file__, "--seed", str(seed), *part], stdout=subprocess.PIPE, text=True)
        for part in parts
    ]
    total, grown, first = Tally(), 0, Tally()
    for process in running:
        assert process.stdout is not None
        for line in process.stdout:
            played = json.loads(line)
            block, grown = played.pop("block"), max(grown, played.pop("grown_mb"))
            tally = Tally(**{**played, "kinds": Counter(played["kinds"]), "ways": Counter(played["ways"])})
            first = tally if block == 0 else first
            total.kinds += tally.kinds
            total.ways += tally.ways
            total.violations += tally.violations
            total.longest = max(total.longest, tally.longest)
        if process.wait() != 0:
            total.violations.append(f"{decoder.name}: a process ended with status {process.returncode}")
    for violation in total.violations[:20]:
        print(violation, file=sys.stderr)
    return {
        "messages": total.kinds.total(),
        "violations": len(total.violations),
        "longest_decode_ms": round(total.longest * 1000, 1),
        "memory_grown_mb": grown,
        "kinds": dict(sorted(total.kinds.items())),
        "ways": dict(sorted(total.ways.items())),
        "first_block": dict(sorted(first.kinds.items())),
    }


def main() -> int:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000, help="messages for each decoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--part", nargs=4, metavar=("DECODER", "FIRST", "BLOCKS", "STEP"), help="for the processes that this starts"
    )
    parser.add_argument(
        "--decoder", help="play this one alone, and keep what is written of the others, whose code is as it was"
    )
    parser.add_argument("--out", type=Path, default=DIGEST)
    options = parser.parse_args()
    if options.part:
        name, *numbers = options.part
        play_part(options.seed, name, range(*map(int, numbers)))
        return 0
    blocks = -(-options.messages // BLOCK)
    codecs = {"msgpack": ".".join(map(str, msgpack.version)), "msgspec": msgspec.__version__}
    versions = {"python": sys.version.split()[0], **codecs, "numpy": np.__version__}
    digest: dict[str, Any] = {"seed": options.seed, "block": BLOCK, "versions": versions, "decoders": {}}
    if options.decoder:
        digest["decoders"] = json.loads(DIGEST.read_text())["decoders"]
    for decoder in all_decoders():
        if options.decoder not in (None, decoder.name):
            continue
        digest["decoders"][decoder.name] = played = play_all(options.seed, decoder, blocks, options.processes)
        print(f"{decoder.name}: {played['messages']} messages, {played['violations']} violations, longest decode "
              f"{played['longest_decode_ms']} ms, memory grown by {played['memory_grown_mb']} MB", flush=True)  # fmt: skip
    options.out.write_text(json.dumps(digest, indent=1) + "\n")
    return 1 if any(played["violations"] for played in digest["decoders"].values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
