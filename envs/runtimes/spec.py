"""Runtimes as data: what a simulator's virtual environment holds, and which libraries and drivers render its images."""

from __future__ import annotations

import ctypes.util
import hashlib
import os
import re
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from ..errors import VlarigError, suggestion
from ..plugins import runtime_files
from .drivers import Driver, can_install, find_driver, load_driver, too_old

#: Environment variable by which a user requests renderers.
RENDERER_VARIABLE = "VLARIG_RENDERER"


@dataclass(frozen=True)
class Renderer:
    """One way in which a simulator can render images.

    Attributes:
        name: Its name in ``VLARIG_RENDERER``.
        libraries: Shared libraries that it needs, as the linker names them (``OSMesa`` for ``libOSMesa.so``).
        apt: Packages of Debian and Ubuntu that bring them.
        environment: Environment variables that make the simulator use it.
        driver: Vulkan driver that it needs; ``None`` where the libraries are all.
        origin: The driver that was found, for messages; empty before the search.
    """

    name: str
    libraries: tuple[str, ...]
    apt: tuple[str, ...]
    environment: dict[str, str]
    driver: Driver | None = None
    origin: str = ""

    def missing(self) -> list[str]:
        """The libraries, and the driver, that are not on this machine; a private copy of a driver has libraries beside it."""
        found = None if self.driver is None else find_driver(self.driver)
        missing = [
            f"lib{library}"
            for library in self.libraries
            if ctypes.util.find_library(library) is None and not (found and found.has_library(library))
        ]
        return missing if self.driver is None or found else [_absence(self.driver), *missing]

    def remedy(self, runtime: str) -> str:
        """How to install what is missing.

        Args:
            runtime: Name of the runtime whose renderer it is; installing it makes a private copy of a driver where that can be done.
        """
        if self.driver is not None and can_install(self.driver):
            return f"run: vlarig runtime install {runtime}"
        sudo = "" if os.geteuid() == 0 else "sudo "
        line = f"{sudo}apt-get install -y {' '.join(self.apt)}"
        if self.driver is None:
            return f"run: {line}"
        return self.driver.advice if find_driver(self.driver) is None else f"run: {line}"

    def ready(self) -> Renderer:
        """The same, with the environment variables that lead to its driver."""
        found = None if self.driver is None else find_driver(self.driver)
        if found is None:
            return self
        return replace(self, environment={**self.environment, **found.environment()}, origin=found.origin)


def _absence(driver: Driver) -> str:
    old = too_old(driver)
    return driver.title if old is None else f"{driver.title} of {driver.oldest} or newer (that of {old.path} is older)"


@dataclass(frozen=True)
class RuntimeSpec:
    """A runtime that can be installed, read from a plug-in's ``<name>.toml``, with ``<name>.txt`` beside it.

    Attributes:
        name: Name of the runtime.
        lock: The pinned packages, with their hashes.
        title: One line for listings.
        python: Versions of Python that it supports, such as ``>=3.11,<3.14``.
        imports: Modules whose import proves the install.
        probe: Python that fails where the renderer cannot render; empty when there is none.
        warm_up: Python that is run once after the install, so that code which a simulator compiles at first use is compiled.
        renderers: In order of preference; empty for a simulator that needs no graphics.
        torch: Which build of PyTorch the lock pins, as uv's ``--torch-backend`` calls it; empty where it pins none.
    """

    name: str
    lock: Path
    title: str
    python: str
    imports: tuple[str, ...]
    probe: str = ""
    warm_up: str = ""
    renderers: tuple[Renderer, ...] = ()
    torch: str = ""

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
    return sorted(runtime_files())


def _read(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def load_spec(name: str, others: tuple[str, ...] = ()) -> RuntimeSpec:
    """The runtime's description.

    Args:
        name: Name of the runtime.
        others: Further names to offer when there is no runtime called ``name``.
    """
    files = runtime_files()
    if name not in files:
        raise VlarigError(
            f"unknown runtime {name!r}; {suggestion(name, sorted({*files, *others}))} "
            f"(an interpreter made elsewhere: vlarig runtime add {name} --python PATH)"
        )
    data = _read(files[name])
    for renderer in data.get("renderers", []):
        if "driver" in renderer:
            renderer["driver"] = asdict(load_driver(renderer["driver"]))
    return msgspec.convert({"name": name, "lock": str(files[name].with_suffix(".txt")), **data}, RuntimeSpec, dec_hook=_as_path)


def _as_path(kind: type, value: Any) -> Any:
    return Path(value) if kind is Path else value


def requested_renderers(spec: RuntimeSpec) -> list[str]:
    """Names of the runtime's renderers that ``VLARIG_RENDERER`` requests, separated by commas; empty for a default."""
    own = [renderer.name for renderer in spec.renderers]
    names = [name for word in os.environ.get(RENDERER_VARIABLE, "").split(",") if (name := word.strip())]
    if unknown := [name for name in names if name not in own]:
        known = sorted({renderer["name"] for file in runtime_files().values() for renderer in _read(file).get("renderers", [])})
        for name in unknown:
            if name not in known:
                raise VlarigError(f"{RENDERER_VARIABLE} names {name!r}, by which no runtime renders; {suggestion(name, known)}")
    return [name for name in names if name in own]


def candidates(spec: RuntimeSpec) -> list[Renderer]:
    """The runtime's renderers that may be used, in order of preference: those that the user requests, else its own order."""
    own = {renderer.name: renderer for renderer in spec.renderers}
    return [own[name] for name in requested_renderers(spec)] or list(spec.renderers)


def choose_renderer(spec: RuntimeSpec) -> Renderer:
    """The first of the runtime's renderers that this machine has all of; ``VLARIG_RENDERER`` requests some by name."""
    if not spec.renderers:
        return Renderer("none", (), (), {})
    chosen = candidates(spec)
    for renderer in chosen:
        if not renderer.missing():
            return renderer.ready()
    first = chosen[0]
    raise VlarigError(
        f"the runtime {spec.name!r} cannot render images here: {', '.join(first.missing())} is missing; {first.remedy(spec.name)}"
    )


def keep_renderer(spec: RuntimeSpec, names: Collection[str], chosen: Renderer, run: str) -> Renderer:
    """The renderer that a run was begun with.

    Args:
        spec: The runtime.
        names: Names of the renderers of the run, those of its other runtimes among them.
        chosen: The renderer where the run names none of this runtime's.
        run: Name of the run, for the message.
    """
    begun_with = [renderer for renderer in spec.renderers if renderer.name in names]
    if not begun_with:
        return chosen
    advice = f"or begin another run: give another --run, or --fresh; {chosen.name} is here"
    kept = [renderer for renderer in candidates(spec) if renderer in begun_with]
    if not kept:
        raise VlarigError(
            f"the run {run} is rendered by {begun_with[0].name}, and {RENDERER_VARIABLE} requests {chosen.name}, which renders other "
            f"images; set {RENDERER_VARIABLE}={begun_with[0].name} to resume it, {advice}"
        )
    for renderer in kept:
        if not renderer.missing():
            return renderer.ready()
    raise VlarigError(
        f"the run {run} is rendered by {kept[0].name}, which is not here any more ({', '.join(kept[0].missing())} is missing); "
        f"{kept[0].remedy(spec.name)}, {advice}"
    )
