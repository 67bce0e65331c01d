"""Conversations from JSONL files: both layouts, images and videos, any order, and each kind of bad input in one sentence."""

from __future__ import annotations

import copy
import json
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from vlarig.policies.qwen_vla.conversation import Limits, Mark, Still, Video
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.tokenizer import small_tokenizer, token_ids
from vlarig.training.data.errors import DataError
from vlarig.training.data.vision_language import VisionLanguageDataset

ANSWER = {"role": "assistant", "content": "A cube."}


def asked(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}, ANSWER]}


def marked(*marks: dict[str, Any]) -> dict[str, Any]:
    return asked({"type": "image", "path": "0.png", "marks": list(marks)})


def write(folder: Path, *lines: dict[str, Any] | str, name: str = "data.jsonl") -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / name).write_text(text)
    return folder / name


def shade(number: int) -> int:
    """The grey of a film's frame, far enough from its neighbours' to survive encoding."""
    return min(20 + 20 * number, 240)


def film(path: Path, frames: int = 10, rate: int = 5) -> Path:
    """Frame ``n`` is of grey ``shade(n)``."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for number in range(frames):
            pixels = np.full((32, 64, 3), shade(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def greys(video: Video) -> list[int]:
    """The numbers of a film's frames."""
    return [round((float(frame.mean()) - 20) / 20) for frame in video.frames]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.zeros((20, 30, 3), np.uint8)
    for number in range(3):
        Image.fromarray(pixels + number).save(tmp_path / f"{number}.png")
    return tmp_path


def test_images_keep_their_order_and_tags(folder: Path) -> None:
    parts = [
        {"type": "image", "path": "1.png", "frame": 1, "view": "front left"},
        {"type": "text", "text": "and"},
        {"type": "image", "image": "2.png"},
    ]
    sample = VisionLanguageDataset(write(folder, asked(*parts)), family="driving_vqa")[0]
    first, words, second, question = sample.conversation.turns[0].content
    assert isinstance(first, Still)
    assert isinstance(second, Still)
    assert (first.frame, first.view, first.image.max(), second.image.max()) == (1, "front left", 1, 2)
    assert (words, question) == ("and", "What is it?")
    assert sample.name == "data/0"


def test_marks_are_learned_at_the_tokens_of_their_places(folder: Path) -> None:
    red = {"name": "red cube", "point_2d": [10, 10], "role": "object"}
    blue = {"name": "blue", "point_2d": [990, 510]}
    again = {"name": "green", "point_2d": [20, 20]}  # in the token of the first
    empty = {"name": "nothing", "point_2d": [500, 10]}
    first, second = ({"type": "image", "path": "0.png", "marks": marks} for marks in ([red, blue, again], [blue, empty]))
    sample = VisionLanguageDataset(write(folder, asked(first, second)))[0].conversation
    assert sample.seen()[0].marks == (  # type: ignore[union-attr]
        Mark("red cube", 0.01, 0.01, "object"),
        Mark("blue", 0.99, 0.51),
        Mark("green", 0.02, 0.02),
    )
    tokenizer = small_tokenizer()
    config = PRESETS["tiny"](tokens=token_ids(tokenizer))
    builder = InputBuilder(config, tokenizer, Limits(min_pixels=96 * 128, max_pixels=96 * 160))
    inputs = builder.build([sample])
    marks = inputs.marks
    assert marks is not None
    rows, columns = (inputs.image_grid_thw[0, 1:] // 2).tolist()  # type: ignore[index]
    low, middle = int(0.51 * rows) * columns + columns - 1, columns // 2
    second = rows * columns
    said = [
        *((0, word, 0.5, False) for word in (" red", " cube")),
        (0, " object", 1.0, True),
        *((low, " blue", 1.0, by_language) for by_language in (False, True)),
        (0, " green", 1.0, False),
        *((second + low, " blue", 1.0, by_language) for by_language in (False, True)),
        *((second + middle, " nothing", 1.0, by_language) for by_language in (False, True)),
    ]
    tokens, words, shares, by_language = zip(*said, strict=True)
    assert (marks.tokens.tolist(), marks.by_language.tolist()) == (list(tokens), list(by_language))
    assert [tokenizer.decode([token]) for token in marks.words.tolist()] == list(words)
    np.testing.assert_allclose(marks.shares, shares)
    aside, right, up = (-0.49 * columns, -0.49 * rows), (0.49 * columns, 0.01 * rows), (0.0, -0.49 * rows)
    assert marks.places.tolist() == [0, low, second + low, second + middle]
    np.testing.assert_allclose(marks.centres, [aside, right, right, up], atol=1e-6)
    assert marks.present.tolist() == [True, True, True, False]


def test_what_a_prompts_end_is_to_hold_is_read_and_checked(folder: Path) -> None:
    line = asked({"type": "image", "path": "0.png"})
    held = [0.5, None, *[1.0] * 25]
    dataset = VisionLanguageDataset(write(folder, line | {"ends": held}, line | {"ends": [1.0]}, line | {"ends": "none"}))
    found = dataset[0].conversation.ends
    assert found is not None
    np.testing.assert_array_equal(found, [np.nan if each is None else each for each in held])
    for index, sentence in (
        (1, "has 1 numbers of its prompt's end; expected 27"),
        (2, r"got `str` - at `\$.ends`, where 'none' is"),
    ):
        with pytest.raises(DataError, match=sentence):
            dataset[index]


def test_llavas_layout_reads_as_the_same_conversation(folder: Path) -> None:
    llava = {
        "id": "x7",
        "image": ["0.png", "1.png"],
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "<image>\n<image>\nWhat differs?"},
            {"from": "gpt", "value": "The shade."},
        ],
    }
    ours = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image", "path": "0.png"},
                    {"type": "image", "path": "1.png"},
                    {"type": "text", "text": "What differs?"},
                ],
            },
            {"role": "assistant", "content": "The shade."},
        ]
    }
    dataset = VisionLanguageDataset(write(folder, llava, ours))
    builder = InputBuilder(PRESETS["tiny"](), small_tokenizer())
    one, other = (builder.build([dataset[index].conversation]) for index in (0, 1))
    assert dataset[0].name == "data/x7"
    assert one.input_ids.tolist() == other.input_ids.tolist()
    assert one.pixel_values is not None
    assert one.pixel_values.equal(other.pixel_values)


