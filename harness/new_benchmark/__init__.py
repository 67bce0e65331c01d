"""``vlarig envs new``: the files of a benchmark of one's own, filled in with a small world that works."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from ...benchmarks.registry import suite_names
from ...envs.errors import VlarigError

TEMPLATE = Path(__file__).with_name("template")


def new_benchmark(name: str, folder: Path) -> list[Path]:
    """Write the files of a new benchmark and its suite to a folder that is made, or empty; those that were written, in order."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise VlarigError(f"{name!r} cannot be the name of a benchmark; use small letters, digits and _, as in my_bench")
    if name in suite_names():
        raise VlarigError(f"there is a suite {name!r} already; take another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VlarigError(f"{folder} holds something already; name another folder by --to")
    names = {"name": name, "NAME": name.upper(), "Name": "".join(word.capitalize() for word in name.split("_"))}
    written = []
    for template in sorted(TEMPLATE.rglob("*.template")):
        relative = template.relative_to(TEMPLATE).with_suffix("")
        parts = [f"vlarig_{name}" if part == "package" else part.replace("NAME", name) for part in relative.parts]
        file = folder.joinpath(*parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(template.read_text(encoding="utf-8")).substitute(names), encoding="utf-8")
        written.append(file)
    return written
