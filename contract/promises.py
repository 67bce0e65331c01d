"""The promises, one function each; its name and the first line of its docstring are the promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest import SkipTest

from ..envs.api import Episode
from ..harness.children.simulator import encoded
from ..harness.commands.envs import run_checker
from ..results.records import EpisodeRecord
from . import digests
from .subject import Subject

#: Other episodes that a warm process has played before, or more.
EARLIER = (1, 2, 10)

#: Steps that are played beside upstream's loop, or so many times those of an episode that is cut short where that is fewer; in chunks.
BESIDE, TIMES, CHUNK = 48, 2, 16

#: Envs by which the memory of a further one is measured; how much more than is stated it may take, in MB and as a share.
FURTHER, MORE_MEMORY, SHARE_MORE = 2, 15, 1.5

#: Every target once, each in another activity.
KILLS = (("simulator", "step"), ("launcher", "policy"), ("driver", "reset"))
MOST_SWEEPS = 10


def every_task_keeps_the_env_contract(subject: Subject) -> None:
    """``vlarig envs check`` passes on every task."""
    suite = subject.suite
    names = subject.checked or tuple(task.name for task in suite.tasks)
    episodes = [subject.episode(name, number) for name in names for number in (0, 1)]
    found = list(run_checker(suite, episodes))
    failed = [f"{finding['task']}: {finding['message']}" for finding in found if not finding["passed"]]
    assert not failed, "\n".join(failed)
    assert {finding["task"] for finding in found} == set(names)


def a_warm_process_equals_a_fresh_one(subject: Subject) -> None:
    """An episode has the same digests in a fresh process and after 1, 2 and 10 others, of its task and of others, or after itself.

    The first tasks on trial are played three times, and count among each other's others. Further ones, cut off, come between.
    """
    tasks, steps = list(subject.targets), subject.steps
    warm: list[tuple[Episode, int, bool]] = []
    order: list[str] = []
    for earlier in EARLIER:
        own = max(map(order.count, tasks))
        more = max(1, earlier + own - len(warm))
        others = [tasks[number * len(tasks) // more] for number in range(more)]
        again = sorted(tasks, key=lambda task: task != others[-1])  # the first follows one of its own task
        for task in others:
            number = order.count("")
            warm.append((subject.episode(task, number), 1 + steps // 2 * (number % 2), number % 3 == 1))
            order.append("")
        warm += [subject.targets[task] for task in [*again, again[-1]]]  # the last follows itself
        order += [*again, again[-1]]
        tasks = again[::-1]  # what was played last is still loaded
    (found,) = subject.play([warm])
    for number, (task, seen) in enumerate(zip(order, found, strict=True)):
        if task:
            key = subject.targets[task][0].key
            assert seen == subject.fresh[task], (
                f"{key}: as number {number} of a process its digests differ from a fresh process's"
            )


def envs_of_a_process_that_play_different_tasks_do_not_meet(subject: Subject) -> None:
    """Envs of one process that play a task each, in turns, give the results that each gives alone; so does the one that is left."""
    found = subject.play_in_turns(list(subject.targets.values()))
    for task, seen in zip([*subject.targets, subject.trial_tasks[0]], found, strict=True):
        assert seen == subject.fresh[task], f"{subject.targets[task][0].key}: in turns with other tasks its digests differ"


def results_are_equal_with_one_worker_and_with_four(subject: Subject) -> None:
    """A sweep gives the same results with one worker that has one env, and with four workers; the next promise has two."""
    found, _ = subject.sweep_again(4, 4)
    assert_equal(subject, found, "with four workers")


def kills_change_nothing(subject: Subject) -> None:
    """A sweep by two workers with two envs each gives the same results when its driver, its launcher and a simulator are killed."""
    kills, rounds = list(KILLS), 0
    while kills and rounds < MOST_SWEEPS:  # a sweep may end before all have fallen
        found, left = subject.sweep_again(2, 4, kills, most=4 * len(KILLS))
        assert_equal(subject, found, "under kills")
        kills, rounds = [(target, activity) for target, activity in map(str.split, left)], rounds + 1
    assert not kills, f"{subject.name}: these kills fell on nothing: {kills}"


def assert_equal(subject: Subject, found: list[EpisodeRecord], how: str) -> None:
    """Every episode is as in the undisturbed sweep."""
    expected, results = ({record.key: record.result() for record in each} for each in (subject.undisturbed, found))
    assert results.keys() == expected.keys(), f"{subject.name} {how} lacks {sorted(expected.keys() - results.keys())}"
    for key, result in expected.items():
        apart = [name for name in result if results[key][name] != result[name]]
        assert not apart, f"{key} {how} differs in {', '.join(apart)}"


def a_further_env_takes_the_memory_that_is_stated(subject: Subject) -> None:
    """A further env of a process takes about what the suite's footprint says."""
    (found,) = subject.ask("memory", episode=encoded(subject.episode(subject.trial_tasks[0], 0)), further=FURTHER)
    stated = subject.suite.footprint.env
    most = max(stated * SHARE_MORE, stated + MORE_MEMORY)
    assert found["env"] <= most, f"{subject.name}: a further env takes {found['env']:.0f} MB; its footprint says {stated}"


