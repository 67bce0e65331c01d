"""Upstream's own scenes: built without a question, with the data files at a given place, and sharing nothing between envs."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from ..errors import VlarigError

#: Where the worker finds the data files: the folder that holds mani-skill's ``data``.
ASSETS_VARIABLE = "VLARIG_ASSETS_SIMPLER_BRIDGE"

#: What SAPIEN draws with: ``cpu`` (software Vulkan) or ``gpu``. The renderer that was chosen for the runtime sets it.
DEVICE_VARIABLE = "VLARIG_SAPIEN_DEVICE"


def assets_folder() -> Path:
    """The folder that holds mani-skill's ``data``.

    Raises:
        VlarigError: The environment does not name one, or it lacks a part.
    """
    place = os.environ.get(ASSETS_VARIABLE, "")
    parts = ("tasks/bridge_v2_real2sim_dataset", "robots/widowx")
    if not place or not all(Path(place, "data", part).is_dir() for part in parts):
        raise VlarigError(
            f"${ASSETS_VARIABLE} is {place!r}, expected a folder with {' and '.join(f'data/{part}' for part in parts)}; "
            "run: vlarig assets list"
        )
    return Path(place)


def import_upstream() -> None:
    """Import mani-skill, once a process; it reads the place of its data files then."""
    if "mani_skill.envs" in sys.modules:
        return
    os.environ["MS_ASSET_DIR"] = str(assets_folder())
    import torch

    torch.set_num_threads(1)  # its tensors have a handful of numbers
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # SAPIEN warns that it uses the Vulkan loader that it brings along
        importlib.import_module("mani_skill.envs")  # which registers the tasks
    from mani_skill import logger

    logger.setLevel(logging.ERROR)  # it warns of its own tasks' settings


def make_scene(name: str) -> Any:
    """Upstream's environment ``name``, a ``BaseBridgeEnv``, with a scene of its own on the CPU; nothing is drawn.

    Raises:
        VlarigError: Upstream has no such environment, or it cannot draw here.
    """
    import_upstream()
    from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.base_env import BaseBridgeEnv
    from mani_skill.utils.registration import REGISTERED_ENVS

    known = {known for known, spec in REGISTERED_ENVS.items() if issubclass(spec.cls, BaseBridgeEnv)}
    if name not in known:
        raise VlarigError(f"mani-skill has no Bridge scene {name!r}; expected one of {', '.join(sorted(known))}")
    device = os.environ.get(DEVICE_VARIABLE, "cpu")
    try:
        return _apart(REGISTERED_ENVS[name].cls)(
            obs_mode="rgb+segmentation", num_envs=1, sim_backend="cpu", render_backend=device
        )
    except RuntimeError as error:
        if "physical device" not in str(error):
            raise
        raise VlarigError(f"SAPIEN finds no Vulkan driver that it can draw with ({error}); run: vlarig doctor") from None


def _apart(task: type) -> type:
    """A subclass whose envs share no state.

    Upstream keeps the overlay pictures and the list of what they must not cover in class attributes that every env of a process writes
    to (mani_skill 3.0.1, envs/tasks/digital_twins/base_env.py), so a second scene would corrupt the pictures of the first.
    """

    class Apart(task):
        def __init__(self, **settings: Any) -> None:
            self._rgb_overlay_images = {}
            self._objects_to_remove_from_greenscreen = []
            super().__init__(**settings)

        def get_obs(self, *_: Any, **__: Any) -> dict[str, Any]:
            """Nothing: frames are drawn where they are due, and not here."""
            return {}

    return Apart