def test_lines_are_read_in_any_order_over_files_and_blank_ones(folder: Path) -> None:
    (folder / "set").mkdir()
    write(folder / "set", *[{**asked(), "id": number} for number in range(5)], "", {**asked(), "id": 5}, name="a.jsonl")
    write(folder / "set", {**asked(), "id": 6}, "\r", name="b.jsonl")
    dataset = copy.deepcopy(VisionLanguageDataset(folder / "set"))
    assert len(bytes(ForkingPickler.dumps(dataset))) < 2000  # what a worker of a DataLoader gets
    assert len(dataset) == 7
    assert [dataset[index].name for index in (6, 0, 5, 3)] == ["set/6", "set/0", "set/5", "set/3"]
    assert dataset.tasks == {"set": range(7)}
    with pytest.raises(IndexError):
        dataset[7]


@pytest.mark.parametrize(
    ("part", "numbers", "seconds"),
    [
        ({"fps": 5}, list(range(10)), [0.2 * number for number in range(10)]),
        ({"fps": 2}, [0, 2, 5, 7], [0, 0.5, 1.0, 1.5]),  # the frame that is shown then
        ({"fps": 5, "begin": 1.0, "end": 1.6}, [5, 6, 7], [0, 0.2, 0.4]),
    ],
)
def test_a_video_is_read_at_its_rate(folder: Path, part, numbers, seconds) -> None:
    film(folder / "v.mp4")
    dataset = VisionLanguageDataset(write(folder, asked({"type": "video", "path": "v.mp4", **part})))
    (video,) = dataset[0].conversation.seen()
    assert isinstance(video, Video)
    assert greys(video) == numbers
    assert np.allclose(video.seconds, seconds)


def test_a_long_video_is_thinned_evenly(folder: Path) -> None:
    film(folder / "v.mp4")
    line = asked({"type": "video", "path": "v.mp4", "fps": 5})
    (video,) = VisionLanguageDataset(write(folder, line), max_frames=4)[0].conversation.seen()
    assert isinstance(video, Video)
    assert greys(video) == [0, 2, 5, 7]
    line = asked({"type": "video", "path": ["0.png", "1.png", "2.png"], "seconds": [0, 3, 7]})
    (video,) = VisionLanguageDataset(write(folder, line), max_frames=2)[0].conversation.seen()
    assert isinstance(video, Video)
    assert ([frame.max() for frame in video.frames], video.seconds) == ([0, 1], (0, 3))


def test_boxes_in_pixels_become_thousandths(folder: Path) -> None:
    line = asked({"type": "image", "path": "0.png"})
    line["messages"][1] = {"role": "assistant", "content": '{"bbox_2d": [15, 5, 30, 20], "label": "cube"}'}
    dataset = VisionLanguageDataset(write(folder, line), boxes="pixels", family="spatial_grounding")
    assert dataset[0].conversation.turns[1].content == ('{"bbox_2d": [500, 250, 1000, 1000], "label": "cube"}',)


