"""Zero-shot transfer: a robot that the checkpoint was not trained on, played by its own prompt.

"At deployment, we simply replace the embodiment prompt with the textual description of the physical robot platform, including its arm
configuration, control frequency, and action space, while keeping the VLM backbone and DiT action decoder unchanged" (paper, section
4.2). Actions still have to be denormalised, and the paper does not say by which statistics. Here the user names one of the checkpoint's
embodiments, the source:

* The prompt is the env's robot's: its tag, arms, waist, mobile base and control frequency are free to differ.
* The numbers are the source's: its statistics of actions and states, and its weights where the action projections have some for each
  embodiment. So every channel must be the source's in name, unit, kind, frame, rotation and gripper convention, and the state's layout
  where the model reads it. Another convention would turn the same numbers into another motion, without an error.
* The views are those that both have: the model has not learned the tokens of another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...envs.embodiments import Embodiment
from ...envs.errors import suggestion
from ..api import PolicyError
from ..conventions import differences, number_differences


def table_note(source: str | None) -> str:
    """The note beside every number of a policy that plays zero-shot; empty for one that does not."""
    return "" if source is None else f"zero-shot: prompt of the suite's own robot, statistics of {source}"


def refuse_unknown_source(source: str | None, trained: Mapping[str, Embodiment]) -> None:
    """Make sure that the option ``zero_shot`` names one of the checkpoint's embodiments."""
    if source is not None and source not in trained:
        known = suggestion(source, trained) if trained else "random weights know none, and play any robot without it"
        raise PolicyError(f"zero_shot={source} is no embodiment of the checkpoint; {known}")


def was_trained_on(trained: Mapping[str, Embodiment], env: Embodiment, reads_state: bool) -> bool:
    """Whether one of the checkpoint's embodiments is the env's, with the same conventions."""
    return any(not differences(each, env, reads_state) for each in trained.values())


def refuse_trained(trained: Mapping[str, Embodiment], env: Embodiment, suite: str, reads_state: bool) -> None:
    """Make sure that a suite which is to be played zero-shot has a robot that is new to the checkpoint."""
    if was_trained_on(trained, env, reads_state):
        raise PolicyError(
            f"the checkpoint was trained on {env.name!r}, which {suite!r} is played with; play it without zero_shot"
        )


def transferred(source: Embodiment, env: Embodiment, suite: str, reads_state: bool) -> Embodiment:
    """The env's robot as a model shows it that was trained on ``source``: its own prompt, and the views that both have."""
    found = number_differences(source, env, reads_state)
    views = {tag: camera for tag, camera in env.cameras.items() if tag in source.cameras}
    if source.cameras and not views:
        found.append(f"the policy sees {', '.join(source.cameras)} and the env has {', '.join(env.cameras) or 'no view'}")
    if found:
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise PolicyError(
            f"zero_shot={source.name} does not fit suite {suite!r} ({env.name}): {found[0]}{more}. Its statistics are kept, so only "
            "what the prompt says may differ"
        )
    return replace(env, cameras=views)
