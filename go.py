#!/usr/bin/env python3
"""Set vlarig up and go, with nothing but Python beforehand.

  python3 go.py demo                 sweep the embedded suite with expert, shipped policy and random actions, to a table and films
  python3 go.py setup [RUNTIME ...]  only set up: all extras, and the named simulators' runtimes, or the embedded suite's
  python3 go.py test [PYTEST ARGS]   check style, types and imports, then run the tests
  python3 go.py test --quick         the same with the embedded simulator alone, and without slow tests

Each makes the environment `.venv` beside this file and the simulators' runtimes in your cache; the second time that takes seconds.
Missing system libraries are installed where that is allowed (root, or sudo without a password); elsewhere the command is printed.
"""

# pyright: reportPossiblyUnboundVariable=false
from __future__ import annotations

import os
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

try:
    import ctypes.util
    import fcntl
    import glob
    import hashlib
    import json
    import shutil
    import signal
    import tomllib

    LACKING = ""
except ImportError as absent:  # before 3.11, or only a part of the standard library, such as Debian's python3-minimal
    LACKING = str(absent.name)

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STATE = os.path.join(VENV, "vlarig-setup.json")
CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
HERE = ".".join(map(str, sys.version_info[:2]))
EXTRAS = {
    "demo": ["policy", "results", "video"],
    "setup": ["data", "policy", "ray", "results", "train", "video"],
    "test": ["data", "dev", "policy", "ray", "results", "train", "video"],
}
#: The versions of the developers' packages; a user's may be newer.
CONSTRAINTS = os.path.join(ROOT, "constraints.txt")
#: What `demo` compares: the scripted expert, the policy that the package brings along, and chance.
POLICIES = ("expert", "qwen-vla", "random")
#: A file's tests share runs, and files keep the order that tests/conftest.py gives them; a third process works while tests of another
#: wait; `test -n 0` is for a debugger.
SIDE_BY_SIDE = ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
CHECKS = (["ruff", "format", "--check", "."], ["ruff", "check", "."], ["basedpyright"], ["lint-imports"])


def main() -> int:
    """Run the action on the command line; the exit status is the last step's."""
    action, rest = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if action in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0
    if action not in EXTRAS or (rest and action == "demo"):
        stop(f"expected `demo`, `setup [RUNTIME ...]` or `test [PYTEST ARGS]`, not `{' '.join(sys.argv[1:])}`", 2)
    require_python()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        set_up(EXTRAS[action], choose_runtimes(action, rest))
        if action == "setup":
            say(f"ready: {quote(tool('vlarig'))} --help")
            return 0
        return demo() if action == "demo" else test(rest)
    except KeyboardInterrupt:
        stop("interrupted; the same command continues", 130)


def choose_runtimes(action: str, rest: list[str]) -> list[str]:
    """The simulators' runtimes that an action needs, the embedded suite's first."""
    if action == "setup" and rest:
        for name in rest:
            if name not in find_runtimes():
                stop(f"unknown runtime {name!r}; expected some of {', '.join(find_runtimes())}", 2)
        return rest
    if action == "test" and "--quick" not in rest:
        return sorted(find_runtimes(), key=lambda name: name != embedded())
    return [embedded()]


def demo() -> int:
    """Sweep the embedded suite with each of :data:`POLICIES`, then print one table of all; the first failure is the exit status."""
    suite = embedded()
    runs = [os.path.join("runs", f"demo-{policy}") for policy in POLICIES]
    for policy, run in zip(POLICIES, runs):
        sweep = ["sweep", suite, "--policy", policy, "--episodes", "2", "--video", "all", "--run", run]
        say("sweeping: vlarig {}".format(" ".join(sweep)))
        status = call([tool("vlarig"), *sweep])
        if status:
            return status
    status = call([tool("vlarig"), "table", *runs])
    say(f"the table is above; films and images are in {', '.join(runs)}")
    say(f"more: {quote(tool('vlarig'))} --help")
    return status


def test(pytest_arguments: list[str]) -> int:
    """Run every check, then the tests; what pytest prints comes last."""
    failed = []
    for check in CHECKS:
        say("checking: {}".format(" ".join(check)))
        if call([tool(check[0]), *check[1:]]):
            failed.append(" ".join(check))
    command = ["pytest", *SIDE_BY_SIDE, *pytest_arguments]
    say("testing: {}".format(" ".join(command)))
    status = call([tool(command[0]), *command[1:]])
    for name in failed:
        say(f"failed, further above: {name}")
    return status or len(failed)


