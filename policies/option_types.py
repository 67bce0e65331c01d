"""Types that options of several policies have: how a word from the command line becomes a value."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field


def _size(value: object) -> object:
    if isinstance(value, str):
        height, _, width = value.partition("x")
        return height, width or height
    return value


def _views(value: object) -> object:
    if not isinstance(value, str):
        return value
    named: dict[str, str] = {}
    for word in value.split(","):
        view, colon, name = word.partition(":")
        if not (view and colon and name) or view in named or name in named.values():
            raise ValueError("expected VIEW:NAME,VIEW:NAME..., each view and each name once")
        named[view] = name
    return named


#: One or more pixels.
Pixels = Annotated[int, Field(ge=1, le=4096)]

#: ``224`` or ``180x320``: height and width of an image, in pixels.
ImageSize = Annotated[tuple[Pixels, Pixels], BeforeValidator(_size)]

#: ``ego:image,cam_left_wrist:image2``: view tag to the policy's name for it.
Views = Annotated[dict[str, str], BeforeValidator(_views)]

#: Seconds, more than none.
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
