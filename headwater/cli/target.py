"""From `module:attribute`, or from nothing at all, to the service that is meant."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

from headwater.config import load_settings
from headwater.errors import TargetNotFound
from headwater.service import Service


def load_service(target: str | None) -> Service:
    """Import the service that `module:attribute` names; without a target, the one service that can be found from here.

    Looks in the setting `service` (`HEADWATER_SERVICE`, or the configuration file), then in `[tool.headwater] service = "module:attribute"` in
    pyproject.toml, then for the one file of this folder that makes a `Service`.

    Raises:
        TargetNotFound: with what was found instead.
    """
    sys.path[:0] = [str(Path.cwd())] if str(Path.cwd()) not in sys.path else []
    module_name, attribute = _split(target or _find_target())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise TargetNotFound(
                f"there is no module {module_name!r} to import from {Path.cwd()}; run the command in the folder that holds it"
            ) from None
        raise
    found = getattr(module, attribute, None)
    if isinstance(found, Service):
        return found
    services = sorted(name for name, value in vars(module).items() if isinstance(value, Service))
    instead = f"did you mean {module_name}:{services[0]}?" if services else f"{module_name} holds no Service at all"
    what = "has no attribute" if found is None else f"has a {type(found).__name__}, not a Service, as"
    raise TargetNotFound(f"the module {module_name!r} {what} {attribute!r}; {instead}")


def _split(target: str) -> tuple[str, str]:
    module_name, colon, attribute = target.partition(":")
    if not colon or not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise TargetNotFound(f"{target!r} is not of the form module:attribute, like shop:service")
    return module_name, attribute


def _find_target() -> str:
    if configured := load_settings().service:
        return configured
    project = Path("pyproject.toml")
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8")).get("tool", {}).get("headwater", {})
        if "service" in table:
            return str(table["service"])
    candidates = [path.stem for path in sorted(Path.cwd().glob("*.py")) if _makes_service(path)]
    found = [f"{name}:{attribute}" for name in candidates for attribute in _services_of(name)]
    if len(found) == 1:
        return found[0]
    several = f"several were found ({', '.join(found)})" if found else "none was found in this folder"
    raise TargetNotFound(
        f'which service? {several}; say it with --service module:attribute, HEADWATER_SERVICE, or [tool.headwater] service = "…"'
    )


def _makes_service(path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace")
    return "headwater" in text and "Service(" in text


def _services_of(module_name: str) -> list[str]:
    module = importlib.import_module(module_name)
    return [name for name, value in vars(module).items() if isinstance(value, Service)]
