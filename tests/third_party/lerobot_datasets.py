"""The real ``lerobot`` package reads a dataset, trains on it, and writes one; run in an environment that has it.

    python lerobot_datasets.py read FOLDER OUT.npz     # samples of FOLDER, by LeRobot's own LeRobotDataset
    python lerobot_datasets.py train FOLDER OUT        # LeRobot's own training loop: the smallest ACT for some steps
    python lerobot_datasets.py write FOLDER            # LeRobot writes films (SVT-AV1) and images of :mod:`lerobot_images`
    python lerobot_datasets.py run SCRIPT WORDS...     # a script that calls LeRobot, or the module lerobot.scripts.lerobot_train

LeRobot 0.4.4 decodes films by torchcodec, or by torchvision's ``VideoReader``. The former needs FFmpeg's libraries beside it; the
latter is gone from the torchvision that fits the driver's torch. :class:`Reader` takes its place, by PyAV as torchvision did it; what
LeRobot does with it, seeking, choosing by time and its tolerance, is LeRobot's own code.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torchvision
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.scripts import lerobot_train

sys.path.insert(0, str(Path(__file__).parents[1]))
from lerobot_images import LENGTHS, SIZE, TASKS, frame_image, numbers

FPS = 10


class Reader:
    """torchvision's ``VideoReader`` with its backend ``pyav``."""

    def __init__(self, path: str, stream: str) -> None:
        self.container = av.open(path)
        self._stream = self.container.streams.video[0]

    def seek(self, second: float, keyframes_only: bool = False) -> None:
        self.container.seek(int(second / self._stream.time_base), stream=self._stream)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for frame in self.container.decode(self._stream):
            image = frame.to_ndarray(format="rgb24")
            yield {"data": torch.from_numpy(image).permute(2, 0, 1), "pts": float(frame.pts * frame.time_base)}


def read(folder: Path, out: Path) -> None:
    dataset = LeRobotDataset("test/demos", root=folder, delta_timestamps={"action": [step / FPS for step in range(8)]})
    assert dataset.num_frames == len(dataset)
    kept: dict[str, list[Any]] = {}
    for index in range(len(dataset)):
        item = dataset[index]
        for name, value in item.items():
            if name.startswith("observation.images"):
                value = (value * 255).round().to(torch.uint8)
            kept.setdefault(name, []).append(np.array(value))
    np.savez(out, **{name: np.stack(values) for name, values in kept.items()})


def train(folder: Path, out: Path) -> None:
    losses = []
    original = lerobot_train.update_policy

    def update_policy(*arguments: Any, **options: Any) -> Any:
        metrics, output = original(*arguments, **options)
        losses.append(metrics.loss.val)
        return metrics, output

    lerobot_train.update_policy = update_policy
    small = {
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 64,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
        "latent_dim": 8,
    }
    policy = ACTConfig(
        chunk_size=8, n_action_steps=8, pretrained_backbone_weights=None, device="cpu", push_to_hub=False, **small
    )
    lerobot_train.train.__wrapped__(
        TrainPipelineConfig(
            dataset=DatasetConfig(repo_id="test/demos", root=str(folder)),
            policy=policy,
            output_dir=out,
            num_workers=0,
            batch_size=4,
            steps=6,
            log_freq=1,
            eval_freq=0,
            save_checkpoint=False,
        )
    )
    print("losses", *(f"{loss:.4f}" for loss in losses))


def write(folder: Path) -> None:
    for kind in ("video", "image"):
        features: dict[str, Any] = {
            f"observation.images.{name}": {"dtype": kind, "shape": (*SIZE, 3), "names": ["height", "width", "channels"]}
            for name in ("front", "hand")
        }
        features["observation.state"] = {"dtype": "float32", "shape": (2,), "names": ["px", "py"]}
        features["action"] = {"dtype": "float32", "shape": (3,), "names": ["x", "y", "grip"]}
        dataset = LeRobotDataset.create("test/theirs", FPS, features, root=folder / kind, use_videos=kind == "video")
        for episode, length in enumerate(LENGTHS):
            states, actions = numbers(episode)
            for frame in range(length):
                images = {
                    f"observation.images.{name}": frame_image(episode, frame, at) for at, name in enumerate(("front", "hand"))
                }
                numbers_of = {"observation.state": states[frame], "action": actions[frame]}
                dataset.add_frame(images | numbers_of | {"task": TASKS[episode]})
            dataset.save_episode()
        dataset.finalize()


def run(script: str, *words: str) -> None:
    sys.argv = [script, *words]
    if script.endswith(".py"):
        runpy.run_path(script, run_name="__main__")
    else:
        runpy.run_module(script, run_name="__main__")


if __name__ == "__main__":
    torchvision.io.VideoReader = Reader
    torch.set_num_threads(1)
    if sys.argv[1] == "run":
        run(*sys.argv[2:])
    else:
        {"read": read, "train": train, "write": write}[sys.argv[1]](*map(Path, sys.argv[2:]))
