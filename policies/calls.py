"""Calls of a policy's own code, which may raise anything."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError
from ..envs.faults import message_of, outcome_of, traceback_of
from .api import Policy, PolicyError, PolicyLost, Request
from .replica_messages import Check, HorizonFor, LoadWeights, Order, Record
from .weights import read_weights


@contextmanager
def policy_code(name: str, doing: str) -> Iterator[None]:
    """Run code of a policy; whatever it raises becomes a :class:`~.api.PolicyError`, ``SystemExit`` too.

    Args:
        name: The policy's name.
        doing: The call, as the end of the sentence ``the policy NAME raised X ...``.

    Raises:
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
    return PolicyError(f"the policy {name!r} {outcome_of(error)} {doing}: {message_of(error)}", traceback=traceback_of(error))


def check_fit(policy: Policy, suite: str, embodiment: Embodiment) -> None:
    with policy_code(policy.name, f"while it was checked against {suite}"):
        policy.check(suite, embodiment)


def make_strict(policy: Policy) -> None:
    with policy_code(policy.name, "while it was made strict"):
        policy.strict()


def horizon_for(policy: Policy, embodiment: Embodiment) -> int | None:
    with policy_code(policy.name, "while it gave its horizon"):
        return policy.horizon_for(embodiment)


def values_of(policy: Policy, requests: Sequence[Request]) -> np.ndarray:
    with policy_code(policy.name, "while it computed values"):
        values = np.asarray(policy.value(requests), np.float32)
    if values.shape != (len(requests),):
        raise PolicyError(f"the policy {policy.name!r} gave values of shape {values.shape} for {len(requests)} requests")
    return values


def record(policy: Policy, options: Mapping[str, Any] | None) -> None:
    with policy_code(policy.name, "while it was made to record"):
        policy.record(options)


def load_weights(policy: Policy, version: int, state: Mapping[str, Any]) -> None:
    with policy_code(policy.name, f"while it took the weights of version {version}"):
        policy.load_weights(version, state)


def carry_out(policy: Policy, order: Order) -> int | None:
    """Have a policy of this process carry out an order; the number of steps for :class:`~.replica_messages.HorizonFor`."""
    if isinstance(order, HorizonFor):
        return horizon_for(policy, order.embodiment)
    if isinstance(order, Check):
        check_fit(policy, order.suite, order.embodiment)
    elif isinstance(order, Record):
        record(policy, order.options)
    elif isinstance(order, LoadWeights):
        load_weights(policy, order.version, read_weights(Path(order.path)))
    else:
        make_strict(policy)
    return None
