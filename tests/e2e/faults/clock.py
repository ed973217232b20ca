"""A wall clock that a test sets, for one process: its own library answers instead of the C library.

So Python, compiled extensions and the C library's other users all see the same wrong time. Monotonic clocks are left
alone, as they are when a machine's clock is set. Needs Linux and a C compiler (``cc``); see ``available``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from struct import pack

from scripts import files

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long *shift;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_SHIFT"), O_RDONLY);
    void *seen = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    shift = seen == MAP_FAILED ? NULL : seen;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += *shift;
    return failed;
}

int gettimeofday(void *at, void *zone) {
    struct timespec now;
    long *parts = at;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    parts[0] = now.tv_sec;
    parts[1] = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


def available() -> bool:
    return sys.platform == "linux" and shutil.which("cc") is not None


class Clock:
    """Give a process ``environment``; ``set`` moves its clock from then on, even while it runs."""

    def __init__(self, folder: Path) -> None:
        files.private_folder(folder)
        self._shift = folder / "shift"
        self.set(0)
        library, source = folder / "clock.so", folder / "clock.c"
        source.write_text(_SOURCE, encoding="utf-8")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(self._shift)}

    def set(self, seconds: int) -> None:
        """So far from the true time."""
        with self._shift.open("r+b" if self._shift.exists() else "wb", buffering=0) as file:
            file.write(pack("@l", seconds))
