"""Third parties' source code, and files that a user names: what is in them, as hashes.

vlarig's own modules have a version, so they are left out here. Of a third party's module all counts that decides its behaviour: the
whole package that it is in, data files included, or its one file; and the local modules that it imports, found in the text of its
import statements, since a simulator's adapter cannot be imported where the simulator is not installed. What is installed in site-
packages counts only where it is named itself.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .errors import VlarigError

#: Files that the import system or an editor makes by itself.
_MADE = (".pyc", ".pyo", "~")


class CodeChangedError(VlarigError):
    """The code that a run began with is no longer what is on the disk."""


@dataclass(frozen=True)
class Source:
    """A package, a module of one file, or a file or folder of a user's.

    Attributes:
        name: What a user calls it, such as ``my_policy.py``, or ``my_adapter`` for a package.
        root: Its file, or its folder.
        files: Its files, sorted, each with the SHA-256 of what is in it, in hex.
    """

    name: str
    root: Path
    files: tuple[tuple[Path, str], ...]

    @property
    def sha256(self) -> str:
        """SHA-256, in hex, over names and contents; the same wherever it is installed."""
        digest = hashlib.sha256()
        for path, contents in self.files:
            digest.update(f"{path.relative_to(self.root.parent).as_posix()} {contents}\n".encode())
        return digest.hexdigest()


def find_sources(modules: Sequence[str], users: Sequence[str] = (), folder: Optional[Path] = None) -> list[Source]:
    """The source behind modules, and behind the local modules that they import, sorted by name.

    Args:
        modules: Full names of modules, wherever they are installed; ``__main__`` for the script that runs.
        users: Further modules, which count where they are local.
        folder: Where to look before the import path.
    """
    importlib.invalidate_caches()  # a module may be new
    found: dict[Path, Source] = {}
    wanted = [*((name, True) for name in reversed(modules)), *((name, False) for name in users)]
    while wanted:
        name, named = wanted.pop()
        place = _find(name, folder)
        if place is None or place.root in found or not (named or place.local):
            continue
        source = found[place.root] = Source(place.name, place.root, tuple(_contents(place.root)))
        wanted += [(imported, False) for path, _ in source.files for imported in _imports(path, place.package)]
    return sorted(found.values(), key=lambda source: (source.name, source.root))


def named_files(text: str) -> list[Source]:
    """The files and folders that ``text`` names: the whole of it, or a part between commas or quotation marks, as in a list.

    The working directory and the folders around it are left out: a ``.`` is hardly meant as its contents.
    """
    found: list[Source] = []
    for part in dict.fromkeys([text, *re.split('[,"]', text)]):
        try:
            root = Path(part).expanduser().absolute()
            named = root.is_file() or (root.is_dir() and not Path.cwd().is_relative_to(root.resolve()))
        except (OSError, RuntimeError):  # too long for a path, or the home of a user that does not exist
            continue
        if named:
            found.append(Source(part, root, tuple(_contents(root))))
    return found


def source_hashes(sources: Iterable[Source]) -> dict[str, str]:
    """Name to SHA-256, for a run's identity; sources of one name have one hash."""
    named: dict[str, list[str]] = {}
    for source in sources:
        named.setdefault(source.name, []).append(source.sha256)
    return {
        name: each[0] if len(each) == 1 else hashlib.sha256(" ".join(sorted(each)).encode()).hexdigest()
        for name, each in named.items()
    }


def check_unchanged(files: Iterable[tuple[str, str]]) -> None:
    """Make sure that files, each given with the SHA-256 of what was in it, are as they were.

    Raises:
        CodeChangedError: One is not.
    """
    for path, contents in files:
        try:
            now = _file_sha256(Path(path))
        except OSError:
            now = ""
        if now != contents:
            raise CodeChangedError(
                f"{path} has changed since the run began, and one run must not mix results of two versions; the same command begins "
                "another run (with the file as it was, it resumes this one)"
            )


@dataclass(frozen=True)
class _Place:
    """Where a module's source is; ``package`` is the package that its relative imports start from, empty for a package's own."""

    name: str
    root: Path
    package: str

    @property
    def local(self) -> bool:
        """Whether it is the user's own, neither installed nor part of Python."""
        if {"site-packages", "dist-packages"} & set(self.root.parts):
            return False
        python = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
        return not any(folder in self.root.parents for folder in python)


def _find(name: str, folder: Optional[Path]) -> Optional[_Place]:
    """The package or file that a module belongs to; ``None`` for one that is vlarig's or Python's own, or has no file."""
    if name == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        if spec is None:
            file = getattr(main, "__file__", None)
            return None if file is None or not Path(file).is_file() else _Place(Path(file).name, Path(file).resolve(), "")
        name = spec.name
    parts = name.split(".")
    if parts[0] == "vlarig" or parts[0] in sys.stdlib_module_names:
        return None
    spec = _spec(parts[0], folder)
    depth = 1
    while spec is not None and spec.origin is None and spec.submodule_search_locations and depth < len(parts):
        depth += 1  # a namespace package has no source of its own
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:depth]), list(spec.submodule_search_locations))
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    path = Path(spec.origin).resolve()
    above = "/".join([*parts[: depth - 1], ""])
    if path.stem == "__init__":
        return _Place(f"{above}{path.parent.name}", path.parent, "")
    return _Place(f"{above}{path.name}", path, ".".join(parts[: depth - 1]))


def _spec(name: str, folder: Optional[Path]) -> Optional[importlib.machinery.ModuleSpec]:
    """How a top-level module is found; it is not imported."""
    here = None if folder is None else importlib.machinery.PathFinder.find_spec(name, [str(folder)])
    if here is not None and here.origin is not None:
        return here
    try:
        return importlib.util.find_spec(name) or here
    except (ImportError, ValueError):  # a module that was put together in memory
        return here


def _contents(root: Path) -> Iterator[tuple[Path, str]]:
    """The files of a package or module, each with its hash."""
    try:
        for path in sorted(_files(root)):
            yield path, _file_sha256(path)
    except OSError as error:
        raise VlarigError(
            f"{error.filename or root} cannot be read ({error.strerror or error}), which is part of what identifies the run"
        ) from None


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and not name.endswith(_MADE) and path.is_file():
                yield path


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _imports(path: Path, package: str) -> Iterator[str]:
    """Names that a file imports, or may: of ``from a import b`` both ``a.b``. Relative ones only where there is no package around."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (not node.level or package):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
