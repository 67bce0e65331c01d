"""Small libraries in C that are loaded into a process before all others, to change the system's answers or to record its calls."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def can_compile() -> bool:
    """Whether there is a C compiler."""
    return shutil.which("cc") is not None


def compile_preload(name: str, folder: Path) -> dict[str, str]:
    """Compile ``name.c`` into ``folder``; the environment variable of processes into which it shall be loaded."""
    library = folder / f"{name}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_name(f"{name}.c")], check=True)
    return {"LD_PRELOAD": str(library)}
