"""The Python environment of the scripts: made on first use, inside the clone, from requirements/dev.txt.

Whatever Python is found first runs this file, so it uses the standard library only, and no syntax newer than Python
3.6: the message that refuses an old Python must itself be readable to it.

PLANTAIN_PYTHON   the Python to build with; otherwise the one that runs the script
PLANTAIN_VENV     `skip`: use the running Python as it is, for images that have the packages installed
"""

import contextlib
import fcntl
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NoReturn

MINIMUM = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "plantain-stamp"
CACHE = ROOT / ".cache"
LOG = CACHE / "environment.log"
REQUIREMENTS = ROOT / "requirements" / "dev.txt"
#: Settings of pip and Python that would lead an installation out of the environment.
UNWANTED = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV")
FRAMES = "-\\|/"
#: What the output of venv and pip says, and what to do about it; the first that matches is shown.
HINTS = {
    "No module named '?(ensurepip|venv)|ensurepip is not available": f"""\
This Python comes without venv and pip. On Debian and Ubuntu:
    apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv
Or point PLANTAIN_PYTHON to another Python 3.11 or newer.""",
    "No space left on device|Errno 28": f"""\
The disk is full: the environment takes about 600 MB in {ROOT}. Free some space and run this again.""",
    "DO NOT MATCH THE HASHES": """\
A package differs from the one that requirements/dev.txt names, and was not used. If you use a mirror or a proxy, try
without it; otherwise report this.""",
    "Requires-Python|requires a different Python": """\
A pinned package has no release for this Python. Set PLANTAIN_PYTHON to a Python 3.11, 3.12 or 3.13.""",
    "ConnectionError|Timeout|timed out|ProxyError|SSLError|Temporary failure|Name or service not known"
    "|No matching distribution|Could not find a version": """\
The package index could not be reached, or does not have these packages. Check the network, HTTPS_PROXY and
PIP_INDEX_URL, then run this again: what was downloaded is kept.""",
}


def run(module: str) -> NoReturn:
    """Run `module.main(arguments)` in the environment, and exit with what it returns."""
    try:
        _enter()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        _refuse(
            f"cannot use {error.filename or ROOT}: {error.strerror or error}.",
            "Plantain keeps its Python environment inside the clone. Clone it to a folder of your own that has\n"
            "600 MB free, or install requirements/dev.txt yourself and set PLANTAIN_VENV=skip.",
        )
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path not in {here, str(ROOT)})]
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        if os.environ.get("PLANTAIN_VENV") != "skip" or (error.name or "").startswith("scripts"):
            raise
        _refuse(
            f"PLANTAIN_VENV=skip, but {sys.executable} has no module {error.name}.",
            f"Install it: {sys.executable} -m pip install --no-deps --require-hashes -r {REQUIREMENTS}",
        )
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


def _enter() -> None:
    """Return when this is the environment's own Python; otherwise replace the process by it, building it first."""
    _use_chosen_python()
    if sys.version_info < MINIMUM:
        _refuse(
            f"Plantain needs Python 3.11 or newer; this is {_version()} ({sys.executable}).",
            f"Install one, then run it with that Python, for example: python3.12 {sys.argv[0]}\n"
            "Or set PLANTAIN_PYTHON to its path.",
        )
    if os.environ.get("PLANTAIN_VENV") == "skip":
        return
    inside = Path(sys.prefix).resolve() == VENV
    if inside and _stamp() == wanted_stamp():
        return
    if inside or not _usable():
        _build()
    _replace_by(str(PYTHON))


def _use_chosen_python() -> None:
    chosen = os.environ.get("PLANTAIN_PYTHON")
    if not chosen or os.environ.get("PLANTAIN_PYTHON_USED") == chosen:
        return
    found = shutil.which(chosen)
    if found is None:
        _refuse(
            f"PLANTAIN_PYTHON is {chosen}, which cannot be run.",
            "Set it to the path of a Python 3.11 or newer.",
        )
    os.environ["PLANTAIN_PYTHON_USED"] = (
        chosen  # a wrapper of Python never looks like the Python that it starts
    )
    if Path(found).resolve() != Path(_base_python()).resolve():
        _replace_by(found)


