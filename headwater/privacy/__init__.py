"""Personal data: sealed before it leaves the process, opened for readers while its subject is known, redacted once it was forgotten.

Who is authoritative: `headwater.subject_keys`, one row for each data subject. A sealed field holds nothing but ciphertext, so whoever destroys
the key has forgotten the field wherever a copy of it lies: in the log, in snapshots, in Kafka, in dead letters.

States of a subject: unknown → keyed (its first personal data was appended; the key is committed before the data) → forgotten (the key is gone,
the row stays). There is no way back.

What can fail: the keys cannot be read (`StorageUnavailable`: nothing is passed on unopened), a subject was forgotten (`SubjectForgotten`: its data
is not taken any more), a sealed value was altered (`SealBroken`), keys are wrapped under a master key that is not configured
(`ConfigurationError`).

Which fields are personal is said in `headwater.personal`; the store that seals and opens is `headwater.eventstore.PersonalEventStore`.
"""

from headwater.privacy.cipher import MasterKey, require_cipher
from headwater.privacy.keys import KEY_AGE_SECONDS_MAX, KEYS_CACHED_MAX, ForgottenSubject, KeySource, SubjectKey, SubjectKeys
from headwater.privacy.personal_data import REDACTING, OpenedState, Opener, OpensEvents, PersonalData, SealsStates, open_event
from headwater.privacy.postgres import PostgresSubjectKeys
from headwater.privacy.sealing import is_sealed

__all__ = [
    "KEYS_CACHED_MAX",
    "KEY_AGE_SECONDS_MAX",
    "REDACTING",
    "ForgottenSubject",
    "KeySource",
    "MasterKey",
    "OpenedState",
    "Opener",
    "OpensEvents",
    "PersonalData",
    "PostgresSubjectKeys",
    "SealsStates",
    "SubjectKey",
    "SubjectKeys",
    "is_sealed",
    "open_event",
    "require_cipher",
]
