"""Our loop beside upstream's own in one simulator: CPU of a step, of a reset and of an episode, start-up, and the memory of an env.

Upstream's loop is, in the same process and over the same episode with the same actions: LIBERO's as its evaluators make it, with two
views at every step and the task loaded again at every reset; SimplerEnv's on mani-skill 3, with an image at every step and a plain
reset; for the embedded suite robosuite's, in our scene with robosuite's own methods put back and no reset but the objects' poses. The
script checks that both reach the same state, to the last bit. All times but the start-up's are CPU times of one thread, so that other
work on the machine disturbs less.

    python benchmarks/speed/steps.py tabletop
    python benchmarks/speed/steps.py libero_object --turns 3
    python benchmarks/speed/steps.py simpler_widowx --task put_eggplant_in_basket --steps 120 --tasks 4

With ``--harness`` it measures instead the steps a second of a sweep beside those of a bare loop in as many simulator processes, at 16
steps a chunk. Aim: 0.97 or more. Both play the same episodes with the same actions, images where a policy would see them, resets
included, workers loaded beforehand. One bare loop has one env, the other as many as a worker, which run a chunk in turn: a second env
takes part of the processor's caches from the first. The harness's rate is that of the time in which every env has an episode; at the
end of a sweep workers run dry one after the other, which costs about an episode's time however long the sweep is, and is shown beside
it.

    python benchmarks/speed/steps.py tabletop --harness
"""

from __future__ import annotations

import base64
import importlib.util
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from measured_sweep import InstantPolicy, measure
from rich.console import Console
from rich.table import Table
from spread import spread

from vlarig.benchmarks.registry import load_suite
from vlarig.benchmarks.trial import Trial
from vlarig.envs.api import Episode, Needs
from vlarig.envs.messages import Start
from vlarig.envs.parity import sample_actions
from vlarig.envs.wire import pack
from vlarig.harness.children.simulator import WorkerSpec
from vlarig.harness.preparation import with_found

CHUNK = 16
#: Envs and workers that memory is projected to.
PROJECTED, WORKERS = 128, (2, 16)
NO_IMAGES = "upstream, no images"
#: Of the harness's share: workers, envs of each, and episodes of each task.
SWEEP_WORKERS, SWEEP_ENVS, SWEEP_EPISODES = 2, 2, 12


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    suite: tyro.conf.Positional[str]
    """Name of the suite; one that names upstream's own loop (``Trial.upstream``)."""
    task: str | None = None
    """One of its tasks. Default: the first."""
    steps: int = 128
    """Control steps of an episode."""
    turns: int = 5
    """How often everything is measured; medians are printed."""
    envs: tuple[int, ...] = (1, 2, 8)
    """Numbers of envs in one process whose memory is measured."""
    tasks: int = 2
    """Tasks at once whose memory is measured, an env each."""
    harness: bool = False
    """Measure the harness's share of a bare loop's steps instead."""


def start_loops(worker_spec: WorkerSpec, question: str, starts: Sequence[Start], **options: Any) -> subprocess.Popen[str]:
    """Start ``loops.py`` in the suite's runtime with a question; its last line is the answer."""
    command = [str(worker_spec.runtime.python), "-I", str(Path(__file__).with_name("loops.py")), question]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=worker_spec.environment())
    spec = importlib.util.find_spec("vlarig.envs")
    assert spec is not None
    assert process.stdin is not None
    suite = worker_spec.suite
    known = {"package": spec.origin, "adapter": suite.adapter, "upstream": suite.trial.upstream}
    known["action_size"] = suite.embodiment.action_size
    encoded = [base64.b64encode(pack(start)).decode() for start in starts]
    process.stdin.write(json.dumps({**known, "starts": encoded, **options}) + "\n")
    process.stdin.flush()
    return process


