"""Becomes PostgreSQL: `python -I -S pg_exec.py PARENT SIGNAL UID GID PROGRAM ARGUMENTS…`; imports nothing of ours.

Between our process and the server's `exec` three things must happen in this order, and doing them in a `preexec_fn` of
a threaded parent is not safe: a session of its own (a terminal's Ctrl-C reaches the supervisor alone), the drop of
privileges (UID and GID, or "-" to stay), and the order to the kernel to send SIGNAL when the parent ends, which a
change of credentials would clear and `exec` keeps (prctl(2), PR_SET_PDEATHSIG).
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Drop, arrange to die, exec; leave at once when the parent has ended in the meantime."""
    parent, number, uid, gid = sys.argv[1:5]
    command = sys.argv[5:]
    os.setsid()
    os.umask(0o077)
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


main()
