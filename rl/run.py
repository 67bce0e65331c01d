"""A run of PPO: rolls out, updates, and keeps what it takes to go on, in a folder that is a training's.

The folder has ``config.json``, ``checkpoints/``, ``policy/``, ``best/``, ``evaluations/``, ``tensorboard/``
(:mod:`vlarig.training.trainer`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
import transformers

from ..harness.machines.ray_fleet import connected
from ..harness.machines.ray_replicas import ray_replicas
from ..harness.replicas import replicated_policy
from ..policies.api import Policy
from ..policies.qwen_vla.acceleration import choose_kernels
from ..policies.qwen_vla.checkpoint import LoadedPolicy, load, save_checkpoint
from ..policies.qwen_vla.named import PRESETS, TrainedStage, find_checkpoint
from ..policies.qwen_vla.policy import QwenVlaPolicy
from ..training.checkpoints import Checkpoints, full_weights, resume
from ..training.config import TrainingError, save_config
from ..training.evaluation import Evaluations, acting_copy, export
from ..training.learner import Learner
from ..training.parallel import Processes, processes, whole
from ..training.reporting import Reporter
from ..training.stopping import StopSignals
from ..training.trainer import CONFIG_FILE
from .collection import SEEDS_APART, Allotment, Chunk, Collector, Rollout, Saved, allotted
from .config import PpoConfig
from .ppo import Ppo
from .start import averaging, check_processes, check_run, check_stage, evaluated, with_action_steps

#: Seconds between two words on a rollout's progress.
PATIENCE = 30.0

#: What an env's time is spent on, see :attr:`~vlarig.harness.sinks.Transition.seconds`.
ACTIVITIES = ("simulate", "render", "policy", "wait")

#: What the name of a task's success in rollouts begins with, before ``SUITE/TASK``.
TASK = "env/success/"

#: Share of the success that the noise of rollouts should leave. Ours: of a policy with .5 to .6, `noise_one` at .6 left .53 and the
#: paper's noise .10.
LEFT = 0.7


def tune(config: PpoConfig, run: Path, reporter: Reporter) -> Path:
    """Tune a policy in the folder ``run``, from its newest checkpoint where there is one; the folder of the tuned policy.

    Raises:
        Stopped: SIGTERM or SIGINT came; the iteration that was under way is made again by the same call.
    """
    with processes(config.shard_over) as group, contextlib.ExitStack() as stack:
        return Run(with_action_steps(config), run, reporter, group, stack).run()


class Run:
    """One process of a run; what it opens is closed by ``stack``."""

    def __init__(self, config: PpoConfig, run: Path, reporter: Reporter, group: Processes, stack: contextlib.ExitStack) -> None:
        self.config = config
        self.folder = run
        self.reporter = reporter
        self.group = group
        transformers.logging.set_verbosity_error()  # it would warn of each kernel that is not installed; inspect lists them
        check_run(config, run)
        check_stage(config.model)
        check_processes(config, group.world)
        self.checkpoints = Checkpoints(run / "checkpoints", config.checkpoints.keep, whole=False)
        self.newest = self.checkpoints.newest()
        self.saved = Saved(Allotment(allotted(config.rollout))) if self.newest is None else self._read(self.newest)
        self.base = None if config.model.source in PRESETS else find_checkpoint(config.model.source)
        compute = torch.bfloat16 if config.model.compute == "bfloat16" else torch.float32
        self.bundle = load(config.model.source, device=group.device, compute=compute)
        if self.saved.tuned not in ("", self.bundle.revision):
            raise TrainingError(
                f"{config.model.name} is another policy than when {run} began, of which checkpoints hold the trained weights alone; "
                "bring it back, or name another run"
            )
        self.saved.tuned = self.bundle.revision
        model = self.bundle.model
        choose_kernels(model, group.device)
        model.freeze(*config.model.frozen)
        model.checkpoint_activations(*config.model.checkpointed)
        if config.rollout.placement == "ray":
            stack.enter_context(connected())
        replicas = config.rollout.replicas
        self.shared = group.mesh is None and not config.rollout.lag and replicas is None
        """Whether what acts has the tensors of what learns."""
        reader = QwenVlaPolicy.of(self.bundle if self.shared or replicas else copied(self.bundle))
        self.policy = reader if replicas is None else stack.enter_context(contextlib.closing(self._replicas(replicas)))
        self.thread = stack.enter_context(ThreadPoolExecutor(1, "vlarig-rollouts"))
        self.ahead: Future[Rollout] | None = None
        """The rollout that is collected while the model learns from the one before."""
        self.learner = Learner(model, config.optimizer, config.iterations * config.updates_an_iteration, group)
        self.ppo = Ppo(config, self.learner, reader, group)
        self.evaluations = Evaluations(evaluated(config), config.iterations, self._stage, run, self.bundle, reporter)
        self.collector = self._collector()  # refuses what cannot be before anything is written
        self.stop = StopSignals()

    def run(self) -> Path:
        """Tune to the end; the folder of the tuned policy."""
        with (
            self.stop,
            self.evaluations,
            self.stop.at_once("stopped; the same command makes the iteration again that was under way"),
        ):
            first = 0 if self.newest is None else resume(self.learner, self.newest)
            if first > self.config.iterations:
                raise TrainingError(
                    f"{self.folder} has made {first} iterations, and iterations is {self.config.iterations}; name as many or more"
                )
            self.group.wait()  # all have read the run's folder
            if self.group.first:
                self.folder.mkdir(parents=True, exist_ok=True)
                save_config(self.config, self.folder / CONFIG_FILE)
                self.reporter.start(first, self.config.iterations)
                if self.planned != self.config.iterations:
                    self.reporter.note(
                        f"learning rates fall over {self.planned} iterations, as when the run began, and then stay"
                    )
                for warning in averaging(self.config, self.bundle.model.config.horizon):
                    self.reporter.note(warning)
            success = self._evaluate(first)  # or what was under way when it ended: a whole evaluation is not repeated
            if not first:
                self._explore(success)
            iteration = first
            while iteration < self.config.iterations:
                iteration = self._iterations(iteration)
            weights = full_weights(self.learner)
            if weights is not None:
                export(self.bundle, weights, self.folder / "policy", self._stage(self.config.iterations))
            self.group.wait()
        return self.folder / "policy"

    def _iterations(self, iteration: int) -> int:
        """Iterate with one allotment of envs; the number of the next iteration."""
        if self.group.first:
            for suite, tasks in self.saved.allotment.envs.items():
                self.reporter.note(f"envs of {suite}: " + ", ".join(f"{task} {count}" for task, count in tasks.items()))
        with self.collector:
            if self.saved.envs:
                self.collector.go_on(self.saved.envs)
            if self.config.rollout.states_by == "success":
                self.collector.choose(self.saved.states)
            while iteration < self.config.iterations:
                if self._allots(iteration) and self._reallot():
                    break
                self._iterate(iteration)
                iteration += 1
        return iteration

    def _allots(self, iteration: int) -> bool:
        """Whether envs may be allotted again before an iteration."""
        every = self.config.rollout.reallot_every
        return every is not None and iteration % every == 0

    def _replicas(self, count: int) -> Policy:
        """The policy in processes of its own, which take what is learned as files."""
        model = self.config.model
        options = {"dtype": model.compute, "compute": model.compute}
        make = ray_replicas if self.config.rollout.placement == "ray" else replicated_policy
        return make(f"qwen-vla:{model.source}" if model.source else "qwen-vla", options, count)

    def _read(self, checkpoint: Path) -> Saved:
        """This process's envs in a checkpoint."""
        files = sorted(checkpoint.glob("envs_*.msgpack"))
        if len(files) != self.group.world:
            raise TrainingError(
                f"{checkpoint} is of {len(files)} processes that rolled out, and there are {self.group.world}; start as many"
            )
        return msgspec.msgpack.decode((checkpoint / self._envs_file).read_bytes(), type=Saved)

    def _collector(self) -> Collector:
        group = self.group
        return Collector(self.config, self.saved.allotment, self.policy, group.rank, group.world, self.folder / "logs")

    def _reallot(self) -> bool:
        """Allot envs by the success since the last time; whether that changes anything. It does not where a task has no episode yet."""
        saved = self.saved
        known = {task: successes / episodes for task, (successes, episodes) in saved.outcomes.items()}
        tasks = [f"{suite}/{task}" for suite, own in saved.allotment.envs.items() for task in own]
        if any(task not in known for task in tasks):
            return False
        envs = allotted(self.config.rollout, known)
        if envs == saved.allotment.envs:
            return False
        first: dict[str, int] = {}
        for part in self.group.gather(self.collector.next_numbers()):
            first = {task: max(number, first.get(task, 0)) for task, number in (first | part).items()}
        self.saved = dataclasses.replace(saved, allotment=Allotment(envs, first), outcomes={}, envs=[])
        self.collector = self._collector()
        return True

    def _iterate(self, iteration: int) -> None:
        """One iteration of equation 5 to 7."""
        began, before = time.perf_counter(), self.saved.steps
        rollout, version, seconds = self._collect(iteration)
        collected = time.perf_counter()
        batch = self.ppo.batch(rollout, iteration)
        losses = self.ppo.update(batch, iteration)
        after = self.ppo.divergence(batch)
        done = time.perf_counter()
        numbers = {
            **self._experience(rollout, version),
            **losses,
            **after,
            **self.ppo.worth(batch, rollout),
            **self.learner.rates(),
            "rollout/lag": float(iteration - version),
            "env/steps": float(self.saved.steps),
            "charts/SPS": (self.saved.steps - before) / (done - began),
            "time/sync": seconds,
            "time/collect": collected - began - seconds,
            "time/update": done - collected,
            "time/iteration": done - began,
        }
        if self.group.first:
            self.reporter.report(iteration + 1, numbers)
            each = [f"{name.removeprefix(TASK)} {share:.2f}" for name, share in numbers.items() if name.startswith(TASK)]
            if len(each) > 1:
                self.reporter.note(f"in rollouts: {', '.join(each)}")
            if not batch.acts and iteration >= self.config.ppo.value_warmup:
                self.reporter.note(f"iteration {iteration + 1} had no success, so the value head alone learned from it")
        self._refuse_collapse(iteration + 1, numbers)
        self._save(iteration + 1)
        self._evaluate(iteration + 1)

    def _evaluate(self, iteration: int) -> float | None:
        """Measure the policy where that is due; its success."""
        success = None
        if self.evaluations.due(iteration):
            success = self.evaluations.evaluate(iteration, full_weights(self.learner))
            self.group.wait()
        return success

    def _explore(self, without: float | None) -> None:
        """Say what the noise of rollouts leaves of the success that was measured without it."""
        sde = self.config.rollout.sde()
        recording = {"sde": dataclasses.asdict(sde), "states": False}
        explored = None if without is None else self.evaluations.explore(0, recording)
        self.group.wait()
        if explored is None or without is None:
            return
        noise = f"rollout.form={sde.form}, temperature {sde.temperature:g}"
        self.reporter.note(f"success at the start: {without:.1%}, and {explored:.1%} with the noise of rollouts ({noise})")
        if explored < LEFT * without:
            self.reporter.note(
                "warning: rollouts will succeed far less often than the policy does, and there is little to learn from; lower "
                "rollout.temperature, or set rollout.form=noise_one"
            )

    def _collect(self, iteration: int) -> tuple[Rollout, int, float]:
        """A rollout, the version of its policy, and the seconds that the policy took to load its weights.

        With a lag, the next rollout begins here, by the weights before this one's update; not where envs may be allotted again first.
        """
        if self.ahead is None:
            seconds = self._sync(iteration)
            rollout, version = self.collector.collect(self._watch(iteration)), iteration
        else:
            seconds, rollout, version = 0.0, self.ahead.result(), iteration - 1
        self.saved.envs, self.ahead = self.collector.progress(), None
        following = iteration + 1
        if self.config.rollout.lag and following < self.config.iterations and not self._allots(following):
            seconds += self._sync(iteration)
            self.ahead = self.thread.submit(self.collector.collect, self._watch(following))
        return rollout, version, seconds

    def _watch(self, iteration: int) -> Callable[[Chunk], None]:
        """Says from time to time how far the rollout of an iteration is, in the first process, of its own envs."""
        config, came, ended = self.config.rollout, itertools.count(1), [0, 0]
        every, said = config.chunks * config.envs // self.group.world, time.monotonic()

        def watch(chunk: Chunk) -> None:
            nonlocal said
            number = next(came)
            ended[0], ended[1] = ended[0] + chunk.ended, ended[1] + int(chunk.reward)
            if self.group.first and time.monotonic() - said > PATIENCE:
                said = time.monotonic()
                share = f", of which {ended[1] / ended[0]:.0%} succeeded" if ended[0] else ""
                self.reporter.note(f"iteration {iteration + 1}: {number:,} of {every:,} chunks, {ended[0]:,} episodes{share}")

        return watch

    def _sync(self, version: int) -> float:
        """Have the acting policy take the weights that were learned, unless they are its own tensors; the seconds that it took."""
        began = time.perf_counter()
        if self.config.rollout.noise_final < 1:
            self.collector.explore(self.config.rollout.sde(min(1.0, version / max(self.planned - 1, 1))))
        trained = {name: weight for name, weight in self.learner.model.named_parameters() if weight.requires_grad}
        self.policy.load_weights(version, {} if self.shared else {name: whole(weight) for name, weight in trained.items()})
        return time.perf_counter() - began

    def _experience(self, rollout: Rollout, version: int) -> dict[str, float]:
        """Success and length of the episodes that ended, over all processes, and where an env's time went.

        An episode that the end of a rollout cuts counts in the iteration in which it ends. Episodes also count for the next allotment.
        """
        saved, spent = self.saved, Counter[str]()
        for chunk in rollout.chunks:
            spent.update(chunk.seconds)
        steps, *seconds = self.group.sum([sum(chunk.run for chunk in rollout.chunks), *(spent[name] for name in ACTIVITIES)])
        saved.steps += int(steps)
        ends = [(chunk.task, int(chunk.reward), chunk.steps, chunk.state) for chunk in rollout.chunks if chunk.ended]
        every = [each for part in self.group.gather(ends) for each in part]
        self._remember(every)
        numbers = {"env/episodes": float(len(every))}
        numbers |= {f"time/{name}": each / self.config.rollout.envs for name, each in zip(ACTIVITIES, seconds, strict=True)}
        if every:
            success = float(np.mean([success for _, success, *_ in every]))
            numbers |= {"env/success": success, "env/episode_len": float(np.mean([steps for _, _, steps, _ in every]))}
            if success > saved.best:
                saved.best, saved.best_iteration = success, version
        for task in sorted({task for task, *_ in every}):
            own = [success for name, success, *_ in every if name == task]
            numbers[TASK + task] = float(np.mean(own))
            successes, episodes = saved.outcomes.get(task, (0, 0))
            saved.outcomes[task] = successes + sum(own), episodes + len(own)
        return numbers

    def _remember(self, ends: Sequence[tuple[str, int, int, int]]) -> None:
        """Count the success of initial states that come again: task, success, steps and state of each episode."""
        count = self.config.rollout.states
        if count is None:
            return
        for task, success, _, state in ends:
            known = self.saved.states.setdefault(task, [(0, 0)] * count)
            solved, played = known[state % SEEDS_APART]
            known[state % SEEDS_APART] = solved + success, played + 1
        if self.config.rollout.states_by == "success":
            self.collector.choose(self.saved.states)

    def _save(self, iteration: int) -> None:
        if iteration % self.config.checkpoints.every == 0 or iteration == self.config.iterations:
            with self.stop.after("stopped and saved; the same command goes on"):  # torch would wrap what a signal raises within
                self.checkpoints.save(
                    self.learner, iteration, partial(self._write, iteration), spared=self.saved.best_iteration
                )

    def _write(self, iteration: int, checkpoint: Path) -> None:
        """What a checkpoint has beside torch's files: how far envs are, and a policy that refers to the one that is tuned."""
        (checkpoint / self._envs_file).write_bytes(msgspec.msgpack.encode(self.saved))
        tuned = self.bundle.description
        description = dataclasses.replace(tuned, trained=(*tuned.trained, self._stage(iteration)))
        bundle = dataclasses.replace(self.bundle, description=description)
        save_checkpoint(checkpoint / "policy", bundle, base=self.base)

    @property
    def planned(self) -> int:
        """Iterations over which learning rates fall, as the run began."""
        return self.learner.steps // self.config.updates_an_iteration

    @property
    def _envs_file(self) -> str:
        return f"envs_{self.group.rank}.msgpack"

    def _stage(self, iterations: int) -> TrainedStage:
        return TrainedStage("ppo", iterations, iterations * self.config.rollout.envs * self.config.rollout.chunks)

    def _refuse_collapse(self, iteration: int, numbers: dict[str, float]) -> None:
        """End a run whose policy goes astray, and have the same command go on from its best iteration."""
        success = numbers.get("env/success", self.saved.best)
        why = self.config.collapse.reached(numbers["losses/kl_after"], success, self.saved.best)
        if not why:
            return
        back = self.checkpoints.go_back(self.saved.best_iteration, self.group)
        raise TrainingError(
            f"iteration {iteration} {why}; the run is back after iteration {back}, its best: lower optimizer.expert.lr, and the same "
            "command goes on from there"
        )


def copied(bundle: LoadedPolicy) -> LoadedPolicy:
    """The policy with weights of its own, to act while the others are sharded."""
    copy = acting_copy(bundle)
    copy.model.load_state_dict(bundle.model.state_dict())
    return copy
