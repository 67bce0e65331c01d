"""Assets, for real: small bundles unpacked from archives and downloaded from a server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console
from toy.policies import ImageReader
from toy.suite import TOY_SUITE

from vlarig.envs.assets import bundle as assets
from vlarig.envs.assets import spec as asset_spec
from vlarig.envs.errors import VlarigError
from vlarig.harness import cli, evaluate, plan, replay
from vlarig.harness.children.simulator import WorkerSpec
from vlarig.harness.commands import doctor
from vlarig.results.forms.markdown import for_markdown
from vlarig.results.forms.terminal import print_sheets
from vlarig.results.rendering import LEGEND, for_programs, run_sheet
from vlarig.results.tables import run_table

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FILES = {"meshes/bowl.msh": b"bowl", "meshes/plate.msh": b"plate" * 10_000, "initial_states/0.txt": b"0 1 2\n"}
FLAT_BOWL = b"flat bowl"
OFFICIAL = "/official.tar.gz"
SECOND = "/second.tar.gz"


def blob_id(content: bytes) -> str:
    return (
        subprocess.run(["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True)
        .stdout.decode()
        .strip()
    )


def packed(files: dict[str, bytes], top: str) -> bytes:
    """A .tar.gz of these files below ``top``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"{top}{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def upstream(files: dict[str, bytes] = FILES) -> bytes:
    """An official archive: the files lie in a folder of a repository that holds more."""
    return packed({"README.md": b"read me", **{f"sim/data/{path}": content for path, content in files.items()}}, "Toys-1234/")


#: The archive of a second place, which has the initial states alone.
INITIAL_STATES = packed({"0.txt": FILES["initial_states/0.txt"], "LICENSE": b"as you like"}, "Starts-5678/")


class Server(ThreadingHTTPServer):
    """Answers with what the test puts into ``pages``: a body, with the length it announces (none where ``None``)."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, tuple[bytes, int | None]] = {}
        self.requested: list[str] = []
        #: While it is not set, the second half of every body is held back.
        self.gate = threading.Event()
        self.gate.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requested.append(self.path)
                if self.path not in server.pages:
                    self.send_error(404)
                    return
                body, length = server.pages[self.path]
                self.send_response(200)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                server.gate.wait(60)
                self.wfile.write(body[len(body) // 2 :])

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, path: str = OFFICIAL) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


@pytest.fixture
def server():
    with Server() as server:
        body = upstream()
        server.pages[OFFICIAL] = (body, len(body))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.gate.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch, server):
    """A home without assets; the one bundle that is known is ``toys``, whose official place is the server."""
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    (bundles / "toys.toml").write_text(f"""
title = "made-up toys"
stand_ins_note = "visual only"
[[sources]]
repository = "https://example.org/toys"
commit = "1234"
archive = "{server.url()}"
licence = "MIT"
folders = {{ "." = "sim/data" }}
[stand_ins]
"meshes/bowl.msh" = "{blob_id(FLAT_BOWL)}"
""")
    (bundles / "toys.txt").write_text("# a list\n" + "".join(f"{blob_id(body)}  {path}\n" for path, body in FILES.items()))
    monkeypatch.setattr(asset_spec, "bundle_files", lambda: {path.stem: path for path in bundles.glob("*.toml")})
    monkeypatch.setenv("VLARIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VLARIG_ASSETS", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def two_sources(home, server):
    """The meshes of ``toys`` are of the first place, its initial states of another, where they are in the top folder."""
    description = asset_spec.bundle_files()["toys"]
    second = f"""folders = {{ meshes = "sim/data/meshes" }}
