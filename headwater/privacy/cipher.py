"""AES-256 in Galois/counter mode, with a nonce drawn anew for every value; and subject keys wrapped under a master key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.util
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self

from headwater.errors import ConfigurationError, UsageError
from headwater.randomness import token_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
"""Random nonces of this size may be drawn four thousand million times for one key."""


class NotAuthentic(Exception):
    """The ciphertext, or what it belongs to, is not what was encrypted under this key."""


@lru_cache(maxsize=1)
def require_cipher() -> None:
    """Make sure that the library is there.

    Raises:
        UsageError: saying how to install it.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise UsageError("personal fields need the library cryptography; install headwater[personal]")


def new_key() -> bytes:
    """A key that nobody can guess."""
    return token_bytes(KEY_BYTES)


def encrypt(key: bytes, plain: bytes, belongs_to: bytes) -> tuple[bytes, bytes]:
    """Nonce and ciphertext; `belongs_to` is not stored, and must be said again to decrypt."""
    nonce = token_bytes(NONCE_BYTES)
    return nonce, _cipher(key).encrypt(nonce, plain, belongs_to)


def decrypt(key: bytes, nonce: bytes, ciphertext: bytes, belongs_to: bytes) -> bytes:
    """What was encrypted.

    Raises:
        NotAuthentic: another key, another place, or something was altered.
    """
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(key).decrypt(nonce, ciphertext, belongs_to)
    except (InvalidTag, ValueError):
        raise NotAuthentic from None


def _cipher(key: bytes) -> AESGCM:
    require_cipher()
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


@dataclass(frozen=True, slots=True)
class MasterKey:
    """Encrypts subject keys before they are stored, so that the database alone opens nothing."""

    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 32 bytes written in base64, like `openssl rand -base64 32` prints.

        Raises:
            ConfigurationError: it is something else; the text is not repeated.
        """
        try:
            secret = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != KEY_BYTES:
            raise ConfigurationError(
                f"HEADWATER_MASTER_KEY must be {KEY_BYTES} bytes in base64; make one with: openssl rand -base64 {KEY_BYTES}"
            )
        return cls(secret)

    @property
    def name(self) -> str:
        """Tells master keys apart without giving anything of them away."""
        return hashlib.sha256(b"headwater master key " + self.secret).hexdigest()[:16]

    def wrap(self, key: bytes, belongs_to: bytes) -> bytes:
        """The key, encrypted; nonce first."""
        nonce, ciphertext = encrypt(self.secret, key, belongs_to)
        return nonce + ciphertext

    def unwrap(self, wrapped: bytes, belongs_to: bytes) -> bytes:
        """The key.

        Raises:
            NotAuthentic: it was wrapped for another subject, or altered.
        """
        return decrypt(self.secret, wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], belongs_to)
