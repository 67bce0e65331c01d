"""``vlarig data``: record and make data, look into a mixture and check it, before a GPU is spent on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ...envs.errors import not_importable
from ...harness.command_line import parse
from ...harness.commands.record import RecordConfig, record
from ...harness.screen import Screen
from ..config import TrainingError
from .render_options import RenderOptions
from .synthetic.options import Count, SynthesizeOptions

DESCRIPTION = """Record and make data for a training, look into the mixture that it is to learn from, clean it and check it.

  vlarig data record tabletop --policy expert --episodes 50 --to demos
  vlarig data clean mix.toml --workers 8
  vlarig data inspect mix.toml --page page.html
  vlarig data check mix.toml --model small
  vlarig data prepare mix.toml
  vlarig data synthesize --to synth --arm ur5e --template pick_place --shards 0-3
  vlarig data render-questions tabletop --scenes 1000 --to asked
  vlarig data score held --model runs/sft/policy --to answers.jsonl
"""

File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MIXTURE")]


@dataclass(frozen=True)
class InspectOptions:
    """Show what is in a mixture: shares, counts, hours, ranges, instructions; with --page, images and action curves."""

    mixture: File
    """The mixture's TOML file."""
    samples: Count = 200
    """Samples of each dataset to read."""
    page: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write a page of examples, one HTML file."""
    examples: Count = 6
    """Examples of each dataset on the page."""


@dataclass(frozen=True)
class CleanOptions:
    """Judge every episode of the mixture's LeRobotDatasets by the rules of cleaning; those that break one are left out from then on."""

    mixture: File
    """The mixture's TOML file."""
    workers: Count = 1
    """Processes that read."""


@dataclass(frozen=True)
class CheckOptions:
    """Refuse what a model would misread: channels, units, statistics, prompts, images. Exit status 1 where there is anything."""

    mixture: File
    """The mixture's TOML file."""
    model: Annotated[str, tyro.conf.arg(metavar="SOURCE")] = "small"
    """Preset or checkpoint that is to be trained."""
    samples: Count = 200
    """Samples of each dataset to read."""


@dataclass(frozen=True)
class PrepareOptions:
    """Read the human hands and walks of a mixture; write their eigengrasps, quantiles and what is left out beside them."""

    mixture: File
    """The mixture's TOML file."""
    eigengrasps: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Basis of hand poses instead of a fitted one: eigengrasps.json of a checkpoint or of prepared data."""


@dataclass(frozen=True)
class ScoreOptions:
    """Put held-out questions to a model and score its answers. The same command goes on."""

    questions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="QUESTIONS")]
    """A folder of render-questions, or JSONL conversations, whose last answers are expected."""
    model: Annotated[str, tyro.conf.arg(metavar="SOURCE")]
    """Preset or checkpoint that answers."""
    to: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("answers.jsonl")
    """JSONL with a line for each question, its answer and its score."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Most questions, spread evenly over all."""
    blind: bool = False
    """Show grey images: what the words of the questions alone give away."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Precision that matrices are multiplied in."""


def main(arguments: list[str]) -> int:
    kinds: dict[str, tuple[type, Callable[[Any], int]]] = {
        "record": (RecordConfig, record),
        "inspect": (InspectOptions, _inspect),
        "clean": (CleanOptions, _clean),
        "check": (CheckOptions, _check),
        "prepare": (PrepareOptions, _prepare),
        "synthesize": (SynthesizeOptions, _synthesize),
        "render-questions": (RenderOptions, _render),
        "score": (ScoreOptions, _score),
    }
    options = parse({name: kind for name, (kind, _) in kinds.items()}, arguments, "vlarig data", DESCRIPTION)
    if isinstance(options, RecordConfig):
        return record(options)
    try:
        return dict(kinds.values())[type(options)](options)
    except ImportError as error:
        raise TrainingError(not_importable("this command needs", error, "policy,train,results")) from None


