"""Upstream's own tasks: imported with the data files at a given place, and reset by a seed."""

from __future__ import annotations

import copy
import gc
import io
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

import numpy as np

from .. import upstream
from ..errors import VlarigError
from ..mujoco_shared import ROBOSUITE_LOG, forget_compilation
from ..upstream import Patch, quiet

#: Bundle of upstream's code, with its data files in the folders that it expects them in.
BUNDLE = "robocasa_gr1"

ROBOT = "GR1ArmsAndWaistFourierHands"

_ENVS = "robocasa.utils.gym_utils.gymnasium_groot"
_GENERATED = "robocasa.environments.tabletop.tabletop_24dc"


def import_upstream(patches: Optional[Sequence[Patch]] = None) -> Any:
    """Upstream's module of Gymnasium envs, imported once a process, with all patches where none are given."""
    if _tree() not in sys.path:
        sys.path.insert(0, _tree())
    first = _ENVS not in sys.modules
    module = upstream.import_upstream(_ENVS, PATCHES if patches is None else patches, [ROBOSUITE_LOG])
    if first:
        gc.collect()
        gc.freeze()  # a reset collects garbage (robosuite 1.5.1, utils/binding_utils.py, free), which need not go through all modules
    return module


def _tree() -> str:
    return str(upstream.assets_folder(BUNDLE, "robocasa"))


def make_task(name: str, seed: Optional[int] = None, seeing: bool = False) -> Any:
    """Upstream's Gymnasium env of the task that upstream calls ``name``, a ``GrootRoboCasaEnv``; it renders if ``seeing``.

    Its constructor loads a scene, by ``seed`` where there is one.
    """
    envs = import_upstream()
    if name not in envs.REGISTERED_ENVS:
        raise VlarigError(f"upstream has no task {name!r}; run: vlarig assets verify {BUNDLE}")
    forget_distractors()
    with quiet(ROBOSUITE_LOG), _missing_named(name):
        np.random.seed(seed)
        made = envs.GrootRoboCasaEnv(env_name=name, robots_name=ROBOT, enable_render=seeing, seed=seed)
    forget_compilation()
    return made


def start_task(name: str, seed: int) -> tuple[Any, dict[str, Any]]:
    """Upstream's env of the task and its observation, as they are after :func:`reset_task`, with the scene loaded once.

    A reset keeps nothing of the constructor's scene. Where both have one seed the scenes are the same, and of the reset the loading is
    left out (robosuite 1.5.1, environments/base.py, ``reset``).
    """
    made = make_task(name, seed)
    done = ("_destroy_sim", "_load_model", "_initialize_sim", "_reset_internal")
    for step in done:
        setattr(made.env, step, lambda: None)
    with quiet(ROBOSUITE_LOG):
        raw = made.env.reset()
    for step in done:
        delattr(made.env, step)
    return made, made.get_groot_observation(made.get_basic_observation(raw))


def reset_task(env: Any, seed: int) -> dict[str, Any]:
    """Reset upstream's env so that all that is sampled comes from ``seed``; its observation.

    Its own ``reset(seed)`` seeds NumPy's global generator alone, and samples from another one that each reset moves on
    (robocasa/utils/gym_utils/gymnasium_basic.py@4840e67, ``reset``; robosuite 1.5.1, environments/base.py, ``rng``).
    """
    forget_distractors()
    env.env.rng = np.random.default_rng(seed)
    with quiet(ROBOSUITE_LOG), _missing_named(env.env.__class__.__name__):
        observation, _ = env.reset(seed=seed)
    forget_compilation()
    return observation


def forget_distractors() -> None:
    """Put back the settings of distractors as they were imported.

    They are shared by all tasks of a process, and the first task that is reset replaces "any other container" by the containers that
    are other ones to it (tabletop_24dc.py@4840e67, ``RANDOM_DISTRACTOR_CONFIG`` and ``_get_distractor_obj_cfgs``).
    """
    module = sys.modules[_GENERATED]
    pristine = vars(module).setdefault("_vlarig_pristine", copy.deepcopy(module.RANDOM_DISTRACTOR_CONFIG))
    for region, settings in copy.deepcopy(pristine).items():
        shared = module.RANDOM_DISTRACTOR_CONFIG[region]
        shared.clear()
        shared.update(settings)


