"""`headwater forget`: destroy the keys of data subjects, and say which read models still hold plain text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from headwater.cli.output import can_ask, print_json, print_table
from headwater.cli.replay import replay_shown, require_named_database
from headwater.cli.running import run_async
from headwater.cli.target import load_service
from headwater.clock import SYSTEM_CLOCK
from headwater.errors import UsageError

if TYPE_CHECKING:
    from headwater.privacy import ForgottenSubject
    from headwater.service import Service


@dataclass(slots=True)
class Outcome:
    """What was done."""

    forgotten: list[ForgottenSubject] = field(default_factory=list["ForgottenSubject"])
    unknown: list[str] = field(default_factory=list[str])
    read_models: dict[str, int | None] = field(default_factory=dict[str, "int | None"])
    """By name, the events each was rebuilt from; None where it was not."""
    sagas: list[str] = field(default_factory=list[str])


def run_forget(subjects: Sequence[str], target: str | None, *, rebuild: bool, yes: bool, json_output: bool) -> int:
    """Forget these subjects; returns the exit status, 1 when one of them is unknown."""
    service = load_service(target)
    require_named_database()
    if not yes:
        _ask(len(subjects), json_output=json_output)
    outcome = run_async(_forget(service, subjects, rebuild=rebuild, json_output=json_output))
    _tell(outcome, json_output=json_output)
    return 1 if outcome.unknown else 0


def run_list(target: str | None, *, json_output: bool) -> int:
    """Print who was forgotten, the latest first."""
    service = load_service(target)
    require_named_database()

    async def main() -> Sequence[ForgottenSubject]:
        async with service.connect():
            return await service.open_parts().personal.forgotten()

    found = run_async(main())
    if json_output:
        print_json({"forgotten": [_facts(each) for each in found]})
    else:
        print_table(("subject", "forgotten"), [(each.subject, each.forgotten_at) for each in found], empty="nobody was forgotten")
    return 0


async def _forget(service: Service, subjects: Sequence[str], *, rebuild: bool, json_output: bool) -> Outcome:
    outcome = Outcome(sagas=_sagas_with_personal_events(service))
    async with service.connect():
        for subject in dict.fromkeys(subjects):
            fact = await service.forget(subject)
            if fact is None:
                outcome.unknown.append(subject)
            else:
                outcome.forgotten.append(fact)
        outcome.read_models = dict.fromkeys(await _read_models_with_personal_events(service))
        if rebuild and outcome.forgotten:
            await _wait_for_other_processes(outcome.forgotten)
            for name in outcome.read_models:
                outcome.read_models[name] = (await replay_shown(service, name, quiet=json_output)).events_done
    return outcome


async def _wait_for_other_processes(forgotten: Sequence[ForgottenSubject]) -> None:
    """Until every process has let go of the keys: before, one could put plain text into what was just rebuilt."""
    from headwater.privacy import KEY_AGE_SECONDS_MAX

    left = KEY_AGE_SECONDS_MAX - min(fact.seconds_ago for fact in forgotten)
    if left > 0:
        print(f"waiting {left:.0f} s, until every process has let go of the keys", file=sys.stderr)
        await SYSTEM_CLOCK.sleep(left)


async def _read_models_with_personal_events(service: Service) -> list[str]:
    """The projections that ran on this database and take events with personal fields."""
    from headwater.personal import personal_fields_of
    from headwater.projections import definition_of, list_projections

    ran = {version.name for version in await list_projections(service.database)}
    definitions = [definition_of(projection) for projection in service.projections.values()]
    return sorted(d.name for d in definitions if d.name in ran and any(personal_fields_of(each) is not None for each in d.event_classes))


def _sagas_with_personal_events(service: Service) -> list[str]:
    from headwater.personal import personal_fields_of

    definitions = service.choreography.definitions
    return sorted(d.name for d in definitions if any(personal_fields_of(each) is not None for each in d.event_classes))


def _ask(count: int, *, json_output: bool) -> None:
    whom = "1 subject" if count == 1 else f"{count:,} subjects"
    if not can_ask(json_output=json_output):
        raise UsageError(f"this would forget {whom} for ever, and nobody can be asked; repeat it with --yes")
    typer.confirm(f"forget {whom}? Nothing that was sealed for them can ever be read again.", abort=True)


def _tell(outcome: Outcome, *, json_output: bool) -> None:
    if json_output:
        models = [{"name": name, "is_rebuilt": events is not None, "events": events} for name, events in outcome.read_models.items()]
        facts = {"forgotten": [_facts(fact) for fact in outcome.forgotten], "unknown": outcome.unknown}
        print_json({**facts, "read_models": models, "sagas": outcome.sagas})
        return
    for fact in outcome.forgotten:
        print(f"{fact.subject} was forgotten {'before, ' if fact.was_forgotten else ''}at {fact.forgotten_at:%Y-%m-%d %H:%M:%S}Z")
    for subject in outcome.unknown:
        print(f"{subject} is unknown: no personal data was ever sealed for it here")
    if not outcome.forgotten:
        return
    for name, events in outcome.read_models.items():
        print(f"read model {name}: " + ("may still hold plain text" if events is None else f"rebuilt from {events:,} events"))
    if any(events is None for events in outcome.read_models.values()):
        print("make them anew: repeat this with --rebuild, or headwater replay NAME for each")
    for name in outcome.sagas:
        print(f"saga {name}: takes personal data; its stored state is not encrypted, see docs/personal-data.md")


def _facts(fact: ForgottenSubject) -> dict[str, Any]:
    return {"subject": fact.subject, "forgotten_at": fact.forgotten_at, "was_forgotten": fact.was_forgotten}
