"""Overlapping predictions become one step as benchmarks' evaluators make it, and a record holds the steps that were carried out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from comparing import results
from toy.policies import ImageReader
from toy.suite import ENSEMBLED, FAULTY_SUITE

from vlarig.envs.episode import Ensemble
from vlarig.envs.errors import VlarigError
from vlarig.harness import Rollouts, evaluate
from vlarig.harness.played_env import Ensembler
from vlarig.harness.replay import Replay, replay_run
from vlarig.harness.rollouts import training_stream
from vlarig.policies.api import Reply, Request
from vlarig.results.ledger import Ledger

#: Twelve chunks of 16 steps, and what the evaluators' own classes made of them, one after the other, with numpy 2.4:
#: ``adaptive`` and ``adaptive_float32`` are ``AdaptiveEnsembler(7, 0.1)`` of starVLA/starVLA
#: examples/simBenchmarks/SimplerEnv/eval_files/adaptive_ensemble.py@0ed0aad, given the chunks as float64 and as float32; ``mean`` and
#: ``mean_aged`` are ``ActionEnsembler(4, 0.0)`` and ``ActionEnsembler(4, 0.5)`` of simpler-env/SimplerEnv
#: simpler_env/utils/action/action_ensemble.py@4ab7178, given the first four steps of each.
GOLDEN = Path(__file__).parent / "data" / "ensembles.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def play(ensemble: Ensemble | None, chunks: Sequence[np.ndarray] | np.ndarray, n_action_steps: int = 1) -> np.ndarray:
    ensembler = Ensembler(ensemble)
    return np.concatenate([ensembler.steps(chunk, n_action_steps) for chunk in chunks])


@pytest.mark.parametrize(
    ("name", "ensemble", "length"),
    [
        ("adaptive", Ensemble("adaptive", 7, 0.1), 16),
        ("mean", Ensemble("mean", 4), 4),
        ("mean_aged", Ensemble("mean", 4, 0.5), 4),
    ],
)
def test_steps_are_those_of_the_evaluators(golden: dict[str, np.ndarray], name: str, ensemble: Ensemble, length: int) -> None:
    steps = play(ensemble, golden["chunks"][:, :length])
    assert steps.dtype == np.float32
    np.testing.assert_array_equal(steps, golden[name].astype(np.float32))


def test_starvlas_own_rounding_is_the_only_difference(golden: dict[str, np.ndarray]) -> None:
    """StarVLA's server answers with float32, in which its client goes on to work."""
    steps = play(Ensemble("adaptive", 7, 0.1), golden["chunks"])
    np.testing.assert_allclose(steps, golden["adaptive_float32"], rtol=0, atol=2 * np.finfo(np.float32).eps)


def telling_chunks(lengths: Sequence[int], n_action_steps: int) -> list[np.ndarray]:
    """Chunks whose steps say which step they are for (first channel) and which chunk they are of (a 1 in its own channel)."""
    chunks = []
    for number, length in enumerate(lengths):
        chunk = np.zeros((length, 1 + len(lengths)), np.float32)
        chunk[:, 0] = number * n_action_steps + np.arange(length)
        chunk[:, 1 + number] = 1
        chunks.append(chunk)
    return chunks


@pytest.mark.parametrize("n_action_steps", [1, 2, 3])
@pytest.mark.parametrize("rule", ["mean", "adaptive"])
def test_predictions_for_one_step_are_combined(rule: str, n_action_steps: int) -> None:
    steps = play(Ensemble(rule, 3, 0.5), telling_chunks([7] * 6, n_action_steps), n_action_steps)
    np.testing.assert_allclose(steps[:, 0], np.arange(6 * n_action_steps), rtol=1e-6)
    np.testing.assert_allclose(steps[:, 1:].sum(axis=1), 1, rtol=1e-6)
    for step_index, step in enumerate(steps):
        newest = step_index // n_action_steps
        reaching = [chunk for chunk in range(max(0, newest - 2), newest + 1) if step_index - chunk * n_action_steps < 7]
        assert list(np.flatnonzero(step[1:])) == reaching


def test_a_chunk_that_does_not_reach_a_moment_has_no_say() -> None:
    steps = play(Ensemble("mean", 7), telling_chunks([2, 4, 2, 2, 1], 1))
    assert [list(np.flatnonzero(step[1:])) for step in steps] == [[0], [0, 1], [1, 2], [1, 2, 3], [1, 3, 4]]


def test_a_positive_alpha_of_the_mean_trusts_older_predictions() -> None:
    last = play(Ensemble("mean", 3, 1.0), telling_chunks([3] * 3, 1))[-1]
    np.testing.assert_allclose(last[2:] / last[1:-1], np.exp(-1), rtol=1e-6)


