"""`python -m benchfarm`: the `benchfarm` command."""

from benchfarm_command import main

main()
