"""`python -m benchfarm_agent run ...`: the same command without the client's `benchfarm`."""

from benchfarm_agent.commands import app

app(prog_name="benchfarm agent")
