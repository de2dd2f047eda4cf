"""What no ready-made linter checks: the house rules of this repository (design.md and style.md say why).

    python tools/tidy.py code      time and randomness at one place, no SQL in Python, doors between rooms, sizes
    python tools/tidy.py hygiene   no registry hosts and no paths of this machine in files that git tracks or would

Each finding is one line, `file:line: what; what to do`; exit status 1 when there is one. A string that must hold SQL
says why on its line: `# sql: CREATE DATABASE takes no parameters`.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PACKAGE = "headwater"
SIZED_FOLDERS = (PACKAGE, "tools", "benchmarks", "examples")
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500

# The two places that may touch time and randomness.
SOURCES_OF_CHANCE = ("headwater/clock.py", "headwater/randomness.py")
BANNED_MODULES = {"time": "headwater.clock", "random": "headwater.randomness", "secrets": "headwater.randomness"}
BANNED_NAMES = {
    "asyncio.sleep": "headwater.clock",
    "asyncio.tasks.sleep": "headwater.clock",
    "datetime.datetime.now": "headwater.clock",
    "datetime.datetime.utcnow": "headwater.clock",
    "datetime.datetime.today": "headwater.clock",
    "datetime.date.today": "headwater.clock",
    "os.urandom": "headwater.randomness",
    "os.getrandom": "headwater.randomness",
    **{f"uuid.uuid{version}": "headwater.randomness" for version in (1, 4, 6, 7)},
}
LOOP_GETTERS = ("asyncio.get_running_loop", "asyncio.get_event_loop", "asyncio.new_event_loop")

SQL_SHAPES = (
    r"SELECT\b.+\bFROM",
    r"INSERT\s+INTO",
    r"UPDATE\b.+\bSET",
    r"DELETE\s+FROM",
    r"CREATE\s+(?:UNLOGGED\s+|TEMP\s+|TEMPORARY\s+)?TABLE",
)
# Shouted SQL counts anywhere in a string; whispered SQL only as its beginning, for prose selects things from places, too.
SHOUTED_SQL = re.compile(rf"\b(?:{'|'.join(SQL_SHAPES)})\b", re.DOTALL)
_WHISPERED_SHAPES = (re.sub("[A-Z]{2,}", lambda word: word[0].lower(), shape) for shape in SQL_SHAPES)
WHISPERED_SQL = re.compile(rf"\s*(?:{'|'.join(_WHISPERED_SHAPES)})\b", re.DOTALL)

# Assembled, so that this file does not hold what it looks for.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("maven", "org"),
        ("maven", "apache", "org"),
        ("crates", "io"),
        ("rubygems", "org"),
    )
)
SIMPLE_INDEX = re.compile(r"https?://[^\s\"'<>]+/simple\b")
MACHINE_FOLDERS = ("root", "work", "Users")


@dataclass(frozen=True, order=True)
class Finding:
    """One place to change."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def code_findings(path: str, source: str) -> list[Finding]:
    """All findings in one Python file; `path` is relative to the repository's root, with forward slashes."""
    tree = ast.parse(source, filename=path)
    findings: list[Finding] = []
    if path.startswith(f"{PACKAGE}/"):
        if path not in SOURCES_OF_CHANCE:
            findings += _chance(path, tree)
        findings += _sql_text(path, tree, source)
        findings += _doors(path, tree)
    if path.partition("/")[0] in SIZED_FOLDERS:
        findings += _sizes(path, tree, source)
    return sorted(set(findings))


# --- time and randomness


def _chance(path: str, tree: ast.Module) -> Iterator[Finding]:
    names = _imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for imported in _imports(node):
                if instead := BANNED_MODULES.get(imported.partition(".")[0]) or BANNED_NAMES.get(imported):
                    yield _use_instead(path, node, f"import of {imported}", instead)
        elif isinstance(node, ast.Attribute):
            if (qualified := _qualified(node, names)) in BANNED_NAMES:
                yield _use_instead(path, node, qualified, BANNED_NAMES[qualified])
            elif node.attr == "time" and _is_loop(node.value, names):
                yield _use_instead(path, node, "the event loop's time()", "headwater.clock")


def _imports(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Whole names of what an absolute import brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names] if node.level == 0 else []


