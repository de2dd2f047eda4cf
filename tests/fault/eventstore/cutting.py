"""A wire between a client and PostgreSQL that can be cut at a chosen moment of a call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit

Condition = Callable[[], Awaitable[bool]]


class Wire:
    """Forwards connections to a server until it is cut; afterwards new connections go through again."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._writers: set[asyncio.StreamWriter] = set()
        self._cut_before_request = False
        self._cut_before_reply: Condition | None = None
        self.cut_count = 0

    def cut_before_request(self) -> None:
        """The next thing the client says does not reach the server."""
        self._cut_before_request = True

    def cut_before_reply(self, is_done: Condition) -> None:
        """The first reply after this holds does not reach the client: the server has done it, and nobody knows."""
        self._cut_before_reply = is_done

    def cut(self) -> None:
        """Cut every connection now."""
        self._cut_before_request, self._cut_before_reply = False, None
        self.cut_count += 1
        for writer in list(self._writers):
            writer.close()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, server_writer}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry(reader, server_writer, self._lets_request_through))
                tasks.create_task(self._carry(server_reader, writer, self._lets_reply_through))
        finally:
            self._writers -= {writer, server_writer}

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lets_through: Condition) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if not await lets_through():
                    self.cut()
                    return
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _lets_request_through(self) -> bool:
        return not self._cut_before_request

    async def _lets_reply_through(self) -> bool:
        return self._cut_before_reply is None or not await self._cut_before_reply()


@contextlib.asynccontextmanager
async def wire_to(dsn: str) -> AsyncIterator[tuple[Wire, str]]:
    """A wire to the server of this address, and the address through it."""
    parts = urlsplit(dsn)
    assert parts.hostname is not None
    wire = Wire(parts.hostname, parts.port or 5432)
    server = await asyncio.start_server(wire.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    try:
        yield wire, urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{port}"))
    finally:
        wire.cut()
        server.close()
        await server.wait_closed()