def test_adaptive_trusts_predictions_that_agree_with_the_newest() -> None:
    agrees, contradicts, newest = (np.array([step] * 3, np.float32) for step in ([1, 0.1], [-1, 0.1], [1, 0]))
    plain = play(Ensemble("mean", 3), [agrees, contradicts, newest])[-1]
    trusting = play(Ensemble("adaptive", 3, 2.0), [agrees, contradicts, newest])[-1]
    assert trusting[0] > plain[0] + 0.3


@pytest.mark.parametrize("ensemble", [None, Ensemble("adaptive", 1, 0.1), Ensemble("mean", 1)])
def test_without_overlap_steps_are_the_policys_own(golden: dict[str, np.ndarray], ensemble: Ensemble | None) -> None:
    np.testing.assert_array_equal(play(ensemble, golden["chunks"]), golden["chunks"][:, 0])
    np.testing.assert_array_equal(play(Ensemble("adaptive", 7, 0.1), golden["chunks"][:, :1]), golden["chunks"][:, 0])


@pytest.mark.parametrize("alpha", [-1e4, 1e4])
@pytest.mark.parametrize("rule", ["mean", "adaptive"])
def test_steps_are_finite_for_any_alpha(golden: dict[str, np.ndarray], rule: str, alpha: float) -> None:
    chunks = golden["chunks"].copy()
    chunks[3:5] = 0
    assert np.isfinite(play(Ensemble(rule, 7, alpha), chunks)).all()


class Remembering(ImageReader):
    """Keeps its answers by episode."""

    def __init__(self) -> None:
        super().__init__(horizon=6)
        self.answers: dict[str, list[np.ndarray]] = defaultdict(list)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        replies = super().act(requests)
        for request, reply in zip(requests, replies, strict=True):
            self.answers[request.key].append(reply.actions)
        return replies


@pytest.fixture
def faults(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A simulator that has not crashed yet, and does not until the test lets it."""
    (toy_home / "counts").mkdir()
    monkeypatch.setenv("VLARIG_TEST_COUNTS", str(toy_home / "counts"))
    monkeypatch.setenv("VLARIG_TEST_FAULT", "crash:reach_red/1:0")
    return monkeypatch


def sweep(policy: ImageReader, run: str) -> dict[str, dict]:
    return results(evaluate("faulty", policy, protocol="ensembled", workers=1, num_envs=2, episodes=2, run=Path(run)).run)


@pytest.mark.slow
def test_ensembled_steps_are_carried_out_recorded_and_replayed(faults: pytest.MonkeyPatch) -> None:
    policy = Remembering()
    sweep(policy, "run")
    with Ledger.open_read_only(Path("run")) as ledger:
        records = ledger.records(with_actions=True)
    assert len(records) == 4
    for record in records:
        answers = policy.answers[record.key]
        np.testing.assert_array_equal(record.actions, play(ENSEMBLED.ensemble, answers))
        assert not np.array_equal(record.actions, [answer[0] for answer in answers])
    replays: list[Replay] = []
    replay_run(Path("run"), [record.key for record in records], replays.append)
    assert [replay.differences for replay in replays] == [()] * 4


@pytest.mark.slow
def test_a_crash_in_mid_episode_does_not_disturb_the_memory(faults: pytest.MonkeyPatch, toy_home: Path) -> None:
    undisturbed = sweep(ImageReader(6), "undisturbed")
    faults.setenv("VLARIG_TEST_FAULT", "crash:reach_red/1:2")
    assert sweep(ImageReader(6), "disturbed") == undisturbed
    assert len(list((toy_home / "counts").iterdir())) == 2


def test_actions_changed_by_an_ensemble_are_not_collected_for_learning(toy_home: Path) -> None:
    with pytest.raises(VlarigError, match=r"'ensembled' combines overlapping chunks .* without an ensemble \(standard\)"):
        Rollouts({"faulty": 1}, ImageReader(6), protocols={"faulty": "ensembled"})
    streams = [training_stream(FAULTY_SUITE, FAULTY_SUITE.tasks[0], ENSEMBLED, 0, 1)]
    with (
        pytest.raises(VlarigError, match="'ensembled' combines overlapping chunks"),
        Rollouts({"faulty": 1}, ImageReader(6), protocols={"faulty": "standard"}, streams={"faulty": streams}) as rollouts,
    ):
        rollouts.collect(1)


def test_answers_of_one_step_can_be_learned_from(faults: pytest.MonkeyPatch) -> None:
    with Rollouts({"faulty": 1}, ImageReader(1), protocols={"faulty": "ensembled"}) as rollouts:
        (transitions,) = rollouts.collect(3)
    for transition in transitions:
        np.testing.assert_array_equal(transition.actions, transition.reply.actions)
