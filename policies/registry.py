"""Policies by name: the rig's own, clients of those elsewhere (``scheme:argument``), entry points, and any class as ``module:Name``."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from ..envs.api import Needs
from ..envs.errors import VlarigError, suggestion
from ..envs.faults import describe, traceback_of
from ..envs.plugins import Registration, broken_plugins, import_local, only, registered_experts, registrations
from ..envs.sources import Source, find_sources, named_files
from .api import Policy, PolicyError
from .calls import policy_code
from .options import option_values

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
    given = dict(options or {})
    _check_options(name, make, arguments, given)
    given = option_values(name, make, given)
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


def _check_options(name: str, make: Callable[[], Any], arguments: list[str], options: dict[str, str]) -> None:
    if not options:
        return
    parameters = inspect.signature(make).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = list(parameters)[len(arguments) :]
    for option in options:
        if option not in known:
            takes = suggestion(option, known) if known else "it takes none"
            raise PolicyError(f"the policy {name!r} has no option {option!r}; {takes}")


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
