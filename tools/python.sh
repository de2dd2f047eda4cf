#!/bin/sh
# Run a script with the first suitable Python: $PYTHON, the repository's own .venv, then what is on the PATH.
#   tools/python.sh tools/environment.py
here=$(dirname "$0")
for candidate in "${PYTHON:-}" "$here/../.venv/bin/python" python3 python3.14 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        exec "$candidate" "$@"
    fi
done
found=$(python3 --version 2>&1) || found="no python3"
echo "setup: Headwater needs Python 3.11 or newer, and this machine has: $found." >&2
echo "setup: install one (Debian, Ubuntu: python3.11 and python3.11-venv) or name yours: make PYTHON=/path/to/python3.12" >&2
exit 2
