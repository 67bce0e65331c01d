"""Upstream's own task environments: imported without a question, without torch, and with the data files at a given place."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..errors import VlarigError

#: Where the worker finds the data files: a folder with ``assets``, ``bddl_files`` and ``init_files``.
ASSETS_VARIABLE = "VLARIG_ASSETS_LIBERO"

#: What a reset of upstream's changes in the model: the poses of fixtures, and which sites are seen.
CHANGED_BY_RESETS = ("body_pos", "body_quat", "site_rgba")


def assets_folder() -> Path:
    """The folder of LIBERO's data files.

    Raises:
        VlarigError: The environment does not name one, or it lacks a part.
    """
    place = os.environ.get(ASSETS_VARIABLE, "")
    folder = Path(place)
    if not place or not all((folder / part).is_dir() for part in ("assets", "bddl_files", "init_files")):
        raise VlarigError(
            f"${ASSETS_VARIABLE} is {place!r}, expected a folder with assets, bddl_files and init_files; run: vlarig assets list"
        )
    return folder


def make_task(assets: Path, suite: str, task: str) -> Any:
    """Upstream's environment of a task, a ``BDDLBaseDomain``, without cameras.

    Its attribute ``pristine`` holds the arrays of :data:`CHANGED_BY_RESETS` as the compiled XML has them.

    Raises:
        VlarigError: Upstream has no such task.
    """
    bddl = assets / "bddl_files" / suite / f"{task}.bddl"
    if not bddl.is_file():
        raise VlarigError(f"LIBERO has no task {task!r} in {suite!r}: {bddl.name} is missing; run: vlarig assets verify libero")
    with contextlib.redirect_stdout(sys.stderr):
        import_upstream(assets)
        from libero.libero.envs import bddl_utils
        from libero.libero.envs.bddl_base_domain import TASK_MAPPING
        from robosuite import load_controller_config

        problem = TASK_MAPPING[bddl_utils.get_problem_info(str(bddl))["problem_name"]]
        # The arguments of ControlEnv (libero/libero/envs/env_wrapper.py), but for the cameras and the reload at each reset.
        env = _keeping_pristine(problem)(
            str(bddl),
            robots=["Panda"],
            controller_configs=load_controller_config(default_controller="OSC_POSE"),
            gripper_types="default",
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            control_freq=20,
            ignore_done=True,
            hard_reset=False,
        )
    _forget_compilation()
    return env


def _keeping_pristine(problem: type) -> type:
    """A subclass that copies what resets change in the model before the first of them does.

    It bears its parent's name, because upstream compares that with the one in the task's file.
    """

    def _initialize_sim(self: Any, xml_string: Any = None) -> None:
        problem._initialize_sim(self, xml_string)
        self.pristine = {name: getattr(self.sim.model._model, name).copy() for name in CHANGED_BY_RESETS}

    return type(problem.__name__, (problem,), {"_initialize_sim": _initialize_sim})


def import_upstream(assets: Path) -> None:
    """Import upstream's package, once a process.

    It prompts for folders on the terminal unless a settings file names them, and looks for ``assets`` beside itself, then on the net,
    by default (libero/libero/__init__.py).
    """
    if "libero.libero.envs" in sys.modules:
        return
    _keep_no_files()
    with tempfile.TemporaryDirectory() as settings:
        places = {
            "benchmark_root": "",
            "bddl_files": "bddl_files",
            "init_states": "init_files",
            "datasets": "",
            "assets": "assets",
        }
        lines = [f"{key}: {str(assets / place)!r}\n" for key, place in places.items()]
        Path(settings, "config.yaml").write_text("".join(lines), encoding="utf-8")
        os.environ["LIBERO_CONFIG_PATH"] = settings
        import libero.libero
        import libero.libero.envs
    libero.libero._assets_path_cache = str(assets / "assets")


def _mujoco_library() -> Any:
    """MuJoCo's C library; its Python has no names for the calls of its C API that are made here (mujoco.h, 3.3.2)."""
    import mujoco

    folder = Path(str(mujoco.__file__)).parent
    return ctypes.CDLL(str(next(folder.glob("libmujoco.*"))))


def _keep_no_files() -> None:
    """Have MuJoCo's compiler keep no decoded meshes and textures: up to half a gigabyte of cache that saves a tenth of a second.

    This must come before the first compilation: MuJoCo 3.3.2 hangs or crashes when a cache that holds something is made smaller.
    """
    library = _mujoco_library()
    library.mj_globalCache.restype = ctypes.c_void_p
    library.mj_setCacheSize.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.mj_setCacheSize(library.mj_globalCache(), 0)


def _forget_compilation() -> None:
    """Give back what MuJoCo keeps of the last compilation, the parsed XML with its meshes and textures: twice the model."""
    _mujoco_library().mj_freeLastXML()
    with contextlib.suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
