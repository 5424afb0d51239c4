"""The entry point of the console script, beside the package: `benchfarm` takes a moment to import.

Ctrl-C in that moment ends the process as the system does it, without a word; a handler of Python's would print a trace.
"""

import signal
import sys


def main() -> None:
    """Import the command, then run it with Python's own handling of Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    # Who started the command may have it ignore Ctrl-C, as nohup does for hang-ups: that stays.
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from benchfarm.commands.main import run

    signal.signal(signal.SIGINT, handler)
    sys.exit(run())
