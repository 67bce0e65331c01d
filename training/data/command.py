"""``vlarig data``: record and make data, look into a mixture and check it, before a GPU is spent on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ...envs.errors import VlarigError, not_importable
from ...harness.command_line import parse
from ...harness.plan import SweepConfig
from ...harness.reporting.logs import EventLog
from ...harness.screen import Screen
from ...harness.sinks import TrackerName
from ...harness.sweep import cluster, named_policy, run_sweep
from ...results.forms.terminal import print_sheets
from ...results.rendering import LEGEND, run_sheet
from ...results.tables import run_table
from ..config import TrainingError
from .recorder import RecordingPlan, mb_of
from .render_options import RenderOptions
from .synthetic.options import Count, SynthesizeOptions


class RecordConfig(SweepConfig):
    """Play a suite's episodes with any policy or expert, and write a LeRobotDataset v3.0 of those that succeed.

    Episodes begin where none is evaluated: at the suite's initial states for training. The same command resumes a recording that was
    interrupted; workers, envs and machines change its speed, never the dataset. FOLDER/run is a run as of 'vlarig sweep', which tables,
    pages and 'vlarig runs replay' read.

      vlarig data record tabletop --policy expert --episodes 50 --to demos
      vlarig data record tabletop --policy expert --episodes 5 --tasks stack push_to --to demos --workers 2
      vlarig data record libero_spatial --policy openpi:ws://HOST:8000 --episodes 10 --keep-failures --to demos --hosts HOST1 HOST2
    """

    suites: Annotated[tuple[str], tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """Suite to record; 'vlarig envs list' shows them."""
    episodes: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Episodes of each task to play; must be given."""
    to: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the dataset; one that was begun is resumed."""
    keep_failures: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep episodes that did not succeed too; each says whether it did."""
    initial_states: Literal["evaluation", "training"] = "training"
    """Where episodes begin. A policy that is trained on 'evaluation' cannot be evaluated on them."""
    run: Annotated[Path | None, tyro.conf.Suppress] = None
    fresh: Annotated[bool, tyro.conf.Suppress] = False
    shard: Annotated[str | None, tyro.conf.Suppress] = None
    track: Annotated[tuple[TrackerName, ...], tyro.conf.Suppress] = ()
    video: Annotated[Literal["none", "failures", "all"], tyro.conf.Suppress] = "none"

    @property
    def config(self) -> SweepConfig:
        """The sweep alone."""
        return SweepConfig(**self.model_dump(exclude={"to", "keep_failures", "run"}), run=self.plan.run)

    @property
    def plan(self) -> RecordingPlan:
        return RecordingPlan(self.to, self.suites[0], self.keep_failures)


def record(command: RecordConfig) -> int:
    """Run the command; 0 when every episode is finished, 1 when some were given up."""
    if command.episodes is None:
        raise VlarigError(
            "how many episodes to play is not given; name it, as in: vlarig data record tabletop --episodes 50 ..."
        )
    config, plan = command.config, command.plan
    recorder = plan.begin()
    console = Screen()
    with EventLog(console) as event_log:
        try:
            with cluster(config), named_policy(config, event_log.say) as policy:
                evaluation = run_sweep(config, policy, event_log, recorder=recorder)
        finally:
            recorder.close()
        event_log.say("joining the episodes")
        count = plan.finish(evaluation.complete)
    print_sheets(console, [run_sheet(run_table(evaluation.run))], LEGEND)
    console.print(
        f"dataset: {plan.folder}, {count} episode{'s' * (count != 1)}, {mb_of(plan.folder):.1f} MB; the run is in {plan.run}",
        highlight=False,
        soft_wrap=True,
    )
    return 0 if evaluation.complete else 1


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
    from .score_questions import answerer, read_questions, score_questions, show, summarize

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
    from ...policies.qwen_vla.named import PRESETS, find_checkpoint
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
