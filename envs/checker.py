"""The env checker: the contract of :class:`~vlarig.envs.api.Env` as a list of promises, each tested on a real adapter.

A promise that is broken makes no error in a sweep; it makes a wrong score. So each failed check reports what was expected, what
was seen, what it does to a score, and what to change in the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from . import checker_repeats as repeats
from . import checker_rules as rules
from . import checker_shown as shown
from .api import Env, Episode
from .checker_bench import Bench, BrokenPromiseError
from .faults import describe

__all__ = ["CHECKS", "TASK_CHECKS", "Finding", "each_finding"]

#: Every check, in the order of a report; all are tried on the first task. Its name and the first line of its docstring are the promise.
CHECKS: tuple[Callable[[Bench], None], ...] = (
    shown.the_embodiment_is_complete,
    shown.the_state_fits_its_layout,
    shown.the_instruction_is_words,
    shown.the_instruction_stays,
    shown.the_images_fit_the_protocol,
    shown.the_images_are_not_blank,
    shown.the_views_differ,
    shown.nothing_is_rendered_unasked,
    shown.privileged_is_empty_unless_requested,
    shown.the_metrics_are_finite_numbers,
    shown.observations_lie_in_the_observation_space,
    repeats.different_initial_states_differ,
    repeats.the_digest_sees_what_actions_do,
    repeats.an_episode_played_twice_in_a_row_is_the_same,
    repeats.a_warm_env_repeats_a_fresh_one,
    repeats.an_episode_cut_off_midway_leaves_nothing,
    repeats.outside_generators_have_no_influence,
    repeats.outside_generators_are_left_untouched,
    repeats.envs_of_one_process_are_independent,
    repeats.rendering_does_not_change_the_future,
    repeats.shown_arrays_are_never_changed_later,
    rules.actions_move_the_robot,
    rules.bad_actions_are_refused,
    rules.given_values_are_left_unchanged,
    rules.actions_beyond_the_bounds_are_tolerated,
    rules.the_step_limit_truncates,
    rules.the_end_is_final,
    rules.waiting_counts_for_nothing,
    rules.no_episode_is_solved_at_its_start,
    rules.step_agrees_with_step_chunk,
    rules.closing_twice_is_harmless,
)


#: The promises that hold in every task if they hold in one: about the robot, the protocol and the base class.
_ONCE = (
    shown.the_embodiment_is_complete,
    shown.nothing_is_rendered_unasked,
    shown.observations_lie_in_the_observation_space,
    repeats.shown_arrays_are_never_changed_later,
    rules.bad_actions_are_refused,
    rules.actions_beyond_the_bounds_are_tolerated,
    rules.waiting_counts_for_nothing,
    rules.the_end_is_final,
    rules.step_agrees_with_step_chunk,
    rules.closing_twice_is_harmless,
)

#: The promises that an adapter can keep in one task and break in another; tried on every further task.
TASK_CHECKS: tuple[Callable[[Bench], None], ...] = tuple(check for check in CHECKS if check not in _ONCE)


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        task: Name of the task on whose episodes it was tried.
        check: Name of the check, which is the promise.
        passed: Whether the env keeps it.
        message: The promise in words; where it is broken, also what to do.
        stopped: Whether an exception ended the check.
    """

    task: str
    check: str
    passed: bool
    message: str
    stopped: bool = False


def each_finding(make_env: Callable[[], Env], episodes: Sequence[Episode]) -> Iterator[Finding]:
    """Try every promise of the env contract on the first task, and on each further one those that can differ by task.

    The first task takes some 25 resets, two hundred steps and a hundred images, which is less than a minute in most simulators; a
    further one takes about half of that.

    Args:
        make_env: Makes a new env, as the adapter's class does; called a few times, and once more for each further task.
        episodes: Two or more with different initial states, of one task or of several; two of each are enough.

    Yields:
        A finding for each check, as soon as it is known: the first task's in the order of :data:`CHECKS`, with those of each further
        task, in the order of :data:`TASK_CHECKS`, before its last. An exception within a check is a finding too; it ends the checks of
        a further task.

    Raises:
        VlarigError: The episodes share one initial state.
    """
    first, *others = _by_task(episodes)
    bench = Bench(make_env, [*first, *(other[0] for other in others)])
    for check in CHECKS[:-1]:
        yield _run(check, bench)
    for other in others:
        alone = len({episode.initial_state for episode in other}) == 1
        # In the same env: what the tasks before have left in it must not be seen.
        yield from _check_task(Bench(make_env, [*other, *first] if alone else other, bench.env))
    yield _run(CHECKS[-1], bench)


def _check_task(bench: Bench) -> Iterator[Finding]:
    for check in TASK_CHECKS:
        finding = _run(check, bench)
        yield finding
        if finding.stopped:
            break
    for sibling in bench.siblings:
        sibling.close()


def _by_task(episodes: Sequence[Episode]) -> list[list[Episode]]:
    tasks: dict[tuple[str, str], list[Episode]] = {}
    for episode in episodes:
        tasks.setdefault((episode.task, episode.variant), []).append(episode)
    return list(tasks.values())


def _run(check: Callable[[Bench], None], bench: Bench) -> Finding:
    promise, task = (check.__doc__ or check.__name__).splitlines()[0], bench.first.task
    try:
        check(bench)
    except BrokenPromiseError as failure:
        return Finding(task, check.__name__, False, f"{promise} {failure}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        message = f"{promise} The check was stopped by an exception: {describe(error)}"
        return Finding(task, check.__name__, False, message, stopped=True)
    return Finding(task, check.__name__, True, promise)
