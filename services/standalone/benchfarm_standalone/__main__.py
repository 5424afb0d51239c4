"""``python -m benchfarm_standalone``: what ``benchfarm up`` does, where the client is not installed."""

import typer

from benchfarm_standalone.commands import up

if __name__ == "__main__":
    typer.run(up)
