"""PPO of Stable-Baselines3 learns the embedded suite's task push_to from the simulator's truth, without images.

    python docs/examples/learn_to_push.py --help

It trains on initial states that the suite never evaluates on (100 and up, a new one for each episode), and judges the policy on the 50
committed ones, by the suite's own rule, with deterministic actions. In the folder ``--out`` it leaves ``curve.csv``, ``curve.png`` and
the policy, ``model.zip``.

Three parts are decided by hand, so that an afternoon is not needed. The policy sees the object, the zone and the hand in the push's
frame, whose first axis points from the object to the zone. It moves the hand along that frame's three axes; that the hand points
down, its fingers across the push and a little apart, is kept by :class:`PushFrame`. And the reward is shaped by :func:`reward`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from gymnasium import spaces
from matplotlib.figure import Figure
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor

from vlarig.envs.api import Snapshot, StepResult
from vlarig.envs.tabletop.layout import SHAPES, TABLE_TOP, ZONE_HALF
from vlarig.harness.gym.stable_baselines import StableBaselinesEnv
from vlarig.results.statistics import wilson_interval

#: Starts to train on; the suite's own are 0 to 49.
TRAINING_INITIAL_STATES = range(100, 1_000_000)
EVALUATION_INITIAL_STATES = range(50)

#: The hand is to come to this far behind the object's centre and this high above the table, down a funnel: for each metre that it is
#: further than ``FUNNEL_FLOOR`` from above that place it is to be ``FUNNEL_SLOPE`` metres higher, at most ``FUNNEL_TOP``.
BEHIND = 0.038
PUSH_HEIGHT = 0.025
FUNNEL_FLOOR, FUNNEL_SLOPE, FUNNEL_TOP = 0.015, 4.0, 0.10

#: So near to the zone's centre, along either of its sides, the object is all on it.
ON_ZONE = ZONE_HALF - SHAPES["cube"].half_size[0]

#: The vertical part of a step is scaled by this: a hand that presses down or pulls up while it pushes tilts the object.
VERTICAL = 0.5

#: Fingers further open than this get a closing command, in metres from the hand's centre.
FINGERS_OPEN = 0.018


@dataclass(frozen=True)
class Push:
    """A push seen in its own frame; arrays of one step, or of many along the first axis.

    Attributes:
        along: ``[..., 2]``, the unit vector from the object to the zone, in the table's plane.
        left: ``[..., 1]``, how far the object still has to go, in m.
        hand: ``[..., 3]``, the hand from the object's centre, along and across the push, and its height above the table.
    """

    along: np.ndarray
    left: np.ndarray
    hand: np.ndarray

    @classmethod
    def of(cls, grip: np.ndarray, placed: np.ndarray, zone: np.ndarray) -> Push:
        """The push of an object, ``[..., 3]``, into a zone, ``[..., 2]``, by a hand, ``[..., 3]``, in the world frame."""
        way = zone - placed[..., :2]
        left = np.linalg.norm(way, axis=-1, keepdims=True)
        along = way / np.maximum(left, 1e-6)
        beside = grip[..., :2] - placed[..., :2]
        forward = (beside * along).sum(axis=-1)
        across = along[..., 0] * beside[..., 1] - along[..., 1] * beside[..., 0]
        return cls(along, left, np.stack([forward, across, grip[..., 2] - TABLE_TOP], axis=-1))

    @property
    def to_go(self) -> np.ndarray:
        """``[...]``, how far the hand is from the funnel that leads to behind the object, in m."""
        beside = np.hypot(self.hand[..., 0] + BEHIND, self.hand[..., 1])
        height = PUSH_HEIGHT + np.clip(FUNNEL_SLOPE * (beside - FUNNEL_FLOOR), 0.0, FUNNEL_TOP)
        return beside + np.abs(self.hand[..., 2] - height)


def named_positions(snapshot: Snapshot) -> np.ndarray:
    """``float32[5]``: where the object (x, y, z) and the zone (x, y) of the instruction are."""
    named = re.fullmatch("push the (.+) into the (.+)", snapshot.instruction)
    assert named is not None
    placed, zone = snapshot.privileged[f"object/{named[1]}"], snapshot.privileged[f"zone/{named[2]}"]
    return np.concatenate([placed[:3], zone[:2]]).astype(np.float32)


def worth(snapshot: Snapshot) -> float:
    """How good a step is: the nearer the object to its zone and the hand to its place, the better; best where the task is solved."""
    placed = named_positions(snapshot)
    push = Push.of(snapshot.state[:3], placed[:3], placed[3:])
    return float(-10.0 * push.left[0] - 2.0 * push.to_go + 0.5 * snapshot.outcome.final)


def reward(before: Snapshot, step: StepResult, after: Snapshot) -> float:
    """What the step gained in worth, less the price of its time; a prize or a fine at an end that is no timeout."""
    end = 0.0 if not step.terminated else 5.0 if step.success_at_end else -2.0
    return worth(after) - worth(before) - 0.005 + end


class PushFrame(VecEnvWrapper):
    """Shows the push's frame, ``float32[12]``, and takes steps in it, ``float32[3]``: forward, across, and up."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv, spaces.Box(-np.inf, np.inf, (12,), np.float32), spaces.Box(-1.0, 1.0, (3,), np.float32))

    def reset(self) -> np.ndarray:
        """Begin an episode in every environment."""
        self._seen = np.asarray(self.venv.reset())
        return self._show(self._seen)

    def step_async(self, actions: np.ndarray) -> None:
        """Turn steps of the push's frame into the robot's."""
        along, turn = self._push(self._seen).along, self._seen[:, 3:6]
        forward, across = actions[:, :1], actions[:, 1:2]
        plane = forward * along + across * np.stack([-along[:, 1], along[:, 0]], axis=1)
        upright = np.stack([-turn[:, 0], -turn[:, 1], self._yaw_error(self._seen)], axis=1)
        close = self._seen[:, 6:7] > FINGERS_OPEN
        steps = np.concatenate([plane, VERTICAL * actions[:, 2:], np.clip(2.4 * upright, -0.6, 0.6), close], axis=1)
        self.venv.step_async(np.clip(steps, -1.0, 1.0).astype(np.float32))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Carry out the step."""
        seen, rewards, dones, infos = self.venv.step_wait()
        self._seen = np.asarray(seen)
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = self._show(info["terminal_observation"])
        return self._show(self._seen), rewards, dones, infos

    def _push(self, seen: np.ndarray) -> Push:
        return Push.of(seen[..., :3], seen[..., 8:11], seen[..., 11:13])

    def _yaw_error(self, seen: np.ndarray) -> np.ndarray:
        """``[...]``: how far the fingers are from lying across the push, in rad; 0 near its end, where no direction is clear."""
        push = self._push(seen)
        yaw = np.arctan2(push.along[..., 1], push.along[..., 0])
        error = (yaw - seen[..., 5] + np.pi / 2) % np.pi - np.pi / 2  # two fingers look the same after half a turn
        return np.where(push.left[..., 0] > 0.05, error, 0.0)

    def _show(self, seen: np.ndarray) -> np.ndarray:
        """What the policy sees: the push coarsely, then its last centimetres finely."""
        push = self._push(seen)
        off = np.tanh((np.abs(seen[..., 11:13] - seen[..., 8:10]) - ON_ZONE) / 0.01)
        fine = np.concatenate([push.hand + np.array([BEHIND, 0.0, -PUSH_HEIGHT]), push.left], axis=-1) / 0.02
        angles = np.stack([self._yaw_error(seen), 20.0 * seen[..., 6]], axis=-1)
        return np.concatenate([5.0 * push.hand, 5.0 * push.left, np.tanh(fine), off, angles], axis=-1).astype(np.float32)


def make_env(num_envs: int, workers: int | None, initial_states: Sequence[int]) -> VecEnv:
    """The task in many environments."""
    env = StableBaselinesEnv(
        "tabletop",
        num_envs,
        workers=workers,
        task="push_to",
        initial_state=initial_states,
        shown="privileged state",
        privileged=named_positions,
        reward=reward,
    )
    return VecMonitor(PushFrame(env))


def evaluate(model: PPO, env: VecEnv, initial_states: Sequence[int]) -> tuple[int, float]:
    """Play every initial state once, without exploring; return the number of successes and the mean return."""
    successes, returns = 0, []
    for first in range(0, len(initial_states), env.num_envs):
        batch = initial_states[first : first + env.num_envs]
        env.set_options([{"initial_state": batch[min(index, len(batch) - 1)]} for index in range(env.num_envs)])
        seen = env.reset()
        playing = np.arange(env.num_envs) < len(batch)
        while playing.any():
            seen, _, dones, infos = env.step(model.predict(seen, deterministic=True)[0])
            for index in np.flatnonzero(playing & dones):
                playing[index] = False
                successes += bool(infos[index]["is_success"])
                returns.append(infos[index]["episode"]["r"])
    return successes, float(np.mean(returns))


@dataclass(frozen=True)
class Point:
    """One evaluation: how much was learned before it, and what it said."""

    steps: int
    successes: int
    episodes: int
    low: float
    high: float
    mean_return: float


class Curve(BaseCallback):
    """Evaluates before the first update, then after every ``every`` steps of training, and after the last."""

    def __init__(self, env: VecEnv, initial_states: Sequence[int], every: int, out: Path) -> None:
        super().__init__()
        self._env, self._starts, self._every, self._out = env, initial_states, every, out
        self._points: list[Point] = []

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= len(self._points) * self._every:
            self._evaluate()

    def _on_training_end(self) -> None:
        self._evaluate()

    def _on_step(self) -> bool:
        return True

    def _evaluate(self) -> None:
        assert isinstance(self.model, PPO)
        successes, mean_return = evaluate(self.model, self._env, self._starts)
        low, high = wilson_interval(successes, len(self._starts))
        self._points.append(Point(self.num_timesteps, successes, len(self._starts), low, high, mean_return))
        Console().print(self._points[-1])
        self.model.save(self._out / "model")
        write(self._points, self._out)


def write(points: Sequence[Point], out: Path) -> None:
    """Write the curve as a table and as an image."""
    with (out / "curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Point.__annotations__), lineterminator="\n")
        writer.writeheader()
        for point in points:
            writer.writerow({name: round(value, 4) for name, value in vars(point).items()})
    steps = [point.steps for point in points]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    rates = [100 * point.successes / point.episodes for point in points]
    axes.fill_between(steps, [100 * point.low for point in points], [100 * point.high for point in points], alpha=0.2)
    axes.plot(steps, rates, marker="o", label="success (95 % interval)")
    axes.set(xlabel="steps trained on", ylabel="success on the committed initial states, %", ylim=(0, 100), xlim=(0, None))
    second = axes.twinx()
    second.plot(steps, [point.mean_return for point in points], color="tab:orange", linestyle="--", label="mean return")
    second.set_ylabel("mean return (shaped)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(out / "curve.png", dpi=100)


def main(
    out: Path = Path("learn-to-push"),
    steps: int = 150_000,
    envs: int = 25,
    workers: int | None = None,
    every: int = 15_000,
    episodes: int = len(EVALUATION_INITIAL_STATES),
    seed: int = 0,
) -> None:
    """Train, and evaluate on the way.

    Args:
        out: Folder to write to.
        steps: Steps to train on.
        envs: Environments to train in, and as many to evaluate in.
        workers: Simulator processes of either; one a core when left out.
        every: Steps between two evaluations.
        episodes: Committed initial states to evaluate on, the first ones.
        seed: Of the policy's weights and of the order of initial states.
    """
    out.mkdir(parents=True, exist_ok=True)
    training, evaluation = make_env(envs, workers, TRAINING_INITIAL_STATES), make_env(envs, workers, EVALUATION_INITIAL_STATES)
    try:
        model = PPO(
            "MlpPolicy",
            training,
            learning_rate=LinearSchedule(7e-4, 5e-5, 1.0),
            n_steps=40,
            batch_size=125,
            n_epochs=15,
            gamma=0.98,
            use_sde=True,
            sde_sample_freq=8,
            policy_kwargs={"log_std_init": -0.5, "net_arch": [64, 64]},
            seed=seed,
            device="cpu",
        )
        model.learn(steps, callback=Curve(evaluation, EVALUATION_INITIAL_STATES[:episodes], every, out))
    finally:
        training.close()
        evaluation.close()


if __name__ == "__main__":
    tyro.cli(main)