def _inspect(options: InspectOptions) -> int:
    from .inspection import look, show, write_page
    from .mixture_file import read_mixture

    found, screen = look(read_mixture(options.mixture), options.samples, options.examples), Screen()
    show(found, screen)
    if options.page is not None:
        write_page(found, options.page)
        screen.print(f"the page: {options.page}", soft_wrap=True)
    return 0


def _clean(options: CleanOptions) -> int:
    from rich.progress import track

    from .cleaning import Drop
    from .mixture_file import clean_mixture

    screen = Screen()

    def watch(verdicts: Iterable[Drop | None], total: int) -> Iterable[Drop | None]:
        console = Screen(stderr=True)
        return track(verdicts, "episodes", total, console=console, transient=True, disable=not console.is_terminal)

    for folder, cleaning, stored in clean_mixture(options.mixture, options.workers, watch):
        screen.print(f"{folder}: {len(cleaning.drops)} of {cleaning.total} episodes are left out", soft_wrap=True)
        screen.print(cleaning.report.table())
        screen.print(f"stored in {stored}", soft_wrap=True)
    return 0


def _prepare(options: PrepareOptions) -> int:
    from .preparation import prepare, read_eigengrasps

    screen, every = Screen(soft_wrap=True), 1000
    basis = None if options.eigengrasps is None else read_eigengrasps(options.eigengrasps)

    def progress(name: str, there: int, wanted: int) -> None:
        if there % every == 0:
            screen.print(f"{name}: {there} of {wanted} episodes")

    for name, report in prepare(options.mixture, basis, progress):
        table = report.table()
        table.title, table.title_justify = name, "left"
        screen.print(table)
    return 0


def _synthesize(options: SynthesizeOptions) -> int:
    from .synthetic.generate import synthesize

    screen = Screen(soft_wrap=True)
    for task, report, new in synthesize(options):
        screen.print(f"{task.path}: {report}" + ("" if new else " (was there)"))
    return 0


def _render(options: RenderOptions) -> int:
    from .render_questions import render_questions

    screen = Screen(soft_wrap=True)
    done = render_questions(options, lambda there, wanted: screen.print(f"{there} of {wanted} scenes"))
    screen.print(f"questions: {done.questions}")
    return 0


def _score(options: ScoreOptions) -> int:
    import torch
    import transformers

    from ...policies.qwen_vla.acceleration import choose_kernels
    from ...policies.qwen_vla.checkpoint import load
    from .score_questions import answerer, read_questions, score_questions
    from .score_table import show, summarize

    screen = Screen(soft_wrap=True)
    questions = read_questions(options.questions, options.limit)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    transformers.logging.set_verbosity_error()  # it would warn of each kernel that is not installed
    torch.set_num_threads(1)  # as policies do on a CPU
    bundle = load(options.model, device=device, compute=getattr(torch, options.compute))
    choose_kernels(bundle.model, device)
    answered = score_questions(
        questions,
        answerer(bundle),
        f"{options.model} ({bundle.revision}, {options.compute})",
        options.to,
        options.blind,
        lambda there, all_of: screen.print(f"{there} of {all_of} questions"),
    )
    show(summarize(answered), Screen())
    screen.print(f"the answers: {options.to}")
    return 0


def _check(options: CheckOptions) -> int:
    from ...policies.qwen_vla.inspection import describe
    from ...policies.qwen_vla.presets import PRESETS
    from ...policies.qwen_vla.sources import find_checkpoint
    from ...policies.qwen_vla.tokenizer import add_view_tokens, load_tokenizer, small_tokenizer
    from .checking import check
    from .mixture_file import read_mixture

    config = describe(options.model).config
    tokenizer = small_tokenizer() if options.model in PRESETS else load_tokenizer(find_checkpoint(options.model, weights=False))
    add_view_tokens(tokenizer)
    screen, count = Screen(soft_wrap=True), 0
    for problem in check(read_mixture(options.mixture), config, tokenizer, options.samples):
        count += 1
        screen.print(f"{problem.where}: {problem.sentence}")
    screen.print("nothing was found" if not count else f"{count} problems")
    return 1 if count else 0
