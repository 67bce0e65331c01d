"""A policy object is identified by its own revision, or by the weights that it holds, or refused."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from vlarig.envs.api import Needs
from vlarig.harness.run import policy_state
from vlarig.policies.api import PolicyError


@dataclass
class Gains:
    gains: dict[str, float] = field(default_factory=lambda: {"x": 1.0, "y": 2.0})
    names: frozenset[str] = frozenset({"a", "b", "c"})


class Part(Gains):
    __slots__ = ("bias",)

    def __init__(self) -> None:
        super().__init__()
        self.bias = np.zeros(2)


class Scripted:
    """A policy without weights of its own."""

    name, revision, needs, horizon = "scripted", "1", Needs(), None

    def __init__(self, **members: Any) -> None:
        vars(self).update(members)


class Holding(Scripted):
    """A policy that holds this and that."""

    shared = np.ones(2)

    def __init__(self, **members: Any) -> None:
        self.weights = np.arange(6.0).reshape(2, 3)
        self.layers = [{"first": np.ones(1)}, (2, "tanh")]
        self.part = Part()
        self.words = argparse.Namespace(temperature=0.5)
        self.noise = np.random.default_rng(3)
        self.lock = threading.Lock()
        self.itself = self
        self.reading = self.read
        super().__init__(**members)

    def read(self) -> None: ...


class Counting(Scripted):
    updates = 0

    @property
    def revision(self) -> str:  # type: ignore[override]
        return f"update {self.updates}"


def sha(policy: Any) -> str | None:
    return policy_state(policy).sha256


def test_equal_objects_are_equal_and_looking_changes_nothing() -> None:
    policy = Holding()
    assert sha(policy) == sha(Holding()) == sha(policy) is not None
    turned = Holding()
    turned.part.gains = {"y": 2.0, "x": 1.0}
    turned.noise.random()
    assert sha(turned) == sha(policy)


def test_what_holds_the_weights_counts_as_code() -> None:
    assert Part.__module__ in policy_state(Holding()).modules  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda policy: policy.weights.__setitem__((1, 2), 5.0000001),
        lambda policy: setattr(policy, "weights", policy.weights.astype(np.float32)),
        lambda policy: setattr(policy, "weights", policy.weights.reshape(3, 2)),
        lambda policy: policy.layers[0]["first"].fill(2),
        lambda policy: setattr(policy, "layers", [policy.layers[0], (2, "relu")]),
        lambda policy: policy.part.gains.update(x=1.5),
        lambda policy: policy.part.bias.fill(1),
        lambda policy: setattr(policy, "part", [policy.part]),
        lambda policy: setattr(policy.words, "temperature", 0.6),
        lambda policy: setattr(policy, "shared", np.zeros(2)),
        lambda policy: setattr(policy, "table", np.array([1, np.ones(2)], dtype=object)),
    ],
)
def test_every_weight_and_number_counts(change: Callable[[Any], None]) -> None:
    policy = Holding()
    change(policy)
    assert sha(policy) != sha(Holding())


def test_weights_of_the_class_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sha(Holding())
    monkeypatch.setattr(Holding, "shared", np.zeros(2))
    assert sha(Holding()) != before


def test_the_weights_of_a_network_count_wherever_it_is() -> None:
    torch = pytest.importorskip("torch")

    def network() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2).to(torch.bfloat16))

    trained = network()
    with torch.no_grad():
        trained[1].bias[1] += 1
    for held in (lambda net: net, lambda net: {"agent": [net]}, lambda net: argparse.Namespace(net=net)):
        assert sha(Scripted(net=held(network()))) == sha(Scripted(net=held(network()))) is not None
        assert sha(Scripted(net=held(network()))) != sha(Scripted(net=held(trained)))
    with pytest.raises(PolicyError, match=r"the policy 'scripted' raised .* while its weights were read: .*meta"):
        sha(Scripted(net=torch.nn.Linear(3, 4, device="meta")))


WEIGHTS = np.ones(3)


def test_a_policy_that_holds_no_weights_is_refused_until_it_has_a_revision_of_its_own() -> None:
    weights = np.ones(3)
    for members in ({}, {"net": lambda numbers: WEIGHTS * numbers}, {"net": lambda numbers: weights * numbers, "gain": 0.5}):
        with pytest.raises(
            PolicyError, match=r"'scripted' holds no weights, .* 'revision' as a property .* count of updates"
        ) as refused:
            sha(Scripted(**members))
        assert "\n" not in str(refused.value)
    with pytest.raises(PolicyError, match="holds no weights"):
        sha(Scripted(revision=Scripted.revision))
    assert sha(Scripted(revision="checkpoint 7")) is None


def test_a_computed_revision_says_all_and_one_that_is_set_hides_no_weights() -> None:
    assert sha(Counting(weights=np.ones(3))) is None
    trained = Holding(revision="checkpoint 7")
    before = sha(trained)
    trained.weights += 1
    assert sha(trained) != before is not None


SCRIPT = """
import numpy as np
from vlarig.harness.run import policy_state
from vlarig.policies.api import Policy, PolicyError
class Typed(Policy):
    def __init__(self):
        self.weights = np.ones(3)
    def act(self, requests):
        return []
try:
    policy_state(Typed())
except PolicyError as error:
    print(error)
Typed.revision = property(lambda self: "update 1")
print(policy_state(Typed()).sha256)
"""


def test_a_class_that_was_typed_in_needs_a_revision() -> None:
    done = subprocess.run([sys.executable, "-"], input=SCRIPT, capture_output=True, text=True, check=True)
    refused, trusted = done.stdout.splitlines()
    assert refused.startswith(
        "the class of the policy 'Typed' is in no file, so an edit of it would not be noticed; put it into a file"
    )
    assert trusted == "None"
