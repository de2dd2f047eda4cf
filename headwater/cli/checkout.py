"""The parts of the repository that are no part of the installed package: examples and benchmarks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from headwater.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def import_from_checkout(folder: str, module: str) -> ModuleType:
    """Import a module that lives in a folder of the repository.

    Raises:
        UsageError: this Headwater was installed without its repository.
    """
    home = ROOT / folder
    if not home.is_dir():
        raise UsageError(
            f"this command needs the repository's {folder}/ folder, which an installed package lacks; clone the repository and run it there"
        )
    if str(home) not in sys.path:
        sys.path.insert(0, str(home))
    return importlib.import_module(module)
