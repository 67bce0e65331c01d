"""The loop in the toy simulator: its first step, workers and deaths that change nothing, what it resumes, and that success rises."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from processes import workers_of
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.checkpoint import FileSystemReader
from tuning import SHORT, configuration, tuned, weights

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.errors import VlarigError
from vlarig.harness.cli import main
from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.scripted import RandomPolicy
from vlarig.rl.collection import Collector, Rollout, Saved, learned_protocol
from vlarig.rl.config import read_ppo_config
from vlarig.rl.start import averaging, evaluated, with_action_steps
from vlarig.training import checkpoints
from vlarig.training.checkpoints import Checkpoints
from vlarig.training.config import TrainingError
from vlarig.training.learner import rate
from vlarig.training.stopping import Stopped

# The first test clones the policy that all of them tune.
pytestmark = pytest.mark.timeout(900)


def test_the_default_is_the_papers_recipe() -> None:
    config = with_action_steps(read_ppo_config(None, ["model.source=small"]))
    assert config.rollout.n_action_steps == 16
    assert config.rollout.envs * config.rollout.chunks == 8192
    assert (config.ppo.gamma, config.ppo.decay, config.ppo.clip, config.ppo.epochs, config.ppo.value_weight) == (
        0.99,
        0.95,
        0.2,
        4,
        1,
    )
    assert (config.optimizer.expert.lr, config.optimizer.value_head.lr, config.rollout.temperature) == (5e-6, 1e-4, 1.0)
    assert config.updates_an_iteration == 16
    assert config.rollout.sde().form == "score_one"


def test_the_named_configurations_are_the_papers_and_one_for_two_cores() -> None:
    task = "rollout.tasks=['put_eggplant_in_basket']"
    paper, small = (read_ppo_config(Path(name), ["model.source=somewhere", task]) for name in ("paper", "simpler"))
    default = read_ppo_config(None, ["model.source=somewhere", task])
    rollout = default.rollout.model_copy(update={"n_action_steps": 16})
    assert paper == default.model_copy(update={"evaluation": paper.evaluation, "rollout": rollout})
    assert (small.rollout.form, small.rollout.temperature, small.rollout.envs) == ("noise_one", 0.6, 32)
    for config in (paper, small):
        settings = evaluated(config)
        assert settings is not None
        assert (settings.policy_options, settings.options["tasks"]) == ({"temperature": "0.6"}, ["put_eggplant_in_basket"])


def test_as_many_steps_of_a_chunk_are_run_as_the_policy_says() -> None:
    task = "rollout.tasks=['put_eggplant_in_basket']"
    for name, words, steps in [("simpler", [], 8), ("simpler", ["rollout.n_action_steps=4"], 4), ("paper", [], 16)]:
        config = with_action_steps(read_ppo_config(Path(name), [task, *words]))
        settings = evaluated(config)
        assert settings is not None
        assert config.rollout.n_action_steps == settings.options["n_action_steps"] == steps
    with pytest.raises(
        TrainingError, match=r"rollout.steps is 6, less than the 8 steps of a chunk that are run; make it larger"
    ):
        with_action_steps(read_ppo_config(None, ["rollout.steps=6"]))


def test_evaluations_that_average_chunks_are_warned_of() -> None:
    task = ["model.source=somewhere", "rollout.tasks=['put_eggplant_in_basket']", "rollout.n_action_steps=8"]
    small = read_ppo_config(Path("simpler"), task)
    assert averaging(small, 16) == []
    official = read_ppo_config(Path("simpler"), [*task, "evaluation.options={protocol = 'starvla'}"])
    (warning,) = averaging(official, 16)
    assert "evaluations of simpler_widowx play by its protocol 'starvla', which averages overlapping chunks" in warning
    assert "one that does not (groot, chunked)" in warning
    assert averaging(official, 8) == []  # chunks that are run to their end do not overlap
    whole = read_ppo_config(Path("simpler"), [*task, "evaluation.options={protocol = 'starvla', n_action_steps = 16}"])
    assert averaging(whole, 16) == []


@pytest.mark.slow
def test_a_run_says_at_its_start_what_the_noise_of_rollouts_leaves(home: None) -> None:
    measured = ["iterations=1", "evaluation={suites = ['seen'], options = {episodes = 8, workers = 1}}"]
    found = tuned(Path("run"), *measured, "rollout.temperature=20")
    success, explored = found.numbers[0]["eval/success"], found.numbers[0]["eval/success_exploring"]
    assert explored < 0.7 * success
    noise = "rollout.form=score_one, temperature 20"
    said = f"success at the start: {success:.1%}, and {explored:.1%} with the noise of rollouts ({noise})"
    assert said in found.notes
    assert any(note.startswith("warning: rollouts will succeed far less often") for note in found.notes)
    assert main(["page", "run", "--out", "site"]) == 0
    index = Path("site/index.html").read_text()
    assert all(name in index for name in ("exploring-00000000", "step-00000000", "step-00000001"))
    assert main(["doctor", "run"]) == 0


@pytest.mark.parametrize(("suite", "rule"), [("simpler_widowx", "first"), ("simpler_ood", "held"), ("tabletop", "held")])
def test_a_learned_episode_ends_at_its_success(suite: str, rule: str) -> None:
    settings = read_ppo_config(None, ["model.source=somewhere"]).rollout
    protocol = learned_protocol(load_suite(suite), settings, RandomPolicy())
    assert (protocol.stop_on_success, protocol.success_rule, protocol.n_action_steps) == (True, rule, 16)
    named = settings.model_copy(update={"protocols": {"simpler_widowx": "chunked"}})
    assert not learned_protocol(load_suite("simpler_widowx"), named, RandomPolicy()).stop_on_success


@pytest.mark.slow
def test_nothing_has_moved_before_the_first_step_and_nothing_moves_at_rate_0(home: None) -> None:
    rates = ["optimizer.expert.lr=0", "optimizer.value_head.lr=0"]
    for numbers in tuned(Path("run"), *rates).numbers.values():
        assert numbers["losses/first_ratio"] == pytest.approx(1, abs=1e-5)
        assert numbers["losses/ratio"] == pytest.approx(1, abs=1e-5)
        for name in ("approx_kl", "kl_after", "clipfrac", "clipfrac_after", "dual_clipfrac"):
            assert numbers[f"losses/{name}"] == pytest.approx(0, abs=1e-8), name


@pytest.mark.slow
def test_workers_change_nothing(home: None) -> None:
    found = [tuned(Path(f"run{workers}"), f"rollout.workers={workers}").without_times() for workers in (1, 2, 4)]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 3
    one, four = weights(Path("run1")), weights(Path("run4"))
    assert all(torch.equal(one[name], four[name]) for name in one)


def test_a_long_rollout_says_how_far_it_is(home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlarig.rl.run.PATIENCE", 0.0)
    notes = tuned(Path("run"), "iterations=1").notes
    assert any(re.fullmatch(r"iteration 1: 24 of 24 chunks, \d+ episodes, of which \d+% succeeded", note) for note in notes)


@pytest.mark.slow
def test_a_worker_that_dies_changes_nothing(home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = tuned(Path("undisturbed"))
    collect = Collector.collect

    def killing(collector: Collector, *given: Any) -> Rollout:
        victim = workers_of(os.getpid())[0]
        os.kill(victim, signal.SIGKILL)
        return collect(collector, *given)

    monkeypatch.setattr(Collector, "collect", killing)
    assert tuned(Path("killed")).without_times() == undisturbed.without_times()


@pytest.mark.slow
def test_the_same_call_goes_on_bit_equal(home: None) -> None:
    whole = tuned(Path("whole"))
    shutil.copytree("whole", "half")
    shutil.rmtree(Path("half", "checkpoints", "step-00000003"))
    shutil.rmtree(Path("half", "checkpoints", "step-00000002"))
    again = tuned(Path("half"), "rollout.workers=2")
    assert again.first == 1
    assert again.without_times() == {step: numbers for step, numbers in whole.without_times().items() if step > 1}
    found, expected = weights(Path("half")), weights(Path("whole"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_checkpoint_has_a_policy_that_refers_to_the_one_it_was_tuned_from(home: None) -> None:
    tuned(Path("run"), "iterations=1")
    folder = Path("run/checkpoints/step-00000001")
    policy = load(str(folder / "policy"))
    whole = weights(Path("run"))
    assert all(torch.equal(weight, whole[name]) for name, weight in policy.model.state_dict().items() if name in whole)
    assert policy.description.trained[-1].stage == "ppo"
    own = {name.partition(".")[0] for name in load_file(folder / "policy/model.safetensors")}
    assert own == {"expert", "value_head"}
    assert not [name for name in FileSystemReader(folder).read_metadata().state_dict_metadata if "backbone" in name]
    again = tuned(Path("again"), "model.source=run/checkpoints/step-00000001/policy", "iterations=1")
    assert again.numbers[1]["losses/first_ratio"] == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_the_shipped_policy_is_tuned_where_none_is_named(tmp_path: Path) -> None:
    stack = ["rollout.suites=['tabletop']", "rollout.tasks=['stack']", "rollout.envs=2", "rollout.epochs=1", "iterations=1"]
    tuned(tmp_path, "model.source=''", *stack)
    stages = [stage.stage for stage in load(str(tmp_path / "policy")).description.trained]
    assert stages == [*(stage.stage for stage in load("").description.trained), "ppo"]


def test_a_run_whose_policy_was_replaced_is_refused(home: None) -> None:
    tuned(Path("run"), "iterations=1")
    file = Path("sft/policy/model.safetensors")
    save_file({name: weight + 1 for name, weight in load_file(file).items()}, file)
    with pytest.raises(TrainingError, match="sft/policy is another policy than when run began"):
        tuned(Path("run"), "iterations=2")


def test_the_backbone_can_learn_too(home: None) -> None:
    numbers = tuned(Path("run"), "model.frozen=[]", "optimizer.backbone.lr=1e-3", "iterations=1").numbers[1]
    assert numbers["losses/first_ratio"] == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_replicas_act_as_the_training_itself_does(home: None) -> None:
    alone, side_by_side = tuned(Path("alone")), tuned(Path("replicas"), "rollout.replicas=2")
    for step, numbers in alone.numbers.items():
        for name in ("env/success", "env/episode_len", "losses/kl_after", "rollout/returns"):
            assert side_by_side.numbers[step][name] == pytest.approx(numbers[name], rel=1e-3), name


@pytest.mark.slow
def test_the_next_rollout_may_be_collected_during_the_update(home: None) -> None:
    found = tuned(Path("run"), "rollout.lag=1")
    assert [numbers["rollout/lag"] for numbers in found.numbers.values()] == [0, 1, 1]
    assert found.numbers[1]["losses/first_ratio"] == pytest.approx(1, abs=1e-5)
    assert found.numbers[2]["losses/first_ratio"] != pytest.approx(1, abs=1e-5)
    shutil.copytree("run", "half")
    shutil.rmtree(Path("half", "checkpoints", "step-00000003"))
    again = tuned(Path("half"), "rollout.lag=1")
    assert again.numbers[3]["rollout/lag"] == 0
    keys = "env/episodes"
    assert again.numbers[3][keys] == found.numbers[3][keys]


@pytest.mark.slow
def test_two_processes_share_envs_and_weights(home: None) -> None:
    """Under torchrun; each plays half of the envs, so that they see the episodes of one process."""
    gentle = ["optimizer.expert.lr=1e-4", "iterations=2"]
    alone = tuned(Path("alone"), *gentle)
    words = ["train", "ppo", "--run", "shared", "--track", "tensorboard", "--override", *SHORT[:-1], *gentle]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    subprocess.run([*torchrun, "vlarig.harness", *words], check=True)
    events = EventAccumulator("shared/tensorboard").Reload()
    for name in ("env/episodes", "env/success", "env/episode_len", "rollout/returns"):
        first, second = (event.tensor_proto.float_val[0] for event in events.Tensors(name))
        assert first == pytest.approx(alone.numbers[1][name], rel=1e-3), name
        assert second >= 0
    with pytest.raises(TrainingError, match="step-00000002 is of 2 processes that rolled out, and there are 1; start as many"):
        shutil.rmtree("shared/policy")
        config = json.loads(Path("shared/config.json").read_text())
        Path("shared/config.json").write_text(json.dumps(config | {"iterations": 3}))
        tuned(Path("shared"), *gentle[:1], "track=['tensorboard']")


def test_divergence_can_end_an_epoch_and_a_run(home: None) -> None:
    wild = ["optimizer.expert.lr=3e-2"]
    assert tuned(Path("bounded"), *wild, "ppo.target_kl=1e-6", "iterations=1").numbers[1]["losses/epochs"] == 1
    with pytest.raises(TrainingError, match=r"iteration 1 went .* away from its rollout's policy, more than collapse.kl 1e-06"):
        tuned(Path("ended"), *wild, "collapse.kl=1e-6")
    assert not list(Path("ended/checkpoints").glob("step-*")), "the weights that went astray are kept"


@pytest.mark.slow
def test_a_run_whose_success_collapses_goes_on_from_its_best_iteration(home: None) -> None:
    wild = ["rollout.envs=16", "iterations=8", "checkpoints.keep=1"]
    with pytest.raises(
        TrainingError, match=r"less than collapse.success 0.9 of the best iteration's \d+.\d%; .* goes on"
    ) as ended:
        tuned(Path("run"), *wild, "optimizer.expert.lr=3e-1", "collapse.success=0.9")
    back = int(str(ended.value).partition("back after iteration ")[2].partition(",")[0])
    assert [each.name for each in Path("run/checkpoints").glob("step-*")] == [f"step-{back:08d}"] * (back > 0)
    again = tuned(Path("run"), *wild, "optimizer.expert.lr=1e-6", f"iterations={back + 1}")
    assert (again.first, max(again.numbers)) == (back, back + 1)


def test_without_a_success_the_policy_does_not_move(home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    collect, unlucky = Collector.collect, [False, True, False]

    def failing(collector: Collector, *given: Any) -> Rollout:
        rollout = collect(collector, *given)
        return replace(rollout, rewards=0 * rollout.rewards) if unlucky.pop(0) else rollout

    monkeypatch.setattr(Collector, "collect", failing)
    found = tuned(Path("run"), "optimizer.value_head.lr=1e-2")
    moved = [numbers["losses/kl_after"] for numbers in found.numbers.values()]
    assert moved[1] == pytest.approx(0, abs=1e-8)
    assert min(moved[0], moved[2]) > 1e-6
    first, second, third = (weights(Path(f"run/checkpoints/step-{step:08d}")) for step in (1, 2, 3))
    acting = [name for name in first if not name.startswith("value_head.")]
    assert 0 < len(acting) < len(first)
    assert all(torch.equal(first[name], second[name]) for name in acting)
    assert not all(torch.equal(second[name], third[name]) for name in acting)
    assert "iteration 2 had no success, so the value head alone learned from it" in found.notes


@pytest.mark.slow
def test_shuffled_rewards_are_the_same_ones_at_other_ends(home: None) -> None:
    """The first rollout is the same; what is learned of it is not."""
    many = ["rollout.envs=16", "iterations=1"]
    true, shuffled = (
        tuned(Path("true"), *many).numbers[1],
        tuned(Path("shuffled"), *many, "ppo.shuffle_rewards=true").numbers[1],
    )
    assert shuffled["env/success"] == true["env/success"]
    assert shuffled["rollout/rewards"] == true["rollout/rewards"]
    assert shuffled["losses/policy_loss"] != true["losses/policy_loss"]


def test_the_value_head_may_learn_first(home: None) -> None:
    overrides = ["ppo.value_warmup=1", "optimizer.value_head.lr=1e-2", "optimizer.expert={lr = 1e-3, warmup = 0.5}"]
    numbers = tuned(Path("run"), *overrides).numbers
    assert numbers[1]["losses/kl_after"] == pytest.approx(0, abs=1e-8)
    assert numbers[2]["losses/kl_after"] > 0
    config = configuration(*overrides)
    steps = config.updates_an_iteration  # of two iterations' in which its schedule passes
    assert numbers[2]["lr/expert"] == pytest.approx(rate(config.optimizer.expert, steps - 1, 2 * steps))


@pytest.mark.slow
def test_the_value_head_may_be_fitted_to_each_rollout(home: None) -> None:
    found = tuned(Path("run"), "ppo.value_fit=true", "rollout.envs=32", "iterations=1").numbers[1]
    assert found["losses/first_ratio"] == pytest.approx(1, abs=1e-5)
    assert found["rollout/explained_variance"] > -0.05  # of values by other envs: without a fit all are 0
    assert found["rollout/values"] == pytest.approx(found["rollout/returns"], abs=0.1)
    assert weights(Path("run"))["value_head.readout.weight"].any()


@pytest.mark.slow
def test_initial_states_may_come_again_and_be_what_episodes_are_compared_with(home: None) -> None:
    again = ["rollout.states=2", "rollout.states_by=success", "ppo.baseline=states", "rollout.envs=8", "iterations=3"]
    whole = tuned(Path("whole"), *again)
    shutil.copytree("whole", "half")
    for step in (2, 3):
        shutil.rmtree(Path("half", "checkpoints", f"step-{step:08d}"))
    assert tuned(Path("half"), *again).without_times() == {step: n for step, n in whole.without_times().items() if step > 1}
    found = msgspec.msgpack.decode(Path("whole/checkpoints/step-00000003/envs_0.msgpack").read_bytes(), type=Saved)
    episodes = sum(numbers["env/episodes"] for numbers in whole.numbers.values())
    assert sum(played for known in found.states.values() for _, played in known) == episodes
    assert [len(known) for known in found.states.values()] == [2, 2]


def test_noise_may_fall(home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    collect, levels = Collector.collect, []

    def watched(collector: Collector, *given: Any) -> Rollout:
        rollout = collect(collector, *given)
        levels.append(rollout.sde.level)
        return rollout

    monkeypatch.setattr(Collector, "collect", watched)
    found = tuned(Path("run"), "rollout.noise_level=0.8", "rollout.noise_final=0.5")
    assert levels == pytest.approx([0.8, 0.6, 0.4])
    assert all(numbers["losses/first_ratio"] == pytest.approx(1, abs=1e-5) for numbers in found.numbers.values())


@pytest.mark.slow
def test_more_iterations_go_on_with_the_rates_that_were_planned(home: None) -> None:
    overrides = ["optimizer.expert={lr = 1e-3, final = 0.5}", "checkpoints.keep=1"]
    tuned(Path("run"), *overrides, "iterations=1")
    more = tuned(Path("run"), *overrides, "iterations=3")
    assert more.numbers[2]["lr/expert"] == pytest.approx(5e-4)
    assert any("learning rates fall over 1 iterations" in note for note in more.notes)


def test_each_seed_has_initial_states_of_its_own_and_time_is_told_apart(home: None) -> None:
    one, other = (tuned(Path(f"run{seed}"), f"seed={seed}", "iterations=1").numbers[1] for seed in (0, 1))
    assert one["env/success/seen/reach_red"] != other["env/success/seen/reach_red"] or (
        one["env/episode_len"] != other["env/episode_len"]
    )
    assert one["env/steps"] <= 4 * 2 * 24
    assert one["charts/SPS"] == pytest.approx(one["env/steps"] / one["time/iteration"], rel=0.05)
    assert 0 < one["time/simulate"] + one["time/policy"] < one["time/collect"] + 1


@pytest.mark.slow
def test_an_evaluation_that_was_under_way_is_finished(home: None) -> None:
    measured = ["iterations=1", "evaluation={suites = ['seen'], every = 1, options = {episodes = 2, workers = 1}}"]
    whole = tuned(Path("run"), *measured).numbers[1]["eval/success"]
    for name in ("evaluations", "best", "policy"):
        shutil.rmtree(Path("run", name))
    Path("run/best.json").unlink()
    again = tuned(Path("run"), *measured)
    assert list(again.numbers) == [1]
    assert again.numbers[1]["eval/success"] == whole
    assert Path("run/best/config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "says"),
    [
        (Collector, "go_on", "the same command makes the iteration again"),
        (Checkpoints, "save", "saved; the same command goes on"),
    ],
)
def test_the_first_signal_is_obeyed_whenever_it_comes(
    home: None, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, says: str
) -> None:
    tuned(Path("run"), "iterations=1")
    original = getattr(owner, name)

    def signalled(self: object, *given: object, **named: object) -> None:
        original(self, *given, **named)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched, pytest.raises(Stopped, match=says):
        patched.setattr(owner, name, signalled)
        tuned(Path("run"))
    assert tuned(Path("run")).first == (1 if owner is Collector else 2)


@pytest.mark.slow
def test_a_signal_while_a_checkpoint_is_written_loses_no_iteration(home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch wraps whatever is raised while it writes."""
    original = checkpoints.save

    def signalled(*given: object, **named: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*given, **named)

    with monkeypatch.context() as patched, pytest.raises(Stopped, match="stopped and saved; the same command goes on"):
        patched.setattr(checkpoints, "save", signalled)
        tuned(Path("run"))
    assert tuned(Path("run")).first == 1


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.source=tiny"], "tiny was made by no stage of vlarig train, and PPO goes on from a checkpoint of 'sft'"),
        (["rollout.envs=1", "rollout.groups=1"], "there are 1 envs for 2 tasks"),
        (["rollout.tasks=['fly']"], "'fly' is a task of none of seen"),
        (["rollout.groups=3"], "4 envs cannot be put into 3 equal groups"),
        (["rollout.success={'seen/reach_red' = 0.5}"], "rollout.success does not say how well 'seen/reach_blue' is done"),
        (
            ["rollout.success={'seen/reach_red' = 0, 'seen/reach_blue' = 0}"],
            "rollout.success is 0 for every task, and where no episode succeeds there is no reward to learn from",
        ),
        (["ppo.baseline=states"], "need states that come again; set rollout.states"),
        (["rollout.steps=4"], "an epoch of 4 steps has no chunk of 8"),
        (["rollout.n_action_steps=20"], "n_action_steps is 20, and the policy 'qwen-vla' predicts 16 steps at a time"),
        (["model.frozen=['value_head']"], "model.frozen names value_head, which PPO needs"),
        (["rollout.protocols={seen = 'ensembled'}", "rollout.n_action_steps=1"], "combines overlapping chunks of the policy"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_rollout(home: None, overrides: list[str], says: str) -> None:
    with pytest.raises(VlarigError, match=says):
        tuned(Path("run"), *overrides)
    assert not Path("run").exists()


def test_a_checkpoint_without_a_value_head_is_refused(home: None) -> None:
    file = Path("sft/policy/model.safetensors")
    save_file({name: weight for name, weight in load_file(file).items() if "value_head" not in name}, file)
    with pytest.raises(VlarigError, match="value_head"):
        tuned(Path("run"))
    assert not Path("run").exists()


def test_the_harder_task_gets_more_envs(home: None) -> None:
    success = "rollout.success={'seen/reach_red' = 0.0, 'seen/reach_blue' = 0.75}"
    reporter = tuned(Path("run"), success, "rollout.envs=10", "iterations=1")
    allotted, shares = reporter.notes
    assert allotted == "envs of seen: reach_red 8, reach_blue 2"
    assert re.fullmatch(r"in rollouts: seen/reach_blue [01]\.\d\d, seen/reach_red [01]\.\d\d", shares)


@pytest.mark.parametrize(
    ("stage", "lines"),
    [
        ("ppo", ["rollout.envs = 128", "ppo.target_kl = (none)", 'model.source = ""', "optimizer.expert.lr = 5e-06"]),
        *((stage, [f'stage = "{stage}"', "data.source = (required)"]) for stage in ("backbone", "t2a", "cpt", "sft")),
        ("t2a", ["data.images = false", 'objective.time.distribution = "sigmoid_normal"', "evaluation.every = 1000"]),
    ],
)
def test_a_stages_help_lists_its_configuration(capsys: pytest.CaptureFixture[str], stage: str, lines: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", stage, "--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {line}\n" in shown for line in lines)
    assert "Rollout epochs of an iteration (section 4.2)." in shown or stage != "ppo"


def test_the_commands_help_needs_no_torch() -> None:
    subprocess.run([sys.executable, "-c", "import sys, vlarig.training.command; assert 'torch' not in sys.modules"], check=True)


def test_the_command_tunes(home: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ppo", "--run", "run", "--override", *SHORT, "iterations=2"]) == 0
    shown = capsys.readouterr().out
    assert "the trained policy: qwen-vla:run/policy" in shown
    assert re.search(
        r"iteration 2 of 2: success_in_rollouts [^\n]*; 0:00:00 left\nin rollouts: seen/reach_blue [01]\.\d\d, seen/reach_red",
        shown,
    )
    assert main(["policy", "inspect", "run/policy"]) == 0
    assert "ppo" in capsys.readouterr().out


def rising(run: Path, *overrides: str) -> list[float]:
    found = tuned(
        run,
        "rollout.envs=64",
        "rollout.epochs=4",
        "rollout.workers=2",
        "ppo.minibatch=256",
        "ppo.micro_batch=256",
        "optimizer.expert={lr = 1e-4, schedule = 'constant'}",
        "optimizer.value_head.lr=1e-3",
        "iterations=8",
        *overrides,
    )
    return [numbers["env/success"] for _, numbers in sorted(found.numbers.items())]


@pytest.mark.slow
def test_envs_are_allotted_again_by_the_success_of_rollouts(home: None) -> None:
    again = ["seed=6", "rollout.envs=8", "rollout.reallot_every=2", "iterations=5", "rollout.epochs=4"]
    whole = tuned(Path("whole"), *again)
    allotments = [note for note in whole.notes if note.startswith("envs of")]
    assert allotments[0] == "envs of seen: reach_red 4, reach_blue 4"
    assert len(allotments) > 1  # one task succeeds more often than the other, and then less
    shutil.copytree("whole", "half")
    for step in (3, 4, 5):
        shutil.rmtree(Path("half", "checkpoints", f"step-{step:08d}"))
    assert tuned(Path("half"), *again).without_times() == {step: n for step, n in whole.without_times().items() if step > 2}
    behind = tuned(Path("behind"), *again, "rollout.lag=1", "iterations=3")
    assert [numbers["rollout/lag"] for numbers in behind.numbers.values()] == [0, 1, 0]


@pytest.mark.slow
def test_success_rises(home: None) -> None:
    found = rising(Path("run"))
    assert sum(found[-2:]) / 2 > found[0] + 0.1
