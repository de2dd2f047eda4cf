import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headwater.embedded import cache
from headwater.embedded.watchdog import Account
from headwater.errors import ConfigurationError

STRANGER = Account("stranger", 12_345, 12_345)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as somebody else")


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("HEADWATER_CACHE", raising=False)
    assert cache.cache_folder() == tmp_path / "xdg" / "headwater"
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own"


def test_cache_folder_that_cannot_be_made_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigurationError, match="HEADWATER_CACHE"):
        cache.cache_folder()


@needs_root
def test_closed_parents_stay_closed_and_another_cache_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    elsewhere = Path(os.path.realpath("/var/tmp")) / f"headwater-test-{os.getpid()}"
    monkeypatch.setenv("HEADWATER_CACHE", str(closed / "cache"))
    monkeypatch.setattr(cache, "_SHARED_CACHES", (elsewhere, elsewhere))
    try:
        assert cache.cache_folder_readable_by(STRANGER) == elsewhere
        assert closed.stat().st_mode & 0o777 == 0o700
        elsewhere.chmod(0o777)  # Others could plant programs here, which root would start.
        with pytest.raises(ConfigurationError, match="stranger"):
            cache.cache_folder_readable_by(STRANGER)
    finally:
        elsewhere.rmdir()


@needs_root
def test_data_folder_that_the_server_cannot_enter_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="cannot enter"):
        cache.kept_folder(closed / "data", STRANGER)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(partial: Path) -> None:
        partial.mkdir()
        (partial / "half").write_text("")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        cache.publish(tmp_path / "final", build)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "partial-final-1").mkdir()
    (tmp_path / "partial-final-1" / "half").write_text("")
    cache.publish(tmp_path / "final", lambda partial: partial.write_text("whole") and None)
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_the_lock_lets_one_process_install_at_a_time(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from headwater.embedded.cache import installing\n"
        "with installing(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "thing")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        entered = threading.Event()

        def enter() -> None:
            with cache.installing(tmp_path / "thing"):
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.2)
        other.kill()  # The lock goes with the process, however it ends.
        assert entered.wait(10)
        waiting.join()
