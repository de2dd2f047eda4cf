"""The lock that is committed names no host and still pins every file."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tools import lock

RAW = """
[[package]]
name = "asyncpg"
version = "1"
source = { registry = "https://mirror.example/python/" }
sdist = { url = "https://files.example/a/b/asyncpg-1.tar.gz#egg=x", hash = "sha256:aa", size = 12, upload-time = "2026-01-01T00:00:00Z" }
wheels = [
    { url = "http://user:secret@mirror.example/x/asyncpg-1-py3-none-any.whl", hash = "sha256:bb", size = 3 },
]
"""


def test_hosts_are_dropped_and_names_and_hashes_kept() -> None:
    [package] = tomllib.loads(lock.without_hosts(RAW))["package"]
    assert package["source"] == {"registry": "index"}
    assert package["sdist"] == {"url": "asyncpg-1.tar.gz", "hash": "sha256:aa"}
    assert package["wheels"] == [{"url": "asyncpg-1-py3-none-any.whl", "hash": "sha256:bb"}]


def test_stripping_twice_changes_nothing() -> None:
    once = lock.without_hosts(RAW)
    assert lock.without_hosts(once) == once


def test_committed_lock_has_no_address_and_hashes_for_every_package() -> None:
    text = (Path(lock.ROOT) / "uv.lock").read_text(encoding="utf-8")
    assert "://" not in text
    packages = [package for package in tomllib.loads(text)["package"] if "registry" in package["source"]]
    assert packages
    for package in packages:
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files, package["name"]
        assert all(file["hash"].startswith("sha256:") for file in files), package["name"]
