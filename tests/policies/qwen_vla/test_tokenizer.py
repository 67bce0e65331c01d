"""The small tokenizer, the view tokens, and tokenizers from a directory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.policies.api import PolicyError
from vlarig.policies.conventions import known_embodiments
from vlarig.policies.qwen_vla.named import SMALL_TOKENS, SMALL_VOCABULARY
from vlarig.policies.qwen_vla.prompt import CHAT_HEAD, IMAGE_PAD, chat_text, embodiment_prompt, view_tokens
from vlarig.policies.qwen_vla.tokenizer import (
    QWEN_TOKENS,
    add_view_tokens,
    encode,
    load_tokenizer,
    rows_needed,
    save_tokenizer,
    small_tokenizer,
    token_ids,
)

SMALL = small_tokenizer()


def written(tokenizer: PreTrainedTokenizerFast) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def other_tokenizer(*tokens: str) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with these control tokens behind them."""
    alphabet = {sign: index for index, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_alone = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.add_special_tokens(list(tokens))
    return PreTrainedTokenizerFast(tokenizer_object=bytes_alone)


def test_the_small_tokenizer_is_the_same_for_ever() -> None:
    model = written(SMALL)["model"]
    content = json.dumps([model["vocab"], model["merges"]], sort_keys=True).encode()
    assert hashlib.sha256(content).hexdigest() == "a1f24cdbf56abfd56dd4824ad3154a8072a4bc0252a4d508b7d564dfc1d8f737"
    assert written(small_tokenizer()) == written(SMALL)


def test_the_small_tokenizer_fits_the_small_models() -> None:
    ids = token_ids(SMALL)
    assert all(getattr(ids, name) == number for name, number in vars(SMALL_TOKENS).items())
    assert rows_needed(SMALL) == len(SMALL) <= SMALL_VOCABULARY


@given(st.text())
@example("Grüße 中文 👩‍🍳 e\u0301\u200b\r\n\t  12  3")
@example("<|im_start|>user<|ego_start|><|not_one|>")
@settings(deadline=None, max_examples=300)
def test_any_text_goes_through_the_small_tokenizer_unchanged(text: str) -> None:
    assert SMALL.decode(encode(SMALL, text)) == text


def test_words_of_the_embedded_suite_are_single_tokens() -> None:
    prompt = embodiment_prompt(TABLETOP_PANDA, "put the purple cylinder in the orange tray", 16)
    tokens = [SMALL.decode([token]) for token in encode(SMALL, prompt)]
    assert tokens[-9:] == [" put", " the", " purple", " cylinder", " in", " the", " orange", " tray", "."]
    assert (
        max(len(encode(SMALL, CHAT_HEAD + embodiment_prompt(each, "wave", 16))) for each in known_embodiments()[0].values())
        < 40
    )


def test_what_comes_in_every_prompt_and_answer_is_few_tokens() -> None:
    prompt = chat_text(embodiment_prompt(TABLETOP_PANDA, "put the purple cylinder in the orange tray", 16), [])
    assert len(encode(SMALL, prompt)) == 25
    question = "Where is the red cube? Output the bbox coordinates in JSON format."
    assert [SMALL.decode([token]) for token in encode(SMALL, question)][:5] == ["Where", " is", " the", " red", " cube"]
    assert len(encode(SMALL, question)) == 7
    answer = encode(SMALL, '[{"bbox_2d": [12, 333, 40, 999], "label": "red cube"}]')
    assert [SMALL.decode([token]) for token in answer][-4:] == ["red", " cube", '"}', "]"]


def test_each_view_token_is_one_id() -> None:
    for tokenizer in (SMALL, _with_views(other_tokenizer(*QWEN_TOKENS))):
        views = {token: tokenizer.get_vocab()[token] for token in view_tokens()}
        for token, number in views.items():
            assert encode(tokenizer, f"a{token}b")[1:-1] == [number]
        sequence = encode(tokenizer, chat_text("wave.", [("ego", 3), ("cam_left_wrist", 2)]))
        assert sequence.count(token_ids(tokenizer).image_pad) == 5
        order = [number for number in sequence if number in views.values()]
        assert order == [views[f"<|{tag}_{end}|>"] for tag in ("ego", "cam_left_wrist") for end in ("start", "end")]


def test_view_tokens_take_the_next_ids_and_are_added_once() -> None:
    tokenizer = other_tokenizer(*QWEN_TOKENS)
    before = rows_needed(tokenizer)
    assert add_view_tokens(tokenizer) == {token: before + index for index, token in enumerate(view_tokens())}
    assert rows_needed(tokenizer) == before + len(view_tokens())
    assert add_view_tokens(tokenizer) == {}
    assert add_view_tokens(small_tokenizer()) == {}


@pytest.mark.parametrize("config", [None, {"model_type": "qwen3_5"}])
def test_a_saved_tokenizer_comes_back_as_it_was(tmp_path: Path, config: dict | None) -> None:
    for name, tokenizer in (("small", SMALL), ("other", _with_views(other_tokenizer(*QWEN_TOKENS)))):
        directory = tmp_path / name
        directory.mkdir()
        save_tokenizer(tokenizer, directory)
        if config:  # transformers would make Qwen's own tokenizer of it, with other rules
            (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
        loaded = load_tokenizer(directory)
        assert written(loaded) == written(tokenizer)
        assert token_ids(loaded) == token_ids(tokenizer)
        text = chat_text("put the e\u0301 12.", [("ego", 2)])
        assert loaded.decode(encode(loaded, text)) == tokenizer.decode(encode(tokenizer, text))


def test_a_tokenizer_without_vision_tokens_is_refused(tmp_path: Path) -> None:
    blind = other_tokenizer(*(token for token in QWEN_TOKENS if token != IMAGE_PAD))
    with pytest.raises(PolicyError, match=r"the tokenizer lacks <\|image_pad\|>; give a Qwen tokenizer with vision tokens"):
        token_ids(blind)
    save_tokenizer(blind, tmp_path)
    with pytest.raises(PolicyError, match=r"tokenizer of '.*' lacks <\|image_pad\|>; give a Qwen"):
        load_tokenizer(tmp_path)
    without_pad = other_tokenizer(*QWEN_TOKENS[1:])
    save_tokenizer(without_pad, tmp_path)
    with pytest.raises(PolicyError, match=r"lacks <\|endoftext\|>; give a Qwen"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_view_tokens_is_refused_where_they_are_needed() -> None:
    with pytest.raises(PolicyError, match=r"lacks the view tokens <\|ego_start\|>, .*; add them with add_view_tokens"):
        token_ids(other_tokenizer(*QWEN_TOKENS))


def test_what_is_no_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        PolicyError, match=r"no tokenizer can be loaded from '.*nothing' \(.*\); give a directory with tokenizer.json"
    ):
        load_tokenizer(tmp_path / "nothing")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PolicyError, match=r"no tokenizer can be loaded from"):
        load_tokenizer(tmp_path)


def _with_views(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    add_view_tokens(tokenizer)
    return tokenizer
