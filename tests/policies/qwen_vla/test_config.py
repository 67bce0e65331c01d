"""The architecture as data: presets state everything, data goes and comes back, mistakes get one sentence."""

import dataclasses
import json

import pytest
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig, Qwen3_5VisionConfig

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.config import ExpertConfig, ModelConfig, SpecialTokens
from vlarig.policies.qwen_vla.named import PRESETS

TWO = (("seven", 7), ("three", 3))


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize(("part", "source"), [("text_config", Qwen3_5TextConfig), ("vision_config", Qwen3_5VisionConfig)])
def test_presets_leave_no_size_to_transformers(name, part, source):
    stated = PRESETS[name]().backbone[part]
    own = [field.name for field in dataclasses.fields(source) if field.name in source.__annotations__]
    sizes = [field for field in own if not field.endswith("token_id") and field != "use_cache"]
    assert len(sizes) > 10
    # The vision tower's rotary embedding has a base and no size; older transformers have no field for it.
    assert set(sizes) - set(stated) <= ({"rope_parameters"} if part == "vision_config" else set())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_data_goes_and_comes_back(name):
    config = PRESETS[name]()
    assert ModelConfig.from_data(json.loads(json.dumps(config.to_data()))) == config


def test_ablations_go_and_come_back():
    config = dataclasses.replace(PRESETS["tiny"](), projection="concat", projection_embodiments=TWO, state="dit", state_size=8)
    back = ModelConfig.from_data(json.loads(json.dumps(config.to_data())))
    assert back == config
    assert back.embodiment_index("three") == 1
    with pytest.raises(PolicyError, match="no weights for 'seventh'; did you mean seven"):
        back.embodiment_index("seventh")


def test_presets_take_the_tokenizer_s_numbers():
    tokens = SpecialTokens(image_pad=10, video_pad=11, vision_start=12, vision_end=13)
    backbone = PRESETS["small"](512, tokens).backbone
    assert (backbone["text_config"]["vocab_size"], backbone["image_token_id"], backbone["vision_end_token_id"]) == (512, 10, 13)


def test_image_tokens():
    assert PRESETS["4b"]().image_tokens() == 49
    assert PRESETS["small"]().image_tokens() == 12  # of 64
    assert PRESETS["small"]().tokens_of(3, 2) == 6
    assert PRESETS["tiny"]().image_tokens() == 4


def without(data, *path):
    *parents, last = path
    for key in parents:
        data = data[key]
    del data[last]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data.update(horizont=8), "unknown key 'horizont'; did you mean horizon"),
        (lambda data: data["expert"].update(depth=3), "expert has an unknown key 'depth'"),
        (lambda data: without(data, "backbone"), "does not state backbone"),
        (lambda data: without(data, "backbone", "text_config", "intermediate_size"), "does not state intermediate_size"),
        (lambda data: without(data, "backbone", "vision_config", "depth"), "does not state depth"),
        (lambda data: data["backbone"]["text_config"].update(experts=3), "unknown key 'experts'"),
        (lambda data: data["backbone"]["text_config"].update(layer_types=["full_attention"]), "must name 2 layers"),
        (
            lambda data: data["backbone"]["vision_config"].update(out_hidden_size=31),
            "out_hidden_size 31 must be hidden_size 32",
        ),
        (lambda data: data["backbone"]["text_config"].update(vocab_size=7), "must be above every special token"),
        (lambda data: data.update(horizon=0), "horizon is 0"),
        (lambda data: data.update(channels="many"), "channels is 'many': input should be a valid integer"),
        (lambda data: data.update(expert=None), "the expert is None, expected a map"),
        (
            lambda data: data.update(projection="sum"),
            "projection is 'sum': input should be 'zero_pad', 'multi_mlp' or 'concat'",
        ),
        (lambda data: data.update(projection="concat"), "need .name, action size. of each embodiment"),
        (lambda data: data.update(projection="concat", projection_embodiments=[["a", 65]]), "'a' has 65 action channels"),
        (lambda data: data.update(projection_embodiments=[["a", 7]]), "zero_pad takes none"),
        (lambda data: data.update(projection_embodiments=3), "projection_embodiments is 3: input should be"),
        (lambda data: data.update(state="dit"), "'dit' needs a state_size"),
        (lambda data: data.update(state_size=8), "the others take none"),
        (lambda data: data.update(image_size=[64, 60]), "multiples of 32 pixels"),
        (lambda data: data["expert"].update(heads=3), "expected a multiple of expert.heads"),
        (lambda data: data["expert"].update(heads=16), "more than a head of the expert has"),
        (lambda data: data["expert"].update(context="words"), "expert.context is 'words': input should be 'prompt' or 'ends'"),
        (lambda data: data.update(stem="none"), "stem is 'none': input should be 'patch' or 'conv'"),
        (lambda data: data.update(kept_tokens=-1), "kept_tokens is -1"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_in_one_sentence(change, sentence):
    data = PRESETS["tiny"]().to_data()
    change(data)
    with pytest.raises(PolicyError, match=sentence) as caught:
        ModelConfig.from_data(data)
    assert "\n" not in str(caught.value)


def test_expert_defaults_are_the_paper_s():
    assert dataclasses.astuple(ExpertConfig()) == (1536, 16, 12, 10_240, 256, "prompt")
    assert ExpertConfig().head_width == 128