def set_up(extras: list[str], runtimes: list[str]) -> None:
    """Install system libraries, `.venv` and the simulators' runtimes."""
    if sys.platform != "linux":
        stop(f"vlarig's simulators run on Linux, and this is {sys.platform}; on Windows use WSL")
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another go.py, or what is left of one, to finish")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        for runtime in runtimes:
            ensure_renderer(runtime)
        ensure_venv(extras, lock)
        use_settings()
        if call([tool("vlarig"), "runtime", "install", *runtimes], pass_fds=(lock,)):
            stop(f"the simulators' runtimes ({', '.join(runtimes)}) could not be installed; above is why")
    finally:
        os.close(lock)


def embedded() -> str:
    """Name of the embedded suite, which is its runtime's too."""
    return read_project()["tool"]["vlarig"]["embedded"]


def find_runtimes() -> dict[str, str]:
    """Name of each simulator's runtime to its description."""
    files = sorted(glob.glob(os.path.join(glob.escape(ROOT), "benchmarks", "*", "runtime", "*.toml")))
    return {os.path.splitext(os.path.basename(file))[0]: file for file in files}


def read_project() -> dict[str, Any]:
    """What pyproject.toml holds."""
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return tomllib.load(file)


def project_state() -> str:
    """SHA-256 over what an installation follows from: its description, and which benchmarks there are."""
    digest = hashlib.sha256(repr(sorted(find_runtimes())).encode())
    for name in ("constraints.txt", "pyproject.toml", "setup.py"):
        path = os.path.join(ROOT, name)
        if os.path.exists(path):
            with open(path, "rb") as file:
                digest.update(file.read())
    return digest.hexdigest()


def require_python() -> None:
    """Restart under a suitable Python where this one is too old or incomplete; stop where there is none."""
    if sys.version_info < (3, 11):
        for other in map(which, ("python3.13", "python3.12", "python3.11")):
            if other and quietly([other, "-c", "pass"])[0] == 0:
                say(f"this is Python {HERE}; going on with {other}")
                start_again(other)
        stop(f"vlarig needs Python 3.11 or newer, and this is {HERE}; install one and run go.py with it")
    if LACKING:
        if not is_system_python() or os.environ.get("GO_PY_AGAIN"):
            stop(f"this Python ({sys.executable}) lacks a part of the standard library: {LACKING}; use another")
        apt_install([f"python{HERE}-venv"], f"this Python lacks a part of the standard library ({LACKING})")
        start_again(sys.executable)


def is_system_python() -> bool:
    """Whether this Python belongs to the system, so that system packages complete it."""
    return os.path.realpath(sys.executable).startswith("/usr/bin/")


def start_again(python: str) -> NoReturn:
    """Replace this process by one under another interpreter."""
    os.environ["GO_PY_AGAIN"] = "1"
    os.execv(python, [python, os.path.abspath(__file__), *sys.argv[1:]])


def ensure_renderer(runtime: str) -> None:
    """Make sure that a rendering library for the runtime's simulator is installed; graphics drivers come with the runtime."""
    with open(find_runtimes()[runtime], "rb") as file:
        renderers = tomllib.load(file)["renderers"]
    wanted = [name.strip() for name in os.environ.get("VLARIG_RENDERER", "").split(",")]
    renderers = [renderer for renderer in renderers if renderer["name"] in wanted] or renderers
    if any("driver" in renderer for renderer in renderers):
        return

    def here() -> bool:
        return any(all(map(ctypes.util.find_library, renderer["libraries"])) for renderer in renderers)

    for renderer in renderers:
        if not here():
            last = renderer is renderers[-1]
            apt_install(renderer["apt"], "images need the library {}".format(" ".join(renderer["libraries"])), must=last)
    if not here():
        stop("no rendering library was found, although packages for it are installed; try: ldconfig")


