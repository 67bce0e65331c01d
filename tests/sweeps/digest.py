"""Write the digest of a run: what every episode came to. ``python tests/sweeps/digest.py RUN > tests/sweeps/NAME.json``"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Manifest


def processor() -> str:
    """The machine's processor and its instruction sets, by which libraries choose their code: its last bits may be its own."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    sets = hashlib.sha256(" ".join(sorted(facts.get("flags", "").split())).encode()).hexdigest()[:8]
    return f"{facts.get('model name', '')}, family {facts.get('cpu family', '')}, model {facts.get('model', '')}, flags {sets}"


def digest(run: Path) -> dict[str, Any]:
    """The run's identity, and for each episode its success, steps and state digest."""
    manifest = Manifest.load(run)
    with Ledger.open_read_only(run) as ledger:
        episodes = {record.key: [record.success, record.steps, record.state_digest[:16]] for record in ledger.records()}
    return {
        "command": f"vlarig sweep {' '.join(manifest.record.config['suites'])} --policy {manifest.identity.policy}",
        "git_revision": manifest.record.git_revision,
        "runtimes": manifest.identity.runtimes,
        "processor": processor(),
        "episodes": episodes,
    }


if __name__ == "__main__":
    steps = digest(Path(sys.argv[1]))
    episodes = ",\n".join(f"  {json.dumps(key)}: {json.dumps(step)}" for key, step in steps.pop("episodes").items())
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in steps.items())
    sys.stdout.write(f'{{\n{head},\n "episodes": {{\n{episodes}\n }}\n}}\n')
