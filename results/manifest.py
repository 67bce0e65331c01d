"""The manifest of a run: its identity, and a record of how and where it was started. Saved as ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..envs.episode import Protocol, check_name
from ..envs.errors import BadMessageError, VlarigError
from ..envs.home import appearing
from ..envs.untrusted import convert, first_problem
from .records import TaskKey
from .run_files import sync

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1

#: Fields of a protocol under the names that they had in manifests before version 0.2.0.
_EARLIER_NAMES = {"execute": "n_action_steps", "hold_rows": "hold_steps"}

_ADVICE = "use another --run, or drop --run to start a new one"


class _Model(BaseModel):
    """Unknown fields are errors, values do not change, and a field's docstring is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _part_of_keys(kind: str) -> AfterValidator:
    return AfterValidator(lambda name: check_name(kind, name) or name)


class TaskPlan(_Model):
    """How many episodes of a task a run consists of."""

    name: Annotated[str, _part_of_keys("task or variant")]
    """Name of the task within the suite."""
    variant: Annotated[str, _part_of_keys("task or variant")]
    """Name of the variation; `base` where there is none."""
    episodes: int = Field(ge=1)
    """Episodes of it in the run."""


class SuitePlan(_Model):
    """A suite as it is swept by a run."""

    name: Annotated[str, _part_of_keys("suite")]
    """Name of the suite."""
    protocol: dict[str, Any]
    """The resolved protocol, every field of it, as plain data."""
    tasks: list[TaskPlan]
    """The tasks with their numbers of episodes, in the order of tables."""

    @field_validator("protocol")
    @classmethod
    def _a_protocol(cls, protocol: dict[str, Any]) -> dict[str, Any]:
        protocol = {_EARLIER_NAMES.get(name, name): value for name, value in protocol.items()}
        if protocol.get("limit_unit") == "rows":
            protocol["limit_unit"] = "steps"
        try:
            convert(protocol, Protocol, "protocol")
        except BadMessageError as error:
            raise ValueError(str(error)) from None
        return protocol

    @model_validator(mode="after")
    def _each_task_once(self) -> SuitePlan:
        if len({(task.name, task.variant) for task in self.tasks}) < len(self.tasks):
            raise ValueError("a task is listed twice")
        return self

    @property
    def resolved(self) -> Protocol:
        """The protocol as a value."""
        return msgspec.convert(self.protocol, Protocol)

    @property
    def protocol_name(self) -> str:
        """The protocol as ``name@version``, as in keys."""
        return f"{self.protocol['name']}@{self.protocol['version']}"

    @property
    def base_protocol(self) -> str:
        """Name of the benchmark's own protocol: the run's, or the one that it was derived from."""
        return str(self.protocol.get("derived_from") or self.protocol["name"])

    @property
    def conditions(self) -> tuple[str, str]:
        """Name and what the protocol asks of any policy: numbers of suites that agree in them can be compared.

        How many steps of a chunk are run before the policy is queried again is no part of it: that is the policy's affair.
        """
        asked = {name: value for name, value in self.protocol.items() if name not in ("derived_from", "n_action_steps")}
        return self.name, canonical_json(asked | {"name": self.base_protocol})

    @property
    def episodes(self) -> int:
        """Episodes of the suite in the run."""
        return sum(task.episodes for task in self.tasks)

    @property
    def planned(self) -> dict[TaskKey, int]:
        """Episodes that the run owes of each task, in the order of tables."""
        return {TaskKey(self.name, self.protocol_name, task.name, task.variant): task.episodes for task in self.tasks}


