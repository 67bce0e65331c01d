"""Checks of how an env takes actions and ends episodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .api import Outcome, observe
from .checker_bench import LENGTH, WITHOUT_IMAGES, Bench, Take, broken, sample_steps
from .embodiments import Embodiment
from .errors import BadActionError, VlarigError
from .faults import describe


def actions_move_the_robot(bench: Bench) -> None:
    """The state that the policy sees changes under the actions; its images, where its robot has no state."""
    shown = [each.state for each in bench.reference.shown]
    if not len(shown[0]):
        images = [observe(each)["images"] for each in bench.reference.shown]
        shown = [next(iter(each.values()))[-1] for each in images if each]
    if np.array_equal(shown[0], shown[-1]):
        why = "a policy that is shown an old state corrects errors that no longer exist"
        do = "read state() from the simulator at each call, and check that apply() reaches the controller"
        broken(f"another state after {LENGTH} steps", f"{shown[-1].tolist()} before and after", why, do)


def bad_actions_are_refused(bench: Bench) -> None:
    """A wrong shape, NaN, infinity or an array of objects is refused, and the episode continues unchanged."""
    episode, reference = bench.due()
    take = Take([bench.open(episode)])
    why = "a policy that breaks is scored as if it had meant what the env made of its numbers"
    for name, actions in _bad_actions(bench.env.embodiment).items():
        seen = "it was executed"
        try:
            bench.env.step_chunk(actions)
        except BadActionError:
            continue
        except Exception as error:
            seen = describe(error)
        do = "leave step_chunk() to the base class, or call check_actions() first and repair nothing"
        broken(f"BadActionError for {name}", seen, why, do)
    bench.complete(take, episode)
    difference = take.difference(reference)
    if difference:
        do = "check the actions before the simulator is touched"
        broken("the episode goes on as if the refused actions had not come", difference, why, do)


def _bad_actions(embodiment: Embodiment) -> dict[str, Any]:
    size = embodiment.action_size
    nan, infinity = np.zeros((1, size), np.float32), np.zeros((1, size), np.float32)
    nan[0, -1], infinity[0, 0] = np.nan, np.inf
    return {
        f"shape [1, {size + 1}]": np.zeros((1, size + 1), np.float32),
        f"shape [{size}]": np.zeros(size, np.float32),
        f"shape [0, {size}]": np.zeros((0, size), np.float32),
        "a NaN": nan,
        "an infinity": infinity,
        "an array of objects": np.array([[object()] * size], dtype=object),
    }


def actions_beyond_the_bounds_are_tolerated(bench: Bench) -> None:
    """A step beyond the channels' bounds is carried out as well as the controller can."""
    channels = bench.env.embodiment.channels
    bounds = np.array([(c.low, c.high) for c in channels], dtype=np.float32)
    finite = np.isfinite(bounds).all(axis=1)
    beyond = np.where(finite, 2 * bounds[:, 1] - np.where(finite, bounds[:, 0], 0), 1.0)[None]
    before = bench.open(bench.first, WITHOUT_IMAGES).state
    why = "networks overshoot the bounds by a little all the time; an error there turns a good episode into a lost one"
    do = "clip in apply() as the benchmark's own controller does"
    try:
        state = bench.env.step_chunk(beyond).snapshot.state
    except Exception as error:
        broken(f"the step {beyond[0].tolist()} is carried out", describe(error), why, do)
    if not np.isfinite(state[np.isfinite(before)]).all():
        broken("a finite state after a step beyond the bounds", f"{state.tolist()}", why, do)


def given_values_are_left_unchanged(bench: Bench) -> None:
    """The env changes neither the episode's payload nor the actions that it was given."""
    episode, _ = bench.due()
    bench.open(episode, WITHOUT_IMAGES)
    given = bench.actions.copy()
    bench.env.step_chunk(given)
    bench.finished(episode)
    why = "the payload is used again for a second attempt, and the actions are recorded after the step, so both become wrong"
    do = "copy what begin() and apply() change"
    if bench.first.payload != bench.payload:
        broken(f"the payload {bench.payload}", f"{bench.first.payload} after an episode", why, do)
    if not np.array_equal(given, bench.actions):
        broken("the actions as they were given", "other numbers after step_chunk()", why, do)


