"""``lerobot-train``, with every checkpoint measured in a simulator while the training goes on.

    python docs/examples/lerobot_training.py --suite tabletop --policy-options convention=tabletop_panda \
        --policy.type=act --dataset.repo_id=me/demos --dataset.root=demos --output_dir=out --save_freq=1000 ...

All arguments but those of ``--help`` are LeRobot's own. ``out/vlarig/step-00001000`` is a run like any other of vlarig's: tables, pages
and ``vlarig compare`` take it. The training's random numbers are left alone, so its weights are those of a training without
evaluation. LeRobot and vlarig have to be installed in one environment (read against huggingface/lerobot 0.4.4,
src/lerobot/scripts/lerobot_train.py, which calls ``save_checkpoint`` in its first process only).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from lerobot.scripts import lerobot_train  # pyright: ignore[reportMissingImports]

from vlarig.harness import Evaluator

log = logging.getLogger(__name__)


def main() -> None:
    """Train as LeRobot does, and evaluate where it saves."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--suite", required=True, help="such as tabletop or libero_object")
    parser.add_argument("--episodes", type=int, default=5, help="of each task")
    parser.add_argument("--tasks", nargs="+", default=[], help="default: all of the suite")
    parser.add_argument("--track", nargs="+", default=[], help="tensorboard, trackio or wandb")
    parser.add_argument(
        "--policy-options", nargs="+", default=[], help="of vlarig's policy lerobot, such as convention=libero_panda"
    )
    own, sys.argv[1:] = parser.parse_known_args()
    options = {"episodes": own.episodes, "tasks": tuple(own.tasks), "policy_options": tuple(own.policy_options)}
    save = lerobot_train.save_checkpoint
    with contextlib.ExitStack() as stack:

        @functools.cache
        def evaluator_of(output: Path) -> Evaluator:
            """The one of the training; its simulators stay alive from one checkpoint to the next."""
            return stack.enter_context(Evaluator(own.suite, output / "vlarig", trackers=own.track, **options))

        def save_and_measure(checkpoint_dir: Path, step: int, cfg: Any, **parts: Any) -> None:
            save(checkpoint_dir=checkpoint_dir, step=step, cfg=cfg, **parts)
            with torch.random.fork_rng():  # loading a policy takes random numbers
                evaluation = evaluator_of(Path(cfg.output_dir))(f"lerobot:{checkpoint_dir / 'pretrained_model'}", step)
            log.info("step %d: success %.1f %%, %s", step, 100 * evaluation.success_rate, evaluation.run)

        lerobot_train.save_checkpoint = save_and_measure
        lerobot_train.main()


if __name__ == "__main__":
    main()
