"""Clock, randomness, configuration, errors: the ground floor."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from datetime import timedelta

import pytest

from headwater import errors
from headwater.clock import SYSTEM_CLOCK
from headwater.config import load_settings, redact
from headwater.errors import ConfigurationError, HeadwaterError, WrongExpectedVersion
from headwater.randomness import SYSTEM_RANDOMNESS, SeededRandomness, uuid7
from headwater.testing import FakeClock, eventually

ALL_ERRORS = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, HeadwaterError)]


# -- clock and randomness


async def test_system_clock_moves_on() -> None:
    before, moment = SYSTEM_CLOCK.monotonic(), SYSTEM_CLOCK.now()
    await SYSTEM_CLOCK.sleep(0.001)
    assert SYSTEM_CLOCK.monotonic() > before
    assert SYSTEM_CLOCK.now() >= moment
    assert moment.utcoffset() == timedelta(0)


async def test_fake_clock_wakes_sleepers_at_their_moments_in_order() -> None:
    clock, woken = FakeClock(), []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    async with asyncio.TaskGroup() as tasks:
        for seconds in (3, 1, 2):
            tasks.create_task(sleep(seconds))
        await clock.advance(2)
        assert woken == [(1, 1), (2, 2)]
        assert clock.sleeper_count == 1
        assert await clock.advance_to_next_sleeper()
    assert woken[-1] == (3, 3)
    assert not await clock.advance_to_next_sleeper()
    assert clock.now() - FakeClock().now() == timedelta(seconds=3)


async def test_sleeper_that_was_cancelled_is_passed_over() -> None:
    clock = FakeClock()
    task = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    await clock.advance(2)
    assert (task.cancelled(), clock.sleeper_count, clock.monotonic()) == (True, 0, 2)


def test_uuid7_is_one_and_sorts_by_time() -> None:
    ids = [uuid7() for _ in range(50)]
    assert len(set(ids)) == 50
    assert all((made.version, made.variant) == (7, uuid.RFC_4122) for made in ids)
    assert [made.int >> 80 for made in ids] == sorted(made.int >> 80 for made in ids)
    assert SYSTEM_RANDOMNESS.uuid7().version == 7


def test_same_seed_gives_the_same_chance() -> None:
    def draw(seed: int) -> list[object]:
        chance = SeededRandomness(seed)
        return [chance.uniform(0, 1), chance.uuid7(), chance.uuid7()]

    assert draw(1) == draw(1) != draw(2)
    _, first, second = draw(1)
    assert isinstance(first, uuid.UUID)
    assert first.version == 7
    assert first < second  # type: ignore[operator]


# -- waiting


async def test_eventually_gives_the_first_true_answer() -> None:
    answers = iter([None, 0, 7, 8])
    assert await eventually(lambda: next(answers)) == 7


async def test_eventually_says_what_was_last() -> None:
    async def condition() -> bool:
        assert 1 == 2, "never equal"
        return True

    with pytest.raises(AssertionError, match="never equal"):
        await eventually(condition, timeout=0.02)


# -- configuration


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_POSTGRES", "postgresql://here/db")
    monkeypatch.setenv("HEADWATER_TOPIC_PARTITIONS", "3")
    settings = load_settings()
    assert (settings.postgres, settings.topic_partitions) == ("postgresql://here/db", 3)


@pytest.mark.parametrize(("name", "value"), [("TOPIC_PARTITIONS", "0"), ("TOPIC_PARTITIONS", "many"), ("LOG_FORMAT", "pretty")])
def test_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"HEADWATER_{name}", value)
    with pytest.raises(ConfigurationError, match=f"HEADWATER_{name}"):
        load_settings()


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:se%40cret@host/db?sslmode=require&password=secret", "postgresql://me:***@host/db?sslmode=require"),
        ("postgresql://host/db?password=secret", "postgresql://host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://[half", "(an address that cannot be parsed)"),
        ("postgresql://me:se/secret@host/db", "(an address that cannot be parsed)"),
        ("postgresql://me:se#secret@host/db", "(an address that cannot be parsed)"),
        ("postgresql://me:se?secret@host/db", "(an address that cannot be parsed)"),
        ("host=db user=me password=secret", "(an address that cannot be parsed)"),
        ("postgresql://me:secret@@host/db", "postgresql://me:***@host/db"),
    ],
)
def test_secrets_are_never_shown(dsn: str, shown: str) -> None:
    assert redact(dsn) == shown
    assert "secret" not in redact(dsn)


# -- errors


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: error.__name__)
def test_every_error_says_whose_move_it_is(error: type[HeadwaterError]) -> None:
    assert error.__doc__
    assert error.__doc__ is not HeadwaterError.__doc__ or error is HeadwaterError
    assert isinstance(error.retryable, bool)


def test_conflict_says_what_was_found_and_what_to_do() -> None:
    assert "'order-1' has 3 events, but the append expected version 1" in str(
        WrongExpectedVersion(stream_name="order-1", expected="version 1", actual_version=3)
    )
    assert "does not exist" in str(WrongExpectedVersion(stream_name="order-1", expected="version 1", actual_version=0))
