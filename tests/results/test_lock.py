"""One run has one writer."""

import os
import signal
import subprocess
import sys

import pytest

from vlarig.envs.errors import VlarigError
from vlarig.results.lock import RunLock, lock_holder

HOLD = """
import sys
from pathlib import Path
from vlarig.results.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    with (
        RunLock(tmp_path),
        pytest.raises(VlarigError, match=rf"{tmp_path} is being written by process {os.getpid()} on .*another --run"),
    ):
        RunLock(tmp_path)


def test_the_lock_is_free_after_release(tmp_path):
    lock = RunLock(tmp_path)
    assert lock_holder(tmp_path) == f"process {os.getpid()} on {os.uname().nodename}"
    lock.release()
    lock.release()
    assert lock_holder(tmp_path) is None
    RunLock(tmp_path).release()


def test_a_killed_writer_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(VlarigError, match=f"process {process.pid} "):
            RunLock(tmp_path)
        process.kill()
    RunLock(tmp_path).release()


def test_looking_takes_no_lock_and_makes_no_file(tmp_path):
    assert lock_holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert lock_holder(tmp_path / "nowhere") is None


FORK = """
import os, sys, time
from pathlib import Path
from vlarig.results.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
helper = os.fork()
if not helper:
    time.sleep(60)
print(helper, flush=True)
sys.stdin.read()
"""


def test_a_helper_that_outlives_a_killed_writer_holds_no_lock(tmp_path):
    command = [sys.executable, "-c", FORK, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        helper = int(process.stdout.readline())
        try:
            with pytest.raises(VlarigError, match=f"process {process.pid} "):
                RunLock(tmp_path)
            process.kill()
            process.wait()
            os.kill(helper, 0)
            RunLock(tmp_path).release()
        finally:
            os.kill(helper, signal.SIGKILL)
