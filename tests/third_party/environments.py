"""Virtual environments of other projects' packages, made once and kept beside the runtimes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from uv import find_uv_bin

from vlarig.envs.home import home, one_at_a_time

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


def environment(name: str, *, with_torch: bool = False) -> Path:
    """The interpreter of an environment with the packages of ``NAME.txt``, and of ours, made where it is not there yet.

    Args:
        name: Name of the list of packages.
        with_torch: Whether it has vlarig and the driver's own torch too. A link spares an install of some hundred MB.
    """
    packages = HERE / f"{name}.txt"
    stamp = packages.read_bytes() + sys.version.encode()
    if with_torch:
        pytest.importorskip("torch", reason="the extra 'policy' is not installed")
        stamp += (
            distribution("torch").version.encode() + (REPOSITORY / "pyproject.toml").read_bytes() + str(REPOSITORY).encode()
        )
    folder = home() / "test-environments" / f"{name}-{hashlib.sha256(stamp).hexdigest()[:12]}"
    with one_at_a_time(folder.parent / f"{name}.lock", name, print):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run("venv", "--python", sys.executable, folder)
            _run("pip", "install", "--no-deps", "--python", folder / "bin" / "python", "-r", packages)
            if with_torch:
                _run("pip", "install", "--no-deps", "--python", folder / "bin" / "python", "--editable", REPOSITORY)
                _link_torch(folder)
            (folder / "made").touch()
    return folder / "bin" / "python"


def _run(*words: str | Path) -> None:
    done = subprocess.run([find_uv_bin(), *map(str, words), "--quiet"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"uv {' '.join(map(str, words))} failed: {done.stderr}"


def _link_torch(folder: Path) -> None:
    """Lend the environment the driver's torch.

    The compiled operators of torchvision from the usual index are for CUDA and do not load beside a torch for the CPU. No policy that
    is tested uses one, but torchvision describes them to torch as it is imported, which fails; so that description is left out.
    """
    (there,) = (folder / "lib").glob("python*/site-packages")
    torch = distribution("torch")
    tops = {Path(file).parts[0] for file in torch.files or () if not file.parts[0].startswith((".", "_"))}
    for top in tops:
        (there / top).symlink_to(str(torch.locate_file(top)))
    if (there / "torchvision").is_dir():
        (there / "torchvision" / "_meta_registrations.py").write_text("", encoding="utf-8")