def ensure_venv(extras: list[str], lock: int) -> None:
    """Make `.venv` hold vlarig with these extras; a broken or incomplete one is made again, one made elsewhere is extended."""
    project = project_state()
    birth = f"Python {sys.version.split()[0]} in {ROOT}"
    try:
        with open(STATE, encoding="utf-8") as file:
            state = json.load(file)
    except (OSError, ValueError):
        state = None
    usable = (state is None or state.get("birth") == birth) and works("import sys; assert sys.version_info >= (3, 11)")
    if state is not None and usable:
        ready = works("import vlarig.harness.cli") and state.get("project") == project
        if ready and set(extras) <= set(state["extras"]):
            return
        extras = sorted({*extras, *state["extras"]})
    if os.path.lexists(VENV) and not usable:
        say("removing the old .venv: %s" % ("it does not run" if state is None else "half-made, moved, or of another Python"))
        delete(VENV)
    made_here = not os.path.lexists(VENV)
    try:
        if made_here:
            make_venv(lock)
        write_state({})
        install(extras, lock)
        write_state({"birth": birth, "project": project, "extras": extras})
    except BaseException:
        if made_here:
            delete(VENV)
        raise


def make_venv(lock: int) -> None:
    """Make `.venv` by the first method that works on this machine."""
    say(f"making .venv with Python {sys.version.split()[0]}")
    ways = [[sys.executable, "-m", "venv", VENV], [sys.executable, "-m", "venv", "--without-pip", VENV]]
    if which("uv"):
        ways.append([which("uv"), "venv", "--allow-existing", "--python", sys.executable, VENV])
    if which("virtualenv"):
        ways.append([which("virtualenv"), "--python", sys.executable, VENV])
    words = try_ways(ways, lock)
    if words is None:
        return
    if not is_system_python():
        tail(words)
        stop(f"this Python ({sys.executable}) makes no environment with pip; use another Python, or install uv")
    apt_install([f"python{HERE}-venv"], "this Python can make no environment with pip")
    words = try_ways(ways[:1], lock)
    if words is not None:
        tail(words)
        stop(f"no environment could be made, above is why; to see it by hand: {sys.executable} -m venv {quote(VENV)}")


def try_ways(ways: list[list[str]], lock: int) -> str | None:
    """Try methods to make `.venv`; None when one gave an environment with an installer, else the first one's output."""
    first_words = None
    for way in ways:
        delete(VENV)
        os.mkdir(VENV)
        write_state({})
        status, words = quietly(way, lock)
        if status == 0 and installers():
            return None
        first_words = first_words or words or "no pip and no uv can install into the environment\n"
    delete(VENV)
    return first_words


def installers() -> list[list[str]]:
    """Commands that install packages into `.venv`, the fastest first."""
    choices = [[uv, "pip", "install", "--python", PYTHON] for uv in (tool("uv"), which("uv")) if uv and os.path.exists(uv)]
    pips = [[PYTHON, "-m", "pip"], [sys.executable, "-m", "pip", "--python", PYTHON]]
    pips += [[path, "--python", PYTHON] for path in (which("pip3"), which("pip")) if path]
    for pip in pips:
        if quietly([*pip, "--version"])[0] == 0:
            return [*choices, [*pip, "--disable-pip-version-check", "install"]]
    return choices


def install(extras: list[str], lock: int) -> None:
    """Install vlarig, editable, with its extras: with uv, which is fast, or with pip, which reads pip's own settings."""
    say("installing vlarig with {}".format(", ".join(extras)))
    if not os.path.exists(tool("uv")) and not which("uv"):
        quietly([*installers()[-1], "uv"], lock)
    use_settings()
    if "policy" in extras:
        install_first(lock)
    words = ""
    constraints = ["--constraint", CONSTRAINTS] if "dev" in extras and os.path.exists(CONSTRAINTS) else []
    for command in installers():
        status, words = quietly([*command, *constraints, "--editable", "{}[{}]".format(ROOT, ",".join(extras))], lock)
        if status == 0:
            return
        say("that failed by %s" % ("uv" if "uv" in os.path.basename(command[0]) else "pip"))
    tail(words)
    stop("vlarig's packages could not be installed; above is why")


def install_first(lock: int) -> None:
    """Install the CPU builds that pyproject.toml names, so that later steps download no gigabytes of CUDA.

    Where the usual index lacks them, PyTorch's own has them; where neither is reached, later steps may still work.
    """
    packages = read_project().get("dependency-groups", {}).get("cpu", [])
    for command in installers() if packages else []:
        is_uv = "uv" in os.path.basename(command[0])
        for more in ([], ["--torch-backend", "cpu"]) if is_uv else ([],):
            if quietly([*command, *more, *packages], lock)[0] == 0:
                return


