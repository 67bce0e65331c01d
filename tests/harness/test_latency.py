"""An answer arrives some control steps late: which steps are run then, by whatever workers, and what is refused."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparing import results
from toy.env import TOY_POINT
from toy.policies import ImageReader
from toy.suite import ENSEMBLED, STANDARD

from vlarig.envs.errors import VlarigError
from vlarig.envs.messages import WIRE_VERSION
from vlarig.harness import Rollouts, evaluate
from vlarig.harness.played_env import Execution
from vlarig.harness.replay import Replay, replay_run
from vlarig.policies.api import Reply, Request
from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Manifest

LATE = replace(STANDARD, name="late", n_action_steps=4, delay_steps=3)


def telling(number: int, steps: int) -> np.ndarray:
    """A chunk of an open hand whose steps are ``10 * number`` and up."""
    return np.array([[10 * number + step, 0, -1] for step in range(steps)], np.float32)


def run_steps(protocol, steps: int = 8, chunks: int = 3) -> list[list[float]]:
    """For each chunk the first channel of the steps that are run."""
    execution, run = Execution(protocol, TOY_POINT), []
    for number in range(1, 1 + chunks):
        execution.ask(np.array([0.5, 0.5, -1.0], np.float32))
        run.append(execution.steps(telling(number, steps))[:, 0].tolist())
    return run


def test_the_chunk_before_goes_on_until_the_answer_arrives() -> None:
    assert run_steps(LATE) == [[0, 0, 0, 10], [11, 12, 13, 23], [24, 25, 26, 33]]
    assert run_steps(replace(LATE, delay_steps=1)) == [[0, 10, 11, 12], [13, 21, 22, 23], [24, 31, 32, 33]]


def test_a_robot_that_has_nothing_left_stays_where_it_is() -> None:
    assert run_steps(LATE, steps=5) == [[0, 0, 0, 10], [11, 12, 13, 23], [24, 0, 0, 33]]
    assert run_steps(replace(LATE, meanwhile="still")) == [
        [0, 0, 0, 10, 11, 12, 13],
        [0, 0, 0, 20, 21, 22, 23],
        [0, 0, 0, 30, 31, 32, 33],
    ]


def test_a_hand_that_was_closed_stays_closed_while_the_robot_waits() -> None:
    execution = Execution(replace(LATE, meanwhile="still"), TOY_POINT)
    execution.ask(np.array([0.5, 0.5, -1.0], np.float32))
    closing = telling(1, 4) * [1, 1, -1]
    assert execution.steps(closing)[:3].tolist() == [[0, 0, -1]] * 3, "as the state has it"
    execution.ask(np.array([0.5, 0.5, -1.0], np.float32))
    assert execution.steps(closing)[:3].tolist() == [[0, 0, 1]] * 3, "as it was last sent"


def test_the_policy_is_shown_what_is_run_meanwhile() -> None:
    execution = Execution(replace(LATE, meanwhile="prefix"), TOY_POINT)
    state = np.zeros(3, np.float32)
    assert execution.ask(state) is None, "nothing is run yet"
    execution.steps(telling(1, 8))
    prefix = execution.ask(state)
    assert prefix is not None
    assert prefix[:, 0].tolist() == execution.steps(telling(2, 8))[:3, 0].tolist() == [11, 12, 13]


@pytest.mark.parametrize("changes", [{"delay_steps": -1}, {"delay_steps": 9}, {"delay_steps": 1, "meanwhile": "wait"}])
def test_a_delay_that_cannot_be_played_is_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=r"delay_steps is -1|has to arrive before the next request|expected one of chunk"):
        replace(STANDARD, **changes)
    with pytest.raises(ValueError, match="beside an ensemble"):
        replace(ENSEMBLED, delay_steps=1)


def test_an_observation_without_delay_is_what_it_was() -> None:
    assert (STANDARD.run_steps, STANDARD.read_steps) == (8, 8)
    assert (LATE.run_steps, LATE.read_steps) == (4, 7)
    assert (replace(LATE, meanwhile="still").run_steps, replace(LATE, meanwhile="still").read_steps) == (7, 4)
    assert WIRE_VERSION == 10


class Remembering(ImageReader):
    """Keeps its answers and the prefixes that it was shown by episode."""

    takes_prefix = True

    def __init__(self) -> None:
        super().__init__(horizon=12)
        self.answers: dict[str, list[np.ndarray]] = defaultdict(list)
        self.prefixes: dict[str, list[np.ndarray | None]] = defaultdict(list)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        replies = super().act(requests)
        for request, reply in zip(requests, replies, strict=True):
            self.answers[request.key].append(reply.actions)
            self.prefixes[request.key].append(request.prefix)
        return replies


@pytest.mark.slow
@pytest.mark.usefixtures("toy_home")
def test_late_steps_are_carried_out_recorded_and_replayed() -> None:
    policy = Remembering()
    late = {"latency": "3", "meanwhile": "prefix", "episodes": 2}
    run = evaluate("toy", policy, workers=2, num_envs=4, run=Path("run"), **late).run
    with Ledger.open_read_only(run) as ledger:
        records = ledger.records(with_actions=True)
    assert len(records) == 4
    for record in records:
        assert record.key.split("/")[1] == "standard-delay_steps3-meanwhileprefix@1"
        answers = policy.answers[record.key]
        expected = np.concatenate([answers[0][:5], *(answer[3:8] for answer in answers[1:])])
        late_steps = [prefix for prefix in policy.prefixes[record.key] if prefix is not None]
        np.testing.assert_array_equal(
            late_steps, [answer[8 - 3 * (number == 0) :][:3] for number, answer in enumerate(answers[:-1])]
        )
        actions = [*record.actions]
        del actions[:3]  # the robot waits for its first answer
        own = [step for number in range(0, len(actions), 8) for step in actions[number : number + 5]]
        np.testing.assert_array_equal(own, expected[: len(own)])
    replays: list[Replay] = []
    replay_run(run, [record.key for record in records], replays.append)
    assert [replay.differences for replay in replays] == [()] * 4
    other = evaluate("toy", Remembering(), workers=1, num_envs=1, run=Path("other"), **late).run
    assert results(run) == results(other)
    assert results(run) != results(evaluate("toy", Remembering(), run=Path("prompt"), episodes=2).run)
    assert "delay_steps" not in Manifest.load(Path("prompt")).identity.suites[0].protocol


@pytest.mark.slow
@pytest.mark.usefixtures("toy_home")
def test_a_measured_latency_is_the_policys_own_and_stays_a_runs_own(caplog: pytest.LogCaptureFixture) -> None:
    pauses = [0.25]

    class Slow(Remembering):
        def act(self, requests: Sequence[Request]) -> list[Reply]:
            time.sleep(pauses[0])
            return super().act(requests)

    def delay() -> int:
        done = evaluate("toy", Slow(), latency="measured", episodes=1, run=Path("run"))
        return Manifest.load(done.run).identity.suites[0].resolved.delay_steps

    assert delay() == 3  # at 10 Hz
    pauses[0] = 0.05
    assert delay() == 3


@pytest.mark.usefixtures("toy_home")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"latency": "5"}, r"takes 13 steps of each chunk, and the policy 'image-reader' predicts 12; choose fewer"),
        ({"latency": "9"}, "an answer has to arrive before the next request; run more steps of each chunk"),
        ({"latency": "soon"}, "latency is 'soon'; expected a number of control steps, or measured"),
        ({"meanwhile": "still"}, "no answer is late; give latency too"),
    ],
)
def test_a_latency_that_does_not_fit_is_refused_in_a_sentence(options: dict, sentence: str) -> None:
    with pytest.raises(VlarigError, match=sentence):
        evaluate("toy", Remembering(), run=Path("run"), episodes=1, **options)


@pytest.mark.usefixtures("toy_home")
def test_a_policy_that_takes_no_prefix_is_given_none() -> None:
    with pytest.raises(VlarigError, match="the policy 'image-reader' takes none; choose chunk or still"):
        evaluate("toy", ImageReader(), run=Path("run"), episodes=1, latency="2", meanwhile="prefix")


@pytest.mark.usefixtures("toy_home")
def test_late_steps_are_not_collected_for_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    from toy import suite

    monkeypatch.setattr(suite, "TOY_SUITE", replace(suite.TOY_SUITE, protocols=(LATE,)))
    with pytest.raises(VlarigError, match="'late' runs an answer's steps 3 steps late, so they cannot be learned from"):
        Rollouts({"toy": 1}, ImageReader(12))
