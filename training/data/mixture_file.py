"""Where a training's samples come from: a callable of the user's, or a mixture's file, which names datasets, options and weights.

.. code-block:: toml

    weights = "table_1"        # or t2a, balanced; or each dataset has a weight of its own
    seed = 0
    skip_broken = false        # true: another sample in the place of one that does not read

    [[datasets]]
    source = "lerobot"         # a kind below, or module:NAME of a callable that gives a Dataset
    folder = "data/tabletop"   # its options
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...envs.errors import suggestion
from ...envs.plugins import import_local
from ..config import TrainingError
from ..samples import Stream
from .dataset import Dataset
from .errors import DataError
from .mixture import Mixture, mix

if TYPE_CHECKING:
    from .lerobot_cleaning import Cleaning, Watch

#: Kind of data to the callable that opens it, as one dataset or as several.
KINDS: dict[str, str] = {
    "lerobot": "vlarig.training.data.lerobot:open_lerobot",
    "trajectories": "vlarig.training.data.trajectories:open_trajectories",
    "synthetic": "vlarig.training.data.synthetic.dataset:synthetic_datasets",
    "conversations": "vlarig.training.data.vision_language:VisionLanguageDataset",
    "captions": "vlarig.training.data.captions:CaptionDataset",
    "questions": "vlarig.training.data.render_questions:open_questions",
    "walks": "vlarig.training.data.navigation:NavigationDataset",
    "egodex": "vlarig.training.data.egodex:open_egodex",
    "vitra": "vlarig.training.data.vitra:open_vitra",
}

#: Options that name files and folders.
_PATHS = ("folder", "file", "videos", "statistics_file")


def find_stream(source: str, options: Mapping[str, Any]) -> Stream:
    """The stream that ``module:NAME`` gives for these options, or ``mixture:FILE``; the working directory is searched too."""
    if source.startswith("mixture:"):
        return read_mixture(source.partition(":")[2])
    _, colon, name = source.partition(":")
    if not colon or not name:
        raise TrainingError(
            f"data.source is {source!r}; expected mixture:FILE, or module:NAME of a callable that gives samples"
        )
    try:
        make = _imported(source)
    except (ImportError, AttributeError) as error:
        raise TrainingError(f"data.source {source!r} cannot be imported ({error}); check the module and the name") from None
    try:
        return make(**options)
    except TypeError as error:
        raise TrainingError(f"data.source {source!r} does not take data.options ({error})") from None


def read_mixture(file: str | Path) -> Mixture:
    """The mixture that a file names; paths in it are relative to its folder."""
    path = Path(file)
    data = _read_toml(path)
    entries = data.pop("datasets", [])
    known = ("weights", "seed", "skip_broken")
    for name in data:
        if name not in known:
            raise DataError(f"{path} has an unknown name {name!r}; {suggestion(name, (*known, 'datasets'))}")
    own = [entry.pop("weight", None) for entry in entries]
    opened = [open_datasets(entry, path) for entry in entries]
    if "weights" not in data and None not in own:
        totals = [sum(map(len, each)) for each in opened]
        data["weights"] = [
            weight * len(dataset) / total for weight, each, total in zip(own, opened, totals, strict=True) for dataset in each
        ]
    elif any(weight is not None for weight in own):
        raise DataError(
            f"{path} gives weights to {sum(w is not None for w in own)} of {len(own)} datasets; give all one, or none"
        )
    return mix([dataset for each in opened for dataset in each], **data)


def clean_mixture(file: str | Path, workers: int, watch: Watch) -> Iterator[tuple[str, Cleaning, Path]]:
    """Judge the episodes of each LeRobotDataset of a mixture, see :func:`~.lerobot_cleaning.clean_lerobot`.

    Yields:
        The dataset's folder, what is left out of it, and the file that says so.
    """
    from .lerobot_cleaning import clean_lerobot

    path = Path(file)
    entries = [entry for entry in _read_toml(path).get("datasets", []) if entry.get("source") in ("lerobot", "trajectories")]
    if not entries:
        raise DataError(f"{path} has no dataset of the source 'lerobot'; the other sources are cleaned where they are made")
    by_folder: dict[str, dict[str, Any]] = {}  # which several entries may read in several ways
    for entry in entries:
        by_folder.setdefault(entry["folder"], entry)
    for entry in by_folder.values():
        options = {"horizon": 1, **entry, "workers": workers, "watch": watch}
        cleaning, stored = _call(clean_lerobot, options, path)
        yield str(path.parent / entry["folder"]), cleaning, stored


def open_unmixed(file: str | Path) -> list[Dataset]:
    """The datasets that a mixture names, as far as they open before they are prepared."""
    entries = _read_toml(Path(file)).get("datasets", [])
    return [dataset for entry in entries for dataset in open_datasets(entry, Path(file))]


def open_datasets(entry: dict[str, Any], file: Path) -> list[Dataset]:
    """The datasets of an entry; its ``folder`` or ``file`` is the callable's first argument."""
    source = str(entry.get("source", ""))
    if ":" not in source and source not in KINDS:
        raise DataError(f"{file} has a dataset of the source {source!r}; {suggestion(source, KINDS)} (or module:NAME of yours)")
    try:
        make = _imported(KINDS.get(source, source))
    except (ImportError, AttributeError) as error:
        raise DataError(f"the source {source!r} in {file} cannot be imported ({error})") from None
    found = _call(make, entry, file)
    return found if isinstance(found, list) else [found]


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_local(module), name)


def _call(make: Callable[..., Any], entry: dict[str, Any], file: Path) -> Any:
    options = {key: file.parent / entry[key] if key in _PATHS else entry[key] for key in entry.keys() - {"source", "weight"}}
    place = [options.pop(name) for name in ("folder", "file") if name in options]
    try:
        return make(*place, **options)
    except TypeError as error:
        raise DataError(f"the source {entry['source']!r} in {file} does not take its options ({error})") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"there is no mixture {path}; name its TOML file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} does not read as TOML ({error})") from None
