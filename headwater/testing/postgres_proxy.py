"""A proxy before PostgreSQL that knows where each statement begins and ends, and cuts connections exactly there.

It reads as much of the wire protocol (version 3) as that takes: what the client sends up to Sync, Query, Flush or the end of a COPY is one
statement, and the reply ends with ReadyForQuery, or with what a Flush was sent for. The bytes themselves pass unchanged. It speaks without TLS on
both sides, so it is for servers that take such connections: the embedded one, and most on a developer's machine.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, Self
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from headwater.errors import UsageError
from headwater.waiting import first_of

LOOPBACK: Final = "127.0.0.1"
POSTGRES_PORT: Final = 5432
STATEMENT_CHARACTERS_MAX: Final = 120
"""How much of a statement's text is kept to name it."""
CLOSE_TIMEOUT_SECONDS: Final = 5.0

_REQUESTS_WITHOUT_SESSION: Final = {80877103: "TLS", 80877104: "GSSAPI"}
_CANCEL_REQUEST: Final = 80877102
_ENDS_A_STATEMENT: Final = b"SQHcf"
_READY: Final = b"Z"
# What ends the reply to a Flush, by the last message before it.
_FLUSH_REPLIES: Final = {b"P": b"1E", b"B": b"2E", b"D": b"TnE", b"E": b"CsIE", b"C": b"3E"}
# Not part of any reply: notices, notifications and changed settings come when they like.
_OUT_OF_BAND: Final = b"NAS"


class Cut(StrEnum):
    """Where a connection is cut."""

    BEFORE = "before it was sent"
    """The server never sees the statement."""
    AFTER = "after it was sent"
    """The server gets the statement, and nobody waits for what it does."""
    REPLY_LOST = "reply lost"
    """The server has carried out the statement, and the client never hears of it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One request of one connection, counted over all connections of the proxy."""

    number: int
    text: str


Plan = Callable[[Statement], Cut | None]


class PostgresProxy:
    """Stands between clients and a server on a loopback port of its own, in this event loop.

    `plan` is asked at every statement, the connecting itself included, and says where to cut, if at all. A cut takes the statement's connection
    with it. With `kills` it takes every connection and refuses new ones, as when the client's process is killed: sockets close without a word,
    and nothing that is left of the client reaches the server any more. `on_cut` is called just before.
    """

    def __init__(self, dsn: str, *, plan: Plan | None = None, kills: bool = False, on_cut: Callable[[], object] | None = None) -> None:
        self._parts = _network_address(dsn)
        self._plan, self._kills, self._on_cut = plan, kills, on_cut
        self._server: asyncio.Server | None = None
        self._sessions: set[_Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refuses = False
        self.statements: list[Statement] = []
        """What was sent so far, in order, the one that was cut included."""
        self.cut_at: Statement | None = None
        """The statement at which the plan cut."""
        self.was_cut = asyncio.Event()

    @property
    def dsn(self) -> str:
        """The same database, through the proxy and so without TLS."""
        assert self._server is not None, "used inside async with"
        port = self._server.sockets[0].getsockname()[1]
        user, at, _ = self._parts.netloc.rpartition("@")
        query = urlencode([pair for pair in parse_qsl(self._parts.query) if pair[0] != "sslmode"] + [("sslmode", "disable")])
        return self._parts._replace(netloc=f"{user}{at}{LOOPBACK}:{port}", query=query).geturl()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT_SECONDS)
        await self._server.wait_closed()

    def cut_all(self) -> None:
        """Cut every connection now, whatever it is doing."""
        for session in list(self._sessions):
            session.cut()

    async def connect_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._parts.hostname, self._parts.port or POSTGRES_PORT)

    def begin(self, text: str) -> tuple[Statement, Cut | None]:
        """Count a statement and ask the plan about it."""
        statement = Statement(len(self.statements) + 1, text)
        self.statements.append(statement)
        return statement, (self._plan(statement) if self._plan is not None and self.cut_at is None else None)

    def strike(self, session: _Session, statement: Statement) -> None:
        """Carry out the cut that was planned."""
        self.cut_at = statement
        if self._on_cut is not None:
            self._on_cut()
        if self._kills:
            self._refuses = True
            self.cut_all()
        session.cut()
        self.was_cut.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        session = _Session(self, reader, writer)
        self._sessions.add(session)
        try:
            if not self._refuses:
                await session.run()
        except (OSError, asyncio.IncompleteReadError):
            pass  # One side went away in the middle of a message; the other one learns it from the cut below.
        finally:
            session.cut()
            self._sessions.discard(session)
            self._tasks.discard(task)


@dataclass(slots=True)
class _Reply:
    """What the client still has to hear."""

    statement: Statement
    ends_with: bytes
    is_lost: bool