class Identity(_Model):
    """What identifies a run: with one of these changed, its results would belong to another run."""

    suites: list[SuitePlan]
    """The suites with their resolved protocols, tasks, and numbers of episodes."""
    episodes: int = Field(ge=0)
    """Number of episodes in all."""
    episodes_digest: str
    """SHA-256 over the sorted keys of the episodes, each with its payload (scenes, goals, prepared motions)."""
    seed: int = Field(ge=-(2**63), lt=2**63)
    """Seed of the run, from which the policy's randomness comes."""
    policy: str
    """Name of the policy as the user gave it: a scripted expert, a checkpoint, an address."""
    policy_options: dict[str, str] = Field(default_factory=dict)
    """The policy's options on the command line, by name."""
    policy_revision: str | None = None
    """What identifies the policy's weights: a hash of the checkpoint or a commit; `None` where it has none."""
    policy_state: str | None = None
    """SHA-256 of the weights of a policy that was given as an object; `None` for a named one, or one whose revision says all."""
    policy_privileged: bool = False
    """Whether the policy acts on the simulator's own truth, as scripted experts do; its numbers are not ranked beside others."""
    strict: bool = False
    """Whether `--strict` made the policy's arithmetic independent of how requests are batched."""
    runtimes: dict[str, str] = Field(default_factory=dict)
    """Name of each simulator's runtime, to the SHA-256 of the lock file that it was installed from."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Third-party code in use (suites, adapters, the policy, experts), and what the policy's options name: name of each file, folder or
    package, to its SHA-256."""
    assets: dict[str, str] = Field(default_factory=dict)
    """Name of each asset bundle, to its files' state: `official, ...` or how many are stand-ins, then `; sha256 ...`, a hash."""
    prepared: dict[str, str] = Field(default_factory=dict)
    """Suites whose initial states were prepared, to the SHA-256 of the result."""
    renderer: str
    """The renderer, for instance `osmesa` or `egl`; image digests are comparable only under one renderer."""
    vlarig_version: str
    """Version of vlarig."""

    @model_validator(mode="after")
    def _each_suite_once(self) -> Identity:
        if len({(suite.name, suite.protocol_name) for suite in self.suites}) < len(self.suites):
            raise ValueError("a suite is listed twice under one protocol")
        if (planned := sum(suite.episodes for suite in self.suites)) != self.episodes:
            raise ValueError(f"episodes is {self.episodes}, but its suites have {planned}")
        return self

    @property
    def planned(self) -> dict[TaskKey, int]:
        """Episodes that the run owes of each task, in the order of tables."""
        return {task: count for suite in self.suites for task, count in suite.planned.items()}

    @property
    def policy_label(self) -> str:
        """The policy's name, with its options."""
        return " ".join([self.policy, *(f"{name}={value}" for name, value in sorted(self.policy_options.items()))])

    def identity_hash(self) -> str:
        """SHA-256, in hex, over every field; over newer ones only where they are not empty, so that older runs keep their hash."""
        fields = self.model_dump(mode="json")
        hashed = {name: value for name, value in fields.items() if value or name not in ("sources", "policy_state")}
        return hashlib.sha256(canonical_json(hashed).encode()).hexdigest()

    def beside_episodes(self) -> Identity:
        """The same without the selection of episodes: runs that agree in it agree in each episode that both have."""
        return self.model_copy(update={"suites": [], "episodes": 0, "episodes_digest": ""})

    def policy_notes(self) -> list[str]:
        """Notes on the policy beside every number of the run: a line where it has an advantage over other policies."""
        note = f"policy {self.policy_label} acts on the simulator's own truth, so it is not ranked"
        return [note] if self.policy_privileged else []

    def asset_notes(self) -> list[str]:
        """Notes beside every number of the run: a line for each asset bundle whose files are not all official."""
        unofficial = {name: text for name, text in self.assets.items() if not text.startswith("official")}
        return [f"{name} assets: {text.partition('; sha256 ')[0]}" for name, text in sorted(unofficial.items())]


class Surroundings(_Model):
    """What is recorded about a run's start and may differ when it is resumed."""

    config: dict[str, Any] = Field(default_factory=dict)
    """The whole configuration, so that the run can be started again from it."""
    git_revision: str | None = None
    """Commit of the source tree; `None` outside a checkout."""
    git_dirty: bool | None = None
    """Whether the source tree had changes that were not committed; `None` outside a checkout."""
    packages: dict[str, str] = Field(default_factory=dict)
    """Versions of the installed packages, by name."""
    python: str = ""
    """Version of Python that the driver runs on."""
    host: str = ""
    """Name of the machine."""
    command: list[str] = Field(default_factory=list)
    """The command line, as a list of arguments."""
    created: str = ""
    """Start of the run in UTC, ISO 8601."""
    suite_notes: dict[str, str] = Field(default_factory=dict)
    """Name of a suite to a note beside its numbers."""
    runtime_packages: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Name of each simulator's runtime, to the versions of the packages in it, by name."""
    origins: dict[str, str] = Field(default_factory=dict)
    """`suite NAME`, `policy NAME` and `expert of SUITE`, to the installed package that each comes from, as `NAME VERSION`."""
    shard: str | None = None
    """The shard of the run's episodes in this folder, as `I/N`; `None` for all of them."""

    @property
    def suites(self) -> list[str]:
        """The suites as given on the command line, each by its name or as `module:NAME`."""
        return [each for each in self.config.get("suites") or () if isinstance(each, str)]

    @property
    def fresh(self) -> bool:
        """Whether it was started with `--fresh`, with nothing from other runs."""
        return bool(self.config.get("fresh"))

    @property
    def part(self) -> str:
        """The same in words."""
        return f"shard {self.shard} of its run" if self.shard else "a whole run"


