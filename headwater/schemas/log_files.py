"""Opening a file of a log: which format it has, and whether it is compressed."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from enum import Enum
from typing import BinaryIO, Final, Protocol, cast

from headwater.errors import LogFileDamaged
from headwater.schemas.file_events import FileCodec, FileEvent, LogFileHeader
from headwater.schemas.log_avro import AVRO_MAGIC, AvroReader, AvroWriter
from headwater.schemas.log_lines import LineReader, LineWriter

__all__ = ["FileEvent", "LogFileFormat", "LogFileHeader", "LogFileReader", "LogFileWriter", "format_of", "open_reader", "open_writer"]

GZIP_MAGIC: Final = b"\x1f\x8b"
GZIP_LEVEL: Final = 6
_BUFFER_BYTES: Final = 1024 * 1024


class LogFileFormat(Enum):
    """What a file of a log is written in."""

    JSONL = "jsonl"
    AVRO = "avro"


class LogFileWriter(Protocol):
    """A file that is being written."""

    def write(self, events: Iterable[FileEvent]) -> None:
        """Add events, in the order of the log."""
        ...

    def finish(self) -> None:
        """Say that this was all: a file without that is refused."""
        ...


def format_of(name: str) -> tuple[LogFileFormat, bool]:
    """The format that a file's name tells, and whether it is to be compressed: `log.jsonl`, `log.avro`, `log.jsonl.gz`."""
    is_gzip = name.endswith(".gz")
    is_avro = name.removesuffix(".gz").endswith(".avro")
    return (LogFileFormat.AVRO if is_avro else LogFileFormat.JSONL), is_gzip


@contextmanager
def open_writer(stream: BinaryIO, header: LogFileHeader, file_format: LogFileFormat, *, is_gzip: bool = False) -> Generator[LogFileWriter]:
    """A writer into a stream that the caller opened and closes."""
    if not is_gzip:
        yield _writer(stream, header, file_format, is_gzip=False)
        return
    # Neither a name nor a moment in it: the same log gives the same bytes.
    with gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as packed:
        yield _writer(cast("BinaryIO", packed), header, file_format, is_gzip=True)


def _writer(stream: BinaryIO, header: LogFileHeader, file_format: LogFileFormat, *, is_gzip: bool) -> LogFileWriter:
    if file_format is LogFileFormat.AVRO:
        return AvroWriter(stream, header, codec="null" if is_gzip else "deflate")
    return LineWriter(stream, header)


class LogFileReader:
    """Reads a file in batches; makes sure that positions only grow, and that its end is there."""

    def __init__(self, codec: FileCodec, stream: io.BufferedReader) -> None:
        self._stream = stream  # kept: it closes the caller's stream when it goes
        self._codec, self._last_position, self._is_done = codec, codec.header.after, False
        self.header = codec.header

    def read(self, events_max: int, bytes_max: int) -> list[FileEvent]:
        """The next events, at most so many and about so many bytes of data; none after the last.

        Raises:
            LogFileDamaged: with the line; the events before it in this batch are not returned.
        """
        batch: list[FileEvent] = []
        size = 0
        with _packing_errors():
            while not self._is_done and len(batch) < events_max and size < bytes_max:
                event = self._codec.read()
                if event is None:
                    self._is_done = True
                    break
                if event.position is not None:
                    self._check_order(event.position, event.line)
                batch.append(event)
                size += len(event.data)
        return batch

    def _check_order(self, position: int, line: int) -> None:
        if position <= self._last_position:
            raise LogFileDamaged(f"line {line} has position {position}, after {self._last_position}: positions must grow", line=line)
        self._last_position = position


def open_reader(stream: BinaryIO) -> LogFileReader:
    """A reader of a stream, which it closes when it goes; what the stream holds is seen from its first bytes.

    Raises:
        LogFileDamaged: it is no file of a log.
    """
    with _packing_errors():
        buffered: io.BufferedReader = io.BufferedReader(cast("io.RawIOBase", stream), _BUFFER_BYTES)
        if buffered.peek(2)[:2] == GZIP_MAGIC:
            buffered = io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=buffered, mode="rb")), _BUFFER_BYTES)
        is_avro = buffered.peek(4)[:4] == AVRO_MAGIC
        codec = AvroReader(cast("BinaryIO", buffered)) if is_avro else LineReader(cast("BinaryIO", buffered))
        return LogFileReader(codec, buffered)


@contextmanager
def _packing_errors() -> Generator[None]:
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise LogFileDamaged(f"the compressed file cannot be read ({error}): it was cut off or altered; export it again") from None
