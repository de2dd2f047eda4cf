"""AES-256 in Galois/counter mode, with a nonce drawn anew for every value; and subject keys wrapped under a master key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.util
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Self

from headwater.errors import ConfigurationError, UsageError
from headwater.randomness import token_bytes

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


class Cipher:
    """Encrypts and decrypts under one key."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        require_cipher()
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)

    def encrypt(self, plain: bytes, belongs_to: bytes) -> bytes:
        """Nonce and ciphertext; `belongs_to` is not in them, and must be said again to decrypt."""
        nonce = token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, belongs_to)

    def decrypt(self, encrypted: bytes, belongs_to: bytes) -> bytes:
        """What was encrypted.

        Raises:
            NotAuthentic: another key, another place, or something was altered.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(encrypted[:NONCE_BYTES], encrypted[NONCE_BYTES:], belongs_to)
        except (InvalidTag, ValueError):
            raise NotAuthentic from None


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
        """The key, encrypted."""
        return Cipher(self.secret).encrypt(key, belongs_to)

    def unwrap(self, wrapped: bytes, belongs_to: bytes) -> bytes:
        """The key.

        Raises:
            NotAuthentic: it was wrapped for another subject, or altered.
        """
        return Cipher(self.secret).decrypt(wrapped, belongs_to)
