"""A schema registry with the Confluent interface over HTTP, as far as reading goes; Apicurio, Karapace and Redpanda have it, too.

Who is authoritative: the registry. A schema never changes under its id, so whoever asked once need not ask again.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import quote, urlsplit

from headwater.errors import BrokerUnavailable, ConfigurationError, UnknownSchema
from headwater.schemas.unions import is_union

if TYPE_CHECKING:
    import httpx

REGISTRY_SECONDS_MAX: Final = 10.0
"""How long the registry may take to answer."""
REFERENCES_MAX: Final = 100
"""Schemas that one schema refers to, directly or through others."""
_NOT_FOUND: Final = 404
_OK: Final = 200
_NAMED: Final = frozenset({"record", "enum", "fixed"})


class HttpSchemaRegistry:
    """What `on_topic(..., format="avro", schemas=HttpSchemaRegistry("https://registry:8081"))` asks for the schemas of other producers' values.

    Needs `pip install "headwater[registry]"`. Connects when it is first asked, and again in every event loop that asks.
    """

    def __init__(self, url: str, *, ca_file: Path | None = None) -> None:
        """Remember where it is.

        Args:
            url: `http://` or `https://`; a user and a password in it are sent as basic authentication and never shown.
            ca_file: who signed its certificate, in PEM, where that is not one of the system's authorities.
        Raises:
            ConfigurationError: this can be no such address, or httpx is not installed.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                "a schema registry's address is like https://registry.example:8081, with a user and a password if need be"
            )
        self._url, self._ca_file = url.rstrip("/"), ca_file
        self._shown = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        _library()

    async def find(self, schema_id: int) -> str | None:
        """The text of the Avro schema with this id, with all that it refers to; None when the registry has none, or one that is not Avro.

        Raises:
            BrokerUnavailable: the registry does not answer, or will not; what to do is in the message.
            UnknownSchema: the schema refers to others that are not there.
        """
        found = await self._get(f"/schemas/ids/{schema_id}")
        if found is None or found.get("schemaType", "AVRO") != "AVRO":
            return None
        text = str(found["schema"])
        references: list[dict[str, Any]] = found.get("references") or []
        if not references:
            return text
        named: dict[str, Any] = {}
        await self._collect(references, named, set())
        return json.dumps(_inline(json.loads(text), named, ""))

    async def close(self) -> None:
        """Close its connections; it opens them again when it is asked."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    async def _collect(self, references: list[dict[str, Any]], named: dict[str, Any], seen: set[tuple[str, int]]) -> None:
        """Everything that these refer to, by full name."""
        for reference in references:
            subject, version = str(reference["subject"]), int(reference["version"])
            if (subject, version) in seen:
                continue
            seen.add((subject, version))
            if len(seen) > REFERENCES_MAX:
                raise UnknownSchema(f"a schema in {self._shown} refers to more than {REFERENCES_MAX} others; that many are not followed")
            found = await self._get(f"/subjects/{quote(subject, safe='')}/versions/{version}")
            if found is None:
                raise UnknownSchema(
                    f"a schema in {self._shown} refers to version {version} of {subject!r}, which is not there; register it again"
                )
            await self._collect(found.get("references") or [], named, seen)
            _remember(json.loads(found["schema"]), named, "")

    async def _get(self, path: str) -> dict[str, Any] | None:
        httpx = _library()
        try:
            answer = await self._connected().get(path)
        except httpx.HTTPError as error:
            raise BrokerUnavailable(f"the schema registry {self._shown} cannot be asked: {str(error) or type(error).__name__}") from error
        if answer.status_code == _NOT_FOUND:
            return None
        if answer.status_code != _OK:
            raise BrokerUnavailable(
                f"the schema registry {self._shown} answered {answer.status_code} to {path}; "
                "401 and 403 mean that user and password in its address are missing or wrong"
            )
        try:
            return cast("dict[str, Any]", answer.json())
        except ValueError as error:
            raise BrokerUnavailable(f"what answers at {self._shown} is no schema registry: {path} is not JSON") from error

    def _connected(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            library = _library()
            self._loop = loop
            self._client = library.AsyncClient(
                base_url=self._url,
                timeout=REGISTRY_SECONDS_MAX,
                verify=ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True,
                headers={"Accept": "application/vnd.schemaregistry.v1+json, application/json"},
            )
        assert self._client is not None, "just made"
        return self._client


def _library() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise ConfigurationError('a schema registry over HTTP needs httpx: pip install "headwater[registry]"') from error
    return httpx


def _is_named(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    return isinstance(kind, str) and kind in _NAMED


def _full_name(schema: dict[str, Any], namespace: str) -> tuple[str, str]:
    """The full name of a named schema, and the namespace of what is in it."""
    name = str(schema["name"])
    if "." not in name:
        inside = str(schema.get("namespace", namespace))
        return (f"{inside}.{name}" if inside else name), inside
    return name, name.rpartition(".")[0]


def _remember(schema: Any, named: dict[str, Any], namespace: str) -> None:
    """Note every named schema in this one, with its full name written out."""
    if is_union(schema):
        for one in schema:
            _remember(one, named, namespace)
    elif isinstance(schema, dict):
        known = cast("dict[str, Any]", schema)
        if _is_named(known):
            full_name, namespace = _full_name(known, namespace)
            named.setdefault(full_name, known | {"name": full_name, "namespace": namespace})
        for part in ("type", "items", "values", "fields"):
            if isinstance(known.get(part), (list, dict)):
                _remember(known[part], named, namespace)


def _inline(schema: Any, named: dict[str, Any], namespace: str) -> Any:
    """The schema with every name that is defined elsewhere replaced by its definition where it comes first."""
    if isinstance(schema, str):
        full_name = schema if "." in schema or not namespace else f"{namespace}.{schema}"
        found = named.pop(full_name, None) or named.pop(schema, None)
        return schema if found is None else _inline(found, named, "")
    if is_union(schema):
        return [_inline(one, named, namespace) for one in schema]
    if not isinstance(schema, dict):
        return schema
    known = dict(cast("dict[str, Any]", schema))
    if _is_named(known):
        full_name, namespace = _full_name(known, namespace)
        named.pop(full_name, None)
    for part in ("type", "items", "values"):
        if part in known and not (part == "type" and _is_named(known)):
            known[part] = _inline(known[part], named, namespace)
    if isinstance(known.get("fields"), list):
        known["fields"] = [_inline(field, named, namespace) for field in known["fields"]]
    return known
