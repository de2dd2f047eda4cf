"""What can be said without a server: this process, its settings and its event classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from headwater.doctor.facts import OwnFacts, PostgresFacts
from headwater.doctor.findings import Check, Finding, Verdict, check


@check("service", expected="a service, for its event classes")
def service(verdict: Verdict, facts: OwnFacts) -> Iterator[Finding]:
    if facts.service_name is not None:
        yield verdict.ok(facts.service_name)
    elif facts.is_service_named:
        yield verdict.failure(
            facts.service_fault,
            cost="The service cannot start; its event classes were not checked.",
            remedy="Import the module by hand (python -c 'import …') to see the whole error.",
        )
    else:
        yield verdict.note(
            f"none: {facts.service_fault}",
            cost="Whether personal fields need a master key was not checked, nor topics that nothing was relayed to yet.",
            remedy="headwater doctor --service module:attribute",
        )


@check("aiokafka-version", expected="the version that Headwater was built on")
def aiokafka_version(verdict: Verdict, facts: OwnFacts) -> Iterator[Finding]:
    if facts.aiokafka_version != facts.aiokafka_wanted:
        yield verdict.failure(
            f"{facts.aiokafka_version}, and {facts.aiokafka_wanted} is wanted",
            cost="The relay's fence reaches into aiokafka: in another version it may not shut out a predecessor, which writes records twice or out of order.",
            remedy=f"pip install aiokafka=={facts.aiokafka_wanted}",
        )
    else:
        yield verdict.ok(facts.aiokafka_version)


@check("master-key", expected="HEADWATER_MASTER_KEY where event classes have personal fields")
def master_key(verdict: Verdict, facts: OwnFacts) -> Iterator[Finding]:
    if facts.master_key_fault:
        yield verdict.failure(
            facts.master_key_fault,
            cost="A service refuses to start with it.",
            remedy="Correct HEADWATER_MASTER_KEY; a new one (openssl rand -base64 32) does not open what another one encrypted.",
        )
    elif facts.is_personal and not facts.has_master_key:
        yield verdict.warning(
            "event classes have personal fields, and there is no master key",
            cost="The keys of personal data lie in clear beside it: whoever gets a dump or a backup of the database reads it, also what was forgotten since.",
            remedy="Keep the output of `openssl rand -base64 32` outside the database and set HEADWATER_MASTER_KEY to it (docs/personal-data.md).",
        )
    else:
        yield verdict.ok("set" if facts.has_master_key else "no event class known here has personal fields")


@check("cipher", expected="the extra headwater[personal] where event classes have personal fields")
def cipher(verdict: Verdict, facts: OwnFacts) -> Iterator[Finding]:
    if facts.is_personal and not facts.has_cipher:
        yield verdict.failure(
            "the library cryptography is not installed",
            cost="The service refuses to start: personal fields could not be encrypted.",
            remedy="pip install 'headwater[personal]'",
        )
    else:
        yield verdict.ok("installed" if facts.has_cipher else "not needed")


@check("topic-partitions", expected="HEADWATER_TOPIC_PARTITIONS above 1")
def topic_partitions(verdict: Verdict, facts: OwnFacts) -> Iterator[Finding]:
    if facts.topic_partitions == 1:
        yield verdict.note(
            "1",
            cost="One process at a time handles a new topic's events, however many run, and partitions cannot be added to a topic that is not drained.",
            remedy="Unset HEADWATER_TOPIC_PARTITIONS, which makes 6, before the topics are made.",
        )
    else:
        yield verdict.ok(str(facts.topic_partitions))


@check("log-level", expected="HEADWATER_LOG_LEVEL of warning or below")
def log_level(verdict: Verdict, facts: OwnFacts) -> Iterator[Finding]:
    if facts.log_level == "error":
        yield verdict.note(
            "error",
            cost="Warnings are not written, such as a relay that is interrupted or a topic that would lose records: you learn of them when somebody complains.",
            remedy="HEADWATER_LOG_LEVEL=warning",
        )
    else:
        yield verdict.ok(facts.log_level)


@check("master-key-of-keys", expected="every key of personal data encrypted under the configured master key, or under none")
def master_key_of_keys(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.foreign_key_count is None:
        return
    if facts.foreign_key_count:
        yield verdict.failure(
            f"{facts.foreign_key_count:,} keys are encrypted under another one",
            cost="Services stop at the first event of these data subjects: its personal fields cannot be opened.",
            remedy="Set HEADWATER_MASTER_KEY to the one that they were encrypted under.",
        )
    else:
        yield verdict.ok("all can be opened")


OWN_CHECKS: Final[tuple[Check[OwnFacts], ...]] = (service, aiokafka_version, master_key, cipher, topic_partitions, log_level)
OWN_CHECKS_WITHOUT_KAFKA: Final = tuple(check for check in OWN_CHECKS if check not in (aiokafka_version, topic_partitions))
"""Those that matter where the log itself feeds the handlers."""
