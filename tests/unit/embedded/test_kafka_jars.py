import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from headwater.embedded import kafka_jars
from headwater.embedded.kafka_jars import LockedJar, download_jars, locked_jars
from headwater.errors import BrokerUnavailable

JAR = LockedJar("org.example", "thing", "1.0", sha256="0" * 64, size=3)


def test_the_list_is_whole_and_names_no_host() -> None:
    jars = locked_jars()
    assert f"kafka_2.13-{kafka_jars.KAFKA_VERSION}.jar" in {jar.file_name for jar in jars}
    assert len({jar.file_name for jar in jars}) == len(jars)
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) and jar.size > 0 for jar in jars)
    assert "://" not in Path(kafka_jars.__file__).with_name(f"kafka-{kafka_jars.KAFKA_VERSION}.lock.json").read_text()


def maven_that_serves(content: bytes, seen: dict[str, object]) -> ModuleType:
    class MavenContext:
        def __init__(self, **options: object) -> None:
            self.folder = options["repo_cache"]
            seen.update(options)

        def project(self, *_: str) -> "MavenContext":
            return self

        at_version = project
        artifact = project

        def resolve(self) -> Path:
            if not content:
                raise RuntimeError("no such host")
            path = Path(str(self.folder)) / "fetched.jar"
            path.write_bytes(content)
            return path

    module = ModuleType("jgo.maven")
    module.MavenContext = MavenContext  # type: ignore[attr-defined]
    return module


def test_a_jar_with_another_checksum_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jgo.maven", maven_that_serves(b"not it", {}))
    with pytest.raises(BrokerUnavailable, match=r"thing-1\.0\.jar .* SHA-256"):
        download_jars([JAR], tmp_path / "libs")
    assert list((tmp_path / "libs").iterdir()) == []


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jgo.maven", maven_that_serves(b"", {}))
    with pytest.raises(BrokerUnavailable, match=r"no such host.*HEADWATER_MAVEN_URL.*HEADWATER_KAFKA"):
        download_jars([JAR], tmp_path / "libs")


def test_the_mirror_is_asked_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setitem(sys.modules, "jgo.maven", maven_that_serves(b"abc", seen))
    monkeypatch.setenv("HEADWATER_MAVEN_URL", "http://127.0.0.1:1/maven")
    good = LockedJar("org.example", "thing", "1.0", sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", size=3)
    download_jars([good], tmp_path / "libs")
    assert (tmp_path / "libs" / "thing-1.0.jar").read_bytes() == b"abc"
    assert seen["remote_repos"] == {"central": "http://127.0.0.1:1/maven"}
