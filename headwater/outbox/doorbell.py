"""Waking the relay: the log's own doorbell."""

from headwater.eventstore import Doorbell

__all__ = ["Doorbell"]
