"""``python -m benchfarm_standalone``: what ``benchfarm up`` does, where the client is not installed."""

import typer

from benchfarm_standalone.commands import up

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(up)

if __name__ == "__main__":
    app()
