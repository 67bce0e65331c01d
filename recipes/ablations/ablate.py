"""Ablations of section 5.2 at our size, in the folder that recipes/shipped/make.sh has filled.

  python recipes/ablations/ablate.py FOLDER run NAME --seed 0     T2A, SFT, a sweep, the flow loss on held-out chunks; it resumes
  python recipes/ablations/ablate.py FOLDER table                 all that was run, beside the paper's signs

Names and what they change are in variants.toml.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Demonstrations that begin where policies are evaluated, on which nothing is trained, and flow times for each chunk of them.
HELD_OUT, DRAWS = 10, 8
#: Episodes of each task in a sweep.
EPISODES = 20


def main() -> int:
    """Run a variant, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    actions = parser.add_subparsers(dest="action", required=True)
    one = actions.add_parser("run")
    one.add_argument("name", choices=list(variants()))
    one.add_argument("--seed", type=int, default=0)
    actions.add_parser("table")
    chosen = parser.parse_args()
    if chosen.action == "table":
        sys.stdout.write(table(chosen.folder / "ablations"))
        return 0
    folder = chosen.folder / "ablations"
    folder.mkdir(parents=True, exist_ok=True)
    for file in HERE.glob("*.toml"):
        shutil.copy(file, folder)
    for words in commands(chosen.name, chosen.seed):
        subprocess.run(words, cwd=chosen.folder, check=True)
    run = folder / f"{chosen.name}-{chosen.seed}"
    held_out = {suite: flow_loss(run / "sft" / "policy", folder / f"held_out_{suite}") for suite in suites(chosen.name)}
    (run / "flow_loss.json").write_text(json.dumps(held_out))
    return 0


def variants() -> dict[str, dict[str, Any]]:
    """Name to what a variant changes."""
    return tomllib.loads((HERE / "variants.toml").read_text(encoding="utf-8"))


def suites(name: str) -> list[str]:
    """The suites that a variant is swept on."""
    return variants()[name].get("suites", ["tabletop"])


def commands(name: str, seed: int) -> list[list[str]]:
    """The commands of a variant, one after the other, from the recipe's folder."""
    variant, run = variants()[name], f"ablations/{name}-{seed}"
    stages = {"t2a": variant.get("t2a", []), "sft": [f"model.source={run}/t2a/policy", *variant.get("sft", [])]}
    found = []
    for stage, overrides in stages.items():
        if overrides is not False:
            seeds = [f"seed={seed}", f"model.seed={seed}"]
            train = ["vlarig", "train", stage, "--run", f"{run}/{stage}", "--config", f"ablations/{stage}.toml"]
            found.append([*train, "--override", *seeds, *overrides])
    for suite in suites(name):
        record = ["vlarig", "record", suite, "--policy", "expert", "--initial-states", "evaluation"]
        found.append([*record, "--episodes", str(HELD_OUT), "--to", f"ablations/held_out_{suite}"])
        sweep = ["vlarig", "sweep", suite, "--policy", f"qwen-vla:{run}/sft/policy", "--n-action-steps", "8"]
        found.append([*sweep, "--episodes", str(EPISODES), "--seed", str(seed), "--run", f"{run}/sweep_{suite}"])
    return found


def flow_loss(policy: Path, data: Path) -> float:
    """The flow-matching loss of a policy on demonstrations, the same flow times and noise for every policy."""
    import torch

    from vlarig.policies.qwen_vla.checkpoint import load_checkpoint
    from vlarig.policies.qwen_vla.flow import Beta
    from vlarig.training.batches import Collator
    from vlarig.training.data.lerobot import open_lerobot

    torch.set_num_threads(1)
    bundle, dataset = load_checkpoint(policy), open_lerobot(data, horizon=16)
    collator = Collator(
        bundle.description.config, bundle.tokenizer, bundle.description.statistics, Beta(1, 1, 1), 0, draws=DRAWS
    )
    total = count = 0.0
    for begin in range(0, len(dataset), 160):  # each tenth moment
        moments = [(index, dataset[index]) for index in range(begin, min(begin + 160, len(dataset)), 10)]
        with torch.no_grad():
            action = bundle.model(collator(moments).batch).action
        total, count = total + float(action.sum), count + float(action.count)
    return total / count


def table(folder: Path) -> str:
    """A Markdown table of the runs: success with its interval over all seeds, flow loss, and the difference from the base."""
    import numpy as np

    from vlarig.results.statistics import wilson_interval
    from vlarig.results.tables import run_table

    done: dict[tuple[str, str], list[tuple[int, int, float]]] = {}
    for loss in sorted(folder.glob("*/flow_loss.json")):
        name = loss.parent.name.rpartition("-")[0]
        for suite, value in json.loads(loss.read_text()).items():
            tally = run_table(loss.parent / f"sweep_{suite}").total
            done.setdefault((name, suite), []).append((tally.successes, tally.finished, value))
    lines = [
        "| variant | suite | seeds | success, % | from its base | flow loss | from its base | the paper's |",
        "| --- " * 8 + "|",
    ]
    for (name, suite), own in done.items():
        variant = variants()[name]
        base = "" if name == "default" else variant.get("base", "default")
        successes, finished = (sum(each[column] for each in own) for column in (0, 1))
        low, high = wilson_interval(successes, finished)
        losses = np.array([each[2] for each in own])
        spread = f" ± {losses.std(ddof=1):.4f}" if len(losses) > 1 else ""
        cells = [
            f"{variant['title']} ({variant.get('figure', 'ours')})",
            suite,
            str(len(own)),
            f"{100 * successes / finished:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        ]
        cells += ["", f"{losses.mean():.4f}{spread}", "", ""]
        if other := done.get((base, suite)):
            rate = sum(each[0] for each in other) / sum(each[1] for each in other)
            cells[4] = f"{100 * (successes / finished - rate):+.1f}"
            cells[6] = f"{losses.mean() - np.mean([each[2] for each in other]):+.4f}"
        if base and {"paper"} <= variant.keys() & variants()[base].keys():
            cells[7] = f"{variant['paper'] - variants()[base]['paper']:+.2f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