def _usable() -> bool:
    """Whether the environment is whole and current, as seen from outside: any Python that is new enough will do."""
    seen, wanted = _stamp(), wanted_stamp()
    if not os.environ.get("PLANTAIN_PYTHON"):
        seen, wanted = (text.partition("python ")[0] for text in (seen, wanted))
    return seen == wanted and os.access(str(PYTHON), os.X_OK)


def wanted_stamp() -> str:
    """What tells one environment from another; the Python comes last, only its own can be sure of it."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    platform = sysconfig.get_platform()
    return f"requirements {digest}\nplatform {platform}\nplace {VENV}\npython {_version()}\n"


def _stamp() -> str:
    try:
        return STAMP.read_text(encoding="utf-8")
    except OSError:
        return ""


def _build() -> None:
    """Make the environment, one process at a time; the stamp is written last, so that half of one is never used."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "environment.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another script is preparing the Python environment; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _stamp() == wanted_stamp() and os.access(str(PYTHON), os.X_OK):
            return
        with contextlib.suppress(FileNotFoundError):
            STAMP.unlink()
        _install()
        beside = STAMP.with_suffix(".new")
        beside.write_text(wanted_stamp(), encoding="utf-8")
        beside.replace(STAMP)


def _install() -> None:
    base = _base_python()
    _say(f"preparing .venv with Python {_version()} ({base}), once")
    temporary = CACHE / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = _environment(temporary)
    LOG.write_bytes(b"")
    if VENV.is_symlink():  # `venv --clear` would empty the folder that it points to
        VENV.unlink()
    pip = [str(PYTHON), "-I", "-m", "pip", "install", "--no-input", "--no-deps", "--require-hashes"]
    try:
        _step("making .venv", [base, "-I", "-m", "venv", "--clear", str(VENV)], environment)
        _step(f"installing {_requirements()} packages", [*pip, "-r", str(REQUIREMENTS)], environment)
    finally:
        shutil.rmtree(str(temporary), ignore_errors=True)


def _environment(temporary: Path) -> "dict[str, str]":
    """This process's environment, with everything that pip writes kept inside the clone."""
    environment = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    environment.update(
        PIP_CACHE_DIR=str(CACHE / "pip"),
        PIP_USER="0",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_NO_COLOR="1",
        PIP_PROGRESS_BAR="off",
        TMPDIR=str(temporary),
    )
    return environment


def _step(title: str, command: "list[str]", environment: "dict[str, str]") -> None:
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=str(ROOT), env=environment
        )
        try:
            _show_progress(title, process)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode != 0:
        output = LOG.read_text(encoding="utf-8", errors="replace")
        shown = "\n".join(f"    {line}" for line in output.splitlines()[-15:])
        _refuse(f"{title} failed. The last lines of {LOG}:\n{shown}", _hint(output))


def _show_progress(title: str, process: "subprocess.Popen[bytes]") -> None:
    """A line that moves on a terminal; elsewhere one line now and then."""
    started = time.monotonic()
    live = sys.stderr.isatty()
    said = turn = 0
    while process.poll() is None:
        elapsed = time.monotonic() - started
        if live:
            sys.stderr.write(f"\r\033[K{FRAMES[turn % len(FRAMES)]} {title}, {elapsed:.0f} s")
            sys.stderr.flush()
        elif elapsed >= said:
            _say(f"{title}, {elapsed:.0f} s" if said else title)
            said += 15
        turn += 1
        time.sleep(0.1)
    if live:
        sys.stderr.write("\r\033[K")
    if process.returncode == 0:
        _say(f"{title}: done in {time.monotonic() - started:.0f} s")


def _hint(output: str) -> str:
    for pattern, hint in HINTS.items():
        if re.search(pattern, output):
            return hint
    return f"Run this again; if it fails in the same way, the whole output is in {LOG}."


def _requirements() -> int:
    return len(re.findall(r"^[A-Za-z0-9]", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE))


def _version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _base_python() -> str:
    """The Python that this one's environment was made from; itself outside of one."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _replace_by(python: str) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    unwanted = ("PYTHONHOME", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    os.execve(python, [python, str(Path(sys.argv[0]).absolute()), *sys.argv[1:]], environment)


def _say(text: str) -> None:
    sys.stderr.write(f"plantain: {text}\n")
    sys.stderr.flush()


def _refuse(reason: str, next_step: str) -> NoReturn:
    _say(f"{reason}\n{next_step}")
    sys.exit(1)
