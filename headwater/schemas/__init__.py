"""Files of a log: JSON lines and Avro container files, written and read as a stream.

Who is authoritative: the log that a file was exported from. A file begins with a header (which log, which part of it) and ends with a count, so
that one that was cut off is never taken for a whole one. Every event is checked as it is read; what it says about its data as JSON is left to
PostgreSQL, which stores it.

What can fail: `LogFileDamaged`, with the line.
"""

from headwater.schemas.log_files import (
    FileEvent,
    LogFileFormat,
    LogFileHeader,
    LogFileReader,
    LogFileWriter,
    format_of,
    open_reader,
    open_writer,
)

__all__ = [
    "FileEvent",
    "LogFileFormat",
    "LogFileHeader",
    "LogFileReader",
    "LogFileWriter",
    "format_of",
    "open_reader",
    "open_writer",
]
