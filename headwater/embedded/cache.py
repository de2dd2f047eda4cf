"""Folders: what is installed once and kept, and what belongs to one run and goes with it.

An installed folder appears under its final name by a rename, whole or not at all, made by whoever holds the lock beside it. So an
interrupted installation leaves only a folder named `partial-…`, which the next one removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from headwater.embedded.watchdog import Account
from headwater.errors import ConfigurationError
from headwater.telemetry import logger

CACHE_VARIABLE = "HEADWATER_CACHE"
_SHARED_CACHES = (Path("/var/cache/headwater"), Path("/var/tmp/headwater-root"))  # noqa: S108 - root's own, checked by _belongs_to_us
_PARTIAL = "partial-"


def cache_folder() -> Path:
    """The folder for what is installed once: `HEADWATER_CACHE`, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return _make_folder(Path(chosen).expanduser().absolute())
    base = os.environ.get("XDG_CACHE_HOME")
    return _make_folder((Path(base) if base else Path.home() / ".cache") / "headwater")


def cache_folder_readable_by(account: Account | None) -> Path:
    """The same, or, where that user could not reach it, another that only root can write.

    No folder on the way is opened to others for this: root's home stays closed.

    Raises:
        ConfigurationError: there is no such place; `HEADWATER_CACHE` has to name one.
    """
    chosen = cache_folder()
    if account is None:
        return chosen
    for folder in (chosen, *_SHARED_CACHES):
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o755, exist_ok=True)
            if _reachable_by(account, folder) and _belongs_to_us(folder):
                return folder
    raise ConfigurationError(
        f"PostgreSQL runs as the user {account.name} here, who can read none of {chosen}, {_SHARED_CACHES[0]} and {_SHARED_CACHES[1]};"
        f" let {CACHE_VARIABLE} name a folder of root's whose parents others may enter"
    )


def run_folder(name: str, account: Account | None = None) -> Path:
    """A new folder for the files of one server, owned by the user it runs as."""
    parent = Path(tempfile.gettempdir())
    if account is not None and not _reachable_by(account, parent):
        parent = Path("/var/tmp")  # noqa: S108 - mkdtemp makes a folder nobody else can enter
    folder = Path(tempfile.mkdtemp(prefix=f"headwater-{name}-", dir=parent))
    give_to(account, folder)
    return folder


def kept_folder(folder: Path, account: Account | None) -> Path:
    """The caller's folder for a server, made if need be.

    Raises:
        ConfigurationError: it cannot be made, or the server's user could not enter it.
    """
    absolute = folder.expanduser().absolute()
    try:
        absolute.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the data folder {absolute} cannot be made: {error}") from error
    if account is not None:
        if not _reachable_by(account, absolute.parent):
            raise ConfigurationError(
                f"PostgreSQL refuses to run as root and runs as {account.name} here, who cannot enter {absolute.parent};"
                " choose a data folder whose parents others may enter"
            )
        if not any(absolute.iterdir()):
            give_to(account, absolute)
    return absolute


def give_to(account: Account | None, path: Path) -> None:
    """Make a file or folder the server's own."""
    if account is not None:
        os.chown(path, account.user_id, account.group_id)


@contextlib.contextmanager
def installing(folder: Path) -> Generator[None]:
    """Hold the lock of one installation; waits while another process holds it. Released even if this process is killed."""
    import fcntl  # POSIX only, as the servers are; the room can still be imported elsewhere.

    with folder.with_name(folder.name + ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger("embedded").info("installation_awaited", folder=str(folder), note="another process is installing the same")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def publish(final: Path, build: Callable[[Path], None]) -> None:
    """Let `build` fill a new path, then give it its final name; on any failure nothing stays. The caller holds the lock.

    `build` gets a path that does not exist yet, beside the final one, and makes a file or a folder there.
    """
    for stale in final.parent.glob(f"{_PARTIAL}{final.name}-*"):  # We hold the lock, so nobody is working on it.
        _remove(stale)
    partial = final.with_name(f"{_PARTIAL}{final.name}-{os.getpid()}")
    try:
        build(partial)
        partial.replace(final)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the cache folder {folder} cannot be made: {error}; let {CACHE_VARIABLE} name another") from error
    if not os.access(folder, os.W_OK):
        raise ConfigurationError(f"the cache folder {folder} cannot be written; let {CACHE_VARIABLE} name another")
    return folder


def _reachable_by(account: Account, folder: Path) -> bool:
    real = folder.resolve()
    return all(_may_enter(account, one.stat()) for one in (real, *real.parents))


def _may_enter(account: Account, status: os.stat_result) -> bool:
    if status.st_uid == account.user_id:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.group_id:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _belongs_to_us(folder: Path) -> bool:
    # In a folder that others may write to, they could have planted the programs that we are about to run.
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
