"""What LIBERO's objects are called in its instructions."""

from __future__ import annotations

import re
from typing import Optional

#: Category to colour and noun. Words are those of the tasks' instructions; the colours of books and mugs are in the categories.
_WORDS = {
    "akita_black_bowl": ("black", "bowl"),
    "black_book": ("black", "book"),
    "chefmate_8_frypan": ("", "frying pan"),
    "cookies": ("", "cookie box"),
    "desk_caddy": ("", "caddy"),
    "flat_stove": ("", "stove"),
    "glazed_rim_porcelain_ramekin": ("", "ramekin"),
    "new_salad_dressing": ("", "salad dressing"),
    "porcelain_mug": ("white", "mug"),
    "red_coffee_mug": ("red", "mug"),
    "white_bowl": ("white", "bowl"),
    "white_cabinet": ("white", "cabinet"),
    "white_yellow_mug": ("yellow and white", "mug"),
    "wooden_two_layer_shelf": ("", "wooden shelf"),
    "yellow_book": ("yellow", "book"),
}

#: What carries the scene is no object of it.
_GROUND = re.compile(r"table$|floor$")


def words_of(name: str) -> Optional[tuple[str, str]]:
    """Colour, which may be empty, and noun of an object or fixture by upstream's name (``akita_black_bowl_1``); none for a table."""
    category = re.sub(r"_\d+$", "", name)
    if _GROUND.search(category):
        return None
    return _WORDS.get(category, ("", category.replace("_", " ")))
