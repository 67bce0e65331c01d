"""A sweep in shards: each its own folder, complete when its share is, and together the whole run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comparing import results
from toy.policies import ImageReader

from vlarig.envs.errors import VlarigError
from vlarig.harness import evaluate
from vlarig.results.runs import list_runs

WORDS = ["--policy", "toy.policies:ImageReader"]


@pytest.mark.parametrize(
    ("shard", "wanted"),
    [("0/4", "I from 1 to 4"), ("5/4", "I from 1 to 4"), ("2", "as in 2/4"), ("a/b", "as in 2/4"), ("3/0", "N of 1 or more")],
)
def test_an_invalid_shard_is_refused_in_one_sentence(toy_home: Path, cli_here, shard: str, wanted: str) -> None:
    done = cli_here("sweep", "toy", *WORDS, "--shard", shard)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"vlarig: shard is '{shard}'; expected I/N")
    assert wanted in sentence
    assert not Path("runs").exists()


@pytest.mark.slow
def test_shards_merge_to_the_undivided_run_and_go_on_as_it(toy_home: Path, cli_here) -> None:
    words = ["toy", *WORDS, "--episodes", "4"]
    whole = evaluate("toy", ImageReader(), workers=1, episodes=4, run=Path("whole")).run
    for number, share in ((1, 3), (2, 3), (3, 2)):
        done = cli_here("sweep", *words, "--shard", f"{number}/3", "--workers", number, "--run", f"s{number}")
        assert done.returncode == 0, done.stderr
        assert f"shard {number}/3: {share} of the run's 8 episodes" in done.stdout
        assert len(results(Path(f"s{number}"))) == share
        assert "incomplete" not in done.stdout
    part = cli_here("runs", "merge", "s3", "s1", "--run", "merged")
    assert part.returncode == 0, part.stderr
    assert "are owed: the sweep's command, without --shard and with --run merged, runs them" in part.stdout
    assert cli_here("runs", "merge", "s2", "--run", "merged").returncode == 0
    assert results(Path("merged")) == results(whole)
    again = cli_here("sweep", *words, "--run", "merged", "--video", "failures")
    assert again.returncode == 0, again.stderr
    assert results(Path("merged")) == results(whole)
    failures = [key for key, result in results(whole).items() if not result["success"]]
    assert len(list(Path("merged/videos").glob("*.mp4"))) == len(failures) > 0


@pytest.mark.slow
def test_half_a_merged_run_is_finished_by_the_whole_sweeps_command(toy_home: Path, cli_here) -> None:
    whole = evaluate("toy", ImageReader(), episodes=3, run=Path("whole")).run
    half = evaluate("toy", ImageReader(), episodes=3, shard="1/2", run=Path("half"))
    assert half.complete
    assert len(results(half.run)) == 3
    assert cli_here("runs", "merge", "half", "--run", "merged").returncode == 0
    assert evaluate("toy", ImageReader(), episodes=3, run=Path("merged")).complete
    assert results(Path("merged")) == results(whole)


def test_a_shard_has_a_folder_of_its_own_and_says_what_it_is(toy_home: Path, cli_here) -> None:
    first = evaluate("toy", ImageReader(), shard="1/4")
    assert first.complete
    assert first.run.name.endswith("-shard-1-of-4")
    whole = evaluate("toy", ImageReader(), tasks=("reach_red",), episodes=1)
    assert "shard" not in whole.run.name
    summary = {run.name: (run.shard, run.finished, run.expected, run.state) for run in list_runs()}
    assert summary[first.run.name] == ("1/4", 10, 10, "complete")
    assert summary[whole.run.name] == (None, 1, 1, "complete")
    assert "shard 1/4 complete" in cli_here("runs", "list").stdout
    table = cli_here("table", first.run, whole.run).stdout
    assert "shard 1/4: 10 of the run's 40 episodes; 'vlarig runs merge' puts shards together" in table
    assert table.count("shard 1/4: ") == 1
    first_data, whole_data = json.loads(cli_here("table", first.run, whole.run, "--format", "json").stdout)
    assert (first_data["shard"], first_data["complete"], whole_data["shard"]) == ("1/4", True, None)
    assert sum(task["expected"] for task in first_data["suites"][0]["tasks"]) == 10
    assert all(task["missing"] == 0 for task in first_data["suites"][0]["tasks"])


@pytest.mark.slow
def test_a_folder_keeps_the_shard_it_was_begun_with(toy_home: Path) -> None:
    """The identity of a shard is the whole run's, so the identity does not show this."""
    for name, shard in (("first", "1/2"), ("whole", None)):
        evaluate("toy", ImageReader(), episodes=1, shard=shard, run=Path(name))
    before = results(Path("first"))
    for name, shard, sentence in (
        (
            "first",
            "2/2",
            "the run first was started as shard 1/2 of its run, now it is to be shard 2/2 of its run; use another --run",
        ),
        ("first", None, "the run first was started as shard 1/2 of its run, now it is to be a whole run; use another --run"),
        ("whole", "1/2", "the run whole was started as a whole run, now it is to be shard 1/2 of its run; use another --run"),
    ):
        with pytest.raises(VlarigError, match=sentence):
            evaluate("toy", ImageReader(), episodes=1, shard=shard, run=Path(name))
    assert results(Path("first")) == before
    assert evaluate("toy", ImageReader(), episodes=1, shard="1/2", run=Path("first")).complete


def test_an_empty_shard_is_complete_and_says_so(toy_home: Path, cli_here) -> None:
    done = cli_here("sweep", "toy", *WORDS, "--episodes", "1", "--shard", "5/5", "--run", "r")
    assert done.returncode == 0, done.stderr
    assert "shard 5/5: empty: the run has 2 episodes in all" in done.stdout
    assert "shard 5/5 complete" in cli_here("runs", "list", ".").stdout
    assert "incomplete" not in cli_here("table", "r").stdout
    evaluate("toy", "toy.policies:ImageReader", episodes=1, shard="1/5", run=Path("first"))
    assert cli_here("runs", "merge", "r", "first", "--run", "merged").returncode == 0
    assert len(results(Path("merged"))) == 1


@pytest.mark.slow
def test_shards_of_a_real_simulators_sweep_merge_to_the_whole(
    tabletop: object, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image digests are compared too: the policy is the expert, but one that is shown images."""
    monkeypatch.chdir(tmp_path)
    words = ["tabletop", "--policy", "chaos.policies:StormPolicy", "--tasks", "stack", "push_to", "--episodes", "2"]
    for run, options in (("s1", ["--shard", "1/3"]), ("s2", ["--shard", "2/3"]), ("s3", ["--shard", "3/3"]), ("whole", [])):
        done = cli("sweep", *words, "--run", run, *options, timeout=280)
        assert done.returncode == 0, done.stderr
    assert cli("runs", "merge", "s1", "s2", "s3", "--run", "merged").returncode == 0
    assert results(Path("merged")) == results(Path("whole"))
    assert len(results(Path("merged"))) == 4
