"""How hard a storm blows, and how patient the rig is in it: a file in the storm's folder that the driver reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Settings:
    """Of one storm. Patience is short, so that what hangs costs seconds.

    Attributes:
        load: Seconds that a simulator may take to load.
        reset: Seconds that a reset may take.
        step: Seconds that a step may take.
        margin: Seconds that a worker may take to start beside the simulator's load.
        memory: Bytes that a simulator may take.
        gap: Seconds from one blow to the next, from and to.
        disk: The small disk, for blows that fill it.
    """

    load: float = 15.0
    reset: float = 10.0
    step: float = 8.0
    margin: float = 1.0
    memory: int = 1_500_000_000
    gap: tuple[float, float] = (0.1, 0.6)
    disk: str = ""

    def save(self, folder: Path) -> None:
        """Write them into the storm's folder."""
        (folder / "settings.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        """The settings of the storm in ``folder``."""
        fields = json.loads((folder / "settings.json").read_text())
        return cls(**fields | {"gap": tuple(fields["gap"])})
