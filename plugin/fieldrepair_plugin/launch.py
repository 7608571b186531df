"""Run a command that ends when its starter does: ``python -m fieldrepair_plugin.launch STARTER_PID COMMAND...``

``fieldrepair up`` starts every part this way. If ``up`` itself is killed with SIGKILL it cannot stop anything; the
kernel then sends SIGTERM to each part (``PR_SET_PDEATHSIG``, Linux), so no model server is left behind holding memory
and a port. The signal is tied to the thread that started the part, which is why ``up`` starts parts from its main
thread only. Elsewhere than on Linux the command runs without that protection.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_starter() -> None:
    """Ask the kernel for SIGTERM when the thread that started this process ends; nothing where it is not Linux."""
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(number)}")


def main() -> int:
    """Replace this process by the command; only returns when the starter is gone already."""
    starter, *command = sys.argv[1:]
    end_with_starter()
    if os.getppid() == int(starter):  # otherwise it died before the kernel knew whom to tell
        os.execvp(command[0], command)  # noqa: S606 - an argument list of our own making, no shell
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