def bare_rate(worker_spec: WorkerSpec, starts: Sequence[Start], processes: int, envs: int, actions: np.ndarray) -> float:
    """Steps a second of that many bare loops together, each with ``envs`` envs in turn and its share of the episodes, loaded before."""
    shares = [starts[number::processes] for number in range(processes)]
    loops = [start_loops(worker_spec, "bare", share, actions=actions.tolist(), envs=envs) for share in shares]
    for loop in loops:
        assert loop.stdout is not None
        assert loop.stdout.readline() == "ready\n"
    for loop in loops:
        assert loop.stdin is not None
        loop.stdin.write("go\n")
        loop.stdin.flush()
    return sum(json.loads(loop.communicate()[0]) for loop in loops)


def ask(worker_spec: WorkerSpec, question: str, starts: Sequence[Start], **options: Any) -> Any:
    """The answer to a question; where the process fails, what it wrote is on standard error."""
    process = start_loops(worker_spec, question, starts, **options)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{question} ended with status {process.returncode} in the runtime {worker_spec.suite.runtime!r}")
    return json.loads(output.splitlines()[-1])


def variants(episode: Episode, trial: Trial) -> dict[str, Start]:
    """Our loops over the episode, by name: the first without images, the second with them, as upstream renders them."""
    protocol = replace(episode.protocol, stop_on_success=False, step_limit=10_000, task_limits={})
    same = next(iter(trial.protocols), protocol)  # whose options make of an action what upstream makes of it
    protocol = replace(protocol, gripper=same.gripper, options=same.options)
    cameras = tuple(replace(camera.as_drawn, mirror=camera.mirror) for camera in same.cameras)
    rendered = replace(protocol, cameras=cameras, n_action_steps=CHUNK)
    return {
        "ours, no images": Start(replace(episode, protocol=rendered), Needs(images=False)),
        f"ours, images once in {CHUNK} steps": Start(replace(episode, protocol=rendered), Needs()),
        "ours, images at every step": Start(replace(episode, protocol=replace(rendered, n_action_steps=1)), Needs()),
        f"ours, default protocol, once in {protocol.n_action_steps}": Start(replace(episode, protocol=protocol), Needs()),
    }


def show_speed(console: Console, worker_spec: WorkerSpec, settings: Settings, episode: Episode) -> None:
    """Measure the loops in turns and print medians."""
    suite = worker_spec.suite
    ours = variants(episode, suite.trial)
    upstreams = {"upstream": True} if suite.trial.always_renders else {"upstream": True, NO_IMAGES: False}
    actions = sample_actions(suite.embodiment, np.random.default_rng(0), settings.steps)
    options = {"actions": actions.tolist(), "turns": settings.turns}
    answer = ask(worker_spec, "measure", list(ours.values()), loops=list(ours), upstreams=upstreams, **options)
    costs = {
        name: {"a step": [step for _, step in turns], "a reset": [reset for reset, _ in turns]}
        | {"an episode": [reset + settings.steps * step for reset, step in turns]}
        for name, turns in answer["costs"].items()
    }
    table = Table(f"{episode.task}, CPU ms", *(f"{head}{kind}" for kind in costs["upstream"] for head in ("", "min to max, ")))
    for name, kinds in costs.items():
        table.add_row(name, *(cell for values in kinds.values() for cell in spread(values, 1)))
    for name, values in answer["parts"].items():
        table.add_row(name, *spread(values, 1))
    ratios = Table(
        "upstream / ours, turn by turn", *(f"{head}{kind}" for kind in costs["upstream"] for head in ("", "min to max, "))
    )
    for name in ours:
        for other in upstreams if "no images" in name else ("upstream",):
            pairs = [
                [their / our for our, their in zip(costs[name][kind], costs[other][kind], strict=True)] for kind in costs[name]
            ]
            ratios.add_row(f"{other} / {name}", *(cell for values in pairs for cell in spread(values, 1)))
    console.print(table, ratios, sep="\n")
    same = "yes" if answer["same"] else "no"
    console.print(f"the same state to the last bit after {settings.steps} steps with images: {same}; {settings.turns} turns")


