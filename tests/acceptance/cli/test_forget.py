"""`headwater forget`: who is forgotten, what still holds plain text, and making it anew."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headwater.config import Settings
from headwater.messages import ANY
from headwater.postgres import Database
from headwater.projections import register_projections
from headwater.service import Service
from tests.acceptance.cli.conftest import Command

CLUB = """
from typing import Annotated

from headwater import Event, Personal, Projection, Saga, SagaContext, Service, on, starts_on

service = Service("club")

class FriendMade(Event):
    friend_id: int
    name: Annotated[str, Personal("friend_id")]

class DoorOpened(Event):
    door: str

@service.projection
class FriendNames(Projection, key="friend_id"):
    name: str = ""

    @on(FriendMade)
    def made(self, event: FriendMade) -> None:
        self.name = event.name

@service.projection
class NeverRan(Projection, key="friend_id"):
    name: str = ""

    @on(FriendMade)
    def made(self, event: FriendMade) -> None:
        self.name = event.name

@service.projection
class Doors(Projection, key="door"):
    times: int = 0

    @on(DoorOpened)
    def opened(self, event: DoorOpened) -> None:
        self.times += 1

@service.saga
class Welcome(Saga, key="friend_id"):
    name: str = ""

    @starts_on(FriendMade)
    async def begin(self, event: FriendMade, context: SagaContext) -> None:
        self.name = event.name
"""


class Club:
    def __init__(self, headwater: Command, dsn: str, module: Any, database: Database) -> None:
        self.headwater, self.dsn, self.module, self.database = headwater, dsn, module, database
        self.service: Service = module.service

    async def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {"HEADWATER_POSTGRES": self.dsn, "HEADWATER_SERVICE": "club:service", **environment}
        return await asyncio.to_thread(self.headwater.run, "forget", *arguments, **given)

    async def json(self, *arguments: str, status: int = 0) -> Any:
        outcome = await self.run(*arguments, "--json")
        assert outcome.returncode == status, (outcome.stdout, outcome.stderr)
        return json.loads(outcome.stdout)

    async def rows(self) -> dict[str, str]:
        async with self.service.connect():
            return {row.row_key: row.name async for row in self.service.read_all(self.module.FriendNames)}


@pytest.fixture
async def club(headwater: Command, postgres_dsn: str) -> AsyncIterator[Club]:
    """Two friends are made, and their names stand in a read model."""
    path = Path(headwater.folder) / "club.py"
    path.write_text(CLUB)
    specification = importlib.util.spec_from_file_location("club", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["club"] = module
    specification.loader.exec_module(module)
    service: Service = module.service
    service._settings = Settings(postgres=postgres_dsn)
    async with Database(postgres_dsn) as database:
        async with service.connect():
            friends = [module.FriendMade(friend_id=number, name=name) for number, name in ((1, "Åda"), (2, "Bo"))]
            await service.store.append("friend-1", friends, expected_version=ANY)
            await register_projections(database, service.events.registry, [module.FriendNames, module.Doors])
            await service.replay("friend_names")
        yield Club(headwater, postgres_dsn, module, database)
    del sys.modules["club"]


async def test_forgetting_lists_what_holds_plain_text_and_rebuilds_it_on_request(club: Club) -> None:
    assert await club.rows() == {"1": "Åda", "2": "Bo"}
    forgotten = await club.run("1", "--yes")
    assert forgotten.returncode == 0, forgotten.stderr
    assert "1 was forgotten at" in forgotten.stdout
    assert "read model friend_names: may still hold plain text" in forgotten.stdout
    assert "repeat this with --rebuild" in forgotten.stdout
    assert "saga welcome" in forgotten.stdout
    assert "doors" not in forgotten.stdout
    assert "never_ran" not in forgotten.stdout
    assert await club.rows() == {"1": "Åda", "2": "Bo"}, "nothing is rebuilt unasked"

    rebuilt = await club.json("1", "--yes", "--rebuild")
    assert [(fact["subject"], fact["was_forgotten"]) for fact in rebuilt["forgotten"]] == [("1", True)]
    assert rebuilt["read_models"] == [{"name": "friend_names", "is_rebuilt": True, "events": 2}]
    assert rebuilt["sagas"] == ["welcome"]
    assert await club.rows() == {"1": "[forgotten]", "2": "Bo"}

    listed = await club.json("--list")
    assert [fact["subject"] for fact in listed["forgotten"]] == ["1"]
    assert "1  " in (await club.run("--list")).stdout


async def test_an_unknown_subject_is_told_and_the_others_are_forgotten_all_the_same(club: Club) -> None:
    outcome = await club.json("7", "2", "--yes", status=1)
    assert outcome["unknown"] == ["7"]
    assert [fact["subject"] for fact in outcome["forgotten"]] == ["2"]
    text = await club.run("8", "--yes", "--rebuild")
    assert text.returncode == 1
    assert "8 is unknown: no personal data was ever sealed for it here" in text.stdout
    assert "rebuilt" not in text.stdout


async def test_nobody_is_forgotten_unasked_and_wrong_use_is_told(club: Club) -> None:
    for arguments in (("1",), ("1", "--json")):
        refused = await club.run(*arguments)
        assert refused.returncode == 2
        assert "repeat it with --yes" in refused.stderr
    for wrong in ((), ("1", "--list")):
        refused = await club.run(*wrong)
        assert refused.returncode == 2
        assert "headwater forget SUBJECT" in refused.stderr
    async with club.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM headwater.subject_keys WHERE forgotten_at IS NOT NULL") == 0
    bad_key = await club.run("1", "--yes", HEADWATER_MASTER_KEY="short")
    assert bad_key.returncode == 2
    assert "HEADWATER_MASTER_KEY must be 32 bytes in base64" in bad_key.stderr
    assert "short" not in bad_key.stderr
    nowhere = await asyncio.to_thread(club.headwater.run, "forget", "1", "--yes", "--service", "club:service")
    assert nowhere.returncode == 2
    assert "set HEADWATER_POSTGRES" in nowhere.stderr


async def test_the_log_shows_what_is_stored(club: Club) -> None:
    given = {"HEADWATER_POSTGRES": club.dsn}
    for arguments in (("log", "show", "1"), ("stream", "show", "friend-1"), ("log", "tail", "--no-follow")):
        shown = await asyncio.to_thread(club.headwater.run, *arguments, **given)
        assert "headwater:sealed:1:" in shown.stdout, shown.stderr
        assert "Åda" not in shown.stdout
