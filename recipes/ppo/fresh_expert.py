"""The shipped policy with an action expert that has learned nothing, in float32: python fresh_expert.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from vlarig.policies.qwen_vla.checkpoint import load_checkpoint, save_checkpoint
from vlarig.policies.qwen_vla.model import build
from vlarig.policies.qwen_vla.named import find_checkpoint


def main(folder: str) -> None:
    """Write the checkpoint."""
    policy = load_checkpoint(find_checkpoint(""), dtype=torch.float32)
    policy.model.expert.load_state_dict(build(policy.description.config).expert.state_dict())
    save_checkpoint(Path(folder), policy)


if __name__ == "__main__":
    main(*sys.argv[1:])