@contextmanager
def _missing_named(task: str) -> Iterator[None]:
    """Errors for missing data files, in one sentence."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        if not any(words in str(error) for words in ("opening file", "not found at", "No such file", "No valid")):
            raise
        raise VlarigError(
            f"the task {task!r} needs data files that are not here ({str(error).splitlines()[0]}); run: vlarig assets verify {BUNDLE}"
        ) from None


# The patches.


@contextmanager
def _names_not_hashed() -> Iterator[None]:
    """The module that generates the tasks gets a ``hash`` and a ``set`` of its own while it is executed."""

    class Finder(MetaPathFinder):
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
            if fullname != _GENERATED:
                return None
            spec = PathFinder.find_spec(fullname, path)
            assert spec is not None
            assert spec.loader is not None
            execute = spec.loader.exec_module
            own = {"hash": lambda name: zlib.crc32(name.encode()), "set": dict.fromkeys}

            def exec_module(module: ModuleType) -> None:
                vars(module).update(own)
                execute(module)
                for name in own:
                    del vars(module)[name]

            vars(spec.loader)["exec_module"] = exec_module
            return spec

    finder = Finder()
    sys.meta_path.insert(0, finder)
    yield
    sys.meta_path.remove(finder)


def _samples_by_hash() -> bool:
    code = (
        f"import sys; sys.path.insert(0, {_tree()!r}); import {_GENERATED} as made; sys.stderr.write(repr(made.base_obj_cats))"
    )
    said = set()
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        said.add(done.stderr.splitlines()[-1])
    return len(said) == 2


@contextmanager
def _robot_not_compiled() -> Iterator[None]:
    yield
    from robosuite.models.robots.robot_model import RobotModel

    RobotModel.set_mujoco_model = lambda self, mujoco_model=None: None


def _compiles_robot() -> bool:
    import_upstream([])
    return _sample().env.robots[0].robot_model.mujoco_model is not None


@contextmanager
def _no_files_beside_models() -> Iterator[None]:
    """Reading then goes to the model itself, whose text would have been written."""
    yield
    from robosuite.models.objects import MujocoXMLObject

    init = MujocoXMLObject.__init__

    def reading(self: Any, fname: str, *args: Any, **kwargs: Any) -> None:
        file = Path(fname)
        init(self, str(file if file.exists() else file.with_name("model.xml")), *args, **kwargs)

    MujocoXMLObject.__init__ = reading
    vars(sys.modules["robocasa.models.objects.objects"])["open"] = lambda path, mode: io.StringIO()


def _writes_beside_models() -> bool:
    import_upstream([])
    written = []

    def noting(path: str, mode: str) -> Any:
        written.append(path)
        return Path(path).open(mode, encoding="utf-8")

    vars(sys.modules["robocasa.models.objects.objects"])["open"] = noting
    _sample()
    return bool(written)


def _sample() -> Any:
    return sys.modules[_ENVS].GrootRoboCasaEnv(env_name="PnPCanToDrawerClose", robots_name=ROBOT, enable_render=False)


ROBOT_ALONE = Patch(
    name="the robot alone is not compiled",
    why="each reset compiles the robot once more by itself, 0.7 s, for controllers that solve inverse kinematics (robosuite 1.5.1, "
    "robots/robot.py, load_model); here joints are controlled",
    needed=_compiles_robot,
    importing=_robot_not_compiled,
)
READ_ONLY = Patch(
    name="data files are only read",
    why="each object's model is written beside itself, under another name, and removed when it was read, unless the process is killed "
    "meanwhile (robocasa/models/objects/objects.py@4840e67, MJCFObject)",
    needed=_writes_beside_models,
    importing=_no_files_beside_models,
)
NAMES = Patch(
    name="tasks do not depend on the process",
    why="what is put on the table of a task, and in which order kinds of objects are sampled from, follows from Python's hash of its "
    "name and from the order of sets, which differ from process to process (tabletop_24dc.py@4840e67, generate_task_classes)",
    needed=_samples_by_hash,
    importing=_names_not_hashed,
)
PATCHES = (ROBOT_ALONE, READ_ONLY, NAMES)
