"""vla-eval's leaderboard: what we write passes its schema and checks, what we read keeps every number, no half run goes in."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import jsonschema
import pytest
from layout_runs import play
from leaderboard import main
from leaderboard_entries import Submission, entries_of_run, entries_of_table
from leaderboard_form import (
    Leaderboard,
    LeaderboardEntry,
    published_tables,
    read_benchmarks,
    read_leaderboard,
    write_leaderboard,
)
from sample_runs import make_manifest

from vlarig.benchmarks.published import PublishedTable, load_table
from vlarig.benchmarks.registry import load_suite
from vlarig.envs.errors import VlarigError
from vlarig.results.statistics import wilson_interval
from vlarig.results.tables import RunTable, SuiteTable, Tally, TaskRow

#: Files of allenai/vla-evaluation-harness as they are (leaderboard/data@e1ee9ad, Apache 2.0).
THEIRS = Path(__file__).parents[1] / "third_party" / "vla_eval_leaderboard"
BENCHMARKS = json.loads((THEIRS / "benchmarks.json").read_text(encoding="utf-8"))

TODAY = date(2026, 6, 1)
LIBERO = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
OURS = Submission("doe26mine", "Mine", "shared", TODAY, "@doe", "4B", "https://arxiv.org/abs/2600.00000")


def complaints(path: Path) -> list[str]:
    """What vla-eval would say of a file: by its schema, then by the rules that leaderboard/scripts/validate.py adds."""
    text = path.read_text(encoding="utf-8")
    data = json.loads(text)
    found = complaints_of_schema(path)
    entries = data["results"]
    order = [(entry["benchmark"], entry["model"]) for entry in entries]
    found += [] if order == sorted(order) else ["not sorted"]
    found += [] if text == json.dumps(data, indent=2, ensure_ascii=False) + "\n" else ["not laid out as theirs"]
    models = [(entry["model"], entry["benchmark"], entry["weight_type"]) for entry in entries]
    found += [] if len(set(models)) == len(models) else ["two entries of one model"]
    for entry in entries:
        found += [f"{entry['model']} {entry['benchmark']}: {words}" for words in complaints_of_entry(entry)]
    return found


def complaints_of_schema(path: Path) -> list[str]:
    schema = json.loads((THEIRS / "leaderboard.schema.json").read_text(encoding="utf-8"))
    checker = jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker())
    return [error.message for error in checker.iter_errors(json.loads(path.read_text(encoding="utf-8")))]


def complaints_of_entry(entry: dict) -> list[str]:
    benchmark = BENCHMARKS[entry["benchmark"]]
    suites, tasks, overall = entry.get("suite_scores", {}), entry.get("task_scores", {}), entry["overall_score"]
    found = []
    if overall is None and not suites and not tasks:
        found.append("no score")
    if overall is not None and benchmark.get("aggregation") == "forbidden":
        found.append("an average that is forbidden")
    if overall is not None and not set(suites) <= set(benchmark["suites"]):
        found.append("suites that are not declared")
    found += [f"{key} is {score}" for key, score in {**suites, **tasks}.items() if not 0 <= score <= 100]
    suffixes = tuple(f"_{suffix}" for suffix in benchmark.get("score_key_suffixes", ()))
    found += [f"{key} has no suffix" for key in tasks if suffixes and not key.endswith(suffixes)]
    rule = benchmark.get("aggregation")
    if overall is not None and isinstance(rule, dict):
        parts = [entry[rule["container"]][key] for key in rule["keys"] if key in entry[rule["container"]]]
        if len(parts) == len(rule["keys"]) and abs(overall - sum(parts) / len(parts)) > 0.25:
            found.append(f"overall {overall} is not the mean of {parts}")
    return found


def written(path: Path, entries: list[LeaderboardEntry]) -> Path:
    write_leaderboard(Leaderboard(last_updated=TODAY, results=entries), path)
    return path


def suite_table(
    name: str, protocol: str = "starvla@1", finished: int = 50, successes: int = 45, variant: str = "base", **odd: Tally
) -> SuiteTable:
    """A finished suite; ``odd`` gives tasks another tally."""
    tallies = {task.name: odd.get(task.name, Tally(finished, finished, successes)) for task in load_suite(name).tasks}
    return SuiteTable(
        name, protocol, "success at any step", tuple(TaskRow(task, variant, tally) for task, tally in tallies.items())
    )


def run_of(*suites: SuiteTable, **record) -> RunTable:
    manifest = make_manifest(policy_revision="sha256 abc", runtimes={"libero": "f" * 64})
    return RunTable("mine", manifest.model_copy(update={"record": manifest.record.model_copy(update=record)}), suites)


# Writing


def test_the_papers_table_passes_their_checks(tmp_path):
    path = written(tmp_path / "leaderboard.json", entries_of_table(load_table("table4"), TODAY, "@doe"))
    assert complaints(path) == []
    entries = {(entry["name_in_paper"], entry["benchmark"]): entry for entry in json.loads(path.read_text())["results"]}
    assert len(entries) == 8 + 7 + 7 + 5  # methods with a number of LIBERO, RoboCasa, RoboTwin, SimplerEnv
    assert entries["Qwen-VLA-Instruct", "libero"] == {
        "model": "qwen26qwenvlainstruct",
        "display_name": "Qwen-VLA-Instruct",
        "name_in_paper": "Qwen-VLA-Instruct",
        "model_paper": "https://github.com/QwenLM/Qwen-VLA",
        "benchmark": "libero",
        "weight_type": "shared",
        "overall_score": None,
        "suite_scores": {},
        "task_scores": {"reported_avg": 97.9},
        "reported_paper": "https://github.com/QwenLM/Qwen-VLA",
        "reported_table": "Table 4",
        "curated_by": "@doe",
        "date_added": "2026-06-01",
        "notes": "only the mean of the four suites is reported; " + load_table("table4").protocol,
    }
    pi = entries["π0", "robotwin_v2"]
    assert (pi["model"], pi["display_name"]) == ("black24pi0__qwen26qwenvla", "π0 (from Qwen-VLA)")
    assert (pi["suite_scores"], pi["weight_type"]) == ({"easy": 65.9, "hard": 58.4}, "finetuned")
    assert pi["model_paper"] == "https://arxiv.org/abs/2410.24164"
    assert entries["π0.5", "simpler_env"]["suite_scores"] == {"widowx_vm": 46.9}
    assert entries["ABot-M0", "robocasa"]["task_scores"] == {"reported_avg_gr1": 58.3}
    assert ("ABot-M0", "simpler_env") not in entries


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("table9", "Table 9 of Qwen-VLA has nothing for vla-eval's leaderboard"),
        ("table11", "Table 11 has a row of kind 'ablation'"),
    ],
)
def test_tables_without_a_place_there_are_refused(table, says):
    with pytest.raises(VlarigError, match=says):
        entries_of_table(load_table(table), TODAY)


def test_a_run_of_liberos_four_suites_is_ranked_by_their_mean(tmp_path):
    suites = [suite_table(name, successes=41 + index) for index, name in enumerate(LIBERO)]
    run = run_of(*suites, suite_table("simpler_ood"), git_revision="0123abc", git_dirty=True)
    (entry,) = entries_of_run(run, OURS)
    assert entry.suite_scores == {"libero_spatial": 82.0, "libero_object": 84.0, "libero_goal": 86.0, "libero_10": 88.0}
    assert (entry.benchmark, entry.overall_score, entry.weight_type) == ("libero", 85.0, "shared")
    low, high = wilson_interval(410, 500)
    first = f"libero_spatial starvla@1: 410 of 500 episodes, 95 % interval {100 * low:.1f} to {100 * high:.1f} (Wilson)"
    assert entry.notes.startswith(first + "; libero_object starvla@1: 420 of 500")
    wanted = [
        "vlarig 0.1.0 at commit 0123abc with uncommitted changes",
        "seed 0",
        "renderer osmesa",
        "runtime libero fff",
        "revision sha256 abc",
    ]
    assert [words for words in wanted if words not in entry.notes] == []
    assert complaints(written(tmp_path / "leaderboard.json", [entry])) == []


def test_three_of_liberos_suites_are_not_ranked(tmp_path):
    (entry,) = entries_of_run(run_of(*map(suite_table, LIBERO[:3]), suite_table("libero_90")), OURS)
    assert entry.overall_score is None
    assert entry.suite_scores["libero_90"] == 90.0
    assert complaints(written(tmp_path / "leaderboard.json", [entry])) == []


def test_a_run_of_simplerenv_has_its_tasks_and_no_average(tmp_path):
    tally = Tally(96, 96, 24)
    run = run_of(suite_table("simpler_widowx", finished=96, successes=72, stack_green_on_yellow=tally))
    (entry,) = entries_of_run(run, OURS)
    assert (entry.overall_score, entry.suite_scores) == (None, {"widowx_vm": 62.5})
    assert entry.task_scores == {
        "put_spoon_on_towel_vm": 75.0,
        "put_carrot_on_plate_vm": 75.0,
        "stack_block_vm": 25.0,
        "put_eggplant_in_basket_vm": 75.0,
    }
    assert complaints(written(tmp_path / "leaderboard.json", [entry])) == []


def test_a_run_of_several_benchmarks_gives_an_entry_of_each(tmp_path):
    entries = entries_of_run(run_of(suite_table("simpler_widowx"), *map(suite_table, LIBERO)), OURS)
    assert [entry.benchmark for entry in entries] == ["simpler_env", "libero"]
    assert complaints(written(tmp_path / "leaderboard.json", entries)) == []


def test_what_must_stand_beside_a_runs_numbers_stands_there():
    (entry,) = entries_of_run(run_of(suite_table("simpler_widowx"), suite_notes={"simpler_widowx": "with stand-ins"}), OURS)
    assert "; simpler_widowx: with stand-ins" in entry.notes


STACK = "stack_green_on_yellow"


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (lambda: run_of(suite_table("simpler_ood")), "it holds simpler_ood; wanted is libero_spatial"),
        (
            lambda: run_of(suite_table("simpler_widowx", variant="training")),
            "from initial states for training; export a sweep w",
        ),
        (lambda: run_of(suite_table("simpler_widowx"), shard="1/2"), "mine is shard 1/2 of its run.*vlarig runs merge"),
        (lambda: run_of(suite_table("simpler_widowx", **{STACK: Tally(50, 49, 40, 1)})), "199 of 200 .* finished, 1 errors"),
        (
            lambda: run_of(suite_table("simpler_widowx", **{STACK: Tally(64, 64, 40)})),
            f"different numbers of episodes .*{STACK} 64",
        ),
        (lambda: run_of(suite_table("simpler_widowx"), suite_table("simpler_widowx", "groot@1")), "several protocols"),
        (
            lambda: run_of(replace(suite_table("libero_10"), rows=suite_table("libero_10").rows[1:])),
            "mine lacks tasks of libero_10: ",
        ),
    ],
)
def test_what_is_not_whole_is_refused(run, says):
    with pytest.raises(VlarigError, match=says):
        entries_of_run(run(), OURS)


def test_a_scripted_expert_is_refused():
    run = run_of(suite_table("simpler_widowx"))
    identity = run.manifest.identity.model_copy(update={"policy_privileged": True})
    expert = replace(run, manifest=run.manifest.model_copy(update={"identity": identity}))
    with pytest.raises(
        VlarigError, match=r"mine has nothing .*: policy expert acts on the simulator's own truth.*; export the run of"
    ):
        entries_of_run(expert, OURS)


@pytest.mark.parametrize(("field", "value"), [("curated_by", "doe"), ("weights", "frozen")])
def test_what_their_form_does_not_take_is_said(field, value):
    with pytest.raises(VlarigError, match=f"vla-eval's leaderboard does not take the entry: .* is '{value}' and should"):
        entries_of_run(run_of(suite_table("simpler_widowx")), replace(OURS, **{field: value}))


def test_two_entries_of_one_model_are_refused_and_the_file_stays(tmp_path):
    (entry,) = entries_of_run(run_of(suite_table("simpler_widowx")), OURS)
    path = written(tmp_path / "leaderboard.json", [entry])
    before = path.read_bytes()
    with pytest.raises(VlarigError, match="two entries are of benchmark, model and weights simpler_env doe26mine shared"):
        written(path, [entry, entry])
    assert path.read_bytes() == before


# Reading


def imported(path: Path) -> dict[str, PublishedTable]:
    tables = published_tables(read_leaderboard(path), read_benchmarks(THEIRS / "benchmarks.json"))
    return {table.title: table for table in tables}


def test_what_was_written_is_read_with_every_number(tmp_path):
    table = load_table("table4")
    tables = imported(written(tmp_path / "leaderboard.json", entries_of_table(table, TODAY)))
    assert list(tables) == ["LIBERO", "RoboCasa", "RoboTwin 2.0", "SimplerEnv"]
    read = {number.value for board in tables.values() for number in board.numbers()}
    assert read == {number.value for number in table.numbers()}
    assert sum(len(list(board.numbers())) for board in tables.values()) == len(list(table.numbers()))
    robotwin = tables["RoboTwin 2.0"]
    assert [column.heading for column in robotwin.columns] == ["easy", "hard"]
    row = next(row for row in robotwin.rows if row.method == "Qwen-VLA-Instruct")
    assert (row.kind, row.values) == ("generalist", {"suite_scores.easy": 86.1, "suite_scores.hard": 87.2})
    assert row.reference == "https://github.com/QwenLM/Qwen-VLA, Table 4"
    assert {row.kind for row in robotwin.rows if row.method.endswith("(from Qwen-VLA)")} == {"specialist"}
    assert tables["SimplerEnv"].columns[0].suites == ("simpler_widowx",)


#: Entries as vla-eval's curators write them: some fields left out, others null.
SAMPLE = {
    "last_updated": "2026-06-01",
    "results": [
        {
            "model": "a24walker",
            "display_name": "Walker",
            "benchmark": "calvin",
            "weight_type": "finetuned",
            "overall_score": 4,
            "suite_scores": {"1_task": 97.5},
            "reported_paper": "https://arxiv.org/abs/2400.00001",
            "reported_table": "Table 2",
            "curated_by": "opus 4.6",
            "date_added": "2026-03-02",
            "notes": "ABC to D",
            "params": None,
        },
        {
            "model": "a24walker__b25runner",
            "display_name": "Walker (from Runner)",
            "name_in_paper": None,
            "benchmark": "libero",
            "weight_type": "shared",
            "overall_score": 50.25,
            "suite_scores": {"libero_90": 12.5},
            "curated_by": "human",
            "date_added": "2026-03-02",
        },
    ],
}


def sample(tmp_path: Path, **changes) -> Path:
    """The sample, its first entry changed; a field that is ``...`` is taken away."""
    data = json.loads(json.dumps(SAMPLE))
    entry = data["results"][0] | changes
    data["results"][0] = {name: value for name, value in entry.items() if value is not ...}
    path = tmp_path / "leaderboard.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_columns_have_the_metric_of_their_benchmark(tmp_path):
    tables = imported(sample(tmp_path))
    whole, part = tables["CALVIN"].columns
    assert (whole.name, whole.metric, whole.unit, whole.better) == ("overall_score", "avg len", "subtasks", "higher")
    assert (part.name, part.metric, part.unit) == ("suite_scores.1_task", "success rate", "%")
    whole, part = tables["LIBERO"].columns
    assert (whole.unit, whole.suites, part.suites) == ("%", LIBERO, ("libero_90",))
    assert [row.values for row in tables["LIBERO"].rows] == [{"overall_score": 50.25, "suite_scores.libero_90": 12.5}]
    assert tables["CALVIN"].notes == ("Walker: ABC to D",)


def test_what_was_read_is_written_with_nothing_added(tmp_path):
    board = read_leaderboard(sample(tmp_path))
    write_leaderboard(board, tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == SAMPLE
    assert complaints(tmp_path / "again.json") == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": ...}, r"results\.0\.model is missing"),
        ({"seeds": 3}, r"results\.0\.seeds is not known"),
        ({"weight_type": "frozen"}, r"results\.0\.weight_type"),
        ({"curated_by": "somebody"}, r"results\.0\.curated_by"),
        ({"suite_scores": {"1_task": "high"}}, r"results\.0\.suite_scores\.1_task"),
        ({"date_added": "yesterday"}, r"results\.0\.date_added"),
    ],
)
def test_files_that_their_schema_refuses_are_refused(tmp_path, changes, says):
    path = sample(tmp_path, **changes)
    assert complaints_of_schema(path)
    with pytest.raises(VlarigError, match=f"is not of vla-eval's form: {says}"):
        read_leaderboard(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"benchmark": "kitchen"}, "a24walker has benchmark 'kitchen'; benchmarks.json beside it knows calvin"),
        ({"overall_score": 97.0}, "a24walker has an overall score of 97.0 on calvin; expected 0 to 5"),
    ],
)
def test_entries_that_do_not_fit_their_benchmark_are_refused(tmp_path, changes, says):
    with pytest.raises(VlarigError, match=says):
        imported(sample(tmp_path, **changes))


def test_files_that_are_no_json_are_refused(tmp_path):
    pointer = tmp_path / "leaderboard.json"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(VlarigError, match=r"is not of vla-eval's form: it is not JSON .*git lfs pull"):
        read_leaderboard(pointer)
    with pytest.raises(VlarigError, match="cannot be read"):
        read_leaderboard(tmp_path / "nothing.json")


# The command


def test_the_command_adds_what_it_is_told_and_replaces_older_entries(tmp_path, capsys):
    run = play(tmp_path / "mine", "simpler_widowx")
    file = tmp_path / "leaderboard.json"
    command = ["add", str(file), "--model", "doe26mine", "--name", "Mine", "--weights", "shared"]
    assert main([*command, "--run", str(run), "--published", "table4"]) == 0
    first = read_leaderboard(file).results
    assert main([*command, "--run", str(run)]) == 0
    assert "1 entries written, 1 of them in place of older ones" in capsys.readouterr().out
    assert read_leaderboard(file).results == first
    (entry,) = [entry for entry in first if entry.model == "doe26mine"]
    assert entry.suite_scores == {"widowx_vm": 75.0}


def test_the_command_shows_a_benchmark_with_its_best_marked(tmp_path, capsys):
    file = written(tmp_path / "leaderboard.json", entries_of_table(load_table("table4"), TODAY))
    (tmp_path / "benchmarks.json").write_bytes((THEIRS / "benchmarks.json").read_bytes())
    assert main(["show", str(file), "simpler_env", "--format", "markdown"]) == 0
    output = capsys.readouterr().out
    assert "**73.70**" in output
    assert "<u>64.60</u>" in output
    assert main(["show", str(file), "simpler_enw"]) == 2
    assert "unknown benchmark 'simpler_enw' in" in capsys.readouterr().err


def test_the_command_wants_a_name_for_a_run(tmp_path, capsys):
    assert main(["add", str(tmp_path / "x.json"), "--run", str(tmp_path)]) == 2
    assert "entries of runs need --model, --name and --weights" in capsys.readouterr().err
    assert main(["add", str(tmp_path / "x.json")]) == 2
    assert "nothing was named to add" in capsys.readouterr().err