class Manifest(_Model):
    """A run's `manifest.json`."""

    format: int = Field(default=MANIFEST_FORMAT, le=MANIFEST_FORMAT)
    """Version of this file's form."""
    identity: Identity
    """What identifies the run."""
    record: Surroundings = Surroundings()
    """How and where it was started."""

    def notes(self) -> list[str]:
        """Notes beside every number of the run, a line each: on its policy, its suites, then its data files."""
        suites = [f"{name}: {note}" for name, note in self.record.suite_notes.items()]
        return [*self.identity.policy_notes(), *suites, *self.identity.asset_notes()]

    def identity_hash(self) -> str:
        """SHA-256, in hex, over the identity; the record is not hashed."""
        return self.identity.identity_hash()

    def text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def save(self, run_dir: Path) -> None:
        """Write ``manifest.json`` into ``run_dir``; it appears whole or not at all."""
        path = run_dir / MANIFEST_NAME
        text = self.text()
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            with appearing(path) as draft:
                draft.write_text(text, encoding="utf-8")
                sync(draft)
            sync(run_dir)
        except OSError as error:
            raise VlarigError(
                f"{path} cannot be written: {error}; check that the folder is writable, with space left"
            ) from error

    @classmethod
    def load(cls, run_dir: Path) -> Manifest:
        path = run_dir / MANIFEST_NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise VlarigError(f"{run_dir} holds no run: {path} is missing; `vlarig runs list` lists the runs") from None
        except OSError as error:
            raise VlarigError(f"{path} cannot be read: {error}; restore it from a copy") from error
        except ValidationError as error:
            newer = error.errors()[0]["loc"] == ("format",) and error.errors()[0]["type"] == "less_than_equal"
            advice = "install a newer vlarig" if newer else "restore it from a copy"
            raise VlarigError(f"{path} is no manifest: {first_problem(error)}; {advice}") from error


def check_same(saved: Manifest, wanted: Manifest, run: str = "") -> None:
    """Make sure that a run, which the message names, is resumed with the identity that it was started with, and as the same part."""
    named = f"the run {run}" if run else "the run"
    differences = identity_differences(saved.identity, wanted.identity)
    reasons = "; ".join(_difference(saved, wanted, *difference) for difference in differences)
    if reasons:
        raise VlarigError(f"{named} was started with another identity: {reasons}; {_ADVICE}")
    if saved.record.shard != wanted.record.shard:
        raise VlarigError(f"{named} was started as {saved.record.part}, now it is to be {wanted.record.part}; {_ADVICE}")


def _difference(saved: Manifest, wanted: Manifest, name: str, old: str, new: str) -> str:
    field, _, part = name.partition(".")
    if field == "sources":
        return f"{part} has changed" if "absent" not in (old, new) else f"{part} was {_known(old)}, now {_known(new)}"
    if field == "policy_state":
        return "the policy object has another state"
    if field == "runtimes":
        packages = wanted.record.runtime_packages.get(part, {})
        changes = package_changes(saved.record.runtime_packages.get(part, {}), packages)
        return f"{name} was {old}, now {new}{changes and f' ({changes})'}"
    return f"{name} was {old}, now {new}"


def _known(value: str) -> str:
    return "not part of it" if value == "absent" else "part of it"


def package_changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Which packages changed, from version to version; empty where none did, or where an older run has no versions."""
    if not old or not new:
        return ""
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    words = [f"{name} {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in changed]
    return ", ".join(words[:8] + ([f"{len(words) - 8} more"] if len(words) > 8 else []))


def identity_differences(one: Identity, other: Identity) -> list[tuple[str, str, str]]:
    """The smallest parts in which two identities differ, each as its name and the two values in a few words."""
    found = _differences(one.model_dump(mode="json"), other.model_dump(mode="json"))
    return [(name, _short(old), _short(new)) for name, old, new in found]


def protocol_differences(one: SuitePlan, other: SuitePlan) -> str:
    """The smallest parts in which two protocols differ, with both values; their names only where nothing else does."""
    found = _differences(one.protocol, other.protocol)
    telling = [difference for difference in found if difference[0] not in ("name", "version", "derived_from")]
    return ", ".join(f"{name} ({_short(old)} against {_short(new)})" for name, old, new in telling or found)


def canonical_json(value: Any) -> str:
    """``value`` as JSON that is the same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


class _Absent:
    """Marks a field that one side lacks."""


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """The smallest parts in which two trees of plain data differ, as name, old value, new value."""
    if isinstance(old, list) and isinstance(new, list):
        named_old, named_new = _names(old), _names(new)
        if named_old is not None and named_new is not None:
            if named_old.keys() == named_new.keys() and list(named_old) != list(named_new):
                return [(f"order of {name}", list(named_old), list(named_new))]
            return _by_key(named_old, named_new, lambda key: f"{name}[{key}]")
    if isinstance(old, dict) and isinstance(new, dict):
        return _by_key(old, new, lambda key: f"{name}.{key}" if name else key)
    return [] if old == new and type(old) is type(new) else [(name, old, new)]


def _by_key(old: dict[str, Any], new: dict[str, Any], label: Any) -> list[tuple[str, Any, Any]]:
    keys = [*old, *(key for key in new if key not in old)]
    return [difference for key in keys for difference in _differences(old.get(key, _Absent), new.get(key, _Absent), label(key))]


def _names(items: list[Any]) -> dict[str, Any] | None:
    """A list of suites or tasks by their names; ``None`` for any other list."""
    if not all(isinstance(item, dict) and "name" in item for item in items):
        return None
    named = {"/".join([item["name"], *([item["variant"]] if "variant" in item else [])]): item for item in items}
    return named if len(named) == len(items) else None


def _short(value: Any) -> str:
    if value is _Absent:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= 60:
        return text
    return "present" if isinstance(value, dict) else f"{text[:45]}...{text[-12:]}"
