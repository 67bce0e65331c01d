"""The loop: what it writes, what it resumes, what it refuses, and that it learns."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demonstrations import Mixed, Random, Squares
from kept_numbers import Numbers
from safetensors.torch import load_file
from training_process import OVERRIDES, configuration

from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.harness.commands.policy import main as policy_command
from vlarig.policies.api import PolicyError, Request
from vlarig.policies.qwen_vla.acceleration import attention_for_training
from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.flow import SigmoidNormal
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, Statistics, bounds_statistics
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.training.batches import Collator
from vlarig.training.config import TrainConfig, TrainingError, read_config
from vlarig.training.stopping import Stopped
from vlarig.training.trainer import train


def trained(config: TrainConfig, run: Path, stream: Any = None) -> Numbers:
    reporter = Numbers()
    train(config, run, reporter, stream or Mixed())
    return reporter


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "policy" / "model.safetensors")


@pytest.mark.slow
def test_micro_batches_give_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    """Samples of several lengths and robots in different micro-batches: their losses count as in one batch."""
    for size in (1, 4, 8):
        found = trained(configuration("steps=4", f"micro_batch_size={size}"), tmp_path / str(size)).numbers
        if size == 1:
            expected = found
        for step, numbers in found.items():
            for name in ("train/loss", "train/gradient_norm", "train/weight_norm"):
                assert numbers[name] == pytest.approx(expected[step][name], rel=2e-5), (size, step, name)


def test_the_trained_policy_plays_the_streams_robots(tmp_path: Path) -> None:
    trained(configuration("steps=3", "optimizer.ema=0.5"), tmp_path)
    policy = QwenVlaPolicy(str(tmp_path / "policy"))
    assert [each.name for each in policy.embodiments] == ["libero_panda", "widowx_bridge"]
    for robot in (LIBERO_PANDA, WIDOWX_BRIDGE):
        policy.check("suite", robot)
        sample = Random(embodiments=(robot, robot))[0]
        (reply,) = policy.act([Request(0, "key", 0, 1, sample.observation, robot, 16)])
        assert reply.actions.shape == (16, 7)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["optimizer"]["ema"] == 0.5
    assert saved["objective"]["language_weight"] == 0.1


def test_what_the_stream_has_to_say_is_said(tmp_path: Path) -> None:
    stream = Mixed()
    stream.notes = ("two robots", "and words")
    assert trained(configuration("steps=1"), tmp_path, stream).notes == ["two robots", "and words"]


def test_steps_after_an_episodes_end_are_masked() -> None:
    sample = dataclasses.replace(Random()[0], actions=Random()[0].actions[:5], horizon=16)
    bundle = load("tiny")
    collator = Collator(InputBuilder(bundle.description.config, bundle.tokenizer), Random().statistics, SigmoidNormal(), seed=0)
    batch = collator([(0, sample)]).batch
    assert batch.chunks is not None
    assert batch.chunks.mask[0].any(1).tolist() == [True] * 5 + [False] * 11
    assert "predict the next 16 control actions" in bundle.tokenizer.decode(batch.inputs.input_ids[0])
    assert batch.chunks.mask[0, 0].sum() == 7


def test_each_stage_goes_on_from_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stage(name: str, source: str, *overrides: str) -> str:
        config = read_config(name, None, (*OVERRIDES, "steps=1", f"model.source={source}", *overrides))
        trained(config, tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")
        return str(max(tmp_path.iterdir(), key=lambda run: run.stat().st_mtime) / "policy")

    t2a = stage("t2a", "tiny")
    with pytest.raises(
        TrainingError, match=r"made by the stage 't2a', and 'sft' goes on from a checkpoint of 'cpt' or a preset; name one"
    ):
        stage("sft", t2a)
    with pytest.raises(TrainingError, match=r"^the shipped policy was made by the stage 'backbone', and 'sft' goes on from"):
        stage("sft", "")
    cpt = stage("cpt", t2a)
    sft = stage("sft", cpt)
    with pytest.raises(
        TrainingError, match=r"made by the stage 'sft', and 'cpt' goes on from a checkpoint of 't2a' or a preset"
    ):
        stage("cpt", sft)
    with pytest.raises(TrainingError, match=r"made by the stage 'cpt', and 't2a' goes on from a checkpoint of 'backbone' or"):
        stage("t2a", cpt)
    again = stage("cpt", sft, "model.any_checkpoint=true")
    assert [each.stage for each in load(again).description.trained] == ["t2a", "cpt", "sft", "cpt"]
    assert policy_command(["inspect", again]) == 0
    assert "trained by t2a 1 steps (8 samples) cpt 1 steps (8 samples) sft" in " ".join(capsys.readouterr().out.split())

    (Path(cpt) / "training.json").unlink()
    with pytest.raises(TrainingError, match=r"made by no stage of vlarig train, and 'sft' goes on from"):
        stage("sft", cpt)
    (Path(cpt) / "training.json").write_text('[{"stage": 3}]')
    with pytest.raises(PolicyError, match=r"training.json: the list of stages"):
        load(cpt)


def test_t2a_goes_on_from_a_backbone_that_learned_to_read(tmp_path: Path) -> None:
    common = [each for each in OVERRIDES if not each.startswith("steps")]
    trained(read_config("backbone", None, [*common, "steps=2", "objective.language_weight=1"]), tmp_path / "words")
    source = f"model.source={tmp_path / 'words' / 'policy'}"
    trained(
        read_config("t2a", None, [*(each for each in common if "source=tiny" not in each), "steps=1", source]), tmp_path / "t2a"
    )
    before, after, fresh = weights(tmp_path / "words"), weights(tmp_path / "t2a"), load("tiny").model.state_dict()
    backbone = [name for name in after if name.startswith("backbone.")]
    assert all(torch.equal(before[name], after[name]) for name in backbone)
    assert any(not torch.equal(after[name], fresh[name]) for name in backbone)
    assert all(torch.equal(before[name], fresh[name]) for name in before if name.startswith("expert."))
    assert [each.stage for each in load(str(tmp_path / "t2a" / "policy")).description.trained] == ["backbone", "t2a"]


@pytest.mark.slow
def test_the_vision_tower_alone_learns_marks_without_the_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [each for each in OVERRIDES if not each.startswith("steps")]
    alone = [
        "objective.marks_by=vision",
        "objective.language_weight=0",
        "objective.ends_weight=0",
        "optimizer.backbone.lr=1e-2",
    ]
    monkeypatch.setattr("vlarig.policies.qwen_vla.model.hidden_states", None)  # what runs the language model
    config = read_config("backbone", None, [*common, *alone, "steps=60", "checkpoints.every=30", "checkpoints.keep=2"])
    whole, half = tmp_path / "whole", tmp_path / "half"
    found = trained(config, whole, Squares()).numbers
    losses = [found[step]["train/loss/marks"] for step in (1, 60)]
    assert losses[1] < losses[0] / 3
    fresh, learned = load("tiny").model.state_dict(), weights(whole)
    changed = {name for name, weight in learned.items() if not torch.allclose(weight, fresh[name])}
    assert all(name.startswith("backbone.model.visual.") or "embed_tokens" in name or "lm_head" in name for name in changed)
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints" / "step-00000060")
    assert trained(config, half, Squares()).first == 30
    assert all(torch.equal(weight, learned[name]) for name, weight in weights(half).items())


def test_answers_are_read_where_they_are_learned(tmp_path: Path) -> None:
    common = [each for each in OVERRIDES if not each.startswith("steps")]
    length = {}
    for weight in (0, 1):
        words = [*common, f"objective.language_weight={weight}", "steps=1"]
        numbers = trained(read_config("backbone", None, words), tmp_path / str(weight), Squares()).numbers[1]
        assert bool(numbers["train/loss/language"]) == bool(weight)
        assert numbers["train/loss/marks"] > 0
        length[weight] = numbers["train/tokens_per_second"] / numbers["train/samples_per_second"]
    assert length[1] - length[0] > 2  # "There.", and what ends a turn


def test_a_checkpoints_expert_goes_on_with_another_backbone(tmp_path: Path) -> None:
    trained(configuration("steps=1", "optimizer.expert.lr=1e-2", "model.seed=3"), tmp_path / "before")
    fresh = load("tiny", seed=8).model.backbone
    fresh.save_pretrained(tmp_path / "fresh")
    still = ("optimizer.expert.lr=0", "optimizer.backbone.lr=0", "model.any_checkpoint=true")
    source = f"model.source={tmp_path / 'before' / 'policy'}"
    trained(configuration("steps=1", source, f"model.backbone={tmp_path / 'fresh'}", *still), tmp_path / "after")
    before, after = weights(tmp_path / "before"), weights(tmp_path / "after")
    for name, weight in after.items():
        part, _, own = name.partition(".")
        assert torch.equal(weight, fresh.state_dict()[own] if part == "backbone" else before[name]), name


@pytest.mark.parametrize("projection", ["zero_pad", "multi_mlp", "concat"])
@pytest.mark.parametrize("state", ["none", "prompt", "dit"])
def test_a_preset_takes_the_state_and_the_projection_that_are_compared(tmp_path: Path, state: str, projection: str) -> None:
    chosen = (f"model.state={state}", f"model.projection={projection}")
    stream = Mixed()
    stream.statistics = {
        each.statistics_key: DatasetStatistics(
            bounds_statistics(each), Statistics((-2.0,) * len(each.state_layout), (2.0,) * len(each.state_layout), "made up")
        )
        for each in stream.embodiments
    }
    trained(configuration("steps=1", *chosen), tmp_path / "one", stream)
    policy = QwenVlaPolicy(str(tmp_path / "one" / "policy"))
    config = policy.bundle.description.config
    assert (config.state, config.projection, config.state_size) == (state, projection, 8 if state == "dit" else 0)
    assert dict(config.projection_embodiments) == ({} if projection == "zero_pad" else {"libero_panda": 7, "widowx_bridge": 7})
    moved = [
        policy.act([Request(0, "key", 0, 1, {**Random()[0].observation, "state": state}, LIBERO_PANDA, 16)])[0].actions
        for state in (np.zeros(8, np.float32), np.ones(8, np.float32))
    ]
    assert np.array_equal(*moved) == (state == "none")
    again = configuration("steps=1", f"model.source={tmp_path / 'one' / 'policy'}", "model.any_checkpoint=true", *chosen)
    trained(again, tmp_path / "two", stream)
    other = "none" if state == "dit" else "dit"
    with pytest.raises(TrainingError, match=f"model.state is '{other}', and .* was made with '{state}'; begin with a preset"):
        trained(again.model_copy(update={"model": again.model.model_copy(update={"state": other})}), tmp_path / "three", stream)


def test_frozen_parts_stay_and_the_others_move(tmp_path: Path) -> None:
    trained(configuration("steps=2", "model.frozen=['vision', 'language', 'value_head']"), tmp_path)
    begun = QwenVlaPolicy("tiny").model.state_dict()
    moved = {name.split(".")[0] for name, tensor in weights(tmp_path).items() if not torch.equal(tensor, begun[name])}
    assert moved == {"expert"}


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_activation_checkpointing_changes_no_bit(tmp_path: Path, compute: str) -> None:
    for parts in ("[]", "['vision', 'language', 'expert']"):
        run = tmp_path / str(len(parts))
        trained(configuration("steps=2", f"model.compute={compute}", f"model.checkpointed={parts}"), run)
    kept, recomputed = (weights(tmp_path / str(len(parts))) for parts in ("[]", "['vision', 'language', 'expert']"))
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}


@pytest.mark.slow
def test_bfloat16_learns_what_float32_does_and_leaves_attention_as_it_was(tmp_path: Path) -> None:
    before = torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    full, half = (
        [
            numbers["train/loss"]
            for numbers in trained(configuration("steps=4", f"model.compute={compute}"), tmp_path / compute).numbers.values()
        ]
        for compute in ("float32", "bfloat16")
    )
    assert half == pytest.approx(full, rel=0.02) and half != full
    assert (torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()) == before
    assert torch.backends.cuda.flash_sdp_enabled()


def test_attention_in_bfloat16_is_as_exact_for_training_as_for_acting() -> None:
    rng = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, 4, 110, 48, generator=rng) * scale for scale in (3, 3, 1)]
    rounded = [each.bfloat16() for each in exact]
    attend = torch.nn.functional.scaled_dot_product_attention
    with attention_for_training(torch.device("cpu"), torch.bfloat16):
        trained = attend(*rounded)
    wanted = attend(*exact)
    errors = [float((each.float() - wanted).norm()) for each in (trained, attend(*rounded))]
    assert errors[0] < 1.2 * errors[1]


@pytest.mark.slow
def test_batches_made_by_other_processes_are_the_same(tmp_path: Path) -> None:
    here = trained(configuration("steps=2"), tmp_path / "here").numbers
    there = trained(configuration("steps=2", "data.workers=1"), tmp_path / "there").numbers
    assert {step: numbers["train/loss"] for step, numbers in there.items()} == {
        step: numbers["train/loss"] for step, numbers in here.items()
    }


def test_the_share_of_time_that_waits_for_data_is_reported(tmp_path: Path) -> None:
    class Slow(Mixed):
        def __getitem__(self, position: int) -> Any:
            time.sleep(0.02)
            return super().__getitem__(position)

    found = trained(configuration("steps=3", "report_every=2"), tmp_path, Slow()).numbers
    for numbers in found.values():
        assert 8 * 0.02 < numbers["train/time/data"] < numbers["train/time/step"]  # a step, on average since the last report
        assert numbers["train/wait"] == pytest.approx(numbers["train/time/data"] / numbers["train/time/step"])


def test_without_images_no_image_is_seen(tmp_path: Path) -> None:
    class Images(Random):
        def __getitem__(self, position: int) -> Any:
            sample = super().__getitem__(position)
            for frames in sample.observation["images"].values():
                frames[:] = self.broken[0]
            return sample

    runs = [
        trained(configuration("steps=2", "data.images=false"), tmp_path / str(grey), Images(broken=(grey,))).numbers
        for grey in (100, 200)
    ]
    assert runs[0][2]["train/loss"] == runs[1][2]["train/loss"]


@pytest.mark.slow
def test_sigterm_saves_and_the_same_call_goes_on_bit_equal(tmp_path: Path) -> None:
    class Signalling(Mixed):
        def __getitem__(self, position: int) -> Any:
            if position == 3 * 8 + 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(position)

    config = configuration("steps=6", "checkpoints.every=100")
    undisturbed = trained(config, tmp_path / "undisturbed")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=r"stopped and saved after step 3; the same command goes on"):
        trained(config, tmp_path / "run", Signalling())
    assert signal.getsignal(signal.SIGTERM) == before
    assert [each.name for each in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    resumed = trained(config, tmp_path / "run")
    assert resumed.first == 3
    assert [resumed.numbers[step]["train/loss"] for step in (4, 5, 6)] == [
        undisturbed.numbers[step]["train/loss"] for step in (4, 5, 6)
    ]
    found, expected = weights(tmp_path / "run"), weights(tmp_path / "undisturbed")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_average_is_resumed_too(tmp_path: Path) -> None:
    config = configuration("steps=4", "optimizer.ema=0.9", "checkpoints.every=2", "checkpoints.keep=2")
    trained(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000004")
    assert trained(config, tmp_path / "half").first == 2
    found, expected = weights(tmp_path / "half"), weights(tmp_path / "whole")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    trained(configuration("steps=5", "checkpoints.every=1", "checkpoints.keep=2"), tmp_path)
    assert sorted(each.name for each in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_names_the_samples(tmp_path: Path) -> None:
    for workers in (0, 1):
        config = configuration("steps=6", "checkpoints.every=1", f"data.workers={workers}")
        with pytest.raises(TrainingError, match=r"^the sample 'random/29' does not fit: .*not finite[^\n]*$"):
            trained(config, tmp_path / str(workers), Random(broken=(29,)))
        assert (tmp_path / str(workers) / "checkpoints" / "step-00000003").is_dir()
    explosive = configuration("steps=40", "checkpoints.every=1", "optimizer.expert.lr=1e30", "optimizer.clip=1e30")
    with pytest.raises(
        TrainingError, match=r"step \d+ has the action loss nan.* with the samples random/\d+, .*newest"
    ) as caught:
        trained(explosive, tmp_path / "rate")
    assert "mend the data or lower the learning rates" in str(caught.value)
    newest = max((tmp_path / "rate" / "checkpoints").iterdir())
    assert str(newest) in str(caught.value)
    assert int(newest.name[-8:]) < int(str(caught.value).split()[1])


def test_more_steps_go_on_at_the_rates_that_were_planned_and_fewer_are_refused(tmp_path: Path) -> None:
    rates = trained(configuration("steps=2"), tmp_path / "run").numbers[2]["train/lr/expert"]
    more = trained(configuration("steps=4"), tmp_path / "run")
    assert sorted(more.numbers) == [3, 4]
    assert [more.numbers[step]["train/lr/expert"] for step in (3, 4)] == [rates, rates]
    assert "learning rates fall over 2 steps, as when the run began, and then stay" in more.notes
    with pytest.raises(TrainingError, match=r"has made 4 steps, and steps is 3; name as many or more"):
        trained(configuration("steps=3"), tmp_path / "run")


def test_another_training_and_another_model_are_refused(tmp_path: Path) -> None:
    config = configuration("steps=2")
    trained(config, tmp_path / "run")
    with pytest.raises(
        TrainingError, match=r"is another training: it differs in batch_size \(\d+ and 64\), seed \(0 and 1\); name another"
    ):
        trained(configuration("steps=3", "seed=1", "batch_size=64"), tmp_path / "run")
    trained(configuration("steps=2", "track=[]", "report_every=2", "data.workers=1"), tmp_path / "run")  # these may change
    other = configuration("steps=2", "model.source=small")
    shutil.copytree(tmp_path / "run" / "checkpoints", tmp_path / "other" / "checkpoints")
    with pytest.raises(
        TrainingError, match=r"is a checkpoint of another model: it differs in backbone\.text_config\.layer_types \("
    ):
        trained(other, tmp_path / "other")


def test_a_broken_checkpoint_is_refused_with_what_to_do(tmp_path: Path) -> None:
    config = configuration("steps=2")
    trained(config, tmp_path)
    (newest,) = (tmp_path / "checkpoints").iterdir()
    next(newest.glob("*.distcp")).write_bytes(b"broken")
    with pytest.raises(
        TrainingError, match=r"step-00000002 cannot be loaded .*; remove it to go on from the checkpoint before"
    ):
        trained(config, tmp_path)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("demonstrations", "expected mixture:FILE, or module:NAME"),
        ("nowhere:Stream", "cannot be imported"),
        ("demonstrations:Absent", "cannot be imported"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path: Path, source: str, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        train(configuration(f"data.source={source}"), tmp_path, Numbers())


def test_options_that_a_source_does_not_take_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"does not take data\.options .*'tasks'"):
        train(configuration("data.options={tasks = 3}"), tmp_path, Numbers())


def test_it_can_train_in_a_thread(tmp_path: Path) -> None:
    """Signals are the main thread's alone; elsewhere it trains without."""
    done: list[Numbers] = []
    thread = threading.Thread(target=lambda: done.append(trained(configuration("steps=1"), tmp_path)))
    thread.start()
    deadline = time.monotonic() + 60
    thread.join(deadline - time.monotonic())
    assert done
