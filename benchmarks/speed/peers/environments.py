"""An environment for each peer, made once with uv from the pinned lists beside this file, with LIBERO's data files in their place."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from uv import find_uv_bin

from vlarig.envs.assets.bundle import find_bundle
from vlarig.envs.errors import VlarigError
from vlarig.envs.home import home, one_at_a_time
from vlarig.envs.runtimes.spec import load_spec

HERE = Path(__file__).parent
INSIDE = HERE / "inside"

#: Software rendering in one thread, for all; vlarig sets the same for its own simulators.
RENDERING = {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa", "LP_NUM_THREADS": "0"}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

#: What the first run of a peer would have to compile.
IMPORTS = {
    "upstream": ("torch", "libero.libero.envs", "libero.libero.benchmark", "openpi_client.websocket_client_policy"),
    "vla-eval": ("torch", "libero.libero.envs", "vla_eval.cli.main", "vla_eval.orchestrator", "vla_eval_server"),
    "rlinf": ("torch", "libero.libero.envs", "rlinf.envs.libero.libero_env", "rlinf.scheduler.worker"),
    "roboeval": ("torch", "libero.libero.envs", "fastapi", "typer", "requests"),
    "lerobot": ("libero.libero.envs", "lerobot.scripts.lerobot_eval", "lerobot_policy_steps.modeling_steps"),
}


def requirements(peer: str) -> dict[str, str]:
    """A peer's packages with their versions, those of the lists that its list names included."""
    pinned: dict[str, str] = {}
    for line in (HERE / f"requirements-{peer}.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if included := re.fullmatch(r"-r requirements-([\w-]+)\.txt", text):
            pinned |= requirements(included[1])
        elif entry := re.fullmatch(r"([\w.-]+)==([\w.+!-]+)(; .+)?", text):
            pinned[entry[1]] = entry[2]
        elif text:
            raise ValueError(f"requirements-{peer}.txt: {line!r} is neither '-r FILE' nor 'NAME==VERSION'")
    return pinned


@cache
def interpreter(peer: str) -> Path:
    """The peer's Python; its environment is made where it is not there yet."""
    assets = find_bundle("libero").folder
    lists = b"".join(path.read_bytes() for path in sorted(HERE.glob("requirements-*.txt")))
    stamp = hashlib.sha256(lists + sys.version.encode() + str(assets).encode()).hexdigest()[:12]
    folder = home() / "peers" / f"{peer}-{stamp}"
    python = folder / "bin" / "python"
    with one_at_a_time(folder.parent / f"{peer}.lock", peer, print):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _uv("venv", "--python", sys.executable, str(folder))
            _install(python, HERE / f"requirements-{peer}.txt")
            _place_assets(folder, assets)
            _warm_up(peer, python)
            (folder / "made").touch()
    return python


def environment(python: Path) -> dict[str, str]:
    """The environment variables of a peer's processes."""
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "PYTHONPATH": str(INSIDE), "PYTHONUNBUFFERED": "1"}
    config = python.parents[1] / "libero"
    offline = {"LIBERO_CONFIG_PATH": str(config), "HF_HUB_OFFLINE": "1"} if config.is_dir() else {}
    return os.environ | RENDERING | ONE_THREAD | variables | offline


def _install(python: Path, packages: Path) -> None:
    """Install the list; where the usual index lacks torch's build for the CPU, PyTorch's own has it.

    torchvision's operators from the usual index are compiled for CUDA and do not load beside a torch for the CPU. No peer uses one,
    but torchvision describes them to torch as it is imported, which fails; so that description is left out.
    """
    words = ("pip", "install", "--no-deps", "--python", str(python), "-r", str(packages))
    try:
        _uv(*words)
    except VlarigError:
        _uv(*words, "--torch-backend", "cpu")
    for description in python.parents[1].glob("lib/python*/site-packages/torchvision/_meta_registrations.py"):
        description.write_text("", encoding="utf-8")


def _uv(*words: str) -> None:
    done = subprocess.run([find_uv_bin(), *words, "--quiet"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise VlarigError(f"uv {' '.join(words)} failed: {done.stderr.strip()}")


def _place_assets(folder: Path, assets: Path) -> None:
    """Write where hf-libero's tasks and initial states are (else it prompts on standard input), and link the rest beside it."""
    (library,) = (folder / "lib").glob("python*/site-packages/libero/libero")
    (library / "assets").symlink_to(assets / "assets")
    names = {"benchmark_root": "", "bddl_files": "bddl_files", "init_states": "init_files", "datasets": "", "assets": "assets"}
    (folder / "libero").mkdir()
    lines = [f"{key}: {assets / name}\n" for key, name in names.items()]
    (folder / "libero" / "config.yaml").write_text("".join(lines), encoding="utf-8")


def _warm_up(peer: str, python: Path) -> None:
    """Import what the peer imports, and let numba compile robosuite's controllers; its first episode would wait for both otherwise."""
    code = f"import {', '.join(IMPORTS[peer])}\n{load_spec('libero').warm_up}"
    done = subprocess.run([str(python), "-c", code], env=environment(python), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise VlarigError(f"{peer} does not run in {python}: {done.stderr.strip()[-500:]}")
