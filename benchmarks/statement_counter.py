"""Counts the statements that a client sends: a proxy between it and PostgreSQL that reads the frames of the protocol.

The server's own statistics come seconds late and miss statements inside transactions; this misses none, whichever driver sends them.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from headwater.waiting import first_of

_PROTOCOL_3: Final = 3
_SIMPLE_QUERY, _EXECUTE = b"Q", b"E"
_CHUNK_BYTES: Final = 65_536


class StatementCounter:
    """How many statements went through so far."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.statement_count = 0

    async def serve(self, client: StreamReader, answer: StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        server, to_server = await asyncio.open_connection(self._host, self._port)
        try:
            await first_of(self._forward(client, to_server), _copy(server, answer))
        finally:
            for writer in (to_server, answer):
                writer.close()

    async def _forward(self, client: StreamReader, server: StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not await _forward_start(client, server):
                pass
            while True:
                kind = await client.readexactly(1)
                self.statement_count += kind in (_SIMPLE_QUERY, _EXECUTE)
                server.write(kind + await _frame(client))
                await server.drain()


async def _forward_start(client: StreamReader, server: StreamWriter) -> bool:
    """Before the start-up message a client may ask for encryption; returns whether this was the start-up message itself."""
    frame = await _frame(client)
    server.write(frame)
    await server.drain()
    return int.from_bytes(frame[4:6], "big") == _PROTOCOL_3


async def _frame(client: StreamReader) -> bytes:
    size = await client.readexactly(4)
    return size + await client.readexactly(int.from_bytes(size, "big") - 4)


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def counting_statements(dsn: str) -> AsyncGenerator[tuple[StatementCounter, str]]:
    """A counter, and the address under which clients reach the same database through it; the connection must not be encrypted."""
    parts = urlsplit(dsn)
    counter = StatementCounter(parts.hostname or "127.0.0.1", parts.port or 5432)
    listener = await asyncio.start_server(counter.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    account = f"{parts.username or 'postgres'}{f':{parts.password}' if parts.password else ''}"
    try:
        yield counter, parts._replace(netloc=f"{account}@127.0.0.1:{port}").geturl()
    finally:
        listener.close()