def show_memory(console: Console, worker_spec: WorkerSpec, settings: Settings, episode: Episode) -> None:
    """Measure the memory of envs, of several tasks and of upstream's env, project to many envs; and the time of a reset."""
    start = Start(episode, Needs())
    others = [each for each in worker_spec.suite.episodes(per_task=1) if each.task != episode.task]
    tasks = [start, *(Start(each, Needs()) for each in others[: settings.tasks - 1])]
    held = {count: ask(worker_spec, "memory", [start] * count) for count in sorted({1, *settings.envs})}
    together, upstream = ask(worker_spec, "memory", tasks), ask(worker_spec, "upstream_memory", [start])
    most = max(held)
    further = (held[most] - held[1]) / max(most - 1, 1)
    further_task = (together - held[1]) / max(len(tasks) - 1, 1) - further
    table = Table(f"{episode.task}: one process, after a chunk and images", "MB (PSS)")
    for count, megabytes in held.items():
        table.add_row(f"{count} envs of the task", f"{megabytes:.0f}")
    table.add_row(f"{len(tasks)} envs, a task each", f"{together:.0f}")
    table.add_row("upstream's env, one a process", f"{upstream:.0f}")
    table.add_row("a further env of the task", f"{further:.1f}")
    table.add_row("a further task", f"{further_task:.0f}")
    for workers in WORKERS:
        total = workers * together + max(PROJECTED - workers * len(tasks), 0) * further
        table.add_row(f"projected: {PROJECTED} envs, {workers} workers with {len(tasks)} tasks each", f"{total:.0f}")
    table.add_row(f"projected: {PROJECTED} of upstream's", f"{PROJECTED * upstream:.0f}")
    console.print(table)
    first, again = ask(worker_spec, "start_up", [start])
    console.print(f"wall seconds to the first image: {first:.1f}; with the scene loaded again: {again:.1f}")


def show_harness(console: Console, settings: Settings) -> None:
    """Measure bare loops and sweeps in turns, and print medians."""
    suite = load_suite(settings.suite)
    worker_spec, episodes = WorkerSpec.of(suite), suite.episodes(per_task=SWEEP_EPISODES)
    starts, actions = [Start(episode, InstantPolicy.needs) for episode in episodes], InstantPolicy().actions
    alone, together, costs = [], [], []
    for _ in range(settings.turns):
        alone.append(bare_rate(worker_spec, starts, SWEEP_WORKERS, 1, actions))
        costs.append(measure(suite.name, SWEEP_EPISODES, SWEEP_WORKERS, SWEEP_ENVS))
        together.append(bare_rate(worker_spec, starts, SWEEP_WORKERS, SWEEP_ENVS, actions))
    loops = ("1 env", f"{SWEEP_ENVS} envs")
    table = Table("", "steps/s, median", "min to max", *(word for loop in loops for word in (f"/ bare, {loop}", "min to max")))
    for name, rates in {
        f"bare loop, {SWEEP_WORKERS} processes x 1 env": alone,
        f"bare loop, {SWEEP_WORKERS} processes x {SWEEP_ENVS} envs in turn": together,
        f"harness, {SWEEP_WORKERS} workers x {SWEEP_ENVS} envs": [cost.steps for cost in costs],
        "the same, with the end in which envs run dry": [cost.steps_to_the_end for cost in costs],
    }.items():
        shares = ([rate / loop for rate, loop in zip(rates, bare, strict=True)] for bare in (alone, together))
        table.add_row(name, *spread(rates, 1), *(word for share in shares for word in spread(share, 3)))
    console.print(table)
    cpu, extent = spread([cost.cpu for cost in costs], 2)
    console.print(f"CPU of the driver: {cpu} ms a chunk ({extent}), of 16 steps; {settings.turns} turns")


def main(settings: Settings) -> None:
    console = Console(width=150)
    if settings.harness:
        show_harness(console, settings)
        return
    suite = with_found(WorkerSpec.of(load_suite(settings.suite)))
    protocol = next(iter(suite.trial.protocols), suite.protocol())  # its initial states are upstream's
    episode = suite.episodes([settings.task] if settings.task else [], per_task=1, protocol=protocol)[0]
    episode, worker_spec = replace(episode, protocol=suite.protocol()), WorkerSpec.of(suite)
    show_speed(console, worker_spec, settings, episode)
    show_memory(console, worker_spec, settings, episode)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
