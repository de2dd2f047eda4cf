"""Make `.venv` what uv.lock says, and do nothing when it already is.

Needs only a Python 3.11+ with venv: pip fetches uv (its version and hashes come from uv.lock, too), uv installs the rest by
hash, and Headwater itself goes in editable. A stamp in `.venv` holds a digest of everything that matters; when it agrees, this
returns at once. A `.venv` that was moved here, lost its Python or belongs to an old one is made again.

    python tools/environment.py          the whole environment (`make setup`)
    python tools/environment.py --uv     only as far as uv, for `make lock` (the lock may be out of date then)
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import lock

ROOT, VENV = lock.ROOT, lock.VENV
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".headwater-setup"
STAMPED_FILES = ("pyproject.toml", "uv.lock", "tools/environment.py", "tools/lock.py")


class SetupError(Exception):
    """Setup cannot go on; the message says what to do."""


def run(*command: str | Path, environment: dict[str, str] | None = None, failure: str) -> None:
    """Run quietly; on failure show what the command said, and raise with what to do."""
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise SetupError(f"{(finished.stdout + finished.stderr).strip()}\nsetup: {failure}")


def digest() -> str:
    """Changes when the packages, the project's metadata, this recipe or the place of `.venv` change."""
    whole = hashlib.sha256(str(VENV).encode())
    for name in STAMPED_FILES:
        whole.update((ROOT / name).read_bytes())
    return whole.hexdigest()


def is_usable() -> bool:
    """Whether `.venv` has a live Python 3.11+ and its scripts point to it (they do not after the folder was moved)."""
    question = "import sys; sys.exit(sys.version_info < (3, 11) or sys.prefix == sys.base_prefix)"
    try:
        if subprocess.run([VENV_PYTHON, "-c", question], check=False, capture_output=True).returncode != 0:
            return False
    except OSError:
        return False
    return all(_points_here(script) for script in (VENV / "bin").iterdir() if script.is_file())


def _points_here(script: Path) -> bool:
    with script.open("rb") as file:
        head = b"".join(file.readlines(512)[:2])
    return not (head.startswith(b"#!") and b"python" in head) or bytes(VENV / "bin") in head


def make_venv() -> None:
    """A `.venv` with pip in it, kept if usable, else made afresh."""
    if not is_usable():
        # When this runs on the very .venv it replaces, the new one grows from the Python below it.
        base = getattr(sys, "_base_executable", sys.executable)
        packages = f"python3-venv (or python{sys.version_info[0]}.{sys.version_info[1]}-venv)"
        run(base, "-m", "venv", "--clear", VENV, failure=f"{base} cannot make a .venv; on Debian or Ubuntu install {packages}")
    if subprocess.run([VENV_PYTHON, "-c", "import pip"], check=False, capture_output=True).returncode != 0:
        run(VENV_PYTHON, "-m", "ensurepip", failure="this Python has no ensurepip; on Debian or Ubuntu install python3-venv")


def install_uv() -> None:
    """The uv that uv.lock pins, by hash."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    uv = next(package for package in packages if package["name"] == "uv")
    have = subprocess.run([VENV / "bin" / "uv", "--version"], capture_output=True, text=True, check=False) if _has_uv() else None
    if have is not None and have.stdout.split()[1:2] == [uv["version"]]:
        return
    hashes = " ".join(f"--hash={file['hash']}" for file in (*uv["wheels"], uv["sdist"]))
    wanted = VENV / "lock" / "uv.txt"
    wanted.parent.mkdir(exist_ok=True)
    wanted.write_text(f"uv=={uv['version']} {hashes}\n", encoding="utf-8")
    run(
        *(VENV_PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", wanted),
        failure="pip could not fetch uv; is there a network, or does pip need an index (PIP_INDEX_URL) or a proxy (HTTPS_PROXY)?",
    )


def _has_uv() -> bool:
    return os.access(VENV / "bin" / "uv", os.X_OK)


def install_packages() -> None:
    """Exactly what is locked, checked by hash, and Headwater itself from this folder."""
    if lock.render() != 0:
        raise SetupError("setup: stopped before installing anything")
    uv, environment = VENV / "bin" / "uv", lock.uv_environment()
    advice = "packages could not be installed; is there a network, and does the index hold what uv.lock pins?"
    run(
        *(uv, "pip", "sync", "--quiet", "--python", VENV_PYTHON, "--require-hashes", lock.REQUIREMENTS),
        environment=environment,
        failure=advice,
    )
    # hatchling and editables are locked, too, so nothing unlocked is fetched to build.
    run(
        *(uv, "pip", "install", "--quiet", "--python", VENV_PYTHON, "--no-deps", "--no-build-isolation", "--offline", "-e", "."),
        environment=environment,
        failure="Headwater itself could not be installed into .venv; see above",
    )


def main() -> int:
    only_uv = sys.argv[1:] == ["--uv"]
    wanted = digest()
    # The digest names the place, so that a copied .venv is noticed without asking it.
    if not only_uv and STAMP.exists() and STAMP.read_text() == wanted and VENV_PYTHON.exists():
        return 0
    try:
        if not only_uv:
            print("setup: installing what uv.lock pins into .venv (some seconds; again only when it changes)", file=sys.stderr, flush=True)
            STAMP.unlink(missing_ok=True)
        make_venv()
        install_uv()
        if not only_uv:
            install_packages()
            STAMP.write_text(wanted)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
