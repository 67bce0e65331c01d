"""Upstream's tasks: imported without CUDA, with the data files at a given place, and rendering nothing unasked."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np

from .. import upstream
from ..errors import VlarigError
from ..upstream import Patch, patched, quiet
from .control import Drives

#: Bundle of the data files; they lie in its folder ``assets``, which upstream looks for in the working directory.
ASSETS = "robotwin_assets"

#: What SAPIEN renders with, a folder of its shaders: ``default`` (rasterisation), ``trivial`` (colours alone), or upstream's ``rt``
#: (ray tracing, for a GPU).
SHADER_VARIABLE = "VLARIG_SAPIEN_SHADER"

#: Modules that upstream and toppra import and that nothing here calls: they make point clouds, write demonstrations, and plot.
NOT_CALLED = ("open3d", "pytorch3d", "pytorch3d.ops", "trimesh", "h5py", "imageio", "matplotlib", "matplotlib.pyplot")
#: CuRobo, which plans on CUDA alone, and torch, which only CuRobo computes with; upstream seeds it too, but samples nothing by it.
CUROBO = (
    *("torch", "torch.multiprocessing"),
    *("curobo", "curobo.types", "curobo.types.math", "curobo.types.robot", "curobo.util"),
    *("curobo.wrap", "curobo.wrap.reacher", "curobo.wrap.reacher.motion_gen"),
)


def import_upstream(source: str) -> None:
    """Import upstream's package ``envs`` out of the bundle ``source``, once a process."""
    tree = str(upstream.assets_folder(source, "envs", "task_config", "description"))
    if tree not in sys.path:
        if "envs" in sys.modules:
            raise VlarigError(f"RoboTwin and DOMINO have a package of the same name; play {source!r} in a process of its own")
        sys.path.insert(0, tree)
        sys.path += [str(Path(tree, "description", "utils")), str(Path(tree, "script"))]
        upstream.import_upstream("envs", PATCHES)
        if Path(tree, "envs", "utils", "dynamic_utils.py").exists():  # DOMINO's; it imports it late, unreplaced
            upstream.import_upstream("envs.utils.dynamic_utils", PATCHES)
        upstream.import_upstream("envs._base_task", PATCHES)  # last, since a patch changes it once it is there


def make_task(source: str, name: str, patches: tuple[Patch, ...] | None = None) -> Any:
    """Upstream's task of that name, a ``Base_Task``, not yet set up."""
    import_upstream(source)
    try:
        module = importlib.import_module(f"envs.{name}")
    except ModuleNotFoundError:
        raise VlarigError(f"upstream has no task {name!r}; run: vlarig assets verify {source}") from None
    return patched(getattr(module, name), PATCHES if patches is None else patches)()


def set_up(task: Any, name: str, config: str, seed: int, **changes: Any) -> None:
    """Begin an episode as upstream's evaluator does, with ``changes`` of entries of upstream's configuration ``config``."""
    with in_assets(), quiet():
        try:
            task.setup_demo(now_ep_num=0, seed=seed, is_test=True, **{**settings(config, name), **changes})
        except (RuntimeError, FileNotFoundError) as error:
            if "file" not in str(error):
                raise
            raise VlarigError(
                f"the task {name!r} needs meshes that are not here, and of which there are no proxies ({error}); "
                f"run: vlarig assets fetch {ASSETS}"
            ) from None


def settings(config: str, name: str) -> dict[str, Any]:
    """The arguments of a task's ``setup_demo``, as RoboTwin@13c3c47 script/eval_policy.py, ``main``, puts them together."""
    import yaml

    from envs._GLOBAL_CONFIGS import CONFIGS_PATH

    def read(file: str) -> Any:
        return yaml.safe_load(Path(file).read_text(encoding="utf-8"))

    found = read(f"{CONFIGS_PATH}{config}.yml")
    (embodiment,) = found["embodiment"]
    folder = read(f"{CONFIGS_PATH}_embodiment_config.yml")[embodiment]["file_path"]
    head = read(f"{CONFIGS_PATH}_camera_config.yml")[found["camera"]["head_camera_type"]]
    arms = {f"{side}_embodiment_config": read(f"{folder}config.yml") for side in ("left", "right")}
    files = {f"{side}_robot_file": folder for side in ("left", "right")}
    found |= {"task_name": name, "task_config": config, "eval_mode": True, "dual_arm_embodied": True, **arms, **files}
    return found | {"head_camera_h": head["h"], "head_camera_w": head["w"]}


def instruction(name: str, info: dict[str, str], kind: str) -> str:
    """An instruction of that kind, ``seen`` or ``unseen``, as upstream's evaluator takes one.

    Its generator shuffles by ``random``, which an evaluator does not seed and which is seeded by the episode here.

    Args:
        name: The task.
        info: What the expert's run says of objects and arms.
        kind: Which templates and names of objects.
    """
    from generate_episode_instructions import generate_episode_descriptions

    with quiet():
        found = generate_episode_descriptions(name, [info], 100)
    if not found or not found[0][kind]:
        raise VlarigError(f"upstream has no {kind!r} instruction of {name!r} for {json.dumps(info)}")
    return str(np.random.choice(found[0][kind]))


