"""Finds what runs or unpickles whatever a file or a socket says, in the source of Python modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

#: Modules that unpickle, or that talk to other processes by pickles or by anything at all.
PICKLING = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "shelve",
    "marshal",
    "joblib",
    "jsonpickle",
    "hickle",
    "msgpack_numpy",
}
REMOTE = {"xmlrpc", "logging.config", "torch.hub", "torch.package"}
BY_PICKLES = {"multiprocessing", "torch.multiprocessing", "concurrent.futures.process"}
#: A part of the last that holds bytes and no objects.
PLAIN = {"multiprocessing.shared_memory"}

#: Functions and classes, by their full names.
NAMES = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("logging.handlers.SocketHandler", "logging.handlers.DatagramHandler", "torch.jit.load", "torch.export.load"),
    *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__"),
}
BUILTINS = {"eval", "exec", "compile", "__import__"}

#: Functions and classes, whatever they are taken from.
ATTRIBUTES = {
    *("read_pickle", "to_pickle", "recv_pyobj", "send_pyobj", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"),
    *("UnsafeLoader", "FullLoader", "all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"),
    *("send_object_list", "recv_object_list"),
}
#: The same, but for tests.
PROCESS_POOLS = {"ProcessPoolExecutor", "SubprocVecEnv", "AsyncVectorEnv"}

#: Names of files that are pickles, or may be.
PICKLED_FILES = re.compile(r"\.(pkl|pickle|pt|pth|ckpt|bin|joblib)$")


class Finding(NamedTuple):
    """Something dangerous, and its line."""

    line: int
    what: str


def scan(source: str, test: bool = False) -> list[Finding]:
    """What is dangerous in a module, and in the code that it holds as text; a test may start processes and name files as it likes."""
    tree = ast.parse(source)
    return sorted(set(_Scan(tree, test).findings()))


class _Scan:
    def __init__(self, tree: ast.Module, test: bool) -> None:
        self._tree = tree
        self._test = test
        self._aliases = dict(_aliases(tree))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        bodies = [node.body for node in ast.walk(tree) if isinstance(node, documented) and node.body]
        self._documentation = {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}
        self._called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}

    def findings(self) -> Iterator[Finding]:
        for node in ast.walk(self._tree):
            for what in self._in_node(node):
                yield Finding(getattr(node, "lineno", 0), what)

    def _in_node(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from self._modules(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from self._modules(f"{node.module}.{alias.name}" for alias in node.names)
            yield from self._reference(node, [f"{node.module}.{alias.name}" for alias in node.names])
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            yield from self._reference(node, [self._name(node)])
        elif isinstance(node, ast.Call):
            yield from self._call(node, self._name(node.func))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in self._documentation:
            yield from self._text(node.value)

    def _modules(self, names: Iterator[str]) -> Iterator[str]:
        for name in names:
            for module in PICKLING | REMOTE | (set() if self._test else BY_PICKLES):
                if f"{name}.".startswith(f"{module}.") and not any(f"{name}.".startswith(f"{plain}.") for plain in PLAIN):
                    yield module

    def _reference(self, node: ast.AST, names: list[str]) -> Iterator[str]:
        for name in names:
            last = name.rpartition(".")[2]
            if name in NAMES or (name in BUILTINS and isinstance(node, ast.Name)):
                yield name.removeprefix("builtins.")
            if last in ATTRIBUTES or (last in PROCESS_POOLS and not self._test):
                yield last
            if (
                _is(name, "torch.load", "torch.serialization.load")
                and isinstance(node, ast.Attribute)
                and id(node) not in self._called
            ):
                yield "torch.load that is passed on"

    def _call(self, call: ast.Call, name: str) -> Iterator[str]:
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if _is(name, "torch.load", "torch.serialization.load") and not _literal(keywords.get("weights_only"), True):
            yield "torch.load without weights_only=True"
        if _is(name, "torch.save", "torch.serialization.save") and not (call.args and _is_state(call.args[0])):
            yield "torch.save of what is no state_dict()"
        if _is(name, "numpy.load") and (len(call.args) > 2 or None in keywords):
            yield "numpy.load with who knows what"
        if _is(name, "numpy.save") and not _literal(keywords.get("allow_pickle"), False):
            yield "numpy.save without allow_pickle=False"
        if _is(name, "yaml.load", "yaml.load_all") and _last([*call.args[1:2], keywords.get("Loader")]) not in (
            "SafeLoader",
            "CSafeLoader",
        ):
            yield "yaml.load without SafeLoader"
        for keyword, harmless in {
            "allow_pickle": False,
            "weights_only": True,
            "shell": False,
            "trust_remote_code": False,
        }.items():
            if keyword in keywords and not _literal(keywords[keyword], harmless):
                yield f"{keyword} that is not {harmless}"
        owner, _, method = name.rpartition(".")
        weights = method == "from_pretrained" and not self._test and not re.search("Config|Tokenizer|Processor", owner)
        if weights and not _literal(keywords.get("use_safetensors"), True):
            yield "from_pretrained without use_safetensors=True"
        if method == "import_module" and call.args and isinstance(call.args[0], ast.Constant):
            yield from self._modules(iter([str(call.args[0].value)]))
        if name == "getattr" and len(call.args) > 1 and isinstance(call.args[1], ast.Constant):
            hidden = ast.Attribute(call.args[0], str(call.args[1].value), ast.Load())
            yield from self._reference(hidden, [self._name(hidden)])

    def _text(self, text: str) -> Iterator[str]:
        if PICKLED_FILES.search(text) and not self._test:
            yield f"a file {PICKLED_FILES.findall(text)[0]}"
        if "import " in text:
            try:
                tree = ast.parse(text)
            except (SyntaxError, ValueError):
                return
            yield from (finding.what for finding in _Scan(tree, self._test).findings())

    def _name(self, node: ast.AST) -> str:
        """The full name of what an expression refers to, as far as can be seen."""
        if isinstance(node, ast.Name):
            return self._aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self._name(node.value)}.{node.attr}"
        return f"{self._name(node.func)}()" if isinstance(node, ast.Call) else ""


def _aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names in a module, and what they were imported as."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _is(name: str, *functions: str) -> bool:
    """Whether a name ends like one of the functions'; a module may be held in an attribute, as ``self._torch``."""
    plain = ".".join(part.strip("_") for part in name.replace("np.", "numpy.").split("."))
    return any(f".{plain}".endswith(f".{function}") for function in functions)


def _literal(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _last(nodes: list[ast.AST | None]) -> str:
    return next(
        (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in nodes if node is not None), ""
    )


def _is_state(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "state_dict"
