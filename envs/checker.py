"""The env checker: the contract of :class:`~vlarig.envs.api.Env` as a list of promises, each tried on a real adapter.

A promise that is broken makes no error in a sweep; it makes a wrong score. So each failed check says what was expected, what
was seen, what it does to a score, and what to change in the adapter.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

from . import checker_repeats as repeats
from . import checker_rules as rules
from . import checker_shown as shown
from .api import Env, Episode
from .checker_bench import Bench, BrokenPromiseError, Sampler, sample_rows

__all__ = ["CHECKS", "Finding", "check_env", "sample_rows"]

#: Every check, in the order of a report. Its name and the first line of its docstring are the promise.
CHECKS: tuple[Callable[[Bench], None], ...] = (
    shown.the_embodiment_is_complete,
    shown.the_state_fits_its_layout,
    shown.the_instruction_is_words,
    shown.the_instruction_stays,
    shown.the_images_fit_the_protocol,
    shown.the_images_are_not_blank,
    shown.the_views_differ,
    shown.nothing_is_rendered_unasked,
    shown.privileged_is_empty_unless_asked,
    shown.the_metrics_are_finite_numbers,
    shown.observations_lie_in_the_observation_space,
    repeats.different_starts_differ,
    repeats.the_digest_sees_what_actions_do,
    repeats.an_episode_played_twice_in_a_row_is_the_same,
    repeats.a_warm_env_repeats_a_fresh_one,
    repeats.an_episode_cut_off_midway_leaves_nothing,
    repeats.outside_generators_have_no_influence,
    repeats.outside_generators_are_left_untouched,
    repeats.slots_of_one_process_are_independent,
    repeats.rendering_does_not_change_the_future,
    repeats.shown_arrays_are_never_changed_later,
    rules.actions_move_the_robot,
    rules.bad_actions_are_refused,
    rules.actions_beyond_the_bounds_are_tolerated,
    rules.given_values_are_left_unchanged,
    rules.the_step_limit_truncates,
    rules.waiting_counts_for_nothing,
    rules.the_end_is_final,
    rules.no_episode_is_solved_at_its_start,
    rules.step_agrees_with_step_chunk,
    rules.closing_twice_is_harmless,
)


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: Name of the check, which is the promise.
        passed: Whether the env keeps it.
        message: The promise in words; where it is broken, also what to do.
    """

    check: str
    passed: bool
    message: str


def check_env(
    make_env: Callable[[], Env], episodes: Sequence[Episode], rows: int = 6, sample: Optional[Sampler] = None
) -> list[Finding]:
    """Try every promise of the env contract.

    Some forty resets, two hundred rows and fifty frames of each camera are made: less than a minute in most simulators.

    Args:
        make_env: Makes a new env, as the adapter's class does; called a few times.
        episodes: Two or more with different starts; the first four are used.
        rows: Length of a test episode, 3 or more.
        sample: Gives legal action rows that neither solve nor stop an episode; uniform in the middle of the bounds by default.

    Returns:
        A finding for each check, in the order of :data:`CHECKS`. An exception within a check is a finding too.

    Raises:
        VlarigError: The episodes share one start, or ``rows`` is too small.
    """
    bench = Bench(make_env, episodes, rows, sample)
    return [_run(check, bench) for check in CHECKS]


def _run(check: Callable[[Bench], None], bench: Bench) -> Finding:
    promise = (check.__doc__ or check.__name__).splitlines()[0]
    try:
        check(bench)
    except BrokenPromiseError as failure:
        return Finding(check.__name__, False, f"{promise} {failure}")
    except Exception as error:
        last_line = traceback.format_exception_only(type(error), error)[-1].strip()
        return Finding(check.__name__, False, f"{promise} The check was stopped by an exception: {last_line}")
    return Finding(check.__name__, True, promise)
