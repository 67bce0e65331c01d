"""The text that the model reads: the embodiment prompt, the state in words, and the chat sequence with its views.

The template is the paper's, to the letter (section 2.3):

    The robot is {robot_tag} with {single arm / dual arms}[, waist][, and mobile base]. The control frequency is {FPS} Hz. Please
    predict the next {chunk_size} control actions to execute the following task: {ori_instruction}.

What it leaves open is decided here:

* A bracket is kept or dropped alone, commas and all: ``dual arms, waist``, ``dual arms, and mobile base``, ``dual arms, waist, and
  mobile base``.
* A whole frequency is printed without a fraction (``20 Hz``), any other with at most two digits of it (``16.67 Hz``).
* The instruction keeps its words and its case. White space is stripped from its ends and a run of it becomes one blank; periods at
  its end give way to the template's own, which is not doubled.
* "For VLN samples the prompt analogously states the navigation convention and waypoint horizon" (section 2.4) without printing
  how; :data:`NAVIGATION_TEMPLATE` is our wording. It leaves out the frequency, which a waypoint has not.
* The optional task identifier ``z`` "identifies the task family when needed" (section 2.1), and the paper says no more of it. Where it
  is given, a sentence before the request states it: ``The task family is manipulation.``
* The state, where it goes into the prompt at all, precedes the instruction, as in the paper's example (section 5.2.4):
  ``state: [34, 128, 67, 200, 55, 12, 88] pick up the bowl``.

The whole sequence is a chat's turn of the user, the prompt first, since the paper prepends it; then every view between its own two
tokens (section 3.2.1), a view's history oldest frame first; then the opening of the assistant's turn, in whose place the action
expert answers:

    <|im_start|>user
    The robot is ... .<|ego_start|><|vision_start|><|image_pad|>...<|vision_end|><|ego_end|>...<|im_end|>
    <|im_start|>assistant
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...envs.embodiments import Embodiment
from ..api import PolicyError

MANIPULATION_TEMPLATE = (
    "The robot is {robot_tag} with {arms}{modifiers}. The control frequency is {frequency} Hz. {family}"
    "Please predict the next {chunk_size} control actions to execute the following task: {state}{instruction}."
)

#: Ours, after the template above; the convention is the one of section 2.4, "encoding relative displacement and heading change in
#: the ground plane".
NAVIGATION_TEMPLATE = (
    "The robot is {robot_tag} with mobile base. The navigation convention is ({channels}) per waypoint in the ground plane. {family}"
    "Please predict the next {chunk_size} waypoints to execute the following task: {state}{instruction}."
)

#: Where an image comes from. The first three are the paper's examples (section 3.2.1); the last is ours, for a scene camera beside
#: the one that is tagged ``ego``.
VIEW_TAGS = ("ego", "cam_left_wrist", "cam_right_wrist", "cam_third_person")

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_PAD = "<|image_pad|>"

CHAT_HEAD = f"{IM_START}user\n"
CHAT_TAIL = f"{IM_END}\n{IM_START}assistant\n"

#: What a tokenizer could take for one of its control tokens: ``<|...|>``, and Qwen's tags of reasoning and of tools.
_CONTROL_TOKEN = re.compile(r"<\|[^<>|]*\|>|</?(?:think|tool_call|tool_response)>")


def view_start(tag: str) -> str:
    """The token before a view's image: ``<|ego_start|>``."""
    return f"<|{_known(tag)}_start|>"


def view_end(tag: str) -> str:
    """The token after a view's image: ``<|ego_end|>``."""
    return f"<|{_known(tag)}_end|>"


def view_tokens() -> tuple[str, ...]:
    """The tokens that a tokenizer needs for all views, in the order in which they are added to it."""
    return tuple(token(tag) for tag in VIEW_TAGS for token in (view_start, view_end))


