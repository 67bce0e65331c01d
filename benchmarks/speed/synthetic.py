"""Language-action data: how fast it is made, what is rejected, whether MuJoCo agrees, and what it looks like.

    python benchmarks/speed/synthetic.py --to data --shards 0 --attempts 128 --replay 100 --pictures docs/images

It makes shards of each pair of an arm and a template (those that are there are only counted), prints a table, replays trajectories of
each pair in MuJoCo: each sample's joints are set, contacts of the model of vlarig.training.data.synthetic.mjcf are counted, and the
tool's pose is compared; and draws a strip of frames of each template. MuJoCo and matplotlib are wanted for the last two only.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import tyro

from vlarig.training.data.synthetic.arms import ARMS
from vlarig.training.data.synthetic.collision import Collisions, _placed
from vlarig.training.data.synthetic.generate import SynthesizeOptions, synthesize
from vlarig.training.data.synthetic.mjcf import mjcf
from vlarig.training.data.synthetic.templates import OBSTACLES, STEPS, TEMPLATES, Template
from vlarig.training.data.synthetic.timing import RATE
from vlarig.training.data.synthetic.trajectories import Report

#: The arm of each template's picture.
_SHOWN = dict(zip(TEMPLATES, ARMS, strict=True))


@dataclass(frozen=True)
class Options:
    """What to do."""

    to: Path
    """Folder of the data."""
    shards: str = "0"
    attempts: int = 128
    workers: int = 1
    device: str = "cpu"
    replay: int = 0
    """Trajectories of each pair that MuJoCo replays."""
    pictures: Path | None = None
    """Folder of the pictures."""


def main(options: Options) -> None:
    """Make, count, replay, draw."""
    total, clock = Report(), time.process_time()
    made = SynthesizeOptions(
        options.to, shards=options.shards, attempts=options.attempts, workers=options.workers, device=options.device
    )
    print(f"{'template':18} {'arm':24} {'kept':>6} {'s each':>7} {'a CPU s':>8}  rejected")
    for task, report, new in synthesize(made):
        total.add(report)
        now = time.process_time()
        rate = f"{report.kept / (now - clock):8.1f}" if new and options.workers == 1 else f"{'-':>8}"
        clock = now
        length = report.samples / RATE / max(report.kept, 1)
        print(f"{task.template:18} {task.arm:24} {report.kept / report.attempts:6.1%} {length:7.1f} {rate}  {report.rejected}")
    print(json.dumps(total.__dict__))
    for template in TEMPLATES if options.replay else ():
        for arm in ARMS:
            print(f"{template:18} {arm:24} {replay(options.to, arm, template, options.replay)}")
    if options.pictures is not None:
        for template, arm in _SHOWN.items():
            draw(options.to, arm, template, options.pictures / f"synthetic-{template.replace('_', '-')}.png")


def rows(folder: Path, arm: str, template: Template, count: int) -> list[dict]:
    """The first trajectories of a pair."""
    found: list[dict] = []
    for path in sorted((folder / template / arm).glob("shard-*.parquet")):
        found += pq.read_table(path).to_pylist()
        if len(found) >= count:
            break
    return found[:count]


def stages(row: dict, template: Template) -> np.ndarray:
    """For each sample the index of the things that are there, in the order of :class:`Instance`'s.

    The file has no times of the strokes, so they are found by the tool: a stroke begins where the tool first is at its first vertex,
    and ends where it first is at its last one after all between.
    """
    steps = STEPS[template]
    strokes, vertices = len(steps.gripper), len(steps.gripper[0])
    goals = np.array(row["goals"]).reshape(strokes, vertices, 6)
    tool = np.array(row["tool_pose"])[:, :3]
    stage, sample = np.zeros(len(tool), dtype=int), 0
    for stroke in range(strokes):
        for vertex in range(vertices):
            near = np.linalg.norm(tool[sample:] - goals[stroke, vertex, :3], axis=1) < 1e-3
            assert near.any(), (row["index"], stroke, vertex)
            sample += int(near.argmax())
            if vertex == 0:
                stage[sample:] = 2 * stroke + 1
        stage[sample:] = 2 * stroke + 2
    return np.minimum(stage, 2 * strokes - 1)


def replay(folder: Path, arm: str, template: Template, count: int) -> str:
    """What MuJoCo says of trajectories of a pair."""
    import mujoco

    contacts = beyond = fast = samples = 0
    farthest = 0.0
    chosen = rows(folder, arm, template, count)
    lower, upper, speed = (np.array(limit) for limit in (ARMS[arm].lower, ARMS[arm].upper, ARMS[arm].velocity))
    for row in chosen:
        joints, tool = np.array(row["joint_positions"], dtype=np.float64), np.array(row["tool_pose"])
        stage = stages(row, template)
        things = np.array(row["things"]).reshape(2 * len(STEPS[template].gripper), -1, 9)
        # A thing keeps its number and its size; where it is not there, as while it is held, it is put far away.
        model = mujoco.MjModel.from_xml_string(mjcf(ARMS[arm], things[things[..., 8].argmax(0), np.arange(things.shape[1])]))
        data = mujoco.MjData(model)
        for index in np.unique(stage):
            for number, thing in enumerate(things[index]):
                geom = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, f"thing{number}")
                if geom >= 0:
                    model.geom_pos[geom] = thing[:3] if thing[8] >= 0 else (9, 9, 9)
            for sample in np.flatnonzero(stage == index):
                data.qpos[:] = joints[sample]
                mujoco.mj_kinematics(model, data)
                mujoco.mj_collision(model, data)
                contacts += data.ncon > 0
                farthest = max(farthest, float(np.abs(data.site_xpos[0] - tool[sample, :3]).max()))
        samples += len(joints)
        beyond += int(((joints < lower - 1e-6) | (joints > upper + 1e-6)).any(-1).sum())
        fast += int((np.abs(np.diff(joints, axis=0)) * RATE > speed * 1.001).any(-1).sum())
    return (
        f"{len(chosen)} trajectories, {samples} samples: {contacts} with contact, {beyond} beyond a joint's range, {fast} too fast, "
        f"tool {farthest * 1e6:.1f} µm apart"
    )


def draw(folder: Path, arm: str, template: Template, path: Path, frames: int = 7) -> None:
    """A strip of frames of the first trajectory of a pair that has an obstacle, and its curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    every = rows(folder, arm, template, 60)
    row = next((row for row in every if max(row["planners"]) > 0), None) or next(
        (row for row in every if np.array(row["things"]).reshape(-1, 9)[:OBSTACLES, 8].max() > 0), every[0]
    )
    joints, tool, gripper = (np.array(row[name]) for name in ("joint_positions", "tool_pose", "gripper"))
    stage = stages(row, template)
    things = np.array(row["things"]).reshape(2 * len(STEPS[template].gripper), -1, 9)
    shapes = Collisions.of(ARMS[arm])
    figure = plt.figure(figsize=(3 * frames, 5.2), layout="constrained")
    strip, curves = figure.subfigures(2, 1, height_ratios=(2.4, 1))
    figure.suptitle(f"{template}, {arm}: “{row['instruction']}”", fontsize=17)
    reach = ARMS[arm].reach[1] + 0.15
    for frame, sample in enumerate(np.linspace(0, len(joints) - 1, frames).astype(int)):
        axes = strip.add_subplot(1, frames, frame + 1, projection="3d")
        links = shapes.chain.links(torch.as_tensor(joints[sample], dtype=torch.float64)[None])
        ends = _placed(links, shapes.links[:, None].expand(-1, 2), shapes.ends)[0].numpy()
        for (first, second), capsule in zip(ends, ARMS[arm].capsules, strict=True):
            color = "tab:blue" if capsule.link <= ARMS[arm].joints else ("tab:green" if gripper[sample] > 0.5 else "tab:red")
            axes.plot(
                *zip(first, second, strict=True),
                color=color,
                linewidth=110 * capsule.radius,
                solid_capstyle="round",
                alpha=0.75,
            )
        chain = torch.cat((links.positions[0], links.tool_position)).numpy()
        axes.plot(*chain.T, color="black", linewidth=0.8)
        axes.plot(*tool[:, :3].T, color="0.6", linewidth=0.7)
        axes.plot(*tool[: sample + 1, :3].T, color="tab:orange", linewidth=1.6)
        for thing in things[stage[sample]]:
            if thing[8] >= 0:
                axes.plot_surface(*surface(thing), color="tab:red" if thing[3:6].any() else "tab:purple", alpha=0.55)
        axes.set(xlim=(-0.25, reach), ylim=(-reach * 0.75, reach * 0.75), zlim=(0, reach), title=f"{sample / RATE:.1f} s")
        axes.set_box_aspect((reach + 0.25, reach * 1.5, reach), zoom=1.5)
        axes.view_init(elev=24, azim=-40)
        axes.set(xticklabels=(), yticklabels=(), zticklabels=())
    times = np.arange(len(joints)) / RATE
    left, right = curves.subplots(1, 2)
    left.plot(times, joints)
    left.set(xlabel="s", ylabel="joints, rad")
    right.plot(times, np.array(row["joint_velocities"]))
    right.set(xlabel="s", ylabel="rad/s")
    beside = right.twinx()
    beside.plot(times, gripper, color="black", linestyle="--")
    beside.set(ylabel="gripper (dashed)", ylim=(-0.05, 1.05))
    figure.savefig(path, dpi=60)
    plt.close(figure)


def surface(thing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A thing's surface, as grids of x, y and z."""
    around, up = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(-np.pi / 2, np.pi / 2, 13))
    ball = np.stack((np.cos(around) * np.cos(up), np.sin(around) * np.cos(up), np.sin(up)), -1)
    flat = np.sign(np.round(ball, 6)) if thing[3:6].any() else np.zeros_like(ball)
    local = flat * thing[3:6] + ball * thing[8]
    x, y = local[..., 0], local[..., 1]
    return thing[6] * x - thing[7] * y + thing[0], thing[7] * x + thing[6] * y + thing[1], local[..., 2] + thing[2]


if __name__ == "__main__":
    main(tyro.cli(Options))