@contextmanager
def in_assets() -> Iterator[None]:
    """Within, the working directory is the one that upstream's paths begin in."""
    before = Path.cwd()
    os.chdir(upstream.assets_folder(ASSETS, "assets/embodiments", "assets/objects"))
    try:
        yield
    finally:
        os.chdir(before)


# The patches.


@contextmanager
def _without_cuda() -> Iterator[None]:
    """What is not called here is not imported; the planner is one that needs no CUDA."""
    from . import planner

    absent = {*NOT_CALLED, *(() if planner.has_curobo() else CUROBO)} - sys.modules.keys()
    sys.modules.update({name: MagicMock() for name in absent})
    try:
        with in_assets():
            yield
    finally:
        for name in absent:
            del sys.modules[name]
    if "envs._base_task" in sys.modules and not planner.has_curobo():
        planner.replace_curobo()


def _needs_cuda() -> bool:
    tree = str(upstream.assets_folder("robotwin_source", "envs"))
    sys.path.insert(0, tree)
    with in_assets(), quiet():
        try:
            importlib.import_module("envs._base_task")
        except ImportError:
            return True
    return False


def _rendered_here(task: type) -> type:
    class RenderedHere(task):
        def setup_scene(self, **settings: Any) -> None:
            super().setup_scene(**settings)
            import sapien.render

            sapien.render.set_camera_shader_dir(os.environ.get(SHADER_VARIABLE, "default"))

    return RenderedHere


def _traces_rays() -> bool:
    import sapien.render

    task = _sample([WITHOUT_CUDA])
    with patch.object(sapien.render, "set_camera_shader_dir", side_effect=KeyboardInterrupt) as chosen:
        try:
            set_up(task, "stack_blocks_two", "demo_clean", 0)
        except KeyboardInterrupt:
            return chosen.call_args.args == ("rt",)
    return False


def _unrendered(task: type) -> type:
    class Unrendered(task):
        def _update_render(self) -> None:
            """Lights that flicker go on to do so; nothing else is prepared for rendering."""
            if self.crazy_random_light:
                super()._update_render()

        def get_obs(self) -> dict[str, Any]:
            """Nothing: frames are rendered where they are due, and not here."""
            return {}

    return Unrendered


def _quickly_driven(task: type) -> type:
    class QuicklyDriven(task):
        def load_robot(self, **settings: Any) -> None:
            super().load_robot(**settings)
            Drives(self.robot).take_over()

    return QuicklyDriven


def _balances_again() -> bool:
    task = _sample([WITHOUT_CUDA, SHADER, UNRENDERED])
    set_up(task, "stack_blocks_two", "demo_clean", 0)
    with patch.object(task.robot, "_entity_qf") as balancing, patch.object(task.scene, "step") as stepping, quiet():
        task.take_action([0.1] * 14)
    return balancing.call_count > 4 * stepping.call_count


@contextmanager
def _silent() -> Iterator[None]:
    yield
    if "envs._base_task" in sys.modules:
        vars(sys.modules["envs._base_task"])["print"] = lambda *_, **__: None


def _renders_unasked() -> bool:
    task = _sample([WITHOUT_CUDA, SHADER])
    set_up(task, "stack_blocks_two", "demo_clean", 0)
    with patch.object(task, "_update_render") as rendering, quiet():
        task.take_action([0.0] * 14)
    return rendering.call_count > 1


def _sample(patches: list[Patch]) -> Any:
    tree = str(upstream.assets_folder("robotwin_source", "envs"))
    sys.path.insert(0, tree)
    upstream.import_upstream("envs._base_task", patches)
    return make_task("robotwin_source", "stack_blocks_two", tuple(patches))


WITHOUT_CUDA = Patch(
    name="a planner that needs no CUDA",
    why="it imports CuRobo, torch, Open3D and PyTorch3D (envs/robot/planner.py, envs/_base_task.py, envs/camera/camera.py)",
    needed=_needs_cuda,
    importing=_without_cuda,
)
SHADER = Patch(
    name="shaders for this renderer",
    why="it traces 32 rays a pixel, 20 s a frame without a GPU (envs/_base_task.py, setup_scene)",
    needed=_traces_rays,
    changing=_rendered_here,
)
UNRENDERED = Patch(
    name="nothing rendered unasked",
    why="it prepares a frame in every physics step, renders four cameras at success, and prints each step (envs/_base_task.py, "
    "take_action)",
    needed=_renders_unasked,
    importing=_silent,
    changing=_unrendered,
)
DRIVES = Patch(
    name="gravity balanced once",
    why="in each physics step it computes the torques that hold the robot again, up to eight times, a seventh of a step's time "
    "(envs/robot/robot.py, set_arm_joints and set_gripper)",
    needed=_balances_again,
    changing=_quickly_driven,
)
PATCHES = (WITHOUT_CUDA, SHADER, UNRENDERED, DRIVES)
