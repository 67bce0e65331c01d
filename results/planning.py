"""What goes into a manifest: the plan and digest of a run's episodes, the source revision, the installed packages."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.api import Episode, Protocol
from .manifest import SuitePlan, Surroundings, TaskPlan
from .rows import utc_now

#: Packages whose versions can move a result, recorded where installed.
PACKAGES = (
    "vlarig", "numpy", "gymnasium", "msgpack", "msgspec", "websockets", "pydantic", "mujoco", "robosuite",
    "torch", "transformers", "safetensors", "ray",
)  # fmt: skip


def suite_plans(episodes: Sequence[Episode]) -> list[SuitePlan]:
    """The suites, protocols and tasks of a run, in the order in which its episodes name them."""
    protocols: dict[tuple[str, str], Protocol] = {}
    tasks: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    for episode in episodes:
        place = (episode.suite, f"{episode.protocol.name}@{episode.protocol.version}")
        if protocols.setdefault(place, episode.protocol) != episode.protocol:
            raise ValueError(f"two different protocols of suite {episode.suite!r} are both called {place[1]!r}")
        tasks.setdefault(place, Counter())[episode.task, episode.variant] += 1
    return [
        SuitePlan(
            name=suite,
            protocol=_plain_protocol(protocols[suite, name]),
            tasks=[TaskPlan(name=task, variant=variant, episodes=count) for (task, variant), count in counts.items()],
        )
        for (suite, name), counts in tasks.items()
    ]


def _plain_protocol(protocol: Protocol) -> dict[str, Any]:
    """The protocol as JSON. A delay of no step is left out: runs from before there was one keep their identity."""
    plain = json.loads(json.dumps(asdict(protocol)))
    return plain if protocol.delay_steps else {name: plain[name] for name in plain if name not in ("delay_steps", "meanwhile")}


def episodes_digest(episodes: Iterable[Episode]) -> str:
    """SHA-256, in hex, over keys and payloads; the order of the episodes does not matter."""
    lines = sorted((episode.key, json.dumps(episode.payload, sort_keys=True, default=_plain)) for episode in episodes)
    for (key, _), (following, _) in pairwise(lines):
        if key == following:
            raise ValueError(f"two episodes have the key {key!r}")
    digest = hashlib.sha256()
    for key, payload in lines:
        digest.update(f"{key}\n{payload}\n".encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Arrays, numpy's numbers and bytes as JSON: an array by its type, shape and hash."""
    if isinstance(value, np.ndarray):
        ordered = value.astype(value.dtype.newbyteorder("<"), order="C")
        return {"array": [ordered.dtype.str, list(value.shape), hashlib.sha256(ordered.tobytes()).hexdigest()]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    raise TypeError(f"a payload holds {type(value).__name__}; expected plain data: numbers, text, lists, dicts, arrays, bytes")


def git_revision() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this file is part of, and whether it has uncommitted changes; ``(None, None)`` outside one."""
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None, None  # installed into an environment inside another project's checkout
    revision = _git(here.parent, "rev-parse", "HEAD")
    changes = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return revision, None if revision is None or changes is None else bool(changes)


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True, text=True, check=True, timeout=10, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Versions of those of :data:`PACKAGES` that are installed, by name."""
    versions = {}
    for name in sorted(PACKAGES):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def surroundings(
    config: dict[str, Any],
    suite_notes: dict[str, str],
    shard: str | None = None,
    runtime_packages: Mapping[str, Mapping[str, str]] | None = None,
    origins: Mapping[str, str] | None = None,
) -> Surroundings:
    """The record part of a manifest, for a driver that starts now; the arguments are fields of :class:`.manifest.Surroundings`."""
    revision, dirty = git_revision()
    return Surroundings(
        config=config,
        git_revision=revision,
        git_dirty=dirty,
        packages=package_versions(),
        python=platform.python_version(),
        host=platform.node(),
        command=list(sys.argv),
        created=utc_now(),
        suite_notes=suite_notes,
        runtime_packages={name: dict(sorted(packages.items())) for name, packages in (runtime_packages or {}).items()},
        origins=dict(origins or {}),
        shard=shard,
    )
