"""What ``vlarig policy inspect`` shows: a policy's parts, sizes, robots, ranges and prompt, without its weights."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from ...envs.embodiments import Embodiment
from .embodiments import EXAMPLE
from .named import PRESETS, Description, chunk_steps
from .prompt import chat_text, embodiment_prompt

#: Parameters by part of presets that are shown without PyTorch: the paper's own size. A test counts them in the model.
SIZES = {
    "4b": {
        "block": 70_788_352,
        "blocks": 1_132_613_632,
        "action projections": 4_919_872,
        "vlm projection": 3_933_696,
        "time embedding": 2_755_584,
        "output modulation": 4_721_664,
        "action expert": 1_148_944_448,
        "vision": 333_514_240,
        "language model": 4_205_751_296,
        "value head": 2_561,
        "total": 5_688_212_545,
    }
}

#: Placeholder of the task's words in the prompts that are shown.
INSTRUCTION = "put the spoon on the towel"

#: Parts of the action expert, and how far they are indented.
_WITHIN = {"blocks": 1, "block": 2, "action projections": 1, "vlm projection": 1, "state projection": 1, "time embedding": 1}
_WITHIN |= {"output modulation": 1, "ends projection": 1}


def describe(source: str) -> Description:
    """A preset's or a checkpoint's description; no weights are made or read."""
    if source in SIZES:
        return Description(PRESETS[source]())
    from .checkpoint import describe_checkpoint
    from .named import find_checkpoint
    from .tokenizer import small_tokenizer, token_ids

    if source in PRESETS:
        return Description(PRESETS[source](tokens=token_ids(small_tokenizer())))
    return describe_checkpoint(find_checkpoint(source, weights=False))


def inspection(source: str) -> list[Table | Text]:
    """The description of a policy, for a rich console; a text's lines are not to be wrapped."""
    description = describe(source)
    return [
        Text(f"qwen-vla:{source}" if source else "qwen-vla"),
        *_trained(description),
        _sizes(description, SIZES.get(source) or counted(description)),
        _architecture(description),
        _robots(description),
        *_statistics(description),
        *_eigengrasps(description),
        _prompts(description),
        _accelerations(),
    ]


def paper_size(count: int) -> str:
    """A number of parameters as the paper prints it (section 2.2): ``70.8M``, ``1.13B``; what would be ``0.0M`` as it is."""
    if count >= 1e9:
        return f"{count / 1e9:.2f}B"
    return f"{count / 1e6:.1f}M" if count >= 5e4 else str(count)


def counted(description: Description) -> dict[str, int]:
    """Parameters by part, counted in a model without weights."""
    from .model import build, parameter_counts

    return parameter_counts(build(description.config, seed=None, device="meta"))


def _facts(*facts: tuple[str, str]) -> Table:
    """Names with what is said of them, which is wrapped beside the names."""
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=14, no_wrap=True)
    table.add_column()
    for name, words in facts:
        table.add_row(name, Text(words))
    return table


def _trained(description: Description) -> list[Table]:
    stages = [f"{each.stage} {each.steps:,} steps ({each.samples:,} samples)" for each in description.trained]
    return [_facts(*(("" if index else "trained by", stage) for index, stage in enumerate(stages)))] if stages else []


def _sizes(description: Description, counts: dict[str, int]) -> Table:
    table = Table()
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("", justify="right")
    expert = description.config.expert
    names = {"block": f"one block of {expert.blocks}", "blocks": "blocks", "vlm projection": "VLM projection"}
    for part in ("vision", "language model", "action expert", *_WITHIN, "value head", "total"):
        if part in counts:
            table.add_row("  " * _WITHIN.get(part, 0) + names.get(part, part), paper_size(counts[part]), f"{counts[part]:,}")
    return table


def _architecture(description: Description) -> Table:
    config = description.config
    text, vision, expert = config.text, config.vision, config.expert
    kinds = "".join("F" if kind == "full_attention" else "L" for kind in text["layer_types"])
    height, width = config.image_size
    run = "" if config.n_action_steps is None else f" of which {config.n_action_steps} are run"
    images = f"images {height} x {width} ({config.image_fit}), {config.image_tokens()} tokens each"
    return _facts(
        ("language model", f"width {text['hidden_size']}, {len(kinds)} layers {kinds} (L linear, F full attention)"),
        ("vision", f"width {vision['hidden_size']}, {vision['depth']} layers; {images}"),
        ("action expert", f"width {expert.width}, {expert.blocks} blocks, {expert.heads} heads, SwiGLU {expert.mlp_width}"),
        (
            "chunk",
            f"H = {config.horizon} steps{run}, K = {config.channels} channels; projection {config.projection}, "
            f"state {config.state}",
        ),
        *(("", f"deviates from the paper by {name} = {value}") for name, value in config.deviations.items()),
    )


def _robots(description: Description) -> Table:
    if not description.embodiments:
        none = "none (random weights): any robot is played, actions are scaled to its channels' bounds"
        return _facts(("embodiments", none))
    facts: list[tuple[str, str]] = []
    for each in description.embodiments.values():
        steps = chunk_steps(each, description.config.horizon)
        facts += [
            (
                "embodiment",
                f"{each.name}: {each.robot_tag}, {each.arms}, {each.control_frequency:g} Hz, chunks of {steps} steps",
            ),
            ("  channels", ", ".join(channel.name for channel in each.channels)),
            ("  views", ", ".join(each.cameras) or "none"),
            ("  statistics", each.statistics_key),
        ]
    return _facts(*facts)


def _statistics(description: Description) -> list[Table | Text]:
    shown: list[Table | Text] = []
    for key, dataset in description.statistics.items():
        table = Table()
        table.add_column("channel")
        table.add_column("1 %", justify="right")
        table.add_column("99 %", justify="right")
        robot = next((each for each in description.embodiments.values() if each.statistics_key == key), None)
        names = [channel.name for channel in robot.channels] if robot else [str(index) for index in range(dataset.actions.size)]
        for name, low, high in zip(names, dataset.actions.q01, dataset.actions.q99, strict=True):
            table.add_row(name, f"{low:.4g}", f"{high:.4g}")
        shown += [Text(f"statistics {key}: {dataset.actions.source}"), table]
    return shown


def _eigengrasps(description: Description) -> list[Table]:
    known = description.eigengrasps
    if known is None:
        return []
    share = known.explained.sum()
    return [_facts(("eigengrasps", f"{len(known.components)} components explain {share:.1%} of the variance of hand poses"))]


def _prompts(description: Description) -> Text:
    """The whole sequence of each robot, images as one token each."""
    robots: list[Embodiment] = list(description.embodiments.values()) or [EXAMPLE]
    texts = ["prompt (each image's tokens shown once):"]
    for each in robots:
        prompt = embodiment_prompt(each, INSTRUCTION, chunk_steps(each, description.config.horizon))
        texts.append(chat_text(prompt, [(tag, 1) for tag in each.cameras]))
    return Text("\n".join(texts))


def _accelerations() -> Text:
    try:
        from .acceleration import accelerations
    except ModuleNotFoundError:
        return Text("faster ways on this machine: not looked for, since PyTorch or transformers is not installed")
    return Text("\n".join(["faster ways on this machine:", *(f"  {name}: {note}" for name, note in accelerations().items())]))
