"""Renders synthetic.png: a motion of each template of the language-action data, by another arm each.

    python docs/images/render_synthetic.py docs/images/synthetic.png

Fingers are green where they are open, red where they are closed; the tool's way so far is orange. It needs matplotlib.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure

from vlarig.training.data.synthetic.arms import ARMS
from vlarig.training.data.synthetic.collision import Collisions
from vlarig.training.data.synthetic.generate import SynthesizeOptions, synthesize
from vlarig.training.data.synthetic.templates import STEPS, TEMPLATES, Template
from vlarig.training.data.synthetic.timing import RATE

FRAMES = 7


def stages(row: dict[str, Any], template: Template) -> np.ndarray:
    """For each sample the index of the objects that are there, ``int64[T]``: they change where a stroke begins and where it ends.

    The file has no times of strokes. One begins where the tool first is at its first vertex, and ends where it first is at its last one
    after all between.
    """
    strokes, vertices = len(STEPS[template].gripper), len(STEPS[template].gripper[0])
    goals = np.array(row["goals"]).reshape(strokes, vertices, 6)
    tool = np.array(row["tool_pose"])[:, :3]
    stage, sample = np.zeros(len(tool), dtype=int), 0
    for stroke in range(strokes):
        for vertex in range(vertices):
            sample += int((np.linalg.norm(tool[sample:] - goals[stroke, vertex, :3], axis=1) < 1e-3).argmax())
            if vertex == 0:
                stage[sample:] = 2 * stroke + 1
        stage[sample:] = 2 * stroke + 2
    return np.minimum(stage, 2 * strokes - 1)


def surface(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An object's surface, a box's or a ball's, as grids of x, y and z."""
    around, up = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(-np.pi / 2, np.pi / 2, 13))
    ball = np.stack((np.cos(around) * np.cos(up), np.sin(around) * np.cos(up), np.sin(up)), -1)
    flat = np.sign(np.round(ball, 6)) if shape[3:6].any() else np.zeros_like(ball)
    local = flat * shape[3:6] + ball * shape[8]
    x, y = local[..., 0], local[..., 1]
    return shape[6] * x - shape[7] * y + shape[0], shape[7] * x + shape[6] * y + shape[1], local[..., 2] + shape[2]


def render_row(strip: Any, row: dict[str, Any], template: Template, arm: str) -> None:
    """Frames of a motion, from its begin to its end."""
    joints, tool, gripper = (np.array(row[name]) for name in ("joint_positions", "tool_pose", "gripper"))
    stage = stages(row, template)
    objects = np.array(row["things"]).reshape(2 * len(STEPS[template].gripper), -1, 9)
    shapes, reach = Collisions.of(ARMS[arm]), ARMS[arm].reach[1] + 0.15
    strip.suptitle(f"{template}, {arm}: “{row['instruction']}”", fontsize=15)
    for frame, sample in enumerate(np.linspace(0, len(joints) - 1, FRAMES).astype(int)):
        axes = strip.add_subplot(1, FRAMES, frame + 1, projection="3d")
        poses = shapes.chain.links(torch.as_tensor(joints[sample], dtype=torch.float64)[None])
        ends = shapes.capsule_ends(poses)[0].numpy()
        for (first, second), capsule in zip(ends, ARMS[arm].capsules, strict=True):
            color = "tab:blue" if capsule.link <= ARMS[arm].joints else ("tab:green" if gripper[sample] > 0.5 else "tab:red")
            line = {"color": color, "linewidth": 110 * capsule.radius, "solid_capstyle": "round", "alpha": 0.75}
            axes.plot(*zip(first, second, strict=True), **line)
        axes.plot(*tool[: sample + 1, :3].T, color="tab:orange", linewidth=1.6)
        for shape in objects[stage[sample]]:
            if shape[8] >= 0:
                axes.plot_surface(*surface(shape), color="tab:red" if shape[3:6].any() else "tab:purple", alpha=0.55)
        axes.set(xlim=(-0.25, reach), ylim=(-reach * 0.75, reach * 0.75), zlim=(0, reach), title=f"{sample / RATE:.1f} s")
        axes.set_box_aspect((reach + 0.25, reach * 1.5, reach), zoom=1.5)
        axes.view_init(elev=24, azim=-40)
        axes.set(xticklabels=(), yticklabels=(), zticklabels=())


def main(image: Path) -> None:
    """Generate motions, and render the first with a way around an obstacle, or the first one."""
    figure = Figure(figsize=(3 * FRAMES, 3.4 * len(TEMPLATES)), layout="constrained")
    with tempfile.TemporaryDirectory() as folder:
        for _ in synthesize(SynthesizeOptions(Path(folder), shards="0", attempts=60)):
            pass
        for strip, template, arm in zip(figure.subfigures(len(TEMPLATES), 1), TEMPLATES, ARMS, strict=True):
            (shard,) = (Path(folder) / template / arm).glob("shard-*.parquet")
            rows = pq.read_table(shard).to_pylist()
            row = next((each for each in rows if max(each["planners"]) > 0), rows[0])
            render_row(strip, row, template, arm)
    figure.savefig(image, dpi=60)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