[[sources]]
repository = "https://example.org/initial_states"
commit = "5678"
archive = "{server.url(SECOND)}"
licence = "Apache-2.0"
folders = {{ initial_states = "." }}
"""
    description.write_text(description.read_text().replace('folders = { "." = "sim/data" }\n', second))
    server.pages[OFFICIAL] = (upstream({path: body for path, body in FILES.items() if path.startswith("meshes")}), None)
    server.pages[SECOND] = (INITIAL_STATES, None)


@pytest.fixture
def stand_in_elsewhere(home):
    """The replacement of the bowl has a name of its own."""
    description = asset_spec.bundle_files()["toys"]
    description.write_text(description.read_text() + '[stand_in_paths]\n"meshes/bowl.msh" = "meshes/bowl.flat"\n')


@pytest.fixture
def given(home, tmp_path, monkeypatch):
    """The folder that VLARIG_ASSETS names, empty."""
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv("VLARIG_ASSETS", str(folder))
    return folder


def put(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def left_over(home: Path) -> list[str]:
    """What lies in the home beside bundles and locks."""
    names = [path.name for path in (home / "assets").iterdir()]
    return [name for name in names if not name.endswith(".lock") and not (name.startswith("toys") and "." not in name)]


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    """``vlarig`` in a process of its own that knows the made-up bundle."""
    code = (
        "import sys; from pathlib import Path; from vlarig.envs.assets import spec; "
        "spec.bundle_files = lambda: {'toys': Path(sys.argv[1])}; "
        "from vlarig.harness.cli import main; raise SystemExit(main(sys.argv[2:]))"
    )
    command = [sys.executable, "-c", code, str(asset_spec.bundle_files()["toys"]), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Where assets are found.


def test_a_missing_bundle_is_named_with_its_command(home, given, monkeypatch):
    advice = "run: vlarig assets fetch toys, or set VLARIG_ASSETS to a folder that holds toys/ or toys\\.tar\\.xz$"
    with pytest.raises(
        VlarigError, match=rf"^the assets 'toys' \(made-up toys\) are neither in {given} .* nor in .*; {advice}"
    ):
        assets.find_bundle("toys")
    monkeypatch.delenv("VLARIG_ASSETS")
    with pytest.raises(VlarigError, match=rf"^the assets 'toys' \(made-up toys\) are not in {home / 'assets'}; {advice}"):
        assets.find_bundle("toys")
    monkeypatch.setenv("VLARIG_ASSETS", str(given / "nowhere"))
    with pytest.raises(VlarigError, match=r"^VLARIG_ASSETS is '.*nowhere', which is no folder; set it to"):
        assets.find_bundle("toys")
    with pytest.raises(VlarigError, match=r"^unknown assets 'toy'; did you mean toys\?"):
        assets.find_bundle("toy")


def test_the_users_folder_goes_first_then_its_archive_then_the_home(home, given):
    put(home / "assets" / "toys")
    assert assets.find_bundle("toys").folder == home / "assets" / "toys"
    (given / "toys.tar.gz").write_bytes(packed(FILES, "toys/"))
    assert assets.find_bundle("toys").folder.parent.parent == home / "assets"
    assert assets.find_bundle("toys").folder.name == "toys"
    put(given / "toys")
    assert assets.find_bundle("toys").folder == given / "toys"


def test_an_archive_is_unpacked_once_and_other_content_again(home, given):
    archive = given / "toys.tar.gz"
    archive.write_bytes(packed(FILES, "toys/"))
    output: list[str] = []
    first = assets.find_bundle("toys", output.append).folder
    assert first.parent.name == f"toys-{hashlib.sha256(archive.read_bytes()).hexdigest()[:12]}"
    assert assets.find_bundle("toys", output.append).folder == first
    assert [line.split()[0] for line in output] == ["unpacking"]
    archive.write_bytes(packed({**FILES, "more.txt": b"more"}, "toys/"))
    second = assets.find_bundle("toys", output.append).folder
    assert second != first
    assert (second / "more.txt").exists()


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.zst"])
def test_other_compressions_need_no_program(home, given, monkeypatch, suffix):
    monkeypatch.setenv("PATH", "")
    plain = gzip.decompress(packed(FILES, "toys/"))
    (given / f"toys{suffix}").write_bytes(lzma.compress(plain) if suffix == ".tar.xz" else zstd.compress(plain))
    assert assets.find_bundle("toys").contents.official == len(FILES)


def test_an_interrupted_unpack_is_repeated(home, given):
    archive = given / "toys.tar.gz"
    archive.write_bytes(packed(FILES, "toys/"))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:12]
    put(home / "assets" / f"toys-{digest}.partial" / "toys", {"half": b"", "meshes/bowl.msh": b"bo"})
    bundle = assets.find_bundle("toys")
    assert bundle.contents.official == len(FILES)
    assert not (bundle.folder / "half").exists()
    assert left_over(home) == []


def test_two_unpacks_at_once_do_not_collide(home, given):
    (given / "toys.tar.gz").write_bytes(packed(FILES | {str(number): os.urandom(2**20) for number in range(20)}, "toys/"))
    processes = [start(home, "assets", "verify", "toys") for _ in range(2)]
    output = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output
    assert sum("unpacking" in errors for _, errors in output) == 1
    assert left_over(home) == []


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz", ".tar.zst"])
def test_a_damaged_archive_leaves_nothing(home, given, tmp_path, suffix):
    compress = {".tar.gz": gzip.compress, ".tar.xz": lzma.compress, ".tar.zst": zstd.compress}[suffix]
    archive = given / f"toys{suffix}"
    big = compress(gzip.decompress(packed({"big": os.urandom(400_000)}, "toys/")))
    for damaged in (big[:200_000], big[:20] + bytes(100_000), b"no archive"):
        archive.write_bytes(damaged)
        with pytest.raises(VlarigError, match=rf"toys{re.escape(suffix)} is damaged \(.*\); replace it$"):
            assets.find_bundle("toys")
    archive.write_bytes(compress(gzip.decompress(packed({**FILES, "../../../../evil": b"evil"}, "toys/"))))
    with pytest.raises(VlarigError, match=r"is damaged \('.*evil' would be written outside of its folder\); replace it$"):
        assets.find_bundle("toys")
    assert not list(tmp_path.rglob("evil"))
    assert left_over(home) == []
    assert not [path for path in (home / "assets").iterdir() if path.is_dir()]


def headed(**fields) -> bytes:
    """An archive of one file whose header says what the fields say."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("toys/odd")
        member.pax_headers = fields
        tar.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "toys/a\0b"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9", "GNU.sparse.name": "toys/odd"},
        {"GNU.sparse.map": "a,b", "GNU.sparse.size": "1"},
        {"path": "toys/" + "x" * 5000},
    ],
    ids=str,
)
def test_an_archive_with_headers_that_cannot_be_is_one_sentence(home, given, fields):
    (given / "toys.tar.gz").write_bytes(headed(**fields))
    with pytest.raises(VlarigError, match=r"is damaged|cannot be written"):
        assets.find_bundle("toys")
    assert left_over(home) == []


