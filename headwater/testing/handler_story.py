"""What handlers did since something happened, compared with what a test expects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headwater.bus import DeadLetter
from headwater.messages import Event


@dataclass(slots=True)
class HandlerStory:
    """What was appended, in order, and what was given up on."""

    appended: tuple[tuple[str, Event], ...]
    letters: tuple[DeadLetter, ...]
    is_failure_expected: bool = False

    def require_events(self, expected: Sequence[Event], stream_name: str | None) -> None:
        """Exactly these were appended, in order per stream; to one stream, where it is named.

        Raises:
            AssertionError: not so; it lists both, and what handlers gave up on.
        """
        appended = [(name, event) for name, event in self.appended if stream_name in {None, name}]
        streams: dict[str, list[Event]] = {}
        for name, event in appended:
            streams.setdefault(name, []).append(event)
        if len(appended) != len(expected) or not _is_interleaving(list(streams.values()), expected):
            where = "" if stream_name is None else f" in the stream {stream_name!r}"
            raise AssertionError(
                f"expected{where}:\n{_lines(map(repr, expected))}\nhandlers appended, since when(…):\n"
                f"{_lines(f'{name}: {event!r}' for name, event in appended)}{self._failures()}"
            )
        if self.letters and not self.is_failure_expected:
            raise AssertionError(
                f"the events are as expected, but{self._failures()}\nWhere that is right, say then_dead_letter(match=…) before"
            )

    def require_dead_letter(self, match: str) -> None:
        """A handler gave up, with an error whose text holds this.

        Raises:
            AssertionError: none did, or with another error.
        """
        if not self.letters:
            appended = _lines(f"{name}: {event!r}" for name, event in self.appended)
            raise AssertionError(f"expected a dead letter, but no handler gave up; appended were:\n{appended}")
        if not any(match in f"{letter.error_type}: {letter.error_message}" for letter in self.letters):
            raise AssertionError(f"expected a dead letter with {match!r} in its error, but{self._failures()}")
        self.is_failure_expected = True

    def _failures(self) -> str:
        if not self.letters:
            return ""
        told = _lines(f"{one.handler_name} on {one.event_type}: {one.error_type}: {one.error_message}" for one in self.letters)
        return f"\nhandlers gave up:\n{told}"


def _is_interleaving(streams: Sequence[Sequence[Event]], expected: Sequence[Event]) -> bool:
    """Whether the streams, each in its own order, can be laid into one another to give what is expected; their lengths add up to its."""
    reached = {tuple(0 for _ in streams)}
    for event in expected:
        reached = {
            (*places[:number], places[number] + 1, *places[number + 1 :])
            for places in reached
            for number, stream in enumerate(streams)
            if places[number] < len(stream) and stream[places[number]] == event
        }
    return bool(reached)


def _lines(items: Iterable[str]) -> str:
    return "\n".join(f"  {item}" for item in items) or "  nothing"
