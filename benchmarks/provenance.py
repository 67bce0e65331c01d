"""Where a protocol's facts come from: the evaluator that they were read in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evaluator:
    """A protocol's source, and the settings of its evaluator that are recorded here but not reproduced.

    Our episodes are seeded from their keys, one by one; a seed set once for a process makes an episode depend on those before it.

    Attributes:
        repository: Its GitHub repository.
        commit: The commit at which the files were read.
        files: Where the protocol's numbers are.
        trials: Episodes of each task behind its published numbers, or of its defaults where it publishes none.
        recorded: Name of each setting that is not reproduced to its value, such as ``process_seed``.
        remark: What else it does, or what the protocol has from elsewhere.
    """

    repository: str
    commit: str
    files: tuple[str, ...]
    trials: int
    recorded: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""
