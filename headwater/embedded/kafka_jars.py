"""The jars of one Kafka release: a list with checksums that travels with this package, and how they are fetched."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from headwater.errors import BrokerUnavailable, ConfigurationError

PACKAGE = "headwater.embedded"
KAFKA_VERSION = "4.4.0"
MAVEN_VARIABLE = "HEADWATER_MAVEN_URL"
DOWNLOAD_THREADS = 8
DOWNLOAD_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class LockedJar:
    """One jar: its Maven coordinates, and what its bytes must be."""

    group: str
    artifact: str
    version: str
    sha256: str
    size: int

    @property
    def file_name(self) -> str:
        """The name under which it is kept."""
        return f"{self.artifact}-{self.version}.jar"


@cache
def locked_jars() -> tuple[LockedJar, ...]:
    """The list, in the order of the class path."""
    rows: list[dict[str, Any]] = json.loads(_lock_text())["jars"]
    return tuple(_locked_jar(row) for row in rows)


def _locked_jar(row: dict[str, Any]) -> LockedJar:
    group, artifact, version = str(row["gav"]).split(":")
    return LockedJar(group, artifact, version, sha256=str(row["sha256"]), size=int(row["size"]))


def lock_digest() -> str:
    """A short name for exactly this list."""
    return hashlib.sha256(_lock_text().encode()).hexdigest()[:8]


def download_jars(jars: Sequence[LockedJar], folder: Path) -> None:
    """Fetch the jars into a new folder, each checked against its SHA-256.

    Raises:
        ConfigurationError: the extra `embedded` is not installed.
        BrokerUnavailable: a jar cannot be fetched, or is not what the list says.
    """
    if importlib.util.find_spec("jgo") is None:
        raise ConfigurationError("Kafka's jars cannot be fetched without jgo: pip install 'headwater[embedded]', or set HEADWATER_KAFKA")
    maven: Any = importlib.import_module("jgo.maven")
    mirror = os.environ.get(MAVEN_VARIABLE)
    folder.mkdir()
    # jgo would otherwise look into, and write to, the user's own Maven repository.
    with TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-maven-") as repository:
        where = {"remote_repos": {"central": mirror}} if mirror else {}
        context = maven.MavenContext(repo_cache=Path(repository), timeout=DOWNLOAD_TIMEOUT_SECONDS, **where)
        with ThreadPoolExecutor(DOWNLOAD_THREADS) as threads:
            for download in [threads.submit(_download, context, jar, folder) for jar in jars]:
                download.result()


def _download(context: Any, jar: LockedJar, folder: Path) -> None:
    try:
        fetched = Path(context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve())
    except Exception as error:
        raise BrokerUnavailable(
            f"{jar.file_name} of Kafka {KAFKA_VERSION} cannot be fetched: {error}; is the network there?"
            f" {MAVEN_VARIABLE} may name a Maven mirror, HEADWATER_KAFKA a broker that runs elsewhere"
        ) from error
    if hashlib.sha256(fetched.read_bytes()).hexdigest() != jar.sha256:
        raise BrokerUnavailable(f"{jar.file_name} as fetched is not the file of the locked list (its SHA-256 differs); it was not used")
    fetched.replace(folder / jar.file_name)


@cache
def _lock_text() -> str:
    return resources.files(PACKAGE).joinpath(f"kafka-{KAFKA_VERSION}.lock.json").read_text(encoding="utf-8")
