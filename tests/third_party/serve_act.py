"""LeRobot's ACT with random weights behind ``vlarig serve policy``, run in an environment that has both packages.

    python serve_act.py FOLDER

It has LeRobot write a policy to FOLDER/act, prints the loaded :class:`LerobotPolicy` as a line of JSON, then serves it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference

from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.harness.commands.policy import serve_policy
from vlarig.policies.api import PolicyError, Request
from vlarig.policies.registry import load_policy

IMAGE, STATE, ACTION = "observation.images.image", "observation.state", "action"
OPTIONS = {"convention": "tabletop_panda", "images": f"ego:{IMAGE}"}
STEPS = 8


def features() -> dict[str, Any]:
    visual, state = PolicyFeature(FeatureType.VISUAL, (3, 64, 64)), PolicyFeature(FeatureType.STATE, (8,))
    return {
        "input_features": {IMAGE: visual, STATE: state},
        "output_features": {ACTION: PolicyFeature(FeatureType.ACTION, (7,))},
        "device": "cpu",
    }


def make_act(folder: Path) -> None:
    """The smallest ACT, of 11 million weights, most of them in its ResNet-18."""
    torch.manual_seed(0)
    small = {
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 64,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
        "latent_dim": 8,
    }
    config = ACTConfig(chunk_size=16, n_action_steps=STEPS, pretrained_backbone_weights=None, **small, **features())
    statistics = {
        IMAGE: {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)},
        STATE: {"mean": torch.zeros(8), "std": torch.ones(8)},
        ACTION: {"mean": torch.linspace(-0.2, 0.2, 7), "std": torch.full((7,), 0.5)},
    }
    policy = ACTPolicy(config)
    policy.config.pretrained_backbone_weights = (
        "ResNet18_Weights.IMAGENET1K_V1"  # as trained ones say; nothing is to be downloaded
    )
    for part in (policy, *make_pre_post_processors(config, dataset_stats=statistics)):
        part.save_pretrained(folder)


def requests(count: int) -> list[Request]:
    rng = np.random.default_rng(3)
    return [
        Request(
            env=env,
            key=f"tabletop/standard@1/stack/base/{env}/0",
            chunk=0,
            seed=env,
            observation={
                "images": {"ego": rng.integers(0, 255, (1, 64, 64, 3), np.uint8)},
                "state": rng.normal(size=8).astype(np.float32),
                "instruction": "stack the blocks",
            },
            embodiment=TABLETOP_PANDA,
            n_action_steps=16,
        )
        for env in range(count)
    ]


def as_lerobot_plays(folder: Path, request: Request) -> np.ndarray:
    """The steps that LeRobot's own loop would execute, ``float32[STEPS, 7]``."""
    config = PreTrainedConfig.from_pretrained(folder)
    config.pretrained_backbone_weights = None
    policy = ACTPolicy.from_pretrained(folder, config=config)
    before, after = make_pre_post_processors(config, str(folder))
    policy.reset()
    steps = []
    for _ in range(STEPS):
        seen = {IMAGE: request.observation["images"]["ego"][-1].copy(), STATE: request.observation["state"].copy()}
        frame = prepare_observation_for_inference(seen, torch.device("cpu"), task="stack the blocks")
        steps.append(after(policy.select_action(before(frame)))[0].numpy())
    return np.stack(steps)


def refusal(folder: Path, check: bool = False, **changes: str | None) -> str:
    """The error for a wrong option or a wrong directory."""
    options = {name: value for name, value in (OPTIONS | changes).items() if value is not None}
    try:
        policy = load_policy(f"lerobot:{folder}", options)
        if check:
            policy.check("simpler_widowx", WIDOWX_BRIDGE)  # type: ignore[attr-defined]
    except PolicyError as error:
        return str(error)
    return "accepted"


def changed(folder: Path, name: str, **config: Any) -> Path:
    """A copy of the directory with another config.json."""
    other = folder.parent / name
    shutil.copytree(folder, other)
    path = other / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return other


def make_diffusion(folder: Path) -> Path:
    """A directory whose policy looks back; it is refused before its weights are read."""
    other = changed(folder, "diffusion")
    DiffusionConfig(push_to_hub=False, **features()).save_pretrained(other)
    return other


def facts(folder: Path) -> dict[str, Any]:
    policy, batch = load_policy(f"lerobot:{folder}", OPTIONS), requests(3)
    alone = np.stack([policy.act([request])[0].actions for request in batch])
    together = np.stack([reply.actions for reply in policy.act(batch)])
    theirs = np.stack([as_lerobot_plays(folder, request) for request in batch])
    return {
        "shape": together.shape,
        "horizon": policy.horizon,
        "revision": policy.revision,
        "from_lerobot": float(np.abs(alone - theirs).max()),
        "from_alone": float(np.abs(alone - together).max()),
        "between_requests": float(np.abs(alone[0] - alone[1]).max()),
        "same_again": bool((np.stack([reply.actions for reply in policy.act(batch)]) == together).all()),
        "refusals": {
            "images": refusal(folder, images=None),
            "feature": refusal(folder, images="ego:observation.images.front"),
            "view": refusal(folder, images=f"ceiling:{IMAGE}"),
            "suite": refusal(folder, check=True),
            "device": refusal(folder, device="cuda"),
            "size": refusal(folder, convention="widowx_bridge"),
            "weights": refusal(changed(folder, "larger", dim_model=64)),
            "history": refusal(make_diffusion(folder)),
            "ensemble": refusal(changed(folder, "ensembling", n_action_steps=1, temporal_ensemble_coeff=0.01)),
        },
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1]) / "act"
    make_act(where)
    print(json.dumps(facts(where)), flush=True)
    words = [f"{name}={value}" for name, value in OPTIONS.items()]
    sys.exit(serve_policy(["--policy", f"lerobot:{where}", "--port", "0", "--policy-options", *words]))
