"""The rules of the design that a look at the source can check, each a function from a package to its violations."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOUR_FILES = {"__init__.py", "contracts.py", "reader.py", "rules.py", "calls.py"}
PROGRAMS = "programs.py"  # a fifth file, where the executor can liquidate
PURE_FILES = {"rules.py", "calls.py", PROGRAMS}
DRAWERS = {"base", "common", "helpers", "manager", "misc", "utils"}
FLOAT_MODULES = {"engine/screen.py", "engine/ranking.py"}  # the float mirror, which decides nothing
MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """One source file: its path inside the package, its text and its tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def is_core(self) -> bool:
        """Return whether it is part of the pure core."""
        return self.path.parts[0] in {"domain", "engine"} or (
            self.path.parts[0] == "protocols" and self.path.name in PURE_FILES
        )

    @property
    def is_exact(self) -> bool:
        """Return whether it may compute with integers only."""
        is_core_or_spends = self.is_core or self.path.parts[0] == "execution"
        return is_core_or_spends and self.path.as_posix() not in FLOAT_MODULES

    def at(self, node: ast.AST, complaint: str) -> str:
        """Say where something is wrong."""
        return f"{self.path}:{getattr(node, 'lineno', 1)} {complaint}"


def modules(package: Path) -> Iterator[Module]:
    """Read every module of a package."""
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield Module(path.relative_to(package), text, ast.parse(text, str(path)))


def is_documentation(statement: ast.stmt) -> bool:
    """Return whether a statement is only a string or an ellipsis."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def protocols_have_the_same_four_files(package: Path) -> Iterator[str]:
    for folder in sorted((package / "protocols").iterdir()):
        if not folder.is_dir() or folder.name == "__pycache__":
            continue
        names = {entry.name for entry in folder.iterdir()} - {"__pycache__"}
        if names - {PROGRAMS} != FOUR_FILES:
            yield f"protocols/{folder.name} holds {sorted(names)}"
        elif not all(map(is_documentation, ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body)):
            yield f"protocols/{folder.name}/__init__.py holds more than a docstring"


def exact_code_has_no_floats(package: Path) -> Iterator[str]:
    for module in modules(package):
        for node in ast.walk(module.tree) if module.is_exact else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
                yield module.at(node, f"has the float {node.value}")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float":
                yield module.at(node, "makes a float")
            elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
                yield module.at(node, "divides with /")


def the_core_waits_for_nothing_and_asks_nobody(package: Path) -> Iterator[str]:
    for module in modules(package):
        for node in ast.walk(module.tree) if module.is_core else ():
            if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
                yield module.at(node, "waits")
            elif isinstance(node, ast.AsyncFunctionDef) and not all(map(is_documentation, node.body)):
                yield module.at(node, f"{node.name} is async")
            elif isinstance(node, ast.Name) and node.id in {"open", "input", "print", "breakpoint"}:
                yield module.at(node, f"uses {node.id}")
            elif isinstance(node, ast.Attribute) and node.attr in {"random", "now", "utcnow", "today"}:
                yield module.at(node, f"uses {node.attr}")


def rules_cite_what_they_mirror(package: Path) -> Iterator[str]:
    for module in modules(package):
        if module.path.parts[0] != "protocols" or module.path.name != "rules.py":
            continue
        for node in module.tree.body:
            if not isinstance(node, Function) or node.name.startswith("_"):
                continue
            if "Source:" not in (ast.get_docstring(node) or ""):
                yield module.at(node, f"{node.name} cites no Source:")


def code_comes_in_small_pieces(package: Path) -> Iterator[str]:
    for module in modules(package):
        if (lines := len(module.text.splitlines())) > MAX_MODULE_LINES:
            yield f"{module.path}:1 has {lines} lines"
        for node in ast.walk(module.tree):
            if isinstance(node, Function) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    yield module.at(node, f"{node.name} has {lines} lines")


def only_the_settings_read_the_environment(package: Path) -> Iterator[str]:
    for module in modules(package):
        for node in ast.walk(module.tree) if module.path.as_posix() != "settings.py" else ():
            names = (
                {node.attr}
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
                else {alias.name for alias in node.names}
                if isinstance(node, ast.ImportFrom) and node.module == "os"
                else set()
            )
            if read := names & {"environ", "environb", "getenv", "getenvb", "putenv"}:
                yield module.at(node, f"reads os.{read.pop()}")


def only_the_supervisor_catches_everything(package: Path) -> Iterator[str]:
    for module in modules(package):
        allowed = 1 if module.path.as_posix() == "daemon.py" else 0
        broad = [node for node in ast.walk(module.tree) if is_broad(node)]
        for node in broad[allowed:]:
            yield module.at(node, "swallows everything")


def is_broad(node: ast.AST) -> bool:
    """Return whether a handler, or a `suppress`, takes every exception and does not raise it again."""
    if isinstance(node, ast.ExceptHandler):
        if isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None:
            return False
        caught = [node.type]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        caught = list(node.args)
    else:
        return False
    names = {name.id for kind in caught if kind is not None for name in ast.walk(kind) if isinstance(name, ast.Name)}
    return caught == [None] or bool(names & {"Exception", "BaseException"})


def values_are_frozen(package: Path) -> Iterator[str]:
    for module in modules(package):
        for node in ast.walk(module.tree) if module.path.parts[0] == "domain" else ():
            for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                text = ast.unparse(decorator)
                if "dataclass" in text and not ("frozen=True" in text and "slots=True" in text):
                    yield module.at(decorator, "is not frozen with slots")


def no_folder_is_a_drawer(package: Path) -> Iterator[str]:
    for path in sorted(package.rglob("*")):
        if path.stem in DRAWERS:
            yield f"{path.relative_to(package)} is a drawer"


RULES = (
    protocols_have_the_same_four_files,
    exact_code_has_no_floats,
    the_core_waits_for_nothing_and_asks_nobody,
    rules_cite_what_they_mirror,
    code_comes_in_small_pieces,
    only_the_settings_read_the_environment,
    only_the_supervisor_catches_everything,
    values_are_frozen,
    no_folder_is_a_drawer,
)
