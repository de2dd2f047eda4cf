"""Readers that run in processes of their own, as another service would."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from headwater.errors import HeadwaterError

ROOT: Final = Path(__file__).parent.parent
ERROR_CHARACTERS_MAX: Final = 2_000


@asynccontextmanager
async def python_process(module: str, *arguments: str) -> AsyncGenerator[Process]:
    """`python -m module …` with pipes; it is killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments), cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def next_line(process: Process) -> str:
    """The next line that it prints.

    Raises:
        HeadwaterError: it ended instead; with what it said.
    """
    assert process.stdout is not None
    if line := await process.stdout.readline():
        return line.decode().strip()
    assert process.stderr is not None
    complaint = (await process.stderr.read()).decode()[-ERROR_CHARACTERS_MAX:]
    raise HeadwaterError(f"a process of the benchmark ended with status {await process.wait()}: {complaint}")
