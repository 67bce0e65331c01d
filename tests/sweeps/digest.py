"""Write the digest of a run: what every episode came to. ``python tests/sweeps/digest.py RUN > tests/sweeps/NAME.json``"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Manifest


def processor() -> str:
    """The machine's processor; the last bits of its floating-point arithmetic may be its own."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def digest(run: Path) -> dict[str, Any]:
    """The run's identity, and for each episode its success, steps and state digest."""
    manifest = Manifest.load(run)
    with Ledger.open_read_only(run) as ledger:
        episodes = {record.key: [record.success, record.steps, record.state_digest[:16]] for record in ledger.records()}
    return {
        "command": "vlarig sweep " + " ".join(manifest.record.command[2:]),
        "git_revision": manifest.record.git_revision,
        "runtimes": manifest.identity.runtimes,
        "processor": processor(),
        "episodes": episodes,
    }


if __name__ == "__main__":
    rows = digest(Path(sys.argv[1]))
    episodes = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.pop("episodes").items())
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in rows.items())
    sys.stdout.write(f'{{\n{head},\n "episodes": {{\n{episodes}\n }}\n}}\n')
