"""Policies by name: the rig's own, clients of those elsewhere (``scheme:argument``), entry points, and any class as ``module:Name``.

Their options come from the command line: words become values, of a model of options or of an ``__init__``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

from ..envs.api import Needs
from ..envs.errors import VlarigError, suggestion
from ..envs.faults import describe, traceback_of
from ..envs.plugins import Registration, broken_plugins, import_local, only, registered_experts, registrations
from ..envs.sources import Source, find_sources, named_files
from .api import Policy, PolicyError
from .calls import policy_code

ENTRY_POINT_GROUP = "vlarig.policies"

_BUILT_IN = {
    "expert": "vlarig.policies.scripted:ExpertPolicy",
    "random": "vlarig.policies.scripted:RandomPolicy",
    "still": "vlarig.policies.scripted:StillPolicy",
    "zero": "vlarig.policies.scripted:ZeroPolicy",
}


#: Scheme to the class that is made with what follows the colon (a checkpoint, an address) and with the user's options.
_SCHEMES = {
    "lerobot": "vlarig.policies.lerobot:LerobotPolicy",
    "openpi": "vlarig.policies.remote.openpi_servers:openpi_policy",
    "qwen-vla": "vlarig.policies.qwen_vla.named:qwen_vla",
    "vla-eval": "vlarig.policies.remote.vla_eval:VlaEvalPolicy",
}

#: Members of a policy that are not methods, to their types, in Python and in words.
_MEMBERS: dict[str, tuple[Any, str]] = {
    "name": (str, "a str"),
    "revision": (str, "a str"),
    "needs": (Needs, "a Needs"),
    "horizon": ((int, type(None)), "a number of steps, or None"),
    "n_action_steps": ((int, type(None)), "a number of steps, or None"),
    "stateful": (bool, "True or False"),
    "takes_prefix": (bool, "True or False"),
    "batch_sensitive": (bool, "True or False"),
    "reads_state": (bool, "True or False"),
    "embodiments": (tuple, "a tuple of embodiments"),
    "table_note": (str, "a str"),
    "transport_options": ((frozenset, set), "a set of names"),
    "version": (int, "an int"),
}


def policy_sources(name: str) -> list[Source]:
    """The source of the policy that :func:`load_policy` knows by that name; none for the rig's own."""
    return find_sources([find_policy(name).module], folder=Path.cwd())


def option_sources(name: str, policy: Policy, options: Mapping[str, str]) -> list[Source]:
    """The files and folders that options of a third party's policy name, such as a checkpoint.

    Those that change no reply are left out, and so are all of the rig's own policies, whose revisions cover their checkpoints.

    Args:
        name: The policy's name, as for :func:`load_policy`.
        policy: The policy.
        options: Its options, as they were typed.
    """
    if find_policy(name).module.startswith("vlarig."):
        return []
    texts = [text for option, text in options.items() if option not in policy.transport_options]
    return [source for text in texts for source in named_files(text)]


def find_policy(name: str) -> Registration:
    """Where the class of the policy is that :func:`load_policy` knows by that name; nothing is imported."""
    return _place(name)[0]


def find_expert(suite: str) -> Registration:
    """Where the class of a suite's scripted expert is; nothing is imported."""
    registered = registered_experts()
    if suite not in registered:
        known = ", ".join(sorted(registered))
        raise PolicyError(f"suite {suite!r} has no scripted expert; suites with one: {known}{broken_plugins()}")
    return only("the expert of suite", suite, registered[suite])


def find_experts(policy: str, suites: Sequence[str]) -> dict[str, Registration]:
    """The scripted expert by which the policy ``expert`` plays each of these suites; none for any other policy."""
    return {suite: find_expert(suite) for suite in suites} if find_policy(policy).place == _BUILT_IN["expert"] else {}


def parse_options(words: Sequence[str]) -> dict[str, str]:
    """``["steps=4", "temperature=0.6"]`` as a map."""
    options: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise PolicyError(f"the policy option {word!r} is no name=value; write for instance temperature=0.6")
        if name in options:
            raise PolicyError(f"the policy option {name!r} is given twice ({options[name]!r} and {value!r}); give it once")
        options[name] = value
    return options


def load_policy(name: str, options: Mapping[str, str] | None = None) -> Policy:
    """The policy of that name, made.

    Args:
        name: A known name; ``scheme:argument`` for a checkpoint or a model server (``qwen-vla:small``, ``openpi:ws://host:8000``);
            or ``module:Name`` for any importable class, for which the working directory is searched too.
        options: The options of the policy's class, by name, passed as keyword arguments and read by their annotations.
    """
    place, arguments = _place(name)
    make = _import(name, place)
    given = _keyword_arguments(name, make, len(arguments), options or {})
    with policy_code(name, "while it was made"):
        policy = make(*arguments, **given)
    check_members(name, policy)
    return policy


@contextmanager
def loaded_policy(name: str, options: Mapping[str, str] | None = None) -> Iterator[Policy]:
    """The policy of that name for as long as the context lasts; then its connections are closed, if it has a ``close``.

    It takes what :func:`load_policy` does.
    """
    policy = load_policy(name, options)
    try:
        yield policy
    finally:
        with policy_code(name, "while it was closed"):
            policy.close()


