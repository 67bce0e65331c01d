"""The configuration: the paper's values are the defaults, and what cannot be is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlarig.training.config import TrainingError, differences, read_config, save_config

SOURCE = "data.source=demonstrations:Random"


def test_the_stages_are_the_papers() -> None:
    t2a, cpt, sft = (read_config(stage, None, [SOURCE]) for stage in ("t2a", "cpt", "sft"))
    assert t2a.steps == 2000  # section 5.2.1
    assert set(t2a.model.frozen) == {"vision", "language", "value_head"}  # section 3.1
    assert not t2a.data.images
    assert t2a.objective.time.distribution == "sigmoid_normal"
    for later in (cpt, sft):
        assert later.model.frozen == ("value_head",)
        assert later.data.images
        assert later.objective.time.distribution == "beta"
    assert (sft.objective.action_weight, sft.objective.language_weight) == (1.0, 0.1)  # section 4.1
    assert sft.optimizer.expert.schedule == sft.optimizer.backbone.schedule == "cosine"


def test_a_file_and_then_single_values_go_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "steps = 7\n[data]\nsource = 'a:b'\noptions = {tasks = ['x']}\n[optimizer.expert]\nlr = 2e-3\nfinal = 0.0\n"
    )
    config = read_config("sft", file, ["optimizer.expert.lr=3e-4", "model.source=small", "optimizer.ema=0.99", "track=[]"])
    assert (config.steps, config.optimizer.expert.lr, config.optimizer.expert.final) == (7, 3e-4, 0.0)
    assert (config.model.source, config.optimizer.ema, config.track) == ("small", 0.99, ())
    assert config.data.options == {"tasks": ["x"]}
    assert config.optimizer.backbone.lr == 1e-5
    assert read_config("sft", None, [SOURCE, "optimizer.expert.final=0.5"]).optimizer.expert.lr == 1e-4
    assert read_config("sft", file, ["optimizer.ema=none"]).optimizer.ema is None
    for words in ("[vision, language]", "[vision,language]", "['vision', 'language']"):
        assert read_config("sft", file, [f"model.frozen={words}"]).model.frozen == ("vision", "language")


def test_what_was_saved_reads_as_the_same(tmp_path: Path) -> None:
    config = read_config("t2a", None, [SOURCE, "seed=3"])
    save_config(config, tmp_path / "config.json")
    assert read_config("t2a", tmp_path / "config.json") == config
    other = read_config("t2a", tmp_path / "config.json", ["optimizer.clip=2.0", "model.source=small"])
    assert differences(config.model_dump(), other.model_dump()) == [
        "model.source ('4b' and 'small')",
        "optimizer.clip (1.0 and 2.0)",
    ]
    with pytest.raises(TrainingError, match="is the configuration of the stage 't2a', not of 'sft'; name that stage"):
        read_config("sft", tmp_path / "config.json")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["optimizer.expert.rl=1"], r"an unknown name 'optimizer\.expert\.rl'; did you mean lr"),
        (["optimiser.clip=1"], r"an unknown name 'optimiser'; did you mean optimizer"),
        (["model.frozen=['head']"], r"model\.frozen\.0 is 'head': input should be 'vision', 'language'"),
        (["steps=0"], r"steps is 0: input should be greater than or equal to 1"),
        (["batch_size=10", "micro_batch_size=4"], r"batch_size 10 is no multiple of micro_batch_size 4"),
        (["model.frozen=['vision', 'language', 'expert', 'value_head']"], r"model\.frozen names every part"),
        (
            [f"objective.{name}_weight=0" for name in ("action", "language", "marks", "ends")],
            r"the objective's weights are all 0; there is nothing to learn",
        ),
        (["model.frozen=vision"], r"model\.frozen is 'vision': expected a list, such as \[vision\]"),
        (["clip"], r"the override 'clip' is no NAME=VALUE"),
        (["evaluation.every=5"], r"evaluation.suites"),
    ],
)
def test_what_cannot_be_is_one_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(TrainingError, match=f"(?i){sentence}") as caught:
        read_config("sft", None, [SOURCE, *overrides])
    assert "\n" not in str(caught.value)


def test_a_source_of_data_has_to_be_named() -> None:
    with pytest.raises(TrainingError, match=r"does not say data\.source; add it, such as --override data\.source=\.\.\."):
        read_config("sft")
    with pytest.raises(TrainingError, match=r"unknown stage 'stf'; did you mean sft"):
        read_config("stf")


def test_a_file_that_does_not_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("steps = = 3")
    with pytest.raises(TrainingError, match=r"broken\.toml does not read as TOML"):
        read_config("sft", broken)
    with pytest.raises(TrainingError, match=r"there is no file .*absent\.toml"):
        read_config("sft", tmp_path / "absent.toml")