def use_settings() -> None:
    """Set uv's variables for this machine's certificates, and for pip's package index and folders of wheels.

    uv reads none of them by itself.
    """
    if any(map(os.path.exists, CERTIFICATES)):
        os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    if not (os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")):
        index = setting_of_pip("index-url")
        if index:
            os.environ["UV_DEFAULT_INDEX"] = index
    if not os.environ.get("UV_FIND_LINKS"):
        folders = setting_of_pip("find-links").split()
        if folders:
            os.environ["UV_FIND_LINKS"] = ",".join(folders)


def setting_of_pip(name: str) -> str:
    """One of pip's settings by name, or an empty text."""
    variable = "PIP_" + name.upper().replace("-", "_")
    if os.environ.get(variable):
        return os.environ[variable]
    status, words = quietly([PYTHON, "-m", "pip", "config", "get", "global." + name])
    return words.strip() if status == 0 else ""


def apt_install(packages: list[str], why: str, must: bool = True) -> None:
    """Install packages of Debian or Ubuntu where that is allowed; otherwise print the command, and stop."""
    line = "apt-get install -y {}".format(" ".join(packages))
    if not which("apt-get"):
        stop(f"{why}; install it with your system's package manager (on Debian and Ubuntu: {line})")
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if sudo and not (which("sudo") and subprocess.call(["sudo", "-n", "true"], stderr=subprocess.DEVNULL) == 0):
        stop(f"{why}; run: sudo {line}\nand then this command again")
    say(f"{why}; running: {line}")
    apt = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"]
    quietly([*apt, "update"])
    status, words = quietly([*apt, "install", "-y", "--no-install-recommends", *packages])
    if status and must:
        tail(words)
        stop("that failed, above is why; fix it, run: {}{}\nand then this command again".format("sudo " if sudo else "", line))


def works(code: str) -> bool:
    """Whether `.venv` has a Python that runs this code."""
    return os.path.exists(PYTHON) and quietly([PYTHON, "-I", "-c", code])[0] == 0


def write_state(state: dict[str, object]) -> None:
    """Write the state of `.venv`; `{}` means half-made."""
    with open(STATE + ".new", "w", encoding="utf-8") as file:
        json.dump(state, file)
    os.replace(STATE + ".new", STATE)


def delete(path: str) -> None:
    """Delete a folder or a link, if it is there."""
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    else:
        shutil.rmtree(path, ignore_errors=True)


def tool(name: str) -> str:
    """The path of a program in `.venv`."""
    return os.path.join(VENV, "bin", name)


def which(name: str) -> str:
    """The path of a program on PATH, or an empty text."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return ""


def call(command: list[str], pass_fds: tuple[int, ...] = ()) -> int:
    """Run a command in the repository, its output shown, and return its exit status."""
    sys.stdout.flush()
    return subprocess.run(command, check=False, cwd=ROOT, pass_fds=pass_fds).returncode


def quietly(command: list[str], lock: int | None = None) -> tuple[int, str]:
    """Run a command and return its exit status and output; a held lock is passed on, so that it may outlive this process."""
    held = () if lock is None else (lock,)
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            pass_fds=held,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        return 127, f"{error}\n"
    try:
        words, _ = process.communicate()
    except BaseException:
        end_family(process)
        raise
    return process.returncode, words


def end_family(process: subprocess.Popen[str]) -> None:
    """End a command and its child processes, and wait for it."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except OSError:  # it has ended, or runs as root and ends by itself
        pass
    process.wait()


def quote(path: str) -> str:
    """The path, quoted for the shell."""
    return f"'{path}'" if " " in path else path


def tail(words: str) -> None:
    """Print the last lines of a failed step's output."""
    print("".join(f"  {line}\n" for line in words.strip().splitlines()[-20:]), end="", file=sys.stderr)


def say(line: str) -> None:
    """Print one step."""
    print(f"go: {line}", flush=True)


def stop(sentence: str, status: int = 1) -> NoReturn:
    """End with a sentence that says what to do."""
    print(f"go: {sentence}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    sys.exit(main())