def _place(name: str) -> tuple[Registration, list[str]]:
    """Where a policy's class is, and what it is made with besides the options; nothing is imported."""
    scheme, colon, argument = name.partition(":")
    own = f"vlarig {version('vlarig')}"
    if colon:
        return (Registration(_SCHEMES[scheme], own), [argument]) if scheme in _SCHEMES else (Registration(name), [])
    registered = {each: [Registration(place, own)] for each, place in {**_BUILT_IN, **_SCHEMES}.items()}
    for each, registration in registrations(entry_points(group=ENTRY_POINT_GROUP)):
        registered.setdefault(each, []).append(registration)
    if name in registered:
        return only("policy", name, registered[name]), [argument] if name in _SCHEMES else []
    schemes = ", ".join(f"{scheme}:..." for scheme in sorted(_SCHEMES))
    known = registered.keys() - _SCHEMES.keys()
    raise PolicyError(
        f"unknown policy {name!r}; {suggestion(name, known)} (checkpoints and servers: {schemes}; any class of yours: module:Name)"
    )


def _import(name: str, found: Registration) -> Callable[[], Any]:
    module_name, _, class_name = found.place.partition(":")
    try:
        module = importlib.import_module(module_name) if found.package else import_local(module_name)
    except (VlarigError, KeyboardInterrupt):
        raise
    except BaseException as error:
        owner = f" of the package {found.package}" if found.package else ""
        mend = "mend or uninstall it" if owner else "give module:Name, module importable here"
        sentence = f"the policy {name!r}{owner} cannot be imported ({describe(error)}); {mend}"
        raise PolicyError(sentence, traceback=traceback_of(error)) from error
    if not callable(getattr(module, class_name, None)):
        classes = [each for each, value in vars(module).items() if isinstance(value, type) and hasattr(value, "act")]
        near = difflib.get_close_matches(class_name, classes, n=3, cutoff=0.3) or classes
        hint = f"did you mean {' or '.join(near)}?" if near else "it has no class with an act method"
        raise PolicyError(f"module {module_name!r} has no policy {class_name!r}; {hint}")
    return getattr(module, class_name)


def check_members(name: str, policy: object) -> None:
    """Make sure that an object is a policy, and that its members are of the right types."""
    if not isinstance(policy, Policy):
        raise PolicyError(
            f"the policy {name!r} is of the class {type(policy).__name__}, which is no subclass of vlarig.policies.api.Policy; write "
            f"class {type(policy).__name__}(Policy), see docs/add-a-policy.md"
        )
    for member, (kind, wanted) in _MEMBERS.items():
        value = getattr(policy, member)
        no_bool = kind is not bool and isinstance(value, bool)
        if (
            not isinstance(value, kind)
            or no_bool
            or (member in ("horizon", "n_action_steps") and value is not None and value < 1)
        ):
            raise PolicyError(f"the policy {name!r} has the {member} {value!r}; expected {wanted}, see docs/add-a-policy.md")


class Options(BaseModel):
    """Base of a policy's options: unknown names are errors, values do not change, a field's docstring is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


OptionsType = TypeVar("OptionsType", bound=Options)


def read_options(kind: type[OptionsType], given: Mapping[str, Any], policy: str) -> OptionsType:
    """The options by name in ``given``, as on the command line; errors name the ``policy``."""
    for name in given:
        if name not in kind.model_fields:
            raise PolicyError(f"{policy} has no option {name!r}; {suggestion(name, kind.model_fields)}")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "missing":
            raise PolicyError(f"{policy} needs the option {name}; add {name}=...") from None
        meaning = kind.model_fields[name].description if name in kind.model_fields else None
        raise PolicyError(
            f"the option {name}={given.get(name)!r} of {policy} is not possible: {first['msg'].lower()}"
            + (f" ({name}: {meaning})" if meaning else "")
        ) from None


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


def _keyword_arguments(policy: str, make: Callable[..., Any], first: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with every text as what its parameter of ``make`` is annotated with; without an annotation it stays text.

    ``4`` is an ``int``, ``0.5`` a ``float``, ``true`` or ``no`` a ``bool``, ``none`` is ``None``, ``1,2,3`` a tuple or a list, and what
    is written as JSON may be any of these and a map. Of a union, text is the last that is tried.

    Args:
        policy: The policy's name, for the sentence.
        make: The policy's class or the function that makes it.
        first: How many of its parameters are no options.
        options: Name to what was typed; what is no text is left as it is.
    """
    if not options:
        return {}
    parameters = inspect.signature(make).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        known = list(parameters)[first:]
        for option in options:
            if option not in known:
                takes = suggestion(option, known) if known else "it takes none"
                raise PolicyError(f"the policy {policy!r} has no option {option!r}; {takes}")
    return {
        name: _read(policy, name, value, _annotation(make, parameters.get(name))) if isinstance(value, str) else value
        for name, value in options.items()
    }


def _annotation(make: Callable[..., Any], parameter: inspect.Parameter | None) -> Any:
    """What a parameter is annotated with; ``Any`` where that is nothing, or a name that cannot be found."""
    if parameter is None or parameter.annotation is parameter.empty:
        return Any
    names = vars(sys.modules.get(make.__module__, typing))
    holder = type("Holder", (), {"__annotations__": {parameter.name: parameter.annotation}})
    try:
        return typing.get_type_hints(holder, globalns=dict(names), include_extras=True)[parameter.name]
    except Exception:  # a name that only a type checker imports
        return Any


def _read(policy: str, name: str, text: str, kind: Any) -> Any:
    if kind is Any:
        return text
    try:
        reader: TypeAdapter[Any] = TypeAdapter(kind)
    except PydanticUserError:  # a type that no text gives
        return text
    json = "null" if text.lower() == "none" else text
    problem = ""
    readings: list[Callable[[], Any]] = [
        lambda: reader.validate_strings(text),
        lambda: reader.validate_json(json),
        lambda: reader.validate_python(text.split(",")),
    ]
    for read in readings:
        try:
            return read()
        except ValidationError as error:
            problem = problem or error.errors()[0]["msg"].lower()
    expected = inspect.formatannotation(kind)
    raise PolicyError(f"the option {name}={text!r} of the policy {policy!r} does not fit; expected {expected} ({problem})")
