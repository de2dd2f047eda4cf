"""Proxies before the servers: they cut connections, refuse new ones, and hold a single request back to deliver it when it is late.

One before PostgreSQL passes bytes on. One before a broker reads Kafka's frames, so that it knows whose connection it has (the client id of its
first request), and can hold back a produce request of one client.
"""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from aiokafka.protocol import produce

from headwater.waiting import first_of

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 65_536
LATE_ANSWER_SECONDS_MAX = 20.0
PRODUCE = 0


class HeldRequest:
    """The next produce request of one client: it waits in the proxy until it is let go."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.caught = asyncio.Event()
        self.let_go = asyncio.Event()
        self.version, self.correlation_id = 0, -1
        self.answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    def catches(self, client_id: str, frame: bytes) -> bool:
        """Whether this is the one."""
        api_key, version, correlation_id = struct.unpack_from(">hhi", frame, 4)
        if self.caught.is_set() or client_id != self.client_id or api_key != PRODUCE:
            return False
        self.version, self.correlation_id = version, correlation_id
        self.caught.set()
        return True


class Proxy:
    """Stands before one server. `cut` and `refusing` take the name of a client, or None for everybody."""

    def __init__(self, server_port: Callable[[], int], *, port: int = 0, speaks_kafka: bool = False) -> None:
        self.server_port, self.port, self.speaks_kafka = server_port, port, speaks_kafka
        self.refuses: Callable[[str], bool] = lambda _client: False
        self.held: HeldRequest | None = None
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._listener is not None
        self._listener.close()
        self.refuses = lambda _client: True
        self.cut()
        await asyncio.gather(*(connection.task for connection in self._connections), return_exceptions=True)
        await self._listener.wait_closed()

    def cut(self, client: str | None = None) -> int:
        """Cut the connections of this client now, whatever is on its way; says how many there were."""
        victims = [connection for connection in self._connections if client in (None, connection.client)]
        for connection in victims:
            connection.cut()
        return len(victims)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(self, reader, writer, task)
        self._connections.add(connection)
        try:
            await connection.run()
        except (OSError, asyncio.IncompleteReadError):
            pass  # One side went away; the other one learns it from the cut below.
        finally:
            connection.cut()
            self._connections.discard(connection)


class _Connection:
    """One of a client, and the one to the server behind it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        self.client, self.task = "", task
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._server: asyncio.StreamWriter | None = None
        self._held: HeldRequest | None = None

    def cut(self) -> None:
        self._writer.transport.abort()
        if self._server is not None:
            self._server.transport.abort()

    async def run(self) -> None:
        first = await self._read(self._reader)
        if self._proxy.speaks_kafka and len(first) > 14:
            (length,) = struct.unpack_from(">h", first, 12)
            self.client = first[14 : 14 + max(length, 0)].decode("utf-8", "replace")
        if not first or self._proxy.refuses(self.client):
            return
        reader, self._server = await asyncio.open_connection(LOOPBACK, self._proxy.server_port())
        await first_of(self._from_client(first, self._server), self._from_server(reader))

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """A frame of Kafka, or whatever there is."""
        if not self._proxy.speaks_kafka:
            return await reader.read(CHUNK_BYTES)
        head = await reader.readexactly(4)
        return head + await reader.readexactly(int.from_bytes(head, "big"))

    async def _from_client(self, first: bytes, server: asyncio.StreamWriter) -> None:
        data = first
        while data:
            held = self._proxy.held
            if held is not None and held.catches(self.client, data):
                await self._deliver_late(held, data, server)
            else:
                server.write(data)
                await server.drain()
            data = await self._read(self._reader)

    async def _deliver_late(self, held: HeldRequest, data: bytes, server: asyncio.StreamWriter) -> None:
        """The client may be long dead by then; what the broker said is kept all the same."""
        self._held = held
        await held.let_go.wait()
        server.write(data)
        async with asyncio.timeout(LATE_ANSWER_SECONDS_MAX):
            await asyncio.wait([held.answer])

    async def _from_server(self, reader: asyncio.StreamReader) -> None:
        while data := await self._read(reader):
            held = self._held
            if held is not None and not held.answer.done() and struct.unpack_from(">i", data, 4)[0] == held.correlation_id:
                held.answer.set_result(_error_codes(data, held.version))
            with suppress(OSError):  # A held request's answer is read also when nobody waits for it any more.
                self._writer.write(data)
                await self._writer.drain()
            if held is None and self._writer.is_closing():
                return


def _error_codes(frame: bytes, version: int) -> list[int]:
    """What a produce response says of each partition; 0 is written."""
    shape = getattr(produce, f"ProduceResponse_v{version}").SCHEMA
    topics, *_ = shape.decode(io.BytesIO(frame[8:]))
    return [int(outcome[1]) for _topic, outcomes in topics for outcome in outcomes]
