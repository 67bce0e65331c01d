"""Calls of a policy's own code, which may raise anything, and its replies, checked against what it declares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.api import check_actions
from ..envs.embodiments import Embodiment
from ..envs.errors import BadActionError, VlarigError
from ..envs.faults import message_of, outcome_of, traceback_of
from ..envs.keypoints import NAMES
from .api import Policy, PolicyError, PolicyLost, Reply, Request
from .replica_messages import Check, HorizonFor, LoadWeights, Order, Record, read_weights


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


def carry_out(policy: Policy, order: Order) -> int | None:
    """Have a policy of this process carry out an order; the number of steps for :class:`~.replica_messages.HorizonFor`."""
    if isinstance(order, HorizonFor):
        return horizon_for(policy, order.embodiment)
    if isinstance(order, Check):
        check_fit(policy, order.suite, order.embodiment)
    elif isinstance(order, Record):
        with policy_code(policy.name, "while it was made to record"):
            policy.record(order.options)
    elif isinstance(order, LoadWeights):
        weights = read_weights(Path(order.path))
        with policy_code(policy.name, f"while it took the weights of version {order.version}"):
            policy.load_weights(order.version, weights)
    else:
        make_strict(policy)
    return None


def checked_replies(
    policy: Policy, requests: Sequence[Request], act: Callable[[Sequence[Request]], Sequence[Reply]] | None = None
) -> list[Reply]:
    """The policy's reply to each request, its actions ``float32[H, A]``.

    Args:
        policy: The policy, or a pool.
        requests: A batch.
        act: The ``act`` of one of the pool's members; the policy's own by default.

    Raises:
        PolicyLost: The policy's process is dead.
    """
    with policy_code(policy.name, f"while it acted for {requests[0].key}"):
        replies = list((act or policy.act)(requests))
        if len(replies) != len(requests):
            raise PolicyError(f"the policy {policy.name!r} gave {len(replies)} replies to {len(requests)} requests")
        checked = [_checked(policy, request, reply) for request, reply in zip(requests, replies, strict=True)]
        _refuse_shared(policy, requests, replies)
        return checked


def n_action_steps_for(policy: Policy, embodiment: Embodiment, standard: int, requested: int | None = None) -> int:
    """Steps of each chunk to run: those requested; else the policy's own number, else the standard one or all that are predicted."""
    horizon, own = horizon_for(policy, embodiment), policy.n_action_steps
    if horizon is None:
        return requested or own or standard
    if requested is not None and requested > horizon:
        raise PolicyError(
            f"n_action_steps is {requested}, and the policy {policy.name!r} predicts {horizon} steps at a time for {embodiment.name}; "
            f"choose {horizon} or fewer"
        )
    return requested or min(own or standard, horizon)


def _refuse_shared(policy: Policy, requests: Sequence[Request], replies: Sequence[Reply]) -> None:
    """Make sure that each reply has memory of its own: a buffer that is reused for each request ends with the last request's reply.

    A read-only view is no exception: its memory may have been overwritten all the same.
    """
    owners: dict[int, tuple[Request, Any]] = {}
    for request, reply in zip(requests, replies, strict=True):
        for given in (reply.actions, reply.labels, reply.keypoints):
            if given is None:
                continue
            array = np.asarray(given) if hasattr(given, "__array__") else given  # a tensor of torch keeps its memory
            memory = array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else id(array)
            other, _ = owners.setdefault(memory, (request, array))  # as long as the array lives, no other begins there
            if other is not request:
                raise PolicyError(
                    f"the policy {policy.name!r} answered {other.key} and {request.key} with one and the same array, so that one's "
                    "numbers overwrite the other's; give each Reply an array of its own, such as actions.copy()"
                )


def _checked(policy: Policy, request: Request, reply: Reply) -> Reply:
    """``reply`` with its actions as ``float32[H, A]``."""
    if not isinstance(reply, Reply):
        raise PolicyError(
            f"the policy {policy.name!r} answered {request.key} with something of type {type(reply).__name__}; give a "
            "vlarig.policies.api.Reply(actions)"
        )
    try:
        actions = check_actions(reply.actions, request.embodiment)
    except BadActionError as error:
        raise PolicyError(f"the policy {policy.name!r} answered {request.key} badly: {error}") from None
    horizon = horizon_for(policy, request.embodiment)
    steps = request.n_action_steps if horizon is None else horizon
    if len(actions) != steps:
        promised = "the request's n_action_steps" if horizon is None else "its horizon"
        raise PolicyError(f"the policy {policy.name!r} answered {request.key} with {len(actions)} steps; {promised} is {steps}")
    stages = _checked_stages(policy, request, reply.stages, len(actions))
    labels = _checked_labels(policy, request, reply.labels, len(actions))
    keypoints = _checked_keypoints(policy, request, reply.keypoints, len(actions))
    return Reply(np.ascontiguousarray(actions), reply.recorded, stages, labels, keypoints)


def _checked_keypoints(policy: Policy, request: Request, keypoints: Any, steps: int) -> np.ndarray | None:
    """The keypoints of a reply of so many steps, as ``float32[H, 14]``."""
    if keypoints is None:
        return None
    found = np.array(keypoints, np.float32)
    if found.shape != (steps, len(NAMES)) or not np.isfinite(found).all():
        raise PolicyError(
            f"the policy {policy.name!r} answered {request.key} with keypoints of shape {list(found.shape)}, some maybe not finite; "
            f"expected finite numbers [{steps}, {len(NAMES)}]"
        )
    return found


def _checked_labels(policy: Policy, request: Request, labels: Any, steps: int) -> np.ndarray | None:
    """The labels of a reply of so many steps, as ``float32[H, A]``."""
    if labels is None:
        return None
    try:
        checked = check_actions(labels, request.embodiment)
    except BadActionError as error:
        raise PolicyError(f"the policy {policy.name!r} answered {request.key} with bad labels: {error}") from None
    if len(checked) != steps:
        raise PolicyError(
            f"the policy {policy.name!r} answered {request.key} with {len(checked)} labels for {steps} steps; give one a step"
        )
    return np.ascontiguousarray(checked)


def _checked_stages(policy: Policy, request: Request, stages: object, steps: int) -> tuple[str, ...] | None:
    if stages is None:
        return None
    if (
        isinstance(stages, (str, bytes))
        or not isinstance(stages, Sequence)
        or not all(isinstance(each, str) for each in stages)
    ):
        raise PolicyError(
            f"the policy {policy.name!r} answered {request.key} with stages {stages!r}; give a text for each step"
        )
    if len(stages) != steps:
        raise PolicyError(
            f"the policy {policy.name!r} answered {request.key} with {len(stages)} stages for {steps} steps; give one a step"
        )
    return tuple(stages)
