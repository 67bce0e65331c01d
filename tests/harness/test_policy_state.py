"""A policy object is identified by what it holds, or refused."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from vlarig.envs.api import Needs
from vlarig.harness.policy_state import policy_state
from vlarig.policies.api import PolicyError


@dataclass
class Part:
    gains: dict[str, float] = field(default_factory=lambda: {"x": 1.0, "y": 2.0})
    names: frozenset[str] = frozenset({"a", "b", "c"})


class Holding:
    """A policy that holds this and that."""

    name, revision, needs, horizon = "holding", "1", Needs(), None

    def __init__(self, **members: Any) -> None:
        self.weights = np.arange(6.0).reshape(2, 3)
        self.part = Part()
        self.noise = np.random.default_rng(3)
        self.lock = threading.Lock()
        self.itself = self
        self.reading = self.read
        vars(self).update(members)

    def read(self) -> None: ...


class Counting(Holding):
    @property
    def revision(self) -> str:  # type: ignore[override]
        return f"update {self.updates}"

    updates = 0


def sha(policy: Any) -> str | None:
    return policy_state(policy).sha256


def test_equal_objects_are_equal_and_looking_changes_nothing() -> None:
    policy = Holding()
    assert sha(policy) == sha(Holding()) == sha(policy) is not None
    turned = Holding()
    turned.part.gains = {"y": 2.0, "x": 1.0}
    assert sha(turned) == sha(policy)


@pytest.mark.parametrize(
    "change",
    [
        lambda policy: policy.weights.__setitem__((1, 2), 5.0000001),
        lambda policy: setattr(policy, "weights", policy.weights.astype(np.float32)),
        lambda policy: setattr(policy, "weights", policy.weights.reshape(3, 2)),
        lambda policy: policy.part.gains.update(x=1.5),
        lambda policy: policy.noise.random(),
        lambda policy: setattr(policy, "part", [policy.part]),
        lambda policy: setattr(policy, "draw", lambda steps: steps + 1),
    ],
)
def test_every_member_counts(change: Any) -> None:
    policy = Holding()
    change(policy)
    assert sha(policy) != sha(Holding())


def test_the_weights_of_a_network_count_and_its_mode() -> None:
    torch = pytest.importorskip("torch")

    def network() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(), torch.nn.Linear(4, 2).to(torch.bfloat16))

    before = sha(Holding(network=network()))
    assert before == sha(Holding(network=network()))
    trained = network()
    with torch.no_grad():
        trained[2].bias[1] += 1
    assert before != sha(Holding(network=trained))
    assert before != sha(Holding(network=network().eval()))


def test_a_policy_that_cannot_be_hashed_is_refused_in_a_sentence() -> None:
    with socket.socket() as connection:
        policy = Holding(parts=[{"line": connection}])
        with pytest.raises(
            PolicyError, match=r"the policy\.parts\[0\]\['line'\] is a socket\.socket .*'revision' as a property"
        ):
            policy_state(policy)
        own = Holding(parts=[connection], revision="checkpoint 7")
        assert sha(own) is None
        with pytest.raises(PolicyError, match="cannot be hashed"):
            policy_state(Holding(parts=[connection], revision="1"))


def test_a_computed_revision_is_trusted() -> None:
    with socket.socket() as connection:
        assert sha(Counting(connection=connection)) is None


SCRIPT = """
from vlarig.harness.policy_state import policy_state
from vlarig.policies.api import Policy
SCALE = 1
def scaled(steps):
    return SCALE * steps
class Typed(Policy):
    revision = "1"
    def act(self, requests):
        return scaled(2)
print(policy_state(Typed()).code)
print(policy_state(Typed()).code)
SCALE = 3
print(policy_state(Typed()).code)
Typed.act = lambda self, requests: scaled(4)
print(policy_state(Typed()).code)
"""


def test_a_class_that_was_typed_in_is_hashed_by_its_code_and_what_that_refers_to() -> None:
    done = subprocess.run([sys.executable, "-"], input=SCRIPT, capture_output=True, text=True, check=True)
    first, again, scaled, edited = done.stdout.split()
    assert first == again
    assert len({first, scaled, edited}) == 3