def embodiment_prompt(
    embodiment: Embodiment,
    instruction: str,
    chunk_size: int,
    state: Sequence[int] | None = None,
    task_family: str | None = None,
) -> str:
    """The prompt of an embodiment and a task (paper, section 2.3; navigation: section 2.4).

    Args:
        embodiment: The robot that is to act.
        instruction: The task in words.
        chunk_size: Steps to predict, or waypoints.
        state: The bins of a state vector, where the state goes into the prompt (section 5.2.4: 256 bins, so 0 to 255).
        task_family: The task identifier ``z`` in words, such as ``manipulation``; ``None`` leaves it out.
    """
    if chunk_size < 1:
        raise PolicyError(f"the prompt requests {chunk_size} actions; expected 1 or more")
    words = _words(instruction, "instruction", "say in words what is to be done")
    family = (
        "" if task_family is None else f"The task family is {_words(task_family, 'task family', 'name it or leave it out')}. "
    )
    bins = "" if state is None else state_words(state)
    if embodiment.arms == "none":
        return NAVIGATION_TEMPLATE.format(
            robot_tag=embodiment.robot_tag,
            channels=", ".join(channel.name for channel in embodiment.channels),
            family=family,
            chunk_size=chunk_size,
            state=bins,
            instruction=words,
        )
    modifiers = (", waist" if embodiment.waist else "") + (", and mobile base" if embodiment.mobile_base else "")
    return MANIPULATION_TEMPLATE.format(
        robot_tag=embodiment.robot_tag,
        arms=embodiment.arms,
        modifiers=modifiers,
        frequency=frequency_words(embodiment.control_frequency),
        family=family,
        chunk_size=chunk_size,
        state=bins,
        instruction=words,
    )


def frequency_words(frequency: float) -> str:
    """A frequency in Hz as the prompt prints it: ``20``, ``16.67``, ``2.5``."""
    return f"{frequency:.2f}".rstrip("0").rstrip(".")


def state_words(bins: Sequence[int]) -> str:
    """``state: [34, 128] ``, with the blank that parts it from the instruction."""
    values = [int(value) for value in bins]
    if values != list(bins) or any(not 0 <= value <= 255 for value in values):
        raise PolicyError(f"the state's bins are {list(bins)}; expected whole numbers from 0 to 255")
    return f"state: {values} "


def chat_text(prompt: str, views: Sequence[tuple[str, int]]) -> str:
    """The whole sequence as text.

    Args:
        prompt: What :func:`embodiment_prompt` gives.
        views: For each image, in order: its view tag, and how many tokens of the language model it takes.
    """
    return CHAT_HEAD + prompt + "".join(view_text(tag, tokens) for tag, tokens in views) + CHAT_TAIL


def view_text(tag: str, tokens: int) -> str:
    """One image between its tokens: ``tokens`` places that the vision tower's states will take."""
    return f"{view_start(tag)}{VISION_START}{IMAGE_PAD * tokens}{VISION_END}{view_end(tag)}"


def check_words(what: str, words: str) -> None:
    """Make sure that words can be in a sequence; ``what`` names them in the error: ``instruction``."""
    if any("\ud800" <= sign <= "\udfff" for sign in words):
        raise PolicyError(f"the {what} is {words[:80]!r}, with half of a character in it; give whole Unicode characters")
    found = _CONTROL_TOKEN.search(words)
    if found:
        raise PolicyError(f"the {what} holds {found[0]!r}, which looks like a control token; take it out")


def _words(text: str, what: str, advice: str) -> str:
    """The words of a text that goes into the prompt; ``what`` names it, and ``advice`` is for an empty one."""
    words = " ".join(text.split()).rstrip(". ")
    if not words:
        raise PolicyError(f"the {what} is {text!r}; {advice}")
    check_words(what, words)
    return words


def _known(tag: str) -> str:
    if tag not in VIEW_TAGS:
        raise PolicyError(f"unknown view {tag!r}; views that have tokens are {', '.join(VIEW_TAGS)}")
    return tag
