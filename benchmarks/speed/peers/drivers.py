"""How each peer is driven: its command lines for a cell, and its own result. No peer is patched."""

from __future__ import annotations

import json
import os
import re
import sys
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cells import Cell
from environments import INSIDE, environment, interpreter
from measuring import Command

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.errors import VlarigError
from vlarig.harness.children.simulator import WorkerSpec
from vlarig.results.ledger import Ledger
from vlarig.results.tables import run_table

VLARIG = [sys.executable, "-m", "vlarig.harness"]
PORT = r"^(\d+)$"
ADDRESS = r"at (ws://\S+:\d+)"


@dataclass(frozen=True)
class Job:
    """A cell that is being run.

    Attributes:
        cell: Which.
        folder: A folder of its own.
        policy: Address of the served policy; empty for the instant one.
        server: Port of the peer's own server; empty where it has none.
    """

    cell: Cell
    folder: Path
    policy: str = ""
    server: str = ""

    @property
    def record(self) -> Path:
        """Where the policy records its requests."""
        return self.folder / "notes"

    def command(self, name: str, words: list[str], variables: dict[str, str]) -> Command:
        recording = {"PEERS_NOTES": str(self.record)} if self.cell.killed else {}
        policy = {"PEERS_POLICY": self.policy} if self.policy else {}
        return Command(words, variables | recording | policy, self.folder, name)


@dataclass(frozen=True)
class Outcome:
    """A peer's own result.

    Attributes:
        episodes: Episodes in the result.
        steps: Steps that they took together.
        failed: Episodes that the result counts as failed, apart from failures of the policy; or attempts that did.
        said: Its message on the failures.
    """

    episodes: int = 0
    steps: int = 0
    failed: int = 0
    said: str = ""


class Driver(ABC):
    """How one peer is driven."""

    name = ""
    #: Whether it runs the policy ``small`` itself, without a policy server.
    embeds = False

    def ready(self) -> None:
        """Prepare what it needs; once, before any measurement."""
        interpreter(self.name)

    def server(self, job: Job) -> Command | None:
        """A server of its own that has to run before its commands; it prints its port."""
        return None

    @abstractmethod
    def commands(self, job: Job) -> list[Command]:
        """The command lines that play the cell's episodes, started together."""

    def summing_up(self, job: Job) -> list[Command]:
        """Command lines that make its result afterwards, and are not measured."""
        return []

    @abstractmethod
    def outcome(self, job: Job) -> Outcome:
        """Its own result; an empty one where there is none."""


class Upstream(Driver):
    """LIBERO's own loop; two processes play every second episode each."""

    name = "upstream"

    def commands(self, job: Job) -> list[Command]:
        python, cell = interpreter(self.name), job.cell
        words = [str(python), str(INSIDE / "upstream_loop.py"), cell.suite, str(cell.steps)]
        return [
            job.command(f"loop{part}", [*words, *map(str, range(part, cell.episodes, cell.envs))], environment(python))
            for part in range(cell.envs)
        ]

    def outcome(self, job: Job) -> Outcome:
        results = [_last_json(path) for path in sorted(job.folder.glob("loop*.log"))]
        return Outcome(sum(each.get("episodes", 0) for each in results), sum(each.get("steps", 0) for each in results))


class VlaEval(Driver):
    """vla-eval's own LIBERO benchmark, without Docker; its model server answers with our chunks."""

    name = "vla-eval"

    def server(self, job: Job) -> Command:
        python = interpreter(self.name)
        return job.command("server", [str(python), str(INSIDE / "vla_eval_server.py")], environment(python))

    def commands(self, job: Job) -> list[Command]:
        """One process a shard; a run that is to be resumed has a name and a shard's number."""
        python, cell = interpreter(self.name), job.cell
        benchmark = {
            "benchmark": "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark",
            "episodes_per_task": cell.episodes,
            "max_tasks": 1,
            "max_steps": cell.steps,
            "params": {"suite": cell.suite, "seed": 7, "send_wrist_image": True, "send_state": True},
        }
        # JSON is YAML.
        config = {"server": {"url": f"ws://127.0.0.1:{job.server}"}, "render": "cpu", "benchmarks": [benchmark]}
        (job.folder / "config.yaml").write_text(json.dumps(config, indent=2), encoding="utf-8")
        words = [str(python.with_name("vla-eval")), "run", "--no-docker", "-c", "config.yaml", "--output-dir", "out"]
        if cell.way == "1 shard":
            return [job.command("shard0", words, environment(python))]
        named = [*words, "--eval-id", "ours", "--num-shards", str(cell.envs), "--shard-id"]
        return [job.command(f"shard{shard}", [*named, str(shard)], environment(python)) for shard in range(cell.envs)]

    def summing_up(self, job: Job) -> list[Command]:
        """Shards leave a recording, of which its aggregate is made by hand."""
        python = interpreter(self.name)
        recording = "out/recording-ours.sqlite"
        if not (job.folder / recording).exists():
            return []
        words = [str(python.with_name("vla-eval")), "export", recording]
        return [job.command("export", words, environment(python))]

    def outcome(self, job: Job) -> Outcome:
        paths = list((job.folder / "out").glob("*_aggregate.json"))
        if not paths:
            return Outcome()
        result = json.loads(paths[0].read_text(encoding="utf-8"))
        episodes = [episode for task in result["tasks"] for episode in task["episodes"]]
        message = f"partial, {len(result['queue_unfinished'])} unfinished" if result.get("partial") else ""
        failed = sum(bool(episode.get("failure_reason")) for episode in episodes)
        return Outcome(len(episodes), sum(episode["steps"] for episode in episodes), failed, message)