def test_times_of_an_archive_are_not_taken(home, given):
    (given / "toys.tar.gz").write_bytes(headed(mtime="1e300"))
    with pytest.raises(VlarigError, match="are not whole"):
        assets.find_bundle("toys")


@pytest.mark.parametrize("fetched", [False, True])
def test_what_is_there_is_used_from_a_home_that_cannot_be_written(home, given, server, monkeypatch, fetched):
    if fetched:
        monkeypatch.delenv("VLARIG_ASSETS")
        assets.fetch_bundle("toys")
    else:
        (given / "toys.tar.gz").write_bytes(packed(FILES, "toys/"))
        assets.find_bundle("toys")
    (lock,) = (home / "assets").glob("*.lock")
    lock.unlink()
    lock.mkdir()  # root may write to a folder that is read-only, but not to a folder as if it were a file
    assert assets.find_bundle("toys").contents.official == len(FILES)
    if fetched:
        assets.fetch_bundle("toys")


def test_a_home_that_cannot_be_written_is_reported(home, given, monkeypatch):
    (given / "toys.tar.gz").write_bytes(packed(FILES, "toys/"))
    home.write_text("in the way")
    with pytest.raises(VlarigError, match=r"cannot be written: Not a directory; fix that, or set VLARIG_HOME"):
        assets.find_bundle("toys")


# What the files are.


def test_official_stand_in_corrupt_and_missing_are_distinguished(home, given, capsys):
    folder = put(given / "toys")
    assert assets.find_bundle("toys").contents.summary == "official, 3 files"

    put(folder, {"meshes/bowl.msh": FLAT_BOWL})
    contents = assets.find_bundle("toys").contents
    assert (contents.official, contents.stand_ins) == (2, ("meshes/bowl.msh",))
    assert contents.summary == "1 of 3 files are stand-ins for the official ones (visual only)"
    assert cli.main(["assets", "verify"]) == 0
    assert "  1 stand-ins, visual only:\n    meshes/bowl.msh\n" in capsys.readouterr().out

    put(folder, {"meshes/plate.msh": FLAT_BOWL})
    with pytest.raises(
        VlarigError, match=r"are not whole: 1 file is corrupt \(meshes/plate\.msh\); replace that folder, or unset"
    ):
        assets.find_bundle("toys")
    (folder / "initial_states" / "0.txt").unlink()
    assert cli.main(["assets", "verify", "toys"]) == 2
    output = capsys.readouterr()
    assert "  1 of 3 files are official\n  1 stand-ins" not in output.out
    for line in ("0 of 3 files are official", "1 missing:\n    initial_states/0.txt", "1 corrupt:\n    meshes/plate.msh"):
        assert line in output.out
    assert output.err.count("\n") == 1
    assert "1 file is missing (initial_states/0.txt) and 1 file is corrupt (meshes/plate.msh)" in output.err


def test_a_stand_in_may_lie_at_another_path(stand_in_elsewhere, given):
    folder = put(given / "toys", {**FILES, "meshes/bowl.flat": b"whatever"})
    official = assets.find_bundle("toys")
    assert official.contents.summary == "official, 3 files", "where the official file is, nothing else counts"

    put(folder, {"meshes/bowl.flat": FLAT_BOWL})
    (folder / "meshes" / "bowl.msh").unlink()
    replaced = assets.find_bundle("toys")
    assert (replaced.contents.official, replaced.contents.stand_ins) == (2, ("meshes/bowl.flat",))
    assert replaced.identity != official.identity

    put(folder, {"meshes/bowl.flat": b"whatever"})
    with pytest.raises(VlarigError, match=r"1 file is corrupt \(meshes/bowl\.flat\)"):
        assets.find_bundle("toys")
    put(folder, {"meshes/bowl.flat": FLAT_BOWL, "meshes/bowl.msh": FLAT_BOWL})
    with pytest.raises(VlarigError, match=r"1 file is corrupt \(meshes/bowl\.msh\)"):
        assets.find_bundle("toys")
    (folder / "meshes" / "bowl.msh").unlink()
    (folder / "meshes" / "bowl.flat").unlink()
    with pytest.raises(VlarigError, match=r"1 file is missing \(meshes/bowl\.msh\)"):
        assets.find_bundle("toys")


def test_a_change_is_noticed_within_a_process(home, given):
    folder = put(given / "toys")
    assert assets.find_bundle("toys").contents.official == 3
    time.sleep(0.01)
    put(folder, {"meshes/bowl.msh": b"lowb"})
    with pytest.raises(VlarigError, match=r"corrupt \(meshes/bowl\.msh\)"):
        assets.find_bundle("toys")


