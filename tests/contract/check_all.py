"""By hand, after a change of an adapter or of the checker: ``python tests/contract/check_all.py`` checks every task of every suite.

It takes some forty minutes on two cores, and writes ``checked.json`` beside this file, a suite as soon as it is done. Suites that are
named are checked again; without names those that are not in the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from vlarig.benchmarks.registry import load_suite
from vlarig.benchmarks.suite import Suite
from vlarig.contract import Subject
from vlarig.envs.plugins import find_plugins
from vlarig.harness.commands.envs import run_checker

CHECKED = Path(__file__).with_name("checked.json")


#: A suite whose patience with a reset is that long, in seconds, begins its episodes with a plan; all of its tasks would take hours.
SLOW = 600.0


def built_in() -> list[str]:
    """Names of the built-in suites, each simulator's first one first."""
    return [name for package, plugin in find_plugins()[0] if package.startswith("vlarig ") for name in plugin.suites]


def tasks_of(suite: Suite) -> list[str]:
    """The tasks that are checked: all, or those on trial where initial states are found or read, or episodes begin slowly."""
    whole = suite.preparation is None and suite.read_states is None and suite.patience.reset < SLOW
    return [task.name for task in suite.tasks] if whole else list(suite.trial.tasks)


def check(name: str) -> dict[str, Any]:
    """What the checker finds on two initial states of every task of a suite that :func:`tasks_of` names."""
    subject, suite = Subject(name, Path()), load_suite(name)
    episodes = [subject.episode(task, number) for task in tasks_of(suite) for number in (0, 1)]
    found = list(run_checker(suite, episodes))
    return {
        "tasks": len({finding["task"] for finding in found}),
        "checks": len(found),
        "failed": [f"{finding['task']}: {finding['check']}" for finding in found if not finding["passed"]],
        "git_revision": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip(),
    }


def main() -> None:
    """Check the suites, or those that are named."""
    checked = json.loads(CHECKED.read_text()) if CHECKED.exists() else {}
    for name in sys.argv[1:] or [name for name in built_in() if name not in checked]:
        checked[name] = check(name)
        CHECKED.write_text(json.dumps(checked, indent=1) + "\n")
        sys.stdout.write(f"{name}: {checked[name]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
