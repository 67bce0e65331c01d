"""`vlarig view`: served to this machine alone, and nothing but the site."""

from __future__ import annotations

import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sample_runs import make_record, make_run

from vlarig.envs.errors import VlarigError
from vlarig.harness.commands import runs
from vlarig.results.ledger import Ledger
from vlarig.results.pages.following import Follower
from vlarig.results.pages.serving import PageServer
from vlarig.results.pages.site import SiteOptions


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs" / "expert", finished=5)


@pytest.fixture
def server(run, tmp_path, monkeypatch):
    monkeypatch.setattr("vlarig.results.pages.following.FRESH", 0.0)
    monkeypatch.setattr("vlarig.results.pages.following.SHARE", math.inf)
    follower = Follower(lambda: [run], SiteOptions(live=True), tmp_path / "site")
    with PageServer(follower, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    follower.close()


def fetch(server, path, method="GET", **headers):
    """The answer to a browser that was shown the site before."""
    headers = {"Cookie": f"other=1; {server.cookie}={server.token}"} | headers
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def test_pages_data_and_scripts_are_served(server):
    for path, kind in [
        ("/", "text/html"), ("/run-expert.html", "text/html"), ("/static/page.js", "text/javascript"),
        ("/static/style.css", "text/css"), ("/data/expert/task-0.js?v=1", "text/javascript"),
    ]:  # fmt: skip
        status, content, headers = fetch(server, path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert len(content) == int(headers["Content-Length"]) > 0
        assert headers["Cache-Control"] == "no-store"
    assert b"follow.js" in fetch(server, "/")[1]
    status, content, headers = fetch(server, "/", "HEAD")
    assert (status, content) == (200, b"") and int(headers["Content-Length"]) > 1000


def test_the_version_changes_when_the_run_does(server, run):
    before = json.loads(fetch(server, "/version")[1])
    assert before["progress"] == "1 run, 0 being written: 15 of 30 episodes finished"
    assert json.loads(fetch(server, "/version")[1]) == before
    with Ledger.open(run) as ledger:
        ledger.write_episode(make_record(5, "stack"))
    after = json.loads(fetch(server, "/version")[1])
    assert after["version"] != before["version"] and "16 of 30" in after["progress"]


@pytest.mark.parametrize(
    "path",
    ["/nothing.html", "/../manifest.json", "/static/../site.py", "/media/expert/../../ledger.sqlite", "/data/expert/task-9.js",
     "/static/%2e%2e/site.py", "/data/unknown/run.js", "/media/expert/0-0-0.mp4", "/data/expert/task-x.js", "//etc/passwd",
     f"/data/expert/task-{'9' * 5000}.js", f"/media/expert/{'9' * 5000}-0-0.mp4"],

)  # fmt: skip
def test_there_is_nothing_else(server, path):
    assert fetch(server, path)[0] == 404


def test_only_asking_is_possible(server):
    assert fetch(server, "/", "POST")[0] == 501
    assert fetch(server, "/", "DELETE")[0] == 501


def test_what_is_no_request_is_refused_and_harms_nothing(server, capfd):
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(b"hello\r\n\r\n")
        assert b"400" in connection.recv(4096)
    assert fetch(server, "/")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_it_is_this_machines_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert fetch(server, "/", Host="localhost:80")[0] == 200
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert fetch(server, "/", Host=host)[0] == 403


def test_it_is_one_users_alone(server, run):
    """Others of the machine reach the port, but may be barred from the run's folder."""
    (run / "videos").mkdir()
    (run / "videos" / "tabletop_standard@1_stack_base_0_0.mp4").write_bytes(b"film")
    wrong = f"{server.cookie}={server.token[:-1]}"
    for path in ("/", "/version", "/run-expert.html", "/data/expert/run.js", "/media/expert/0-0-0.mp4", "/static/page.js"):
        for request in ({"Cookie": ""}, {"Cookie": wrong}, {"Cookie": f"other={server.token}"}):
            status, content, headers = fetch(server, path, **request)
            assert (status, headers["Set-Cookie"]) == (403, None) and b"the address that `vlarig view` printed" in content
        assert fetch(server, f"{path}?token={server.token}x", Cookie="")[0] == 403
        assert fetch(server, path, "HEAD", Cookie="")[:2] == (403, b"")
        assert fetch(server, path)[0] == 200
    status, content, headers = fetch(server, server.url.removeprefix(f"http://127.0.0.1:{server.server_address[1]}"), Cookie="")
    assert status == 200 and b"run-expert.html" in content
    cookie = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} == set(cookie[1:])
    assert fetch(server, "/run-expert.html", Cookie=cookie[0])[0] == 200


def test_parts_of_a_film(server, run):
    (run / "videos").mkdir()
    (run / "videos" / "tabletop_standard@1_stack_base_0_0.mp4").write_bytes(bytes(range(100)))
    path = "/media/expert/0-0-0.mp4"
    fetch(server, "/")  # whose links lead to it
    status, content, headers = fetch(server, path)
    assert (status, content, headers["Accept-Ranges"], headers["Content-Type"]) == (
        200,
        bytes(range(100)),
        "bytes",
        "video/mp4",
    )
    for wanted, begin, end in [
        ("bytes=10-19", 10, 20),
        ("bytes=90-", 90, 100),
        ("bytes=-5", 95, 100),
        ("bytes=50-999", 50, 100),
    ]:
        status, content, headers = fetch(server, path, Range=wanted)
        assert (status, content) == (206, bytes(range(begin, end)))
        assert headers["Content-Range"] == f"bytes {begin}-{end - 1}/100"
    long = "9" * 5000
    for odd in ("bytes=200-300", "rows=1-2", "bytes=-", "bytes=5-2", f"bytes={long}-", f"bytes=0-{long}", f"bytes=-{long}"):
        assert fetch(server, path, Range=odd)[:2] == (200, bytes(range(100)))


def test_a_port_that_is_taken_or_is_none_is_one_sentence(run, tmp_path):
    follower = Follower(lambda: [run], SiteOptions(live=True), tmp_path / "site")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(VlarigError, match=f"port {port} cannot be served on 127.0.0.1"):
            PageServer(follower, port)
    with pytest.raises(VlarigError, match="port is 70000; expected 0 to 65535"):
        PageServer(follower, 70000)


def test_the_command_serves_until_it_is_interrupted(run, tmp_path):
    code = "import sys; from vlarig.harness.commands.runs import view; sys.exit(view(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, "--port", "0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    try:
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(parts.netloc, timeout=20)
        connection.request("GET", f"{parts.path}?{parts.query}")
        assert b"expert" in connection.getresponse().read()
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(
    subprocess.run(
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", "true"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="this machine allows no new namespace of processes",
)
def test_as_the_first_process_of_a_container_it_ends_when_it_is_told_to(run, tmp_path):
    """The kernel spares such a process every signal that it has no handler for."""
    process = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", sys.executable, "-u", "-m", "vlarig.harness",
         "view", "--port", "0"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    try:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


def test_names_that_are_no_runs_hide_no_run(run, tmp_path, monkeypatch, capsys):
    """The shell puts whatever lies beside runs in the place of runs/*."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    folders, refused = runs._folders((Path("runs/notes.txt"), Path("runs/expert")))
    assert [folder.name for folder in folders()] == ["expert"] and refused[0][0] == "notes.txt"


def test_mistakes_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VlarigError, match="there is no folder runs; sweep something first"):
        runs.view([])
    make_run(tmp_path / "runs" / "expert")
    with pytest.raises(VlarigError, match="did you mean expert"):
        runs.view(["expart"])
