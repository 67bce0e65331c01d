"""Questions on rendered scenes with answers from the simulator (paper, section 3.2.5: grounding, spatial relations, captions).

A reference fits one object of the image alone. A question whose answer is a matter of opinion is not posed: an object that is hidden by
half, two objects nearly as far left, colours that the simulator does not know. The answer is sampled before the objects that it is
about wherever there is a choice of answers, so that the words of a question alone do not predict it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import TypeVar

import numpy as np

from ...envs.api import SceneObject
from .boxes import Labelled, box_text, to_thousandths
from .families import Family

T = TypeVar("T")

#: An object of which less is seen is neither referred to nor counted, and no question is posed whose answer depends on it.
VISIBLE = 0.5

#: Two objects are beside each other for a question where their centres are so far apart, as a share of the image's width.
APART = 0.06

#: One object is in front of another where it is so much nearer to the camera, in m: a tabletop object's own size.
NEARER = 0.045

#: Colours to ask for that a scene may lack. Neutral ones are no question by themselves: the robot and the room have them.
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "pink", "cyan")
NEUTRAL = ("white", "black", "gray")

#: Kinds to ask for that a scene without colours may lack: none that a photograph behind the scene shows, none with two names.
KINDS = ("bowl", "carrot", "eggplant", "mug", "plate", "spoon", "towel", "wine bottle")

#: Kinds of which no number is asked.
UNCOUNTED = (
    "milk", "butter", "ketchup", "cream cheese", "orange juice", "tomato sauce", "bbq sauce", "alphabet soup", "salad dressing",
    "chocolate pudding",
)  # fmt: skip

#: The family of each kind of question: boxes are spatial grounding; relations, numbers and captions general data (section 3.2.5).
FAMILY_OF: dict[str, Family] = {
    "where": "spatial_grounding",
    "every": "spatial_grounding",
    "instruction": "spatial_grounding",
    "side": "general_vision_language",
    "depth": "general_vision_language",
    "extreme": "general_vision_language",
    "count": "general_vision_language",
    "colour": "general_vision_language",
    "exists": "general_vision_language",
    "caption": "general_vision_language",
}

_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")


@dataclass(frozen=True)
class Question:
    """A question and its answer.

    Attributes:
        kind: One of :data:`FAMILY_OF`.
        facts: For a caption: dimension to what it must name, see :func:`.scoring.named`.
    """

    kind: str
    text: str
    answer: str
    facts: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """An image as questions see it.

    Attributes:
        objects: The objects that it shows.
        width: In pixels.
        height: In pixels.
    """

    objects: tuple[SceneObject, ...]
    width: int
    height: int

    @property
    def clear(self) -> list[SceneObject]:
        """The objects that may be referred to."""
        return [each for each in self.objects if each.visible >= VISIBLE]

    def across(self, shown: SceneObject) -> float:
        """An object's centre, 0 (left) to 1."""
        return (shown.box[0] + shown.box[2]) / 2 / self.width

    def down(self, shown: SceneObject) -> float:
        """An object's centre, 0 (top) to 1."""
        return (shown.box[1] + shown.box[3]) / 2 / self.height


@dataclass(frozen=True)
class _Query:
    """Words that objects may fit: ``red cube``, ``cube``, ``red object``."""

    colour: str = ""
    kind: str = ""

    def fits(self, shown: SceneObject) -> bool:
        return self.colour in ("", shown.colour) and self.kind in ("", shown.kind)

    @property
    def words(self) -> str:
        return f"{self.colour} {self.kind or 'object'}".strip()

    @property
    def plural(self) -> str:
        words = self.words
        if words.endswith("f"):
            return f"{words[:-1]}ves"
        return words + ("es" if words.endswith(("x", "s", "sh", "ch")) else "s")


def questions(view: View, rng: np.random.Generator, count: int) -> list[Question]:
    """Up to ``count`` questions on an image, each of another kind; fewer where the image does not give so many."""
    found = []
    for index in rng.permutation(len(_MAKERS)) if view.objects else ():
        if len(found) == count:
            break
        question = list(_MAKERS.values())[index](view, rng)
        if question is not None:
            found.append(question)
    return found


def _where(view: View, rng: np.random.Generator) -> Question | None:
    known = [(obj, query) for obj in view.clear for query in _references(obj, view)]
    if not known:
        return None
    obj, query = known[rng.integers(len(known))]
    asking = one_of(rng, ("Where is the {}?", "Locate the {}.", "Find the {}.", "Point out the {}.")).format(query.words)
    return Question("where", f"{asking} {_FORMAT}", _boxes(view, [obj], query.words))