class Lerobot(Driver):
    """lerobot-eval as it is shipped; its policy is a plugin that answers with our chunks."""

    name = "lerobot"

    def commands(self, job: Job) -> list[Command]:
        """One process; 256 x 256 instead of its 360 x 360."""
        python, cell = interpreter(self.name), job.cell
        options = {
            "policy.type": "steps",
            "policy.device": "cpu",
            "env.type": "libero",
            "env.task": cell.suite,
            "env.task_ids": "[0]",
            "env.observation_height": 256,
            "env.observation_width": 256,
            "env.episode_length": cell.steps,
            "eval.batch_size": cell.envs,
            "eval.n_episodes": cell.episodes,
            "output_dir": "out",
        }
        if cell.way.endswith("async"):
            options["eval.use_async_envs"] = "true"
        words = [str(python.with_name("lerobot-eval")), *(f"--{name}={value}" for name, value in options.items())]
        return [job.command("lerobot", words, environment(python))]

    def outcome(self, job: Job) -> Outcome:
        """Its eval_info.json, which counts episodes but not their steps; none of them succeeds, so each took all."""
        path = job.folder / "out" / "eval_info.json"
        if not path.exists():
            return Outcome(said=_last_words(job.folder / "lerobot.log"))
        result = json.loads(path.read_text(encoding="utf-8"))["overall"]
        if result["pc_success"]:
            raise VlarigError(f"an episode of LeRobot's succeeded by chance, so its steps are not known; see {path}")
        return Outcome(result["n_episodes"], result["n_episodes"] * job.cell.steps)


class Rlinf(Driver):
    """RLinf's LIBERO env by itself, without its runner and Ray's workers: chunks are requested as its rollout worker requests them."""

    name = "rlinf"

    def commands(self, job: Job) -> list[Command]:
        """One process, which starts one for each env."""
        python, cell = interpreter(self.name), job.cell
        words = [str(python), str(INSIDE / "rlinf_loop.py"), cell.suite, *map(str, (cell.steps, cell.episodes, cell.envs))]
        return [job.command("rlinf", words, environment(python))]

    def outcome(self, job: Job) -> Outcome:
        result = _last_json(job.folder / "rlinf.log")
        return Outcome(result.get("episodes", 0), result.get("steps", 0))