def test_equal_files_have_an_equal_identity_everywhere(home, given):
    put(given / "toys")
    first = assets.find_bundle("toys")
    put(home / "assets" / "toys", {"meshes/extra": b"not of the bundle"} | dict(reversed(FILES.items())))
    shutil.rmtree(given / "toys")
    second = assets.find_bundle("toys")
    assert first.folder != second.folder
    assert first.identity == second.identity
    assert first.identity.startswith("official, 3 files; sha256 ")
    put(second.folder, {"meshes/bowl.msh": FLAT_BOWL})
    assert assets.find_bundle("toys").identity.startswith(
        "1 of 3 files are stand-ins for the official ones (visual only); sha256 "
    )
    assert assets.find_bundle("toys").identity[-12:] != first.identity[-12:]


def test_verify_reports_a_missing_bundle_only_when_it_is_named(home, capsys):
    assert cli.main(["assets", "verify"]) == 0
    assert capsys.readouterr().out == "toys: not here\n"
    assert cli.main(["assets", "verify", "toys"]) == 2
    assert "run: vlarig assets fetch toys" in capsys.readouterr().err


def test_the_list(home, given, capsys):
    assert cli.main(["assets", "list"]) == 0
    assert "toys: made-up toys\n  the assets 'toys'" in capsys.readouterr().out
    put(given / "toys", {**FILES, "meshes/bowl.msh": FLAT_BOWL})
    assert cli.main(["assets", "list"]) == 0
    assert capsys.readouterr().out == (
        f"toys: made-up toys\n  {given / 'toys'}\n  1 of 3 files are stand-ins for the official ones (visual only)\n"
    )


def test_the_list_unpacks_nothing(home, given, capsys):
    archive = given / "toys.tar.gz"
    archive.write_bytes(packed(FILES, "toys/"))
    assert cli.main(["assets", "list"]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"toys: made-up toys\n  {archive}\n  packed, ")
    assert output.endswith("unpacked and checked on the first use, or by: vlarig assets verify toys\n")
    assert not list(home.rglob("toys-*")), "listing writes nothing"
    assets.find_bundle("toys")
    assert cli.main(["assets", "list"]) == 0
    assert "official, 3 files" in capsys.readouterr().out


# Downloads.


def test_fetch_gets_the_official_files_and_no_others(home, server, capsys):
    assert cli.main(["assets", "fetch", "toys"]) == 0
    folder = home / "assets" / "toys"
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == FILES
    assert assets.find_bundle("toys").identity.startswith("official, 3 files; ")
    assert cli.main(["assets", "fetch", "toys"]) == 0
    assert server.requested == [OFFICIAL], "what is here is not downloaded again"
    assert f"the official assets 'toys' are in {folder}" in capsys.readouterr().err


def test_fetch_replaces_files_that_are_not_official(home):
    put(home / "assets" / "toys", {**FILES, "meshes/bowl.msh": b"b", "junk": b""})
    with pytest.raises(VlarigError, match=r"corrupt \(meshes/bowl\.msh\); run: vlarig assets fetch toys$"):
        assets.find_bundle("toys")
    assets.fetch_bundle("toys")
    assert assets.find_bundle("toys").contents.official == 3
    assert not (home / "assets" / "toys" / "junk").exists()


def test_fetch_says_when_the_users_folder_goes_first(home, given, capsys):
    put(given / "toys", {**FILES, "meshes/bowl.msh": FLAT_BOWL})
    assert cli.main(["assets", "fetch", "toys"]) == 0
    assert f"but VLARIG_ASSETS goes first: {given / 'toys'}\n" in capsys.readouterr().err


def test_a_copy_is_taken_from_where_the_user_says(home, server, tmp_path):
    copy = tmp_path / "copy.tar.gz"
    copy.write_bytes(upstream())
    assets.fetch_bundle("toys", [copy.as_uri()])
    assert assets.find_bundle("toys").contents.official == 3
    assert server.requested == []


def test_a_bundle_may_come_from_several_places(two_sources, home, server):
    output: list[str] = []
    seen: list[tuple[int, int]] = []
    folder = assets.fetch_bundle("toys", (), output.append, lambda files, received: seen.append((files, received)))
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == FILES
    assert server.requested == [OFFICIAL, SECOND]
    assert output[:2] == [
        f"downloading 2 files of 'toys' from {server.url()} (licence: MIT)",
        f"downloading 1 files of 'toys' from {server.url(SECOND)} (licence: Apache-2.0)",
    ]
    assert seen == sorted(seen), "progress goes on where the archive before ended"
    assert seen[-1][0] >= 2


def test_copies_are_as_many_as_the_places(two_sources, home, server, tmp_path, capsys):
    first, second = tmp_path / "first.tar.gz", tmp_path / "second.tar.gz"
    first.write_bytes(upstream())
    second.write_bytes(INITIAL_STATES)
    assert cli.main(["assets", "fetch", "toys", "--url", first.as_uri()]) == 2
    assert capsys.readouterr().err == (
        f"vlarig: 1 --url were given, but 'toys' comes from 2 archives; give a copy of each, in this order: {server.url()}, "
        f"{server.url(SECOND)}\n"
    )
    assert cli.main(["assets", "fetch", "toys", "--url", second.as_uri(), "--url", first.as_uri()]) == 2
    assert "lacks 2 of the 2 files of 'toys', such as meshes/bowl.msh: it ended early or is another archive; nothing was " in (
        capsys.readouterr().err
    )
    assert cli.main(["assets", "fetch", "toys", "--url", first.as_uri(), "--url", second.as_uri()]) == 0
    assert assets.find_bundle("toys").contents.official == 3
    assert server.requested == []


