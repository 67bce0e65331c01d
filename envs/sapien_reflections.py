"""Spares SAPIEN a table that every process would compute, for reflections of an environment map that no scene here has."""

from __future__ import annotations

import numpy as np
import sapien


def no_reflections() -> sapien.render.RenderTexture:
    """A black texel, for ``camera.set_texture("BRDFLUT", ...)`` before an image is taken.

    SAPIEN's shaders multiply what they read from this table by the colour of the environment map (sapien 3.0.3,
    ``vulkan_shader/default/deferred.frag``, ``specularIBL``), which is black in a scene that has none, so images stay the same to the
    last bit. Without the texture each process computes a table of its own at its first image (haosulab/sapien-vulkan-2,
    ``Renderer::prepareSceneBuffer``): 7 CPU-seconds in software. A scene with an environment map (``render_system.cubemap``) needs the
    table.
    """
    return sapien.render.RenderTexture(np.zeros((1, 1, 4), np.float32), 2, "R32G32B32A32Sfloat")
