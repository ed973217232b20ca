"""Become another program that dies when its parent does.

Run by path, in front of every child process: `python -I -S launch.py [options] -- PROGRAM ARGUMENT…`. A process of
its own rather than `preexec_fn`, because Python code between fork and exec may deadlock in a parent that has threads.
Standard library only. Exit code 126 means that the program could not be started; the reason is on stderr.
"""

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
#: The ids of `nobody` where they are not configured otherwise; PostgreSQL only wants them not to be 0.
NOBODY = 65534
FAILED = 126


def main() -> None:
    options = _parse()
    try:
        if options.user == "namespace":
            leave_root_by_namespace()
        elif options.user == "nobody":
            leave_root_by_setuid()
        if options.probe:
            return
        # After any change of user, which would clear it again.
        die_with_parent(options.death_signal, options.parent)
        os.umask(0o077)
        _restore_signals()
        os.execv(options.program[0], options.program)
    except OSError as error:
        print(f"cannot start {' '.join(options.program[:1]) or 'a probe'}: {error}", file=sys.stderr)
        sys.exit(FAILED)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch")
    parser.add_argument("--user", choices=["self", "namespace", "nobody"], default="self")
    parser.add_argument("--parent", type=int, default=0, help="the pid whose death is awaited")
    parser.add_argument("--death-signal", type=int, default=0, help="sent when the parent dies; 0: none")
    parser.add_argument("--probe", action="store_true", help="only try to change the user")
    parser.add_argument("program", nargs="*")
    return parser.parse_args()


def leave_root_by_namespace() -> None:
    """Root outside looks like `nobody` inside: files keep their owner, and nothing needs a chown."""
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "no user namespace")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {uid} 1"),
        ("gid_map", f"{NOBODY} {gid} 1"),
    ):
        Path("/proc/self", name).write_text(text, encoding="ascii")


def leave_root_by_setuid() -> None:
    """The ordinary way; the files must have been given to `nobody` before."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def die_with_parent(death_signal: int, parent: int) -> None:
    """Ask the kernel for `death_signal` when the parent's thread ends. Linux only; elsewhere it does nothing."""
    if not death_signal or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if parent and os.getppid() != parent:
        sys.exit(FAILED)  # it died before the kernel knew that we care


def _restore_signals() -> None:
    """What is ignored or blocked stays so across exec: Python ignores SIGPIPE, a shell SIGINT for background jobs."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


if __name__ == "__main__":
    main()