def every_patch_is_still_needed(subject: Subject) -> None:
    """Upstream still does what each of the adapter's patches changes."""
    (found,) = subject.ask("patches")
    idle = [name for name, needed in found["needed"].items() if not needed]
    assert not idle, f"{subject.name}: upstream no longer needs the patches {', '.join(idle)}; take them out"


def it_plays_upstreams_own_game(subject: Subject) -> None:
    """The adapter and upstream's own loop agree to the last bit at every step, on random actions and on recorded ones that succeed.

    The first protocol is that of every task on trial and of the recorded actions; each further one is that of the first task.
    """
    trial = subject.suite.trial
    if not trial.upstream:
        raise SkipTest(f"{subject.name} names no loop of upstream's")
    keys = dict(digests.recorded_keys(subject.recorded, subject.suite.name))
    tasks = list(dict.fromkeys([*subject.trial_tasks, *(parts[2] for parts in keys.values())]))
    first, *further = [replace(each, n_action_steps=CHUNK) for each in trial.protocols or subject.suite.protocols[:1]]
    asked = [(subject.episode(task, 3 + 7 * turn, first), "") for turn, task in enumerate(tasks)]
    asked += [(subject.episode(tasks[0], 3, rules), "") for rules in further]
    for key, (_, _, task, _, state, repeat) in keys.items():
        asked.append((subject.suite.episode(subject.suite.task(task), int(state), int(repeat), first), key))
    asked.sort(key=lambda each: each[0].task)  # upstream's loop is made once for a task
    encoded_episodes = [(encoded(episode), key) for episode, key in asked]
    recorded = str(subject.recorded) if subject.recorded else ""
    steps = min(BESIDE, TIMES * subject.steps)
    found = subject.ask("beside_upstream", episodes=encoded_episodes, upstream=trial.upstream, recorded=recorded, steps=steps)
    differences = [each["difference"] for each in found if each["difference"]]
    assert not differences, "\n".join(differences)
    unsolved = [each["key"] for each in found if each["recorded"] and not each["solved"]]
    assert not unsolved, f"the recorded actions no longer solve {', '.join(unsolved)}"
    assert len(found) == len(asked)


def the_committed_sweep_comes_out_again(subject: Subject) -> None:
    """The committed sweep is whole, and a part of it is played again to the same outcomes."""
    if subject.sweep is None:
        raise SkipTest(f"no sweep of {subject.name} was given")
    digests.holds_what_it_promises(subject.sweep, subject.suite)
    assert subject.again


def a_sheet_shows_every_task(subject: Subject) -> None:
    """``sheet.png`` in the subject's folder has a row for each task: every view at its start and at its end. Look at it.

    The episodes are those of the sweep, so that the end is a success, or random ones where there is none.
    """
    records = subject.again if subject.sweep is not None else subject.undisturbed
    best = {record.task: record for record in sorted(records, key=lambda record: record.success)}
    sheet = subject.render_sheet([best[task.name] for task in subject.suite.tasks if task.name in best])
    assert sheet.stat().st_size > 10_000, f"{sheet} is empty"


PROMISES: tuple[Callable[[Subject], None], ...] = (
    every_task_keeps_the_env_contract,
    a_warm_process_equals_a_fresh_one,
    envs_of_a_process_that_play_different_tasks_do_not_meet,
    results_are_equal_with_one_worker_and_with_four,
    kills_change_nothing,
    a_further_env_takes_the_memory_that_is_stated,
    every_patch_is_still_needed,
    it_plays_upstreams_own_game,
    the_committed_sweep_comes_out_again,
    a_sheet_shows_every_task,
)