def _every(view: View, rng: np.random.Generator) -> Question | None:
    choices = [query for query in _queries(view) if any(map(query.fits, view.clear)) and _counted(query, view)]
    if not choices:
        return None
    query = _sampled(rng, _by_number(choices, view))[1]
    fitting = sorted((each for each in view.clear if query.fits(each)), key=lambda each: each.box)
    asking = one_of(rng, ("Locate every {}.", "Find every {}.", "Point out every {}.")).format(query.words)
    return Question("every", f"{asking} {_FORMAT}", _boxes(view, fitting, query.words))


def _side(view: View, rng: np.random.Generator) -> Question | None:
    def is_left(first: SceneObject, second: SceneObject) -> bool:
        return first.box[2] <= second.box[0] and view.across(second) - view.across(first) >= APART

    pair = _pair(view, rng, is_left)
    if pair is None:
        return None
    left, right = pair
    answer = one_of(rng, ("left", "right"))
    first, second = (left, right) if answer == "left" else (right, left)
    names = _refer(first, view, rng), _refer(second, view, rng)
    text = one_of(
        rng, ("Is the {} to the left or to the right of the {}?", "On which side of the {1} is the {0}, left or right?")
    )
    return Question("side", text.format(*names), answer)


def _depth(view: View, rng: np.random.Generator) -> Question | None:
    pair = _pair(view, rng, lambda first, second: second.depth - first.depth >= NEARER)
    if pair is None:
        return None
    near, far = pair
    answer = one_of(rng, ("in front", "behind"))
    first, second = (near, far) if answer == "in front" else (far, near)
    text = f"Seen from the camera, is the {_refer(first, view, rng)} in front of or behind the {_refer(second, view, rng)}?"
    return Question("depth", text, answer)


def _extreme(view: View, rng: np.random.Generator) -> Question | None:
    if len(view.objects) < 2 or len(view.clear) < len(view.objects):
        return None
    side = one_of(rng, ("left", "right"))
    ordered = sorted(view.objects, key=view.across, reverse=side == "right")
    if abs(view.across(ordered[0]) - view.across(ordered[1])) < APART or not is_unique(naming(ordered[0]), view):
        return None
    return Question("extreme", f"Which object is furthest to the {side}?", ordered[0].name)


def _count(view: View, rng: np.random.Generator) -> Question | None:
    choices = [query for query in (*_queries(view), *_absent(view, rng)) if _counted(query, view)]
    choices = [query for query in choices if query.kind not in UNCOUNTED]
    if not choices:
        return None
    number, query = _sampled(rng, _by_number(choices, view))
    text = one_of(rng, ("How many {} are there?", "How many {} do you see?", "Count the {}."))
    return Question("count", text.format(query.plural), str(number))


def _colour(view: View, rng: np.random.Generator) -> Question | None:
    single = [each for each in view.clear if each.colour and each.kind and is_unique(_Query(kind=each.kind), view)]
    if single:
        obj = single[rng.integers(len(single))]
        return Question("colour", f"What colour is the {obj.kind}?", obj.colour)
    return _colour_at_an_end(view, rng)


def _colour_at_an_end(view: View, rng: np.random.Generator) -> Question | None:
    side = one_of(rng, ("left", "right"))
    for kind in _shuffled(rng, {each.kind for each in view.objects}):
        same = sorted((each for each in view.objects if each.kind == kind), key=view.across, reverse=side == "right")
        sure = len(same) > 1 and all(each.colour and each.visible >= VISIBLE for each in same)
        if sure and abs(view.across(same[0]) - view.across(same[1])) >= APART:
            return Question("colour", f"What colour is the {kind} that is furthest to the {side}?", same[0].colour)
    return None


def _exists(view: View, rng: np.random.Generator) -> Question | None:
    there = [naming(each) for each in view.clear]
    absent = _absent(view, rng)
    if not there or not absent:
        return None
    answer, query = _sampled(rng, {"yes": there, "no": absent})
    text = one_of(rng, ("Is there {}?", "Do you see {}?")).format(_with_article(query.words))
    return Question("exists", text, answer)


def _caption(view: View, rng: np.random.Generator) -> Question | None:
    if not view.clear:
        return None
    objects = sorted(view.clear, key=lambda each: (round(view.down(each), 2), view.across(each)))
    places = [_place(view, each) for each in objects]
    said = [f"{_with_article(each.name)} at the {place}" for each, place in zip(objects, places, strict=True)]
    facts = {
        "object recognition": sorted({each.name for each in objects}),
        "source location": sorted({f"{each.name} {place}" for each, place in zip(objects, places, strict=True)}),
    }
    text = one_of(rng, ("Describe the objects and where they are.", "What is in the picture, and where?"))
    return Question("caption", text, f"There is {'; '.join(said)}.", facts)


