"""`python -m headwater.cli`: the command, by the interpreter that runs its parent."""

from headwater.cli import main

main()