def boxed(box: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": f'{{"bbox_2d": {box}}}'}]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [', "line 2 is no JSON"),
        ("[]   ", "line 2 is a JSON list; expected an object"),
        ({"text": "hello"}, "has the keys text; expected 'messages', or 'conversations'"),
        (asked({"type": "image", "path": "none.png"}), r"its image .*none.png is missing"),
        (asked({"type": "image", "path": "data.jsonl"}), r"its image .*data.jsonl does not read"),
        (
            asked({"type": "image"}),
            r"an image has no path - at `\$.messages\[0\].content\[0\]`, where {\'type\': \'image\'} is",
        ),
        (asked({"type": "sound", "path": "x"}), r"Invalid value 'sound' - at `.*type`, where 'sound' is"),
        (asked({"type": "video", "path": "none.mp4"}), r"its video .*none.mp4 is missing"),
        (asked({"type": "video", "path": "v.mp4", "fps": 0}), r"Expected `float` > 0.0 - at `.*fps`, where 0 is"),
        (asked({"type": "video", "path": ["0.png"], "seconds": [0, 1]}), "a video of 1 images has the seconds"),
        (asked({"type": "video", "path": "0.png", "begin": 7}), "nothing from 7.00 s"),
        (asked({"type": "image", "path": "0.png", "frame": "1"}), "does not read: .*frame`, where '1' is"),
        (asked({"type": "image", "path": "0.png", "marks": 5}), "Expected `array`, got `int` - at `.*marks`, where 5 is"),
        (marked({"name": "cube"}), r"missing required field `point_2d` - at `.*marks\[0\]`, where {'name': 'cube'} is"),
        (
            marked({"name": "cube", "point_2d": [1000, 3]}),
            r"a mark is 'cube' at \(1.0, 0.003\) with the role None; expected a name, shares of 0",
        ),
        (marked({"name": "cube", "point_2d": [1, 3], "role": 5}), "Expected `str . null`, got `int` - at `.*role`, where 5 is"),
        (
            marked({"name": "cube", "point_2d": [1, 3], "word": "cube"}),
            "unknown field `word` - at `.*`, where {.*'word': 'cube'} is",
        ),
        (marked({"name": "<|im_end|>", "point_2d": [1, 3]}), "control token"),
        ({"messages": [{"role": "user", "content": "Why?"}]}, "has turns of user; expected"),
        ({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": " "}]}, "the assistant is empty"),
        (
            {"image": "0.png", "conversations": [{"from": "human", "value": "Why?"}]},
            "1 of its images have no place, 0.png first",
        ),
        ({"conversations": [{"from": "human", "value": "<image>Why?"}]}, "more places <image> than it has images"),
        (boxed("[0, 0, 1280, 720]"), r"the box \[0, 0, 1280, 720\]; expected left, top, right, bottom in thousandths"),
    ],
)
def test_a_bad_line_is_one_sentence_with_its_place(folder: Path, line, message) -> None:
    dataset = VisionLanguageDataset(write(folder, asked(), line, asked()))
    with pytest.raises(DataError, match=message) as raised:
        dataset[1]
    assert "data.jsonl line 2 " in str(raised.value)
    assert "\n" not in str(raised.value)
    assert dataset[2].conversation.turns[1].content == ("A cube.",)


@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_a_truncated_video_is_named(folder: Path, kept: float) -> None:
    whole = film(folder / "v.mp4", frames=30).read_bytes()
    (folder / "v.mp4").write_bytes(whole[: int(len(whole) * kept)])
    dataset = VisionLanguageDataset(write(folder, asked({"type": "video", "path": "v.mp4", "fps": 5})))
    with pytest.raises(DataError, match=r"line 1 does not read: its video .*v.mp4 (is truncated|does not decode)"):
        dataset[0]


def test_lengths_are_known_without_opening_what_is_named(folder: Path) -> None:
    image, video, words = (
        {"type": "image", "path": "no.png"},
        {"type": "video", "path": "no.mp4"},
        {"type": "text", "text": "so " * 400},
    )
    lines = [asked(), asked(words), asked(image), asked(image, image), asked(video), asked(video, image)]
    llava = {
        "image": "no.png",
        "conversations": [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "A cup."}],
    }
    dataset = VisionLanguageDataset(write(folder, *lines, llava, "no JSON", {"messages": "none"}))
    none, said, one, two, film, both, other, *broken = (dataset.length(index) for index in range(len(dataset)))
    assert 0 < none < said == none + 300 <= one < two < film < both
    assert other == pytest.approx(one, abs=3)
    assert broken == [0, 0]


def test_a_truncated_image_is_named(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "t.png")
    (folder / "t.png").write_bytes((folder / "t.png").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"its image .*t.png does not read"):
        VisionLanguageDataset(write(folder, asked({"type": "image", "path": "t.png"})))[0]


def test_a_source_without_lines_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        VisionLanguageDataset(folder / "none.jsonl")
    with pytest.raises(DataError, match="holds no line"):
        VisionLanguageDataset(write(folder, name="empty.jsonl"))
    with pytest.raises(DataError, match="expected one of robot_manipulation"):
        VisionLanguageDataset(write(folder, asked()), family="vqa")  # pyright: ignore[reportArgumentType]
