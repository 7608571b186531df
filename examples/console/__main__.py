"""``python -m examples.console``: serve a console with a story in it, until Ctrl-C."""

from __future__ import annotations

import argparse
import threading

from examples.console.serving import serve_console


def main() -> None:
    """Make the story in a temporary folder and serve it."""
    parser = argparse.ArgumentParser(prog="python -m examples.console", description=__doc__)
    parser.add_argument("--port", type=int, default=8081, help="loopback port")
    port: int = parser.parse_args().port
    with serve_console(port) as served:
        print(f"{served.url}/ asks for a name alone; Ctrl-C ends it")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
