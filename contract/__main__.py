"""``python -m vlarig.contract digest RUN FILE.json``, ``... record RUN FILE.npz``: what the kit plays again, from a run."""

from __future__ import annotations

import sys
from pathlib import Path

from .digests import write_digest, write_recording

COMMANDS = {"digest": write_digest, "record": write_recording}

if __name__ == "__main__":
    words = sys.argv[1:]
    if len(words) != 3 or words[0] not in COMMANDS:
        sys.exit(f"expected `digest RUN FILE.json` or `record RUN FILE.npz`, not `{' '.join(words)}`")
    COMMANDS[words[0]](*map(Path, words[1:]))
