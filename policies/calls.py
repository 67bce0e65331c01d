"""Calls of a policy's own code, which may raise anything."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError
from ..envs.faults import deed, message_of, traceback_of
from .api import Policy, PolicyError, PolicyLost
from .replica_messages import Check, Order, Rows


@contextmanager
def policy_code(name: str, doing: str) -> Iterator[None]:
    """Run code of a policy; whatever it raises becomes a :class:`~.api.PolicyError`, ``SystemExit`` and its like too.

    Args:
        name: The policy's name.
        doing: When that is, as the end of the sentence ``the policy NAME raised X ...``.

    Raises:
        PolicyError: The code raised; the sentence names the line. A ``VlarigError`` and a ``PolicyLost`` of its own are passed on.
        KeyboardInterrupt: The user ended the program; only in the main thread, where signals are handled.
    """
    try:
        yield
    except (VlarigError, PolicyLost):
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        raise policy_error(name, doing, error) from error


def policy_error(name: str, doing: str, error: BaseException) -> PolicyError:
    """What to raise for what a policy's code raised; arguments as for :func:`policy_code`."""
    return PolicyError(f"the policy {name!r} {deed(error)} {doing}: {message_of(error)}", traceback=traceback_of(error))


def check_fit(policy: Policy, suite: str, embodiment: Embodiment) -> None:
    """Ask the policy whether it fits a suite, where it has the member ``check``.

    Raises:
        PolicyError: It does not, or it raised.
    """
    check = getattr(policy, "check", None)
    if check is not None:
        with policy_code(policy.name, f"while it was checked against {suite}"):
            check(suite, embodiment)


def make_strict(policy: Policy) -> None:
    """Ask the policy to compute in a fixed way (one thread, float32), where it has the member ``make_strict``.

    Raises:
        PolicyError: It raised.
    """
    make = getattr(policy, "make_strict", None)
    if make is not None:
        with policy_code(policy.name, "while it was made strict"):
            make()


def horizon_for(policy: Policy, embodiment: Embodiment) -> int | None:
    """Rows of the policy's answers to this embodiment: its ``rows``, where it has that member, else its horizon.

    Raises:
        PolicyError: It raised.
    """
    rows = getattr(policy, "rows", None)
    if rows is None:
        return policy.horizon
    with policy_code(policy.name, "while it was asked for its rows"):
        return rows(embodiment)


def carry_out(policy: Policy, order: Order) -> int | None:
    """Have a policy of this process do what an order says; the rows that answer :class:`~.replica_messages.Rows`.

    Raises:
        PolicyError: It does not fit, cannot, or raised.
    """
    if isinstance(order, Rows):
        return horizon_for(policy, order.embodiment)
    if isinstance(order, Check):
        check_fit(policy, order.suite, order.embodiment)
    else:
        make_strict(policy)
    return None
