"""Upstream's own scenes: built without a question, with the data files at a given place, and sharing nothing between envs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from .. import upstream
from ..errors import VlarigError
from ..upstream import Patch, patched

#: What SAPIEN renders with: ``cpu`` (software Vulkan) or ``gpu``. The renderer that was chosen for the runtime sets it.
DEVICE_VARIABLE = "VLARIG_SAPIEN_DEVICE"


def assets_folder() -> Path:
    """The folder that holds mani-skill's ``data``."""
    return upstream.assets_folder("simpler_bridge", "data/tasks/bridge_v2_real2sim_dataset", "data/robots/widowx")


def import_upstream() -> None:
    """Import mani-skill, which registers its tasks, once a process."""
    upstream.import_upstream("mani_skill.envs", PATCHES)


def make_scene(name: str) -> Any:
    """Upstream's environment ``name``, a ``BaseBridgeEnv``, with a scene of its own on the CPU; nothing is rendered."""
    import_upstream()
    from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.base_env import BaseBridgeEnv
    from mani_skill.utils.registration import REGISTERED_ENVS

    known = {known for known, spec in REGISTERED_ENVS.items() if issubclass(spec.cls, BaseBridgeEnv)}
    if name not in known:
        raise VlarigError(f"mani-skill has no Bridge scene {name!r}; expected one of {', '.join(sorted(known))}")
    return _make(name, PATCHES)


def _make(name: str, patches: Sequence[Patch]) -> Any:
    from mani_skill.utils.registration import REGISTERED_ENVS

    device = os.environ.get(DEVICE_VARIABLE, "cpu")
    made = patched(REGISTERED_ENVS[name].cls, patches)
    try:
        return made(obs_mode="rgb+segmentation", num_envs=1, sim_backend="cpu", render_backend=device)
    except RuntimeError as error:
        if "physical device" not in str(error):
            raise
        raise VlarigError(f"SAPIEN finds no Vulkan driver that it can render with ({error}); run: vlarig doctor") from None


# The patches.


@contextmanager
def _settings() -> Iterator[None]:
    import torch

    os.environ["MS_ASSET_DIR"] = str(assets_folder())
    torch.set_num_threads(1)  # its tensors have a handful of numbers
    yield
    logging.getLogger("mani_skill").setLevel(logging.ERROR)  # it warns of its own tasks' settings


def _reads_another_folder() -> bool:
    import mani_skill

    return Path(mani_skill.ASSET_DIR) != assets_folder() / "data"


def _apart(task: type) -> type:
    class Apart(task):
        def __init__(self, **settings: Any) -> None:
            self._rgb_overlay_images = {}
            self._objects_to_remove_from_greenscreen = []
            super().__init__(**settings)

        def get_obs(self, *_: Any, **__: Any) -> dict[str, Any]:
            """Nothing: frames are rendered where they are due, and not here."""
            return {}

    return Apart


def _shares_overlays() -> bool:
    upstream.import_upstream("mani_skill.envs", [SETTINGS])
    scene = _make("PutCarrotOnPlateInScene-v1", [])
    return type(scene)._rgb_overlay_images != {} and "sensor_data" in scene.reset()[0]


def _lit_where_shown(task: type) -> type:
    class LitWhereShown(task):
        def _setup_sensors(self, options: dict[str, Any]) -> None:
            from sapien.render import RenderCameraComponent

            from .shaders import overlaid_shaders

            camera = partial(RenderCameraComponent, shader_dir=overlaid_shaders())
            with patch("mani_skill.envs.scene.RenderCameraComponent", camera):
                super()._setup_sensors(options)

    return LitWhereShown


def _lights_what_is_covered() -> bool:
    upstream.import_upstream("mani_skill.envs", [SETTINGS])
    scene = _make("PutCarrotOnPlateInScene-v1", [APART])
    (camera,) = scene.scene.sensors["3rd_view_camera"].camera._render_cameras
    scene.scene.sub_scenes[0].update_render()
    camera.take_picture()
    segments = camera.get_picture("PositionSegmentation")[..., 3]
    covered = ~np.isin(segments, scene._segmentation_ids_to_keep.numpy())
    return bool(camera.get_picture("Color")[covered, :3].any())


SETTINGS = Patch(
    name="data files at a given place",
    why="it reads the place of its data files when it is imported (mani_skill 3.0.1, __init__.py)",
    needed=_reads_another_folder,
    importing=_settings,
)
APART = Patch(
    name="overlays of an env's own, and nothing rendered unasked",
    why="it keeps the overlay images and the list of what they must not cover in class attributes that every env of a process writes "
    "to, so that a second scene corrupts the images of the first (mani_skill 3.0.1, envs/tasks/digital_twins/base_env.py); and it "
    "renders at every reset and step (envs/sapien_env.py, get_obs)",
    needed=_shares_overlays,
    changing=_apart,
)
LIT = Patch(
    name="light for what is seen",
    why="it computes the light of every pixel, and then covers nine tenths of them with a photograph (mani_skill 3.0.1, "
    "envs/tasks/digital_twins/base_env.py, get_obs)",
    needed=_lights_what_is_covered,
    changing=_lit_where_shown,
)
PATCHES = (SETTINGS, APART, LIT)
