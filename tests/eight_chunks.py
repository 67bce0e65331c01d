"""Eight chunks whose prompts differ by one object alone, learned by heart: the preset ``small`` reads words.

``python tests/eight_chunks.py RUN`` trains (one core, a quarter of an hour, resumable) and writes the digest, of which a test replays
the beginning. ``losses on another CPU`` in it are that test's own, of a CPU that rounds sums otherwise; a new digest is without them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from demonstrations import OBJECTS, EightWords
from training_process import LossFile

from vlarig.policies.api import Request
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.training.config import TrainConfig, read_config
from vlarig.training.trainer import train

DIGEST = Path(__file__).parent / "training" / "eight_chunks.json"

#: All parts are trained, in float32. Times are dense at the noise, where sampling begins.
OVERRIDES = (
    "model.source=small",
    "model.compute=float32",
    "model.checkpointed=[]",
    "steps=3200",
    "batch_size=8",
    "micro_batch_size=8",
    "data.source=demonstrations:EightWords",
    "objective.time.toward=noise",
    "objective.draws=4",
    "optimizer.backbone={lr = 2e-3, warmup = 0.02, final = 0.0}",
    "optimizer.expert={lr = 2e-3, warmup = 0.02, final = 0.0}",
    "optimizer.betas=[0.9, 0.99]",
    "optimizer.ema=0.995",
    "report_every=1",
    "track=[]",
)


#: Kinds of CPUs round sums otherwise, and training makes more of it. Among five sets of instructions on one machine the losses of these
#: steps differed by less than 4e-5, that of the next one by 1e-3.
BEGINNING = 9


def configuration() -> TrainConfig:
    return read_config("sft", None, OVERRIDES)


def errors(policy: QwenVlaPolicy, samples: int = 4) -> dict[str, float]:
    """Root mean square error of each chunk, of -1 to 1, over several samples of the start noise."""
    found = {}
    for index, name in enumerate(OBJECTS):
        sample = EightWords()[index]
        requests = [Request(0, "key", 0, seed, sample.observation, sample.embodiment, 16) for seed in range(samples)]
        replies = [policy.act([request])[0].actions for request in requests]
        found[name] = float(np.sqrt(np.mean([(actions - sample.actions) ** 2 for actions in replies])))
    return found


def main() -> None:
    torch.set_num_threads(1)
    run = Path(sys.argv[1])
    policy = train(configuration(), run, LossFile(run.with_suffix(".jsonl")))
    losses = {line["step"]: line["train/loss"] for line in map(json.loads, run.with_suffix(".jsonl").open())}
    digest = {
        "overrides": OVERRIDES,
        "losses": {step: losses[step] for step in sorted(losses) if step <= BEGINNING or step % 500 == 0},
        "errors": errors(QwenVlaPolicy(str(policy), temperature="1")),
        "errors at temperature 0.6": errors(QwenVlaPolicy(str(policy))),
    }
    DIGEST.write_text(json.dumps(digest, indent=2) + "\n")


if __name__ == "__main__":
    main()