def _use_instead(path: str, node: ast.stmt | ast.expr, what: str, instead: str) -> Finding:
    return Finding(path, node.lineno, f"{what}; take it from {instead}, so that a simulation can hold it")


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for, such as `dt` for `datetime.datetime`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                names[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def _qualified(node: ast.expr, names: dict[str, str]) -> str:
    """The dotted name an expression stands for; empty when it is no plain name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = _qualified(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def _is_loop(node: ast.expr, names: dict[str, str]) -> bool:
    if isinstance(node, ast.Call):
        return _qualified(node.func, names) in LOOP_GETTERS
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return re.fullmatch(r"_*(?:event_|\w+_)?loop", name) is not None


# --- SQL


def _sql_text(path: str, tree: ast.Module, source: str) -> Iterator[Finding]:
    excused = _lines_with_comment(source, "# sql:")
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    fstrings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inside_fstrings = {id(part) for whole in fstrings for part in whole.values}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant | ast.JoinedStr) or id(node) in prose or id(node) in inside_fstrings:
            continue
        text = _text_of(node)
        if (SHOUTED_SQL.search(text) or WHISPERED_SQL.match(text)) and not excused & set(range(node.lineno, (node.end_lineno or 0) + 1)):
            instead = "put it into the room's sql/<verb>_<noun>.sql, or say why not with `# sql: reason` on the line"
            yield Finding(path, node.lineno, f"SQL text in Python; {instead}")


def _text_of(node: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)


def _lines_with_comment(source: str, beginning: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    reasoned = re.compile(re.escape(beginning) + r"\s*\S")
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT and reasoned.search(token.string)}


# --- doors


def _doors(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Another room's files are its own business: `from headwater.bus import X`, never `from headwater.bus.lanes import X`."""
    package = list(PurePosixPath(path).parent.parts)
    room = package[1] if len(package) > 1 else ""
    for node in ast.walk(tree):
        for target in _import_targets(node, package):
            parts = target.split(".")
            if parts[0] == PACKAGE and len(parts) > 2 and parts[1] != room and isinstance(node, ast.Import | ast.ImportFrom):
                yield Finding(path, node.lineno, f"import of {target}; knock at the door instead: import from {PACKAGE}.{parts[1]}")


def _import_targets(node: ast.AST, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = package[: len(package) - node.level + 1] if node.level else []
    return [".".join([*above, *([node.module] if node.module else [])])]


# --- sizes


def _sizes(path: str, tree: ast.Module, source: str) -> Iterator[Finding]:
    module_lines = source.count("\n")
    if module_lines > MODULE_LINES_MAX:
        yield Finding(path, 1, f"module of {module_lines} lines, over {MODULE_LINES_MAX}; find the second noun in it and give it a file")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := _lines_of(node)) > FUNCTION_LINES_MAX:
            message = f"{node.name} has {lines} lines beside its docstring, over {FUNCTION_LINES_MAX}; name its parts"
            yield Finding(path, node.lineno, message)


def _lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    whole = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        whole -= (first.end_lineno or first.lineno) - first.lineno + 1
    return whole


# --- hygiene


def hygiene_findings(path: str, text: str, machine_paths: tuple[str, ...] = ()) -> list[Finding]:
    """Registry hosts and machine paths in one text file; `machine_paths` adds this machine's own to the usual ones."""
    usual = rf"(?<![\w.~*-])/(?:{'|'.join(MACHINE_FOLDERS)})/"
    machine = re.compile("|".join([usual, *(re.escape(folder) for folder in machine_paths)]))
    neutral = "name no registry, the machine's settings choose (decision 0002)"
    findings: list[Finding] = []
    for number, line in enumerate(text.splitlines(), start=1):
        host = next((host for host in REGISTRY_HOSTS if re.search(rf"\b{re.escape(host)}\b", line)), None)
        if host is not None:
            findings.append(Finding(path, number, f"registry host {host}; {neutral}"))
        elif SIMPLE_INDEX.search(line):
            findings.append(Finding(path, number, f"address of a package index; {neutral}"))
        if found := machine.search(line):
            findings.append(Finding(path, number, f"path of one machine ({found[0]}); say it relative to the repository's root"))
    return findings


# --- the command


def tracked_files(root: Path) -> list[Path]:
    """Files git tracks, or would track on the next `git add`."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        raise SystemExit(f"tidy: this checks what git tracks, and git says: {listing.stderr.strip()}")
    return [root / name for name in sorted(set(listing.stdout.split("\0"))) if name and (root / name).is_file()]


def check_code(root: Path) -> list[Finding]:
    """Findings in all Python files the rules speak about."""
    findings: list[Finding] = []
    for folder in SIZED_FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            findings += code_findings(file.relative_to(root).as_posix(), file.read_text(encoding="utf-8"))
    return findings


def check_hygiene(root: Path) -> list[Finding]:
    """Findings in all tracked text files, their names included."""
    machine_paths = tuple(f"{folder}/" for folder in (root, Path.home()) if len(folder.parts) > 2)
    findings: list[Finding] = []
    for file in tracked_files(root):
        content = file.read_bytes()
        if b"\0" not in content:
            text = content.decode("utf-8", errors="replace")
            findings += hygiene_findings(file.relative_to(root).as_posix(), text, machine_paths)
    return findings


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    checks = {"code": check_code, "hygiene": check_hygiene}
    chosen = sys.argv[1:] or list(checks)
    if unknown := [word for word in chosen if word not in checks]:
        print(f"tidy: {unknown[0]} is not one of {', '.join(checks)}", file=sys.stderr)
        return 2
    findings = [finding for word in chosen for finding in checks[word](root)]
    for finding in findings:
        print(finding)
    print(f"tidy: {len(findings)} to change" if findings else f"tidy: {' and '.join(chosen)} fine")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
