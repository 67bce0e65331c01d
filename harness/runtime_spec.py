"""Runtimes as data: what a simulator's virtual environment holds, and which system libraries draw its pictures."""

from __future__ import annotations

import ctypes.util
import hashlib
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..envs.errors import VlarigError, suggestion

LOCKS = Path(__file__).parent / "locks"


@dataclass(frozen=True)
class Renderer:
    """One way in which a simulator can draw pictures.

    Attributes:
        name: What ``VLARIG_RENDERER`` calls it.
        libraries: Shared libraries that it needs, as the linker names them (``OSMesa`` for ``libOSMesa.so``).
        apt: Packages of Debian and Ubuntu that bring them.
        environment: Environment variables that make the simulator use it.
    """

    name: str
    libraries: tuple[str, ...]
    apt: tuple[str, ...]
    environment: dict[str, str]

    def missing(self) -> list[str]:
        """The libraries that are not on this machine."""
        return [library for library in self.libraries if ctypes.util.find_library(library) is None]

    def install_line(self) -> str:
        """What to type on Debian and Ubuntu to get the libraries."""
        sudo = "" if os.geteuid() == 0 else "sudo "
        return f"{sudo}apt-get install -y {' '.join(self.apt)}"


@dataclass(frozen=True)
class RuntimeSpec:
    """A runtime that can be installed, read from ``locks/<name>.toml`` and ``locks/<name>.txt``.

    Attributes:
        name: Name of the runtime.
        title: One line for listings.
        python: Versions of Python that it supports, such as ``>=3.11,<3.14``.
        imports: Modules whose import proves the install.
        probe: Python that fails where the renderer cannot draw; empty when there is none.
        warm_up: Python that is run once after the install, so that what a simulator compiles at first use is compiled by then.
        renderers: In order of preference; empty for a simulator that needs no graphics.
        lock: The pinned packages, with their hashes.
    """

    name: str
    title: str
    python: str
    imports: tuple[str, ...]
    probe: str
    warm_up: str
    renderers: tuple[Renderer, ...]
    lock: Path

    @property
    def lock_sha256(self) -> str:
        """SHA-256 of the pinned packages, in hex: the runtime's identity."""
        try:
            return hashlib.sha256(self.lock.read_bytes()).hexdigest()
        except FileNotFoundError:
            raise VlarigError(f"the runtime {self.name!r} has no list of packages: {self.lock} is missing") from None

    def accepts(self, version: tuple[int, int]) -> bool:
        """Whether ``python`` allows this version."""
        for operator, major, minor in re.findall(r"(>=|<)\s*(\d+)\.(\d+)", self.python):
            bound = (int(major), int(minor))
            if (version < bound) if operator == ">=" else (version >= bound):
                return False
        return True


def spec_names() -> list[str]:
    """Names of the runtimes that can be installed."""
    return sorted(path.stem for path in LOCKS.glob("*.toml"))


def load_spec(name: str, others: tuple[str, ...] = ()) -> RuntimeSpec:
    """The runtime's description.

    Args:
        name: Name of the runtime.
        others: Further names to offer when there is no runtime called ``name``.

    Raises:
        VlarigError: There is no such runtime; the nearest names are offered.
    """
    known = sorted({*spec_names(), *others})
    if name not in spec_names():
        raise VlarigError(
            f"unknown runtime {name!r}; {suggestion(name, known)} "
            f"(an interpreter made elsewhere: vlarig runtime add {name} --python PATH)"
        )
    data = tomllib.loads((LOCKS / f"{name}.toml").read_text(encoding="utf-8"))
    renderers = tuple(
        Renderer(entry["name"], tuple(entry["libraries"]), tuple(entry["apt"]), dict(entry["environment"]))
        for entry in data.get("renderers", [])
    )
    return RuntimeSpec(
        name=name,
        title=data["title"],
        python=data["python"],
        imports=tuple(data["imports"]),
        probe=data.get("probe", ""),
        warm_up=data.get("warm_up", ""),
        renderers=renderers,
        lock=LOCKS / f"{name}.txt",
    )


def choose_renderer(spec: RuntimeSpec) -> Renderer:
    """The first of the runtime's renderers whose libraries are on this machine; ``VLARIG_RENDERER`` asks for one by name.

    Raises:
        VlarigError: No renderer can run here, or the one asked for is unknown or cannot.
    """
    if not spec.renderers:
        return Renderer("none", (), (), {})
    wanted = os.environ.get("VLARIG_RENDERER", "")
    candidates = [renderer for renderer in spec.renderers if wanted in ("", renderer.name)]
    if not candidates:
        names = ", ".join(renderer.name for renderer in spec.renderers)
        raise VlarigError(f"VLARIG_RENDERER is {wanted!r}; the runtime {spec.name!r} can draw with: {names}")
    for renderer in candidates:
        if not renderer.missing():
            return renderer
    first = candidates[0]
    libraries = ", ".join(f"lib{library}" for library in first.missing())
    raise VlarigError(
        f"the runtime {spec.name!r} cannot draw pictures here: {libraries} is missing; run: {first.install_line()}"
    )
