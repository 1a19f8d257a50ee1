"""Where the command begins: Ctrl-C while it is still importing is one line, too. Imports nothing that takes time."""

import sys


def main() -> int:
    """Run the process's command line and return the exit code."""
    try:
        from rayloom.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("rayloom: interrupted", file=sys.stderr)
        return 130
