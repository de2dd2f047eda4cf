"""Headwater's way to keep a log in order for its readers, and the three simple ones, through the same SQL function.

Each replaces nothing but what `headwater.append_events` does before it draws positions, so that the difference in rate is the price of that way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_TAKE_NOTHING: Final = """
CREATE OR REPLACE FUNCTION headwater.take_append_lock() RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
"""
_TAKE_TURNS: Final = """
CREATE OR REPLACE FUNCTION headwater.take_append_lock() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(headwater.append_lock_namespace() << 48);
END
$$;
"""
# A reader of such a log passes over events whose transaction is not below pg_snapshot_xmin(pg_current_snapshot()), for which it needs the index.
_STAMP_TRANSACTION: Final = """
ALTER TABLE headwater.events ADD COLUMN transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX events_transaction_id_idx ON headwater.events (transaction_id, global_position);
"""

WAYS_TO_KEEP_ORDER: Final[Mapping[str, str]] = {
    "shared lock, as Headwater": "",
    "exclusive lock": _TAKE_TURNS,
    "transaction-id watermark": _TAKE_NOTHING + _STAMP_TRANSACTION,
    "no order": _TAKE_NOTHING,
}
"""What to change in a migrated database of its own, by the system's name."""
