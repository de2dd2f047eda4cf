"""TLS to PostgreSQL, as the address asks for it.

The embedded PostgreSQL is built without TLS, so a small server before it ends the client's TLS and passes on the bytes; what the client checks is
the same. At full count a PostgreSQL 15 with `ssl=on` is asked, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import asyncpg
import pytest

from headwater.embedded import EmbeddedPostgres
from headwater.embedded.postgres_files import server_account
from headwater.errors import ConfigurationError, StorageUnavailable, UsageError
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NewEvent
from headwater.postgres import Database, apply_migrations
from tests.certificates import Authority
from tests.foreign_servers import POSTGRES_15, OlderPostgres, at_full_count, require

LOOPBACK = "127.0.0.1"
SSL_REQUEST = struct.pack(">ii", 8, 80877103)


@contextlib.asynccontextmanager
async def tls_before(dsn: str, context: ssl.SSLContext) -> AsyncIterator[str]:
    """Answers a client's request for TLS, and passes what comes inside it on to the server; gives the address."""
    server_address = urlsplit(dsn)
    serving: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST, "a client that speaks in the clear"
            writer.write(b"S")
            await writer.start_tls(context)
            up_reader, up_writer = await asyncio.open_connection(server_address.hostname, server_address.port)
            await asyncio.gather(pass_on(reader, up_writer), pass_on(up_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
        finally:
            serving.discard(task)

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://{server_address.username}@{LOOPBACK}:{port}{server_address.path}"
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@pytest.fixture(scope="module")
def embedded_server() -> Iterator[EmbeddedPostgres]:
    """Our own, whatever server the other tests use."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def embedded_dsn(embedded_server: EmbeddedPostgres) -> Iterator[str]:
    name = f"tls_{uuid4().hex[:12]}"
    yield embedded_server.create_database(name)
    embedded_server.drop_database(name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def server_context(authority: Authority, *, asks_for_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
    context.load_cert_chain(authority.issue("server", hosts=(LOOPBACK,)).both)
    context.verify_mode = ssl.CERT_REQUIRED if asks_for_certificate else ssl.CERT_NONE
    return context


@pytest.fixture(params=["before the embedded server", pytest.param("PostgreSQL 15", marks=at_full_count)])
async def address(request: pytest.FixtureRequest, embedded_dsn: str, authority: Authority) -> AsyncIterator[str]:
    """Where TLS is spoken, under a certificate for 127.0.0.1."""
    if request.param == "before the embedded server":
        async with tls_before(embedded_dsn, server_context(authority)) as found:
            yield found
        return
    folder = Path(mkdtemp(prefix="headwater-tls-", dir="/tmp"))
    issued = authority.issue("server", hosts=(LOOPBACK,))
    files = {"ssl_cert_file": folder / "server.pem", "ssl_key_file": folder / "server.key"}
    for path, source in zip(files.values(), (issued.certificate, issued.key), strict=True):
        path.write_bytes(Path(source).read_bytes())
        path.chmod(0o600)
    if (account := server_account()) is not None:
        for path in (folder, *files.values()):
            os.chown(path, account.user_id, account.group_id)
    settings = {"ssl": "on", **{name: str(path) for name, path in files.items()}}
    with OlderPostgres(require(POSTGRES_15 / "postgres", "postgresql-15").parent, settings) as server:
        yield server.dsn
    shutil.rmtree(folder)


def asking(address: str, **parameters: str) -> str:
    return f"{address}?{urlencode(parameters)}"


def is_encrypted(connection: object) -> bool:
    return connection._transport.get_extra_info("cipher") is not None  # type: ignore[attr-defined]


async def test_a_log_is_kept_over_tls(address: str, authority: Authority) -> None:
    """The pool's connections and those of their own are encrypted, with the server's certificate and name checked."""
    async with Database(asking(address, sslmode="verify-full", sslrootcert=authority.certificate)) as database:
        async with database.connection() as connection:
            await apply_migrations(connection)
            assert is_encrypted(connection._con)
        store = PostgresEventStore(database)
        await store.append("order-1", [NewEvent("OrderPlaced", "{}")], expected_version=ANY)
        assert [event.type for event in (await store.read_log(after=0, limit=10)).events] == ["OrderPlaced"]
        own = await database.connect()
        assert is_encrypted(own)
        await own.close()


async def test_a_server_that_the_authority_did_not_sign_is_not_spoken_to(address: str, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other").certificate
    for mode in ("verify-full", "verify-ca"):
        with pytest.raises(StorageUnavailable, match=r"TLS failed .*CERTIFICATE_VERIFY_FAILED.*sslrootcert"):
            await Database(asking(address, sslmode=mode, sslrootcert=other)).open()


async def test_a_server_of_another_name_is_not_spoken_to(address: str, authority: Authority) -> None:
    """The certificate is for 127.0.0.1 alone; `verify-ca` does not ask."""
    elsewhere = address.replace(LOOPBACK, "localhost")
    with pytest.raises(StorageUnavailable, match=r"TLS failed .*Hostname mismatch"):
        await Database(asking(elsewhere, sslmode="verify-full", sslrootcert=authority.certificate)).open()
    connection = await asyncpg.connect(asking(elsewhere, sslmode="verify-ca", sslrootcert=authority.certificate))
    assert is_encrypted(connection)
    await connection.close()


async def test_a_client_shows_its_own_certificate(embedded_dsn: str, authority: Authority) -> None:
    client = authority.issue("client")
    async with tls_before(embedded_dsn, server_context(authority, asks_for_certificate=True)) as address:
        asked = {"sslmode": "verify-full", "sslrootcert": authority.certificate}
        with pytest.raises(StorageUnavailable):
            await Database(asking(address, **asked)).open()
        async with Database(asking(address, **asked, sslcert=client.certificate, sslkey=client.key)) as database:
            async with database.connection() as connection:
                assert await connection.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
async def test_a_file_that_is_not_there_is_told_before_anybody_is_asked(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"names {name}=nowhere.pem, where there is no file") as told:
        await Database(asking("postgresql://me:s3cret@127.0.0.1:1/db", sslmode="verify-full", **{name: "nowhere.pem"})).open()
    assert "s3cret" not in str(told.value)


async def test_a_mode_that_is_none_is_told(embedded_dsn: str) -> None:
    with pytest.raises(UsageError, match="sslmode"):
        await Database(asking(embedded_dsn, sslmode="sometimes")).open()


async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(embedded_dsn: str) -> None:
    with pytest.raises(StorageUnavailable, match="rejected SSL upgrade"):
        await Database(asking(embedded_dsn, sslmode="require")).open()


async def test_the_embedded_server_is_built_without_tls(embedded_dsn: str) -> None:
    """Should that change, the tests above may ask it directly, and the page about configuration is to be changed."""
    connection = await asyncpg.connect(embedded_dsn)
    assert await connection.fetchval("SHOW ssl_library") == ""
    await connection.close()
