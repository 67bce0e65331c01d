"""Simulators' data files: found, checked file by file, distinguished from stand-ins, fetched from upstream.

A bundle ``libero`` is searched in ``$VLARIG_ASSETS`` (a folder ``libero``, an archive ``libero.tar.xz``, or its parts), then in
``<home>/assets/libero``, where :func:`fetch_bundle` puts the official files. An archive is unpacked to
``<home>/assets/libero-<first 12 digits of its hash>``. Nothing is downloaded without a request.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import VlarigError
from ..home import home, made_whole, one_at_a_time
from .archives import Watch, assemble, assembled_name, download_files, find_archive, unpack, unpacked_name
from .spec import UNKNOWN, BundleSpec, Contents, bundle_names, check_files, load_bundle

Report = Callable[[str], None]


@dataclass(frozen=True)
class Bundle:
    """A bundle as it lies on this machine, its files checked."""

    name: str
    folder: Path
    contents: Contents

    @property
    def identity(self) -> str:
        """The bundle's identity in a run's manifest: equal for equal files on every machine."""
        return f"{self.contents.summary}; sha256 {self.contents.digest[:12]}"

    @property
    def variable(self) -> str:
        """The environment variable that gives an adapter the folder."""
        return f"VLARIG_ASSETS_{self.name.upper()}"


@dataclass(frozen=True)
class AssetState:
    """A bundle in a listing.

    ``bundle`` is ``None`` where nothing was found, or only an ``archive``, which a listing does not unpack. ``problem`` says why it
    cannot be used, with what to do; it is empty where it can.
    """

    name: str
    title: str
    bundle: Bundle | None
    problem: str = ""
    archive: Path | None = None


@dataclass(frozen=True)
class FoundBundle:
    """Where a bundle was found: a folder, into which one ``archive`` is unpacked, or several ``parts`` are put together.

    ``remedy`` says what to do where the files turn out not to be whole.
    """

    folder: Path
    archive: Path | None
    remedy: str
    parts: tuple[Path, ...] = ()


def find_bundle(name: str, report: Report = lambda line: None) -> Bundle:
    """The bundle of that name, every file of it checked; an archive is unpacked before."""
    state = inspect_bundle(name, report)
    if state.bundle is None or state.problem:
        raise VlarigError(state.problem)
    return state.bundle


def list_bundles() -> list[AssetState]:
    """Every known bundle, inspected; an archive that was not unpacked yet stays so."""
    return [_packed(name) or inspect_bundle(name) for name in bundle_names()]


def _packed(name: str) -> AssetState | None:
    """The bundle of which only an archive is here; ``None`` for any other."""
    with suppress(VlarigError):
        place = locate_bundle(name)
        packed = place.archive or (place.parts[0] if place.parts else None)
        if packed is not None and not place.folder.exists():
            return AssetState(name, load_bundle(name).title, None, archive=packed)
    return None


def inspect_bundle(name: str, report: Report = lambda line: None) -> AssetState:
    """The state of the bundle on this machine; like :func:`find_bundle`, but a problem is returned, not raised."""
    spec = load_bundle(name)
    try:
        place = locate_bundle(name)
        folder = place.folder
        if place.archive is not None:
            unpack(place.archive, folder, report)
            folder = folder / name if (folder / name).is_dir() else folder
        if place.parts:
            assemble(spec, place.parts, folder, report)
        bundle = Bundle(name, folder, check_files(spec, folder))
    except VlarigError as error:
        return AssetState(name, spec.title, None, str(error))
    contents = bundle.contents
    if contents.whole:
        return AssetState(name, spec.title, bundle)
    parts = [_counted(contents.missing, "missing"), _counted(contents.corrupt, "corrupt")]
    faults = " and ".join(part for part in parts if part)
    return AssetState(name, spec.title, bundle, f"the assets {name!r} in {folder} are not whole: {faults}; {place.remedy}")


def locate_bundle(name: str) -> FoundBundle:
    """Where the bundle is; nothing is read, unpacked or downloaded."""
    spec = load_bundle(name)
    fetch = f"run: vlarig assets fetch {name}"
    given = _given_folder()
    if given is not None:
        if (given / name).is_dir():
            return FoundBundle(given / name, None, f"replace that folder, or unset VLARIG_ASSETS and {fetch}")
        if archive := find_archive(given, name):
            folder = _assets() / unpacked_name(archive, name)
            return FoundBundle(folder, archive, f"delete {folder}, so that it is unpacked again, or replace {archive}")
        parts = [archive for part in spec.parts if (archive := find_archive(given, part.archive))]
        if parts and len(parts) == len(spec.parts):
            folder = _assets() / assembled_name(spec, parts)
            remedy = f"delete {folder}, so that it is made again, or replace {', '.join(map(str, parts))}"
            return FoundBundle(folder, None, remedy, tuple(parts))
    if (_assets() / name).is_dir():
        return FoundBundle(_assets() / name, None, fetch)
    looked = f"neither in {given} (VLARIG_ASSETS) nor in" if given is not None else "not in"
    raise VlarigError(
        f"the assets {name!r} ({spec.title}) are {looked} {_assets()}; {fetch}, or set VLARIG_ASSETS to a folder that holds "
        f"{name}/ or {name}.tar.xz"
    )


def fetch_bundle(
    name: str, urls: Sequence[str] = (), report: Report = lambda line: None, watch: Watch = lambda files, received: None
) -> Path:
    """Download the bundle's official files to ``<home>/assets/<name>``; nothing is done where they exist.

    Two downloads at the same time wait for each other. An interrupted one leaves a scratch folder, which the next download deletes.
    ``urls`` says where to get copies of the official archives, one for each source.
    """
    spec = load_bundle(name)
    archives = [source.archive for source in spec.sources]
    if urls and len(urls) != len(archives):
        raise VlarigError(
            f"{len(urls)} --url were given, but {name!r} comes from {len(archives)} archives; give a copy of each, in this order: "
            + ", ".join(archives)
        )
    folder = _assets() / name
    if not _official(spec, folder):
        with one_at_a_time(_assets() / f"{name}.lock", f"the assets {name!r}", report):
            if not _official(spec, folder):
                with made_whole(folder) as scratch:
                    download_files(spec, urls or archives, scratch, report, watch)
    report(f"the official assets {name!r} are in {folder}")
    with suppress(VlarigError):
        first = locate_bundle(name)
        if first.folder != folder:
            report(f"but VLARIG_ASSETS goes first: {first.archive or first.folder}")
    return folder


def _official(spec: BundleSpec, folder: Path) -> bool:
    return folder.is_dir() and check_files(spec, folder).official == sum(blob != UNKNOWN for blob in spec.files.values())


def _given_folder() -> Path | None:
    given = os.environ.get("VLARIG_ASSETS")
    if not given:
        return None
    folder = Path(given).expanduser().absolute()
    if not folder.is_dir():
        raise VlarigError(f"VLARIG_ASSETS is {given!r}, which is no folder; set it to the folder of assets, or unset it")
    return folder


def _assets() -> Path:
    return home() / "assets"


def _counted(paths: tuple[str, ...], state: str) -> str:
    """How many files are in that state, and the first of them; nothing where none is."""
    if not paths:
        return ""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{len(paths)} {'file is' if len(paths) == 1 else 'files are'} {state} ({', '.join(paths[:3])}{more})"