class Roboeval(Driver):
    """``roboeval run``; its sim workers and a policy server of its own kind run before it, as ``roboeval serve`` has it.

    Its package (0.1.1) lacks two modules that each episode imports; they are taken from a clone.
    """

    name = "roboeval"
    _LACKING = ("ica", "vlm_hl")

    def ready(self) -> None:
        """Its environment, and what its package lacks."""
        clone = os.environ.get("ROBOEVAL", "")
        if not all((Path(clone) / name).is_dir() for name in self._LACKING):
            raise VlarigError(
                f"ROBOEVAL is {clone!r}, expected a clone of github.com/KE7/roboeval, whose {' and '.join(self._LACKING)} its package "
                "lacks; set it, or choose other peers by --only"
            )
        super().ready()
        self._lacking.mkdir(exist_ok=True)
        for name in self._LACKING:
            (self._lacking / name).unlink(missing_ok=True)
            (self._lacking / name).symlink_to(Path(clone).absolute() / name)

    @property
    def _lacking(self) -> Path:
        return interpreter(self.name).parents[1] / "lacking"

    def server(self, job: Job) -> Command:
        """The policy server, and a sim worker for each shard on the ports after its own."""
        words = [str(interpreter(self.name)), str(INSIDE / "roboeval_servers.py"), str(job.cell.envs)]
        return job.command("server", words, self._environment())

    def commands(self, job: Job) -> list[Command]:
        """One process a shard, which starts one for each episode."""
        cell, policy = job.cell, int(job.server)
        commands = []
        for shard in range(cell.envs):
            config = {
                "name": "ours",
                "vla_url": f"http://127.0.0.1:{policy}",
                "sim_url": f"http://127.0.0.1:{policy + 1 + shard}",
                "sim": "libero",
                "suite": cell.suite,
                "max_tasks": 1,
                "episodes_per_task": cell.episodes,
                "output_dir": "out",
                "params": {"max_steps": cell.steps},
            }
            (job.folder / f"config{shard}.yaml").write_text(json.dumps(config, indent=2), encoding="utf-8")
            words = [str(interpreter(self.name)), "-m", "roboeval", "run", "--config", f"config{shard}.yaml"]
            if cell.envs > 1:
                words += ["--shard-id", str(shard), "--num-shards", str(cell.envs)]
            commands.append(job.command(f"shard{shard}", words, self._environment()))
        return commands

    def outcome(self, job: Job) -> Outcome:
        """What each shard wrote; an episode without a step is one that failed to run."""
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((job.folder / "out").glob("ours_*.json"))]
        episodes = [episode for result in results for task in result["tasks"] for episode in task["episodes"]]
        failed = [episode["failure_detail"].strip().splitlines()[-1] for episode in episodes if "failure_reason" in episode]
        steps = sum(max(0, episode["steps"] - 1) for episode in episodes)  # it counts frames, the first one too
        return Outcome(len(episodes), steps, len(failed), f"{len(failed)} failed: {failed[0]}" if failed else "")

    def _environment(self) -> dict[str, str]:
        """It sets MUJOCO_GL to egl by itself, and PyOpenGL has to agree."""
        variables = environment(interpreter(self.name))
        return variables | {
            "PYOPENGL_PLATFORM": "egl",
            "PYTHONPATH": os.pathsep.join([variables["PYTHONPATH"], str(self._lacking)]),
        }


class Vlarig(Driver):
    """``vlarig sweep``, as a user runs it."""

    name = "vlarig"
    embeds = True
    _WAYS = {
        "defaults": [],
        "1 worker, 1 env": ["--workers", "1", "--num-envs", "1"],
        "1 worker, 4 envs": ["--workers", "1", "--num-envs", "4"],
    }

    def ready(self) -> None:
        """Its runtime and its data files are there, or the message names the command that gets them."""
        WorkerSpec.of(load_suite("libero_object"))

    def commands(self, job: Job) -> list[Command]:
        cell = job.cell
        policy = "instant:InstantPolicy" if cell.policy == "instant" else "qwen-vla:small"
        words = [*VLARIG, "sweep", cell.suite, "--policy", policy, "--protocol", "openpi", "--n-action-steps", "16"]
        words += ["--tasks", _first_task(cell.suite), "--episodes", str(cell.episodes), "--run", "run", *self._WAYS[cell.way]]
        return [job.command("sweep", words, environment(Path(sys.executable)))]

    def outcome(self, job: Job) -> Outcome:
        """Its ledger, and what its table (``vlarig table``) counts as missing."""
        run = job.folder / "run"
        try:
            with Ledger.open_read_only(run) as ledger:
                records, attempts = ledger.records(), ledger.attempts()
            missing = run_table(run).total.missing
        except VlarigError:
            return Outcome()
        messages = [f"{missing} missing"] if missing else []
        messages += [f"{count} attempt(s) failed: {kind}" for kind, count in Counter(each.kind for each in attempts).items()]
        return Outcome(len(records), sum(record.steps for record in records), len(attempts), ", ".join(messages))


DRIVERS: dict[str, Driver] = {
    driver.name: driver for driver in (Upstream(), VlaEval(), Lerobot(), Rlinf(), Roboeval(), Vlarig())
}


def policy_server(folder: Path) -> Command:
    """vlarig's policy server with the policy ``small``, for openpi's LIBERO client."""
    words = [*VLARIG, "serve", "policy", "--policy", "qwen-vla:small", "--embodiment", "libero_panda", "--layout", "libero"]
    return Command([*words, "--port", "0", "--no-token"], environment(Path(sys.executable)), folder, "policy")


def _first_task(suite: str) -> str:
    return load_suite(suite).tasks[0].name


def _last_json(path: Path) -> dict[str, int]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [line for line in lines if line.startswith("{")]
    return json.loads(found[-1]) if found else {}


def _last_words(path: Path) -> str:
    """Of a program that ended with a traceback, its last line."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    _, found, trace = text.rpartition("Traceback (most recent call last):")
    lines = [line.strip() for line in trace.splitlines() if re.match(r"\w+(Error|Exception)\b", line)]
    return lines[0] if found and lines else ""
