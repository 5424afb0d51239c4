"""`python -m benchfarm`: the `benchfarm` command."""

from benchfarm.commands.main import main

main()