class _Session:
    """One connection of a client, and the one to the server behind it."""

    def __init__(self, proxy: PostgresProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client_reader, self._client = reader, writer
        self._server: asyncio.StreamWriter | None = None
        self._replies: deque[_Reply] = deque()
        self._prepared: dict[bytes, str] = {}
        self._is_cut = False

    def cut(self) -> None:
        """Close both sides. The client gets nothing more; the server gets what was written to it before, and then the end."""
        self._is_cut = True
        self._client.transport.abort()
        if self._server is not None:
            self._server.close()

    async def run(self) -> None:
        """Pass everything on until one side ends or the connection is cut."""
        startup = await self._read_startup()
        if startup is None:
            return
        server_reader, self._server = await self._proxy.connect_server()
        if int.from_bytes(startup[4:8], "big") == _CANCEL_REQUEST:
            self._send(startup, "cancel what runs", _READY)
            with suppress(OSError):
                await server_reader.read()
            return
        if not self._send(startup, "connect", _READY + b"E"):
            return
        await first_of(self._from_client(), self._from_server(server_reader))

    async def _read_startup(self) -> bytes | None:
        """The message that opens a session, or the one that cancels another's statement."""
        while True:
            head = await self._client_reader.readexactly(8)
            length, code = struct.unpack("!ii", head)
            body = await self._client_reader.readexactly(length - 8)
            if code not in _REQUESTS_WITHOUT_SESSION:
                return head + body
            self._client.write(b"N")

    async def _from_client(self) -> None:
        assert self._server is not None
        waiting, texts, last = bytearray(), list[str](), b""
        while not self._is_cut:
            kind, frame = await _read_frame(self._client_reader)
            waiting += frame
            if text := self._text_of(kind, frame[5:]):
                texts.append(text)
            if kind in _ENDS_A_STATEMENT:
                ends_with = _FLUSH_REPLIES.get(last, _READY) if kind == b"H" else _READY + (b"G" if kind == b"Q" else b"")
                if not self._send(bytes(waiting), "; ".join(texts) or _NAMELESS.get(kind, "end of a statement"), ends_with):
                    return
            elif kind in b"dpX":  # a COPY's data, a password, the good-bye: nobody replies to these
                self._server.write(bytes(waiting))
            else:
                last = kind
                continue
            waiting.clear()
            texts.clear()
            await self._server.drain()

    def _send(self, request: bytes, text: str, ends_with: bytes) -> bool:
        """Pass a statement on, unless the plan says otherwise; False once the connection is cut."""
        assert self._server is not None
        statement, cut = self._proxy.begin(text)
        if cut is Cut.BEFORE:
            self._proxy.strike(self, statement)
            return False
        self._replies.append(_Reply(statement, ends_with, is_lost=cut is Cut.REPLY_LOST))
        self._server.write(request)
        if cut is Cut.AFTER:
            self._proxy.strike(self, statement)
            return False
        return True

    async def _from_server(self, reader: asyncio.StreamReader) -> None:
        while not self._is_cut:
            kind, frame = await _read_frame(reader)
            reply = self._replies[0] if self._replies and kind not in _OUT_OF_BAND else None
            is_end = reply is not None and kind in reply.ends_with
            if is_end:
                self._replies.popleft()
            if reply is None or not reply.is_lost:
                self._client.write(frame)
                await self._client.drain()
            elif is_end:
                self._proxy.strike(self, reply.statement)

    def _text_of(self, kind: bytes, body: bytes) -> str:
        """What a message says in words; a Bind is named by the statement it was prepared as."""
        if kind == b"Q":
            return _shortened(body)
        if kind == b"P":
            name, _, rest = body.partition(b"\0")
            self._prepared[name] = text = _shortened(rest)
            return f"prepare {text}"
        if kind == b"B":
            _, _, rest = body.partition(b"\0")
            return self._prepared.get(rest.partition(b"\0")[0], "a statement")
        return {b"c": "end of COPY", b"f": "failure of COPY", b"C": "close a statement"}.get(kind, "")


_NAMELESS: Final = {b"S": "end of a failed statement", b"H": "flush"}


async def _read_frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
    return head[:1], head + body


def _shortened(body: bytes) -> str:
    """The statement in one line, without the comment it opens with."""
    text = body.partition(b"\0")[0].decode("utf-8", "replace")
    return " ".join(re.sub(r"--[^\n]*", "", text).split())[:STATEMENT_CHARACTERS_MAX]


def _network_address(dsn: str) -> SplitResult:
    parts = urlsplit(dsn)
    if not parts.hostname:
        raise UsageError("the proxy needs an address with a host, such as postgresql://user@127.0.0.1:5432/database")
    return parts
