"""The lock file without hosts: `uv.lock` pins every package by version and hash, and leaves open where it is fetched.

Plain `uv lock` writes the index it asked and the address of every file into the lock. A mirror, a company's index or an
offline folder would each give another file, and nobody could install from a different place than the one who locked. So
`update` keeps what identifies a package (name, version, hashes) and drops where it came from, and `render` makes of it a list
for `uv pip sync --require-hashes`, which asks whatever index this machine is configured for and refuses any file whose
hash is not in the lock. Decision: docs/decisions/0002-lock-without-hosts.md.

    python tools/lock.py update [--upgrade]   resolve pyproject.toml again; pins stay unless they must (or may) move
    python tools/lock.py render               write .venv/lock/requirements.txt; fails if pyproject.toml has moved on
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
REQUIREMENTS = VENV / "lock" / "requirements.txt"
INDEX_PLACEHOLDER = "index"

# What pip calls a setting, and the environment variable by which uv knows it.
_UV_VARIABLE_BY_PIP_SETTING = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "no-index": "UV_NO_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
}
_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX", "UV_FIND_LINKS")
_PIP_SCOPES = ("global", "install", ":env:")  # later ones win, as in pip


def uv_environment() -> dict[str, str]:
    """The environment in which uv asks the index that pip would ask; uv's own variables win where they are set."""
    environment = dict(os.environ, UV_PYTHON_DOWNLOADS="never")
    chosen = any(name in os.environ for name in _INDEX_VARIABLES)
    for setting, value in _pip_settings().items():
        variable = _UV_VARIABLE_BY_PIP_SETTING.get(setting)
        if variable is None or (chosen and variable in _INDEX_VARIABLES):
            continue
        environment.setdefault(variable, " ".join(value.split()))
    return environment


def _pip_settings() -> dict[str, str]:
    listing = subprocess.run([VENV / "bin" / "python", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    ranked: dict[str, tuple[int, str]] = {}
    for line in listing.stdout.splitlines():
        found = re.fullmatch(r"(:env:|[\w-]+)\.([\w-]+)=(.+)", line)
        if found is None or found[1] not in _PIP_SCOPES:
            continue
        rank = _PIP_SCOPES.index(found[1])
        if rank >= ranked.get(found[2], (-1, ""))[0]:
            ranked[found[2]] = (rank, str(ast.literal_eval(found[3])))
    return {setting: value for setting, (_, value) in ranked.items()}


def without_hosts(lock_text: str) -> str:
    """The same lock with neither index nor file addresses, and without what only some indexes tell (sizes, upload times)."""
    lock_text = re.sub(r'registry = "[^"]*"', f'registry = "{INDEX_PLACEHOLDER}"', lock_text)
    lock_text = re.sub(r'url = "[a-z+]+://[^"]*/([^"/#]+)[^"]*"', r'url = "\1"', lock_text)
    return re.sub(r', (?:size = \d+|upload-time = "[^"]*")', "", lock_text)


def render() -> int:
    """Write the hash-pinned list of everything in the lock, for all extras and groups, without the project itself.

    Looks at nothing but pyproject.toml and uv.lock: no network, no index settings.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _INDEX_VARIABLES}
    REQUIREMENTS.parent.mkdir(parents=True, exist_ok=True)
    everything = ["--all-extras", "--all-groups", "--no-emit-project", "--no-header", "--format", "requirements-txt"]
    alone = ["--quiet", "--locked", "--offline", "--no-config", "--python", str(VENV / "bin" / "python")]
    command = [str(VENV / "bin" / "uv"), "export", *alone, *everything, "--output-file", str(REQUIREMENTS)]
    exported = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if exported.returncode != 0:
        REQUIREMENTS.unlink(missing_ok=True)
        reason = exported.stderr.strip().partition("\n")[0] or "no reason given"
        print("lock: uv.lock does not hold what pyproject.toml asks for; run `make lock` and commit uv.lock with it", file=sys.stderr)
        print(f"lock: uv says: {reason}", file=sys.stderr)
    return exported.returncode


def update(uv_arguments: list[str]) -> int:
    """Resolve again in a temporary copy, and bring back the lock without hosts."""
    with tempfile.TemporaryDirectory(prefix="headwater-lock-") as folder:
        for name in ("pyproject.toml", "uv.lock"):
            if (ROOT / name).exists():
                shutil.copy(ROOT / name, folder)
        command = [str(VENV / "bin" / "uv"), "lock", "--python", str(VENV / "bin" / "python"), *uv_arguments]
        locked = subprocess.run(command, cwd=folder, env=uv_environment(), check=False)
        if locked.returncode != 0:
            return locked.returncode
        stripped = without_hosts((Path(folder) / "uv.lock").read_text(encoding="utf-8"))
    if leftover := re.search(r"\w+://[^\s\"]*", stripped):
        print(f"lock: an address is left in the lock ({leftover[0]}); teach tools/lock.py to drop it", file=sys.stderr)
        return 1
    (ROOT / "uv.lock").write_text(stripped, encoding="utf-8")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="lock", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=["render", "update"])
    arguments, uv_arguments = parser.parse_known_args()
    if not (VENV / "bin" / "uv").exists():
        print("lock: .venv has no uv yet; run it through the door: `make setup` or `make lock`", file=sys.stderr)
        return 2
    return render() if arguments.command == "render" else update(uv_arguments)


if __name__ == "__main__":
    sys.exit(main())
