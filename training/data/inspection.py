"""``vlarig data inspect``: what is in a mixture, as tables and as a page of images and action curves."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table
from rich.text import Text

from ...envs.embodiments import Embodiment
from ...harness.screen import Screen
from ...policies.qwen_vla.conversation import Still, Video
from ..samples import ActionSample, LanguageSample, Sample
from .dataset import Dataset, spread
from .errors import DataError
from .mixture import Mixture

#: Height of an image on the page, in pixels.
_HEIGHT = 160
#: Most images of a sample on the page.
_MOST_IMAGES = 8
#: Most sentences about broken samples of a dataset.
_MOST_BROKEN = 12
#: A plot's size, in points, and its colours (ColorBrewer's "Dark2" and "Set1", which differ in lightness too).
_PLOT = (360, 80)
_COLOURS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#666666", "#377eb8", "#984ea3")


@dataclass
class Seen:
    """What some samples of a dataset show.

    Attributes:
        share: Of the mixture.
        looked_at: Samples that were read.
        broken: Sentences about those that did not read.
        instructions: How often each instruction came.
        lengths: Steps of the chunks.
        ranges: Embodiment to least and largest number of each channel, ``[2, A]``.
        examples: Some of the samples.
    """

    dataset: Dataset
    share: float
    looked_at: int = 0
    broken: list[str] = field(default_factory=list)
    instructions: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    ranges: dict[str, np.ndarray] = field(default_factory=dict)
    examples: list[Sample] = field(default_factory=list)


def look(mixture: Mixture, samples: int, examples: int) -> list[Seen]:
    """Read so many samples of each dataset, spread over it, and keep so many examples of those."""
    shares = [0.0] * len(mixture.datasets)
    for source, share in zip(mixture.sources, mixture.shares, strict=True):
        shares[source.dataset] += share
    return [_look(dataset, share, samples, examples) for dataset, share in zip(mixture.datasets, shares, strict=True)]


def _look(dataset: Dataset, share: float, samples: int, examples: int) -> Seen:
    seen, indices = Seen(dataset, share), spread(dataset, samples)
    kept = {indices[place] for place in np.linspace(0, len(indices) - 1, min(examples, len(indices))).astype(int)}
    for index in indices:
        try:
            sample = dataset[index]
        except DataError as error:
            seen.broken.append(str(error))
            continue
        seen.looked_at += 1
        if index in kept:
            seen.examples.append(sample)
        if isinstance(sample, ActionSample):
            seen.instructions[sample.observation["instruction"]] += 1
            seen.lengths[len(sample.actions)] += 1
            ends = np.stack((sample.actions.min(0), sample.actions.max(0)))
            known = seen.ranges.setdefault(sample.embodiment.name, ends)
            known[0], known[1] = np.minimum(known[0], ends[0]), np.maximum(known[1], ends[1])
    return seen


def show(found: list[Seen], screen: Screen) -> None:
    """Print the datasets, then what cleaning left out of them, the channels of each robot, and what is broken."""
    columns = ("dataset", "family", "share", "samples", "left out", "hours", "tasks", "robots", "instructions", "broken")
    whole, blocks = Table(), []
    for name in columns:
        whole.add_column(name, justify="left" if name in ("dataset", "family", "robots") else "right", no_wrap=True)
    for seen in found:
        dataset = seen.dataset
        cells = (
            dataset.name,
            dataset.family.replace("_", " "),
            f"{100 * seen.share:.1f} %",
            f"{len(dataset):,}",
            _left_out(dataset),
            "" if dataset.hours is None else f"{dataset.hours:,.1f}",
            str(len(dataset.tasks)),
            ", ".join(each.name for each in dataset.embodiments),
            str(len(seen.instructions)) if seen.instructions else "",
            f"{len(seen.broken)} of {seen.looked_at + len(seen.broken)}",
        )
        whole.add_row(*cells)
        rest = ", ".join(f"{name}: {cell}" for name, cell in zip(columns[1:], cells[1:], strict=True) if cell)
        blocks.append((Text(dataset.name), rest))
    screen.print_table(whole, blocks)
    _show_drops(found, screen)
    for seen in found:
        for embodiment in seen.dataset.embodiments:
            if embodiment.name in seen.ranges:
                screen.print(_channels(seen, embodiment))
        for sentence in seen.broken[:_MOST_BROKEN]:
            screen.print(f"broken: {sentence}", soft_wrap=True)


def _left_out(dataset: Dataset) -> str:
    """How many of its episodes cleaning left out; empty where nothing moves."""
    if dataset.cleaning is None:
        return "not cleaned" if dataset.embodiments else ""
    return f"{dataset.cleaning.dropped:,} of {dataset.cleaning.total:,}"


def _show_drops(found: list[Seen], screen: Screen) -> None:
    """Print a row for each dataset and reason, where there is any."""
    table, blocks = Table(title="left out by cleaning", title_justify="left"), []
    for name in ("dataset", "reason", "episodes", "share", "for example"):
        table.add_column(name, justify="right" if name in ("episodes", "share") else "left", no_wrap=name != "for example")
    for seen in found:
        for drop in _drops(seen.dataset):
            example = drop["examples"][0] if drop["examples"] else ""
            table.add_row(seen.dataset.name, drop["reason"], drop["count"], drop["share"], example)
            head = f"{seen.dataset.name}, {drop['reason']}: {drop['count']} episodes left out, {drop['share']}"
            blocks.append((Text(head), example))
    if blocks:
        screen.print_table(table, blocks)


def _drops(dataset: Dataset) -> list[dict[str, Any]]:
    """Reason, number, share and examples of what cleaning left out, the most frequent reason first."""
    report = dataset.cleaning
    if report is None:
        return []
    return [
        {
            "reason": reason,
            "count": f"{count:,}",
            "share": f"{100 * count / report.total:.1f} %",
            "examples": [f"{drop.episode}: {drop.detail}" for drop in report.examples.get(reason, ())],
        }
        for reason, count in sorted(report.counts.items(), key=lambda item: -item[1])
    ]


def _channels(seen: Seen, embodiment: Embodiment) -> Table:
    table = Table(title=f"{seen.dataset.name}: {embodiment.name}", title_justify="left")
    for name in ("channel", "unit", "1 %", "99 %", "least seen", "most seen"):
        table.add_column(name, justify="left" if name in ("channel", "unit") else "right", no_wrap=name == "channel")
    statistics = seen.dataset.statistics[embodiment.statistics_key].actions
    least, most = seen.ranges[embodiment.name]
    for index, channel in enumerate(embodiment.channels):
        numbers = (statistics.q01[index], statistics.q99[index], least[index], most[index])
        table.add_row(channel.name, channel.unit, *(f"{number:.3g}" for number in numbers))
    return table


def write_page(found: list[Seen], file: Path) -> None:
    """One HTML file that needs nothing else: for each dataset its figures, and its examples with images and curves."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(loader=PackageLoader("vlarig.training.data", "html"), autoescape=select_autoescape())
    datasets = [
        {
            "name": seen.dataset.name,
            "family": seen.dataset.family.replace("_", " "),
            "share": f"{100 * seen.share:.1f} %",
            "samples": f"{len(seen.dataset):,}",
            "left_out": _left_out(seen.dataset),
            "drops": _drops(seen.dataset),
            "hours": "" if seen.dataset.hours is None else f"{seen.dataset.hours:,.1f} hours",
            "instructions": seen.instructions.most_common(12),
            "broken": seen.broken[:_MOST_BROKEN],
            "examples": [_example(sample) for sample in seen.examples],
        }
        for seen in found
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(environment.get_template("mixture.html").render(datasets=datasets), encoding="utf-8")


def _example(sample: Sample) -> dict[str, Any]:
    if isinstance(sample, LanguageSample):
        turns = [
            (
                turn.role,
                "".join(item if isinstance(item, str) else f" [{type(item).__name__.lower()}] " for item in turn.content),
            )
            for turn in sample.conversation.turns
        ]
        images = [image for item in sample.conversation.seen() for image in _stills(item)]
        return {
            "name": sample.name,
            "turns": turns,
            "images": [("", image_text(image)) for image in images[:_MOST_IMAGES]],
        }
    views = [(tag, frame) for tag, frames in sample.observation["images"].items() for frame in frames]
    return {
        "name": sample.name,
        "robot": sample.embodiment.robot_tag,
        "instruction": sample.observation["instruction"],
        "images": [(tag, image_text(image)) for tag, image in views[:_MOST_IMAGES]],
        "plots": _plots(sample),
        "size": _PLOT,
    }


def _stills(item: Still | Video) -> list[np.ndarray]:
    """An image, or frames that are spread over a video, each ``uint8[h, w, 3]``."""
    if isinstance(item, Still):
        return [item.image]
    count = min(len(item.frames), _MOST_IMAGES)
    return list(item.frames[np.linspace(0, len(item.frames) - 1, count).round().astype(int)])


def image_text(image: np.ndarray) -> str:
    """A JPEG as a page's own text (base64)."""
    small = Image.fromarray(np.ascontiguousarray(image))
    small.thumbnail((4 * _HEIGHT, _HEIGHT))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return base64.b64encode(data.getvalue()).decode()


def _plots(sample: ActionSample) -> list[dict[str, Any]]:
    """The chunk's channels over time as points of SVG polylines.

    Channels of one unit and one side that follow each other share a plot and its scale, which has 0 in it: noise looks small beside
    motion, and signs are seen.
    """
    actions = np.asarray(sample.actions, np.float64)
    width, height = _PLOT
    across = np.linspace(0, width, max(len(actions), 2))
    plots = []
    channels = enumerate(sample.embodiment.channels)
    for (unit, _, _), group in groupby(channels, key=lambda each: (each[1].unit, each[1].kind, _side(each[1].name))):
        members = list(group)
        shared = members[0][1].name.rpartition("_")[0] + "_"
        if len(members) == 1 or not all(channel.name.startswith(shared) for _, channel in members):
            shared = ""
        values = actions[:, [index for index, _ in members]]
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        up = 4 + (height - 8) * (high - np.vstack((values, values[-1:]) if len(values) == 1 else (values,))) / (
            high - low or 1.0
        )
        curves = [
            {
                "name": channel.name.removeprefix(shared),
                "colour": _COLOURS[place % len(_COLOURS)],
                "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up[:, place], strict=True)),
            }
            for place, (_, channel) in enumerate(members)
        ]
        zero = 4 + (height - 8) * high / (high - low or 1.0)
        plots.append(
            {"range": f"{shared.strip('_')} {low:.3g} to {high:.3g} {unit}".strip(), "zero": f"{zero:.1f}", "curves": curves}
        )
    return plots


def _side(channel: str) -> str:
    """The arm that a channel moves; empty where there is one."""
    return next((side for side in ("left", "right") if channel.startswith(f"{side}_")), "")