def the_step_limit_truncates(bench: Bench) -> None:
    """An episode is truncated at the protocol's step limit, neither earlier nor later."""
    why = "published numbers hold for one limit; a simulator's own horizon, or a limit that is off by one, changes them"
    ends = []
    for attempt in range(3):
        actions = sample_steps(bench.env.embodiment, np.random.default_rng(attempt), LENGTH + 1)
        steps = bench.play(bench.first, WITHOUT_IMAGES, chunk=LENGTH + 1, actions=actions).steps
        last = steps[-1]
        if last.truncated and len(steps) == LENGTH:
            return
        if not (last.terminated or last.stopped):
            seen = f"truncated={last.truncated} at step {len(steps)}"
            do = "switch the simulator's horizon off, and leave the limit to the base class"
            broken(f"truncated at step {LENGTH}", seen, why, do)
        ends.append(len(steps))
    do = "end an episode in apply() for a reason of the task alone; random actions in the central half of the bounds should be none"
    broken(f"truncated at step {LENGTH}", f"three runs ended by themselves, at steps {ends}", why, do)


def waiting_counts_for_nothing(bench: Bench) -> None:
    """Steps that are waited before the first observation count towards nothing."""
    protocol, played = bench.first.protocol, len(bench.reference.steps)
    action = protocol.wait_action or tuple(float(number) for number in bench.actions[0])
    longer = replace(protocol, name=f"{protocol.name}-waiting", wait_steps=protocol.wait_steps + 2, wait_action=action)
    take = bench.play(replace(bench.first, protocol=longer), WITHOUT_IMAGES, chunk=LENGTH)
    why = "a policy is given less time than the protocol allows, or gets credit for what the world did by itself"
    shown = take.shown[0]
    if shown.step or shown.primitives or shown.outcome != Outcome():
        seen = f"step {shown.step}, {shown.primitives} primitives, {shown.outcome} after {longer.wait_steps} steps of waiting"
        broken("step 0, no primitives and no outcome yet", seen, why, "leave open() to the base class, which does the waiting")
    if take.steps[-1].truncated and len(take.steps) < played:
        do = "count no steps in apply(); the base class has the step limit, and a simulator's own horizon is to be switched off"
        seen = f"{len(take.steps)} steps after {longer.wait_steps} steps of waiting"
        broken(f"{played} steps before the limit, as after {protocol.wait_steps} steps of waiting", seen, why, do)


def the_end_is_final(bench: Bench) -> None:
    """An episode that is over takes no further step."""
    bench.ended()
    try:
        bench.env.step_chunk(bench.actions[:1])
    except VlarigError:
        return
    why = "steps after the end can still succeed, or fail, and be counted"
    do = "leave the check in step_chunk() to the base class"
    broken("VlarigError for a step after the end", "the step was executed", why, do)


def no_episode_is_solved_at_its_start(bench: Bench) -> None:
    """The first step of an episode does not solve it."""
    for take, episode in ((bench.reference, bench.first), (bench.other_reference, bench.other)):
        step = take.steps[0]
        if step.success_within or step.success_at_end:
            why = "every policy, and none, then scores there"
            do = "read success after the world has settled, and check that the predicate is the goal of this episode"
            broken(f"{episode.key} is unsolved after one random step", "success", why, do)


def step_agrees_with_step_chunk(bench: Bench) -> None:
    """Gymnasium's step gives what step_chunk gives, step by step."""
    why = "an RL library and a sweep then measure two different envs"
    do = "leave reset() and step() to the base class; they are made from the same hooks"
    for index, (step, shown) in enumerate(zip(bench.gymnasium_steps, bench.stepwise.shown)):
        if step[4]["state_digest"] != shown.state_digest:
            broken("equal state digests by step and by step_chunk", f"they differ at step {index}", why, do)
    for index, step in enumerate(bench.stepwise.steps, start=1):
        seen, wanted = bench.gymnasium_steps[index][1:4], (step.reward, step.terminated or step.stopped, step.truncated)
        if seen != wanted:
            broken(f"(reward, terminated, truncated) = {wanted} at step {index}", f"{seen}", why, do)


def closing_twice_is_harmless(bench: Bench) -> None:
    """close() can be called again. It is the last check: it closes the env and its siblings for good."""
    for env in (*bench.siblings, bench.env):
        env.close()
        try:
            env.close()
        except Exception as error:
            why = "clean-up after an error closes what is closed already, and the second error hides the first"
            do = "let close() drop the simulator that it has freed"
            broken("nothing happens", describe(error), why, do)
