"""Upstream's own task environments: imported without a question, without torch, and with the data files at a given place."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import upstream
from ..errors import VlarigError
from ..mujoco_shared import ROBOSUITE_LOG, forget_compilation, keep_no_files, keeps_files
from ..upstream import Patch, patched, quiet

#: What a reset of upstream's changes in the model: the poses of fixtures, and which sites are seen.
CHANGED_BY_RESETS = ("body_pos", "body_quat", "site_rgba")


def assets_folder() -> Path:
    return upstream.assets_folder("libero", "assets", "bddl_files", "init_files")


def make_task(suite: str, task: str) -> Any:
    """Upstream's environment of a task, a ``BDDLBaseDomain``, without cameras.

    Its attribute ``pristine`` holds the arrays of :data:`CHANGED_BY_RESETS` as the compiled XML has them.
    """
    import_upstream()
    made = _make(suite, task, PATCHES)
    forget_compilation()
    return made


def import_upstream() -> None:
    """Import upstream's package, once a process."""
    upstream.import_upstream("libero.libero.envs", PATCHES, [ROBOSUITE_LOG])


def _make(suite: str, task: str, patches: tuple[Patch, ...]) -> Any:
    bddl = assets_folder() / "bddl_files" / suite / f"{task}.bddl"
    if not bddl.is_file():
        raise VlarigError(f"LIBERO has no task {task!r} in {suite!r}: {bddl.name} is missing; run: vlarig assets verify libero")
    with quiet(ROBOSUITE_LOG):
        from libero.libero.envs import bddl_utils
        from libero.libero.envs.bddl_base_domain import TASK_MAPPING
        from robosuite import load_controller_config

        problem = TASK_MAPPING[bddl_utils.get_problem_info(str(bddl))["problem_name"]]
        # The arguments of ControlEnv (libero/libero/envs/env_wrapper.py), but for the cameras and the reload at each reset.
        return patched(problem, patches)(
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


# The patches.


@contextmanager
def _settings() -> Iterator[None]:
    """A settings file that names every folder, and the folder of assets, which it does not read there."""
    assets = assets_folder()
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
        yield
    vars(sys.modules["libero.libero"])["_assets_path_cache"] = str(assets / "assets")


def _asks() -> bool:
    with tempfile.TemporaryDirectory() as empty, quiet(ROBOSUITE_LOG):
        os.environ["LIBERO_CONFIG_PATH"] = empty
        try:
            importlib.import_module("libero.libero")
        except EOFError:  # standard input has ended
            return True
    return False


def _keeping_pristine(problem: type) -> type:
    """It bears its parent's name, because upstream compares that with the one in the task's file."""

    def _initialize_sim(self: Any, xml_string: Any = None) -> None:
        problem._initialize_sim(self, xml_string)
        self.pristine = {name: getattr(self.sim.model._model, name).copy() for name in CHANGED_BY_RESETS}

    return type(problem.__name__, (problem,), {"_initialize_sim": _initialize_sim})


def _resets_leave_fixtures() -> bool:
    made = _sample(keeping_files=False)
    before = made.sim.model._model.body_pos.copy()
    made.reset()
    return bool((made.sim.model._model.body_pos != before).any())


def _sample(keeping_files: bool) -> Any:
    """A task as upstream makes it, with or without MuJoCo's cache."""
    upstream.import_upstream("libero.libero.envs", [FOLDERS] if keeping_files else [FOLDERS, NO_FILES], [ROBOSUITE_LOG])
    return _make("libero_goal", "turn_on_the_stove", ())


FOLDERS = Patch(
    name="folders without a question",
    why="its first import prompts for folders on the terminal unless a settings file names them, and looks for assets beside itself, "
    "then on the net (libero/libero/__init__.py)",
    needed=_asks,
    importing=_settings,
)
NO_FILES = Patch(
    name="no decoded files are kept",
    why="MuJoCo's compiler keeps up to half a gigabyte of decoded meshes and textures, which saves a tenth of a second",
    needed=lambda: keeps_files(_sample),
    importing=keep_no_files,
)
PRISTINE = Patch(
    name="the model as compiled is kept",
    why="a reset without a reload begins with the fixtures where the reset before has put them (robosuite 1.4.0, "
    "environments/base.py, reset)",
    needed=_resets_leave_fixtures,
    changing=_keeping_pristine,
)
PATCHES = (FOLDERS, NO_FILES, PRISTINE)