def test_where_one_of_the_places_fails_nothing_is_installed(two_sources, home, server):
    del server.pages[SECOND]
    with pytest.raises(VlarigError, match=r"/second\.tar\.gz answers with HTTP status 404"):
        assets.fetch_bundle("toys")
    assert not (home / "assets" / "toys").exists()
    assert left_over(home) == []


BAD = {
    "a status": ("/absent", None, r"/absent answers with HTTP status 404 \(Not Found\); "),
    "fewer bytes than announced": (
        "/cut",
        (upstream()[:200], 10**6),
        r"ended early, after 200 bytes \(1000000 were announced\)",
    ),
    "an end in the middle": ("/end", (upstream()[:150], None), r"(is no archive, or a damaged one|lacks \d of the 3 files)"),
    "a page instead": ("/page", (b"<html>Please log in</html>" * 100, None), r"/page is no archive, or a damaged one"),
    "another content": (
        "/other",
        (upstream({**FILES, "meshes/bowl.msh": FLAT_BOWL}), None),
        rf"^meshes/bowl\.msh in .*/other is not the official file \(.*{blob_id(FLAT_BOWL)}, expected {blob_id(b'bowl')}\)",
    ),
    "another tree": (
        "/tree",
        (packed(FILES, "Toys-1234/"), None),
        r"lacks 3 of the 3 files of 'toys', such as meshes/bowl\.msh",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_download_is_one_sentence_and_leaves_nothing(home, server, kind):
    path, page, message = BAD[kind]
    if page is not None:
        server.pages[path] = page
    with pytest.raises(VlarigError, match=message) as caught:
        assets.fetch_bundle("toys", [server.url(path)])
    assert "\n" not in str(caught.value)
    assert "nothing was installed" in str(caught.value) or kind == "a status"
    assert left_over(home) == []
    assert not (home / "assets" / "toys").exists()


def test_addresses_that_cannot_be_reached(home, tmp_path):
    with pytest.raises(VlarigError, match=r"^http://127\.0\.0\.1:9/x cannot be reached \(.*\); check the network"):
        assets.fetch_bundle("toys", ["http://127.0.0.1:9/x"])
    with pytest.raises(VlarigError, match=r"cannot be reached \(.*No such file"):
        assets.fetch_bundle("toys", [(tmp_path / "absent.tar.gz").as_uri()])
    with pytest.raises(VlarigError, match=r"^--url is 'ftp://x'; expected an address that begins with https://"):
        assets.fetch_bundle("toys", ["ftp://x"])


def test_a_connection_that_goes_silent_is_given_up(home, server, monkeypatch):
    monkeypatch.setattr("vlarig.envs.assets.archives.SILENCE", 0.2)
    server.gate.clear()
    with pytest.raises(VlarigError, match=r"ended early, after \d+ bytes \(no byte came for 0 s\); nothing was installed"):
        assets.fetch_bundle("toys")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to write to")
def test_a_full_disk_is_reported(home, monkeypatch):
    real = Path.open

    def full(path: Path, mode: str = "r", *arguments, **options):
        return real(Path("/dev/full") if path.name == "plate.msh" and mode == "wb" else path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(VlarigError, match=f"^the disk is full at {home / 'assets'}; make room, or set VLARIG_HOME"):
        assets.fetch_bundle("toys")
    assert left_over(home) == []


def test_a_killed_download_is_repeated(home, server):
    server.gate.clear()
    process = start(home, "assets", "fetch", "toys")
    until(lambda: (home / "assets" / "toys.partial").exists())
    process.kill()
    process.communicate()
    assert (home / "assets" / "toys.partial").exists()
    assert not (home / "assets" / "toys").exists()
    server.gate.set()
    assets.fetch_bundle("toys")
    assert assets.find_bundle("toys").contents.official == 3
    assert left_over(home) == []


def test_an_interrupted_download_leaves_nothing(home, server):
    server.gate.clear()
    process = start(home, "assets", "fetch", "toys")
    until(lambda: server.requested and (home / "assets" / "toys.partial").exists())
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    assert (process.returncode, errors.splitlines()[-1]) == (130, "vlarig: interrupted")
    assert left_over(home) == []


def test_two_fetches_at_once_download_once(home, server):
    server.gate.clear()
    first = start(home, "assets", "fetch", "toys")
    until(lambda: server.requested)
    second = start(home, "assets", "fetch", "toys")
    assert second.stderr is not None
    assert second.stderr.readline() == "waiting for another process that works on the assets 'toys'\n"
    server.gate.set()
    assert [first.wait(30), second.wait(30)] == [0, 0]
    assert server.requested == [OFFICIAL]
    for process in (first, second):
        process.communicate()


def test_a_mistake_with_the_command_is_one_sentence(home, capsys):
    assert cli.main(["assets", "fetch"]) == 2
    assert "no assets were named" in capsys.readouterr().err
    assert cli.main(["assets", "fetch", "toys", "toys", "--url", "http://x"]) == 2
    assert "--url is for one bundle, but 2 were named" in capsys.readouterr().err


# Sweeps.


@pytest.fixture
def toy_with_assets(toy_home, given, home, monkeypatch):
    """The toy suite, in need of the made-up bundle; the home is the one in which its runtime is adopted."""
    monkeypatch.setenv("VLARIG_HOME", str(toy_home))
    suite = replace(TOY_SUITE, assets=("toys",))
    monkeypatch.setattr(plan, "load_suite", lambda name: suite)
    return suite


def test_a_worker_gets_the_folder(toy_with_assets, given):
    with pytest.raises(VlarigError, match="run: vlarig assets fetch toys"):
        WorkerSpec.of(toy_with_assets)
    put(given / "toys")
    assert WorkerSpec.of(toy_with_assets).environment()["VLARIG_ASSETS_TOYS"] == str(given / "toys")
    assert "VLARIG_ASSETS_TOYS" not in WorkerSpec.of(TOY_SUITE).environment()


def test_a_sweep_without_its_assets_starts_nothing(toy_with_assets, server):
    with pytest.raises(VlarigError, match="run: vlarig assets fetch toys"):
        evaluate("toy", ImageReader(), episodes=1, run=Path("run"))
    assert not Path("run").exists()
    assert server.requested == [], "a sweep never downloads"


def test_stand_ins_are_noted_by_sweep_manifest_and_tables(toy_with_assets, given):
    put(given / "toys", {**FILES, "meshes/bowl.msh": FLAT_BOWL})
    note = "toys assets: 1 of 3 files are stand-ins for the official ones (visual only)"
    console = Console(width=200, record=True, file=io.StringIO())
    run = evaluate("toy", ImageReader(), episodes=1, run=Path("run"), console=console).run
    assert console.export_text().splitlines()[0].strip() == note
    table = run_table(run)
    recorded = table.manifest.identity.assets
    assert recorded == {"toys": assets.find_bundle("toys").identity}
    print_sheets(console, [run_sheet(table)], LEGEND)
    assert note in console.export_text()
    assert f"\n\n{note}\n\n" in for_markdown([run_sheet(table)], LEGEND)
    data = json.loads(for_programs([table]))[0]
    assert (data["assets"], data["notes"]) == (recorded, [note])

    put(given / "toys")
    with pytest.raises(VlarigError, match=r"assets\.toys was \"1 of 3 files .*, now \"official, 3 files; sha256"):
        evaluate("toy", ImageReader(), episodes=1, run=Path("run"))


def test_a_sweep_says_that_it_unpacks(toy_with_assets, given):
    (given / "toys.tar.gz").write_bytes(packed(FILES, "toys/"))
    console = Console(width=200, record=True, file=io.StringIO())
    evaluate("toy", ImageReader(), episodes=1, console=console)
    assert console.export_text().startswith(f"unpacking {given / 'toys.tar.gz'} to ")


def test_a_replay_requires_the_assets_of_its_run(toy_with_assets, given, monkeypatch):
    put(given / "toys", {**FILES, "meshes/bowl.msh": FLAT_BOWL})
    run = evaluate("toy", ImageReader(), episodes=1, run=Path("run")).run
    monkeypatch.setattr(replay, "load_suite_of_run", lambda name, typed: toy_with_assets)
    key = "toy/standard@1/reach_red/base/0/0"
    replay.replay_run(run, [key], lambda replayed: None)
    put(given / "toys")
    with pytest.raises(VlarigError, match=r"made with other toys assets \(1 of 3 files .* than are here \(official"):
        replay.replay_run(run, [key], lambda replayed: None)


def test_official_assets_need_no_note(toy_with_assets, given):
    put(given / "toys")
    table = run_table(evaluate("toy", ImageReader(), episodes=1).run)
    assert table.manifest.identity.assets["toys"].startswith("official, 3 files; sha256 ")
    assert table.notes == []
    assert "toys" not in for_markdown([run_sheet(table)], LEGEND)


def test_the_doctor_gives_the_command(home, given):
    suite = replace(TOY_SUITE, assets=("toys",))

    def line(*runtimes: str) -> doctor.Finding:
        (finding,) = doctor._assets([suite, replace(suite, name="other")], set(runtimes))
        return finding

    assert line().mark == "optional"
    assert line("toy").mark == "missing"
    assert "run: vlarig assets fetch toys" in line("toy").text
    (given / "toys.tar.gz").write_bytes(packed(FILES, "toys/"))
    assert line() == doctor.Finding(
        "ok", "assets toys", f"packed in {given / 'toys.tar.gz'}; unpacked and checked at the first use"
    )
    assert not [path for path in home.rglob("*") if path.is_dir() and path.name.startswith("toys")], "a doctor writes nothing"
    put(given / "toys")
    assert line().text == f"official, 3 files ({given / 'toys'})"
    (given / "toys" / "initial_states" / "0.txt").unlink()
    assert line("toy").mark == "missing"


# Folders, zip files, and bundles that come in parts.


BOWLS, STATES = ({name: FILES[name] for name in FILES if name.startswith(f"{top}/")} for top in ("meshes", "initial_states"))


def folder_id(files: dict[str, bytes], top: str) -> str:
    lines = sorted((name.removeprefix(f"{top}/"), hashlib.sha256(body).hexdigest()) for name, body in files.items())
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in lines).encode()).hexdigest()


@pytest.fixture
def by_folder(home):
    """The bundle's list has two folders instead of files, and what completes it makes the initial states."""
    description = asset_spec.bundle_files()["toys"]
    lines = [f"{folder_id(BOWLS, 'meshes')}  meshes/\n", f"{folder_id(STATES, 'initial_states')}  initial_states/\n"]
    description.with_suffix(".txt").write_text("".join(lines))
    text = description.read_text().partition("[stand_ins]")[0]
    parts = 'complete = "completing:complete"\n[[parts]]\narchive = "more/bowls"\nfolder = "meshes"\n'
    description.write_text(text.replace("[[sources]]", f"{parts}[[sources]]"))
    return description


def zipped(files: dict[str, bytes], top: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(f"{top}{path}", content)
    return buffer.getvalue()


@pytest.mark.usefixtures("by_folder")
@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_folders_are_fetched_whole_from_a_tar_or_a_zip(home, server, suffix):
    pack = packed if suffix == ".tar.gz" else zipped
    inside = {f"sim/data/{path}": content for path, content in FILES.items()}
    server.pages[f"/toys{suffix}"] = (pack(inside, "Toys-1234/"), None)
    folder = assets.fetch_bundle("toys", [server.url(f"/toys{suffix}")])
    assert assets.find_bundle("toys").contents.official == 2
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == set(FILES)
    other = {**inside, "sim/data/meshes/further": b"of another version"}
    server.pages["/other.zip"] = (zipped(other, "Toys-1234/"), None)
    shutil.rmtree(folder)
    with pytest.raises(
        VlarigError, match=r"^meshes/ in .*other\.zip is not the official file \(its SHA-256 is .*nothing was inst"
    ):
        assets.fetch_bundle("toys", [server.url("/other.zip")])
    server.pages["/cut.zip"] = (zipped(inside, "Toys-1234/")[:-40], None)
    with pytest.raises(VlarigError, match=r"cut\.zip is no archive, or a damaged one"):
        assets.fetch_bundle("toys", [server.url("/cut.zip")])
    server.pages[f"/evil{suffix}"] = (pack({**inside, "sim/data/meshes/../../evil": b"evil"}, "Toys-1234/"), None)
    with pytest.raises(VlarigError, match=r"a damaged one \('meshes/\.\./\.\./evil' would be written outside of its folder\)"):
        assets.fetch_bundle("toys", [server.url(f"/evil{suffix}")])
    assert not list(home.parent.rglob("evil"))


@pytest.mark.usefixtures("by_folder")
def test_a_bundle_is_put_together_from_parts_and_completed_by_stand_ins(home, given, tmp_path, monkeypatch):
    (tmp_path / "completing.py").write_text(
        "def complete(folder):\n"
        "    (folder / 'initial_states').mkdir()\n"
        "    (folder / 'initial_states/0.txt').write_text(repr(sorted(each.name for each in (folder / 'meshes').iterdir())))\n"
        "    return ['initial_states/']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(VlarigError, match=r"toys\.tar\.xz$"):
        assets.find_bundle("toys")
    (given / "more").mkdir()
    (given / "more" / "bowls.tar.gz").write_bytes(packed({Path(name).name: body for name, body in BOWLS.items()}, "bowls-1/"))
    assert assets.list_bundles()[0].archive == given / "more" / "bowls.tar.gz"
    bundle = assets.find_bundle("toys")
    assert bundle.identity.startswith("1 of 2 files are stand-ins for the official ones (visual only)")
    made = bundle.folder / "initial_states" / "0.txt"
    assert made.read_text() == repr(sorted(Path(name).name for name in BOWLS))
    assert assets.find_bundle("toys").folder == bundle.folder
    (bundle.folder / "__pycache__").mkdir()
    (bundle.folder / "meshes" / "__pycache__").mkdir()
    (bundle.folder / "meshes" / "__pycache__" / "compiled.pyc").touch()
    assert assets.find_bundle("toys").identity == bundle.identity
    made.write_text("changed")
    with pytest.raises(
        VlarigError, match=r"not whole: 1 file is corrupt \(initial_states/\); delete .*, so that it is made again"
    ):
        assets.find_bundle("toys")
    (tmp_path / "completing.py").write_text((tmp_path / "completing.py").read_text() + "# another version\n")
    assert assets.find_bundle("toys").folder != bundle.folder


@pytest.mark.usefixtures("by_folder")
def test_what_has_no_published_checksum_is_taken_as_it_is_and_said_so(home, server, given, capsys):
    """And no download gets it."""
    listing = asset_spec.bundle_files()["toys"].with_suffix(".txt")
    listing.write_text(f"{folder_id(BOWLS, 'meshes')}  meshes/\n-  initial_states/\n")
    bundle = put(given / "toys")
    said = "1 of 2 files are not compared with the official ones, which have no checksum"
    assert assets.find_bundle("toys").identity.startswith(f"{said}; sha256 ")
    before = assets.find_bundle("toys").identity
    (bundle / "initial_states" / "more").write_text("of another version")
    assert before != assets.find_bundle("toys").identity
    assert cli.main(["assets", "verify", "toys"]) == 0
    assert "1 of which upstream publishes no checksum:" in capsys.readouterr().out
    shutil.rmtree(bundle)
    server.pages["/toys.tar.gz"] = (packed({f"sim/data/{path}": body for path, body in BOWLS.items()}, "Toys-1/"), None)
    assets.fetch_bundle("toys", [server.url("/toys.tar.gz")])
    with pytest.raises(VlarigError, match=r"not whole: 1 file is missing \(initial_states/\)"):
        assets.find_bundle("toys")


# The bundles in this repository.


@pytest.mark.parametrize("name", assets.bundle_names())
def test_the_bundles_that_we_ship_are_whole(name):
    spec = assets.load_bundle(name)
    for source in spec.sources:
        fixed = source.archive.startswith(source.repository) and source.commit in source.archive
        without_checksum = {spec.files[path] for path in spec.files if source.origin(path)} == {asset_spec.UNKNOWN}
        assert fixed or without_checksum, "what is at no fixed address is listed as without a published checksum"
    assert all(source.archive.startswith("https://") and source.licence for source in spec.sources)
    origins = [(source.archive, origin) for path in spec.files for source in spec.sources if (origin := source.origin(path))]
    assert len(set(origins)) == len(origins) == len(spec.files), "each file comes from one place, no two from the same"
    replacements = list(spec.stand_ins.values())
    contents = [*spec.files.values(), *(file.blob for file in replacements)]
    known = [content for content in contents if content != asset_spec.UNKNOWN]
    assert all(len(content) in (40, 64) and int(content, 16) for content in known)
    assert all(len(content) in (1, 64) for path, content in spec.files.items() if path.endswith("/"))
    assert bool(spec.complete) <= bool(spec.parts)
    paths = [*spec.files, *(file.path for file in replacements)]
    assert not [path for path in paths if path.startswith("/") or ".." in path or path != path.strip()]
    assert all(spec.files[path] != file.blob for path, file in spec.stand_ins.items())
    assert not [file for path, file in spec.stand_ins.items() if file.path != path and file.path in spec.files]
    assert bool(spec.stand_ins or spec.complete) == bool(spec.stand_ins_note)


def test_stand_ins_of_libero_are_images_and_visual_meshes_alone():
    spec = assets.load_bundle("libero")
    assert {path.partition("/")[0] for path in spec.files} == {"assets", "bddl_files", "init_files"}
    assert all(path.startswith("assets/") and (path.endswith(".png") or "/visual/" in path) for path in spec.stand_ins)


def test_stand_ins_of_simpler_bridge_are_the_tables_and_the_looks_of_the_eggplant():
    spec = assets.load_bundle("simpler_bridge")
    top = "data/tasks/bridge_v2_real2sim_dataset/"
    eggplant = f"{top}custom/models/eggplant/textured"
    tables = {f"{top}stages/bridge_table_1_v{number}.glb" for number in (1, 2)}
    assert set(spec.stand_ins) == {f"{eggplant}.dae", *tables}
    assert spec.stand_ins[f"{eggplant}.dae"].path == f"{eggplant}.glb"
    assert {spec.stand_ins[path].path for path in tables} == tables


def test_the_files_of_simpler_bridge_come_from_where_they_are_upstream():
    benchmark, robot = assets.load_bundle("simpler_bridge").sources
    top = "data/tasks/bridge_v2_real2sim_dataset"
    for path, origin in {
        "custom/info_bridge_custom_v0.json": "data/custom/info_bridge_custom_v0.json",
        "custom/models/sink/collision.obj": "data/custom/models/sink/collision.obj",
        "real_inpainting/bridge_sink.png": "data/real_inpainting/bridge_sink.png",
        "stages/bridge_table_1_v1.glb": "data/hab2_bench_assets/stages/bridge_table_1_v1.glb",
    }.items():
        assert (benchmark.origin(f"{top}/{path}"), robot.origin(f"{top}/{path}")) == (origin, None)
    assert robot.origin("data/robots/widowx/wx250s.urdf") == "wx250s.urdf"
    assert benchmark.origin("data/robots/widowx/wx250s.urdf") is None


def test_the_archive_beside_the_checkout_is_simpler_bridge_with_3_stand_ins(tmp_path, monkeypatch):
    monkeypatch.setenv("VLARIG_HOME", str(tmp_path))
    try:
        place = assets.locate_bundle("simpler_bridge")
    except VlarigError as error:
        pytest.skip(f"no SimplerEnv files: {error}")
    bundle = assets.find_bundle("simpler_bridge")
    assert (bundle.contents.missing, bundle.contents.corrupt, bundle.contents.total) == ((), (), 70)
    assert len(bundle.contents.stand_ins) in (0, 3)
    assert (bundle.folder / "data" / "robots" / "widowx" / "wx250s.urdf").is_file(), "the folder is the one that holds data/"
    assert place.archive is None or bundle.folder.is_relative_to(tmp_path)


def test_the_bundle_beside_the_checkout_is_libero_with_22_stand_ins():
    try:
        assets.locate_bundle("libero")
    except VlarigError as error:
        pytest.skip(f"no LIBERO files: {error}")
    contents = assets.find_bundle("libero").contents
    assert (contents.missing, contents.corrupt) == ((), ())
    assert contents.total == 604
    assert set(contents.stand_ins) in (set(), set(assets.load_bundle("libero").stand_ins))
    if contents.stand_ins:
        assert len(contents.stand_ins) == 22