#: Kind of question to what makes one of it.
_MAKERS: dict[str, Callable[[View, np.random.Generator], Question | None]] = {
    "where": _where,
    "every": _every,
    "side": _side,
    "depth": _depth,
    "extreme": _extreme,
    "count": _count,
    "colour": _colour,
    "exists": _exists,
    "caption": _caption,
}

#: What Qwen3-VL's data asks for where it wants boxes (qwen-vl-finetune/README.md@23ec840, the grounding example).
_FORMAT = "Output the bbox coordinates in JSON format."


def _references(obj: SceneObject, view: View) -> list[_Query]:
    """Words that fit the object and no other of the image."""
    queries = [naming(obj), _Query(kind=obj.kind)]
    if _is_hue(obj.colour) and all(each.colour for each in view.objects):
        queries.append(_Query(colour=obj.colour))
    return [query for query in dict.fromkeys(queries) if is_unique(query, view)]


def _refer(obj: SceneObject, view: View, rng: np.random.Generator) -> str:
    known = _references(obj, view)
    return known[rng.integers(len(known))].words


def naming(obj: SceneObject) -> _Query:
    return _Query(obj.colour, obj.kind)


def is_unique(query: _Query, view: View) -> bool:
    return sum(map(query.fits, view.objects)) == 1


def _is_hue(colour: str) -> bool:
    return bool(colour) and colour not in NEUTRAL and " " not in colour


def _queries(view: View) -> list[_Query]:
    """What objects of the image fit: names, kinds, colours."""
    found = [naming(each) for each in view.objects] + [_Query(kind=each.kind) for each in view.objects]
    if all(each.colour for each in view.objects):
        found += [_Query(colour=each.colour) for each in view.objects if _is_hue(each.colour)]
    return list(dict.fromkeys(found))


def _absent(view: View, rng: np.random.Generator) -> list[_Query]:
    """What no object in the image fits: colours and kinds of it in a new combination, and a few that it lacks altogether."""
    kinds = sorted({each.kind for each in view.objects})
    coloured = [kind for kind in kinds if all(each.colour for each in view.objects if each.kind == kind)]
    hues = sorted({each.colour for each in view.objects if _is_hue(each.colour)})
    other = _shuffled(rng, COLOURS)[:2]
    found = [_Query(colour, kind) for kind in coloured for colour in (*hues, *other)]
    if all(each.colour for each in view.objects):
        found += [_Query(colour=colour) for colour in other]
    if not found:
        found = [_Query(kind=kind) for kind in _shuffled(rng, KINDS)[:2]]
    return [query for query in dict.fromkeys(found) if not any(map(query.fits, view.objects))]


def _counted(query: _Query, view: View) -> bool:
    """Whether the number of objects that fit is beyond doubt."""
    return all(each.visible >= VISIBLE for each in view.objects if query.fits(each))


def _by_number(queries: Sequence[_Query], view: View) -> dict[int, list[_Query]]:
    found: dict[int, list[_Query]] = {}
    for query in queries:
        found.setdefault(sum(map(query.fits, view.objects)), []).append(query)
    return found


def _sampled(rng: np.random.Generator, by_answer: dict[T, list[_Query]]) -> tuple[T, _Query]:
    """First an answer, all alike, then a query that has it."""
    answer = list(by_answer)[rng.integers(len(by_answer))]
    return answer, by_answer[answer][rng.integers(len(by_answer[answer]))]


def _pair(
    view: View, rng: np.random.Generator, ordered: Callable[[SceneObject, SceneObject], bool]
) -> tuple[SceneObject, SceneObject] | None:
    """Two objects that can be referred to and are so ordered, any such alike."""
    known = [each for each in view.clear if _references(each, view)]
    pairs = [(first, second) for first, second in permutations(known, 2) if ordered(first, second)]
    return pairs[rng.integers(len(pairs))] if pairs else None


def _place(view: View, obj: SceneObject) -> str:
    """The ninth of the image that its centre is in: ``top left``, ``left``, ``middle``."""
    row, column = _ROWS[min(int(view.down(obj) * 3), 2)], _COLUMNS[min(int(view.across(obj) * 3), 2)]
    return f"{row} {column}".strip() or "middle"


def _boxes(view: View, objects: Sequence[SceneObject], label: str) -> str:
    return box_text([Labelled(to_thousandths(each.box, view.width, view.height), label) for each in objects])


def one_of(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _shuffled(rng: np.random.Generator, choices: Sequence[str] | set[str]) -> list[str]:
    ordered = sorted(choices)
    return [ordered[index] for index in rng.permutation(len(ordered))]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
