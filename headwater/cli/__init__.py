"""The `headwater` command. Exit status: 0 done, 1 it failed or a check did not hold, 2 wrong use."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, and end the process with its exit status."""
    try:
        from headwater.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        print("error: the command line needs its extra: pip install 'headwater[cli]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(run())


__all__ = ["main"]
