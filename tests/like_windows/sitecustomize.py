"""A Python in which this project's modules find a system like Windows: with this folder on
PYTHONPATH a process and all that it starts have it.

The standard library and other packages keep what they need of POSIX, as they have branches of their
own. Modules of `training` and `studio` find `sys.platform` to be win32, cannot import what Windows
has not, and miss the attributes that are missing there; subprocess refuses what it refuses there;
files and folders that any process has open are neither replaced nor renamed nor removed.
"""

from __future__ import annotations

import builtins
import os
import pathlib
import signal
import stat
import subprocess
import sys
import types
from typing import Any

PROJECT = ("training", "studio", "sample_data")
# Of the standard library: not on Windows
MODULES = "crypt fcntl grp nis posix pty pwd readline resource spwd syslog termios tty".split()
OF_OS = (
    "chown chroot confstr ctermid eventfd fchdir fchmod fchown fdatasync fork forkpty fpathconf "
    "fstatvfs getegid geteuid getgid getgroups getloadavg getpgid getpgrp getpriority getresuid "
    "getsid getuid getxattr initgroups killpg lchown lockf major makedev memfd_create minor mkfifo "
    "mknod nice openpty pathconf pipe2 posix_fadvise posix_fallocate posix_spawn pread preadv "
    "pwrite pwritev sched_getaffinity sched_getscheduler sched_setaffinity sched_setscheduler "
    "sched_yield sendfile setegid seteuid setgid setgroups setpgid setpgrp setpriority setsid "
    "setuid setxattr statvfs sync sysconf tcgetpgrp ttyname uname wait wait3 wait4 waitid "
    "O_ACCMODE O_ASYNC O_CLOEXEC O_DIRECT O_DIRECTORY O_DSYNC O_NDELAY O_NOATIME O_NOCTTY "
    "O_NOFOLLOW O_NONBLOCK O_PATH O_SYNC O_TMPFILE WNOHANG WUNTRACED WIFEXITED WIFSIGNALED "
    "WEXITSTATUS WTERMSIG F_LOCK RTLD_NOW".split()
)
SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}
OF_SIGNAL = (
    [name for name in dir(signal) if name.startswith(("SIG", "ITIMER")) and name not in SIGNALS]
    + "alarm getitimer pause pthread_kill pthread_sigmask setitimer siginterrupt sigpending \
sigtimedwait sigwait sigwaitinfo".split()
)
NEW_GROUP, NO_WINDOW = 0x200, 0x08000000
POSIX_ONLY = ("preexec_fn", "pass_fds", "start_new_session", "process_group", "umask", "user")


class View(types.ModuleType):
    """A module of which some attributes are gone and others are as on Windows."""

    def __init__(self, real: types.ModuleType, gone: Any, **given: object) -> None:
        super().__init__(real.__name__)
        vars(self).update(given, _real=real, _gone={*gone})

    def __getattr__(self, name: str) -> Any:
        if name in self._gone:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._real, name, value)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._real)} - self._gone)


class Popen(subprocess.Popen):
    """subprocess.Popen with the options of Windows."""

    def __init__(self, *args: Any, creationflags: int = 0, **options: Any) -> None:
        if wrong := [name for name in POSIX_ONLY if options.get(name)]:
            raise ValueError(f"{wrong[0]} is not supported on Windows platforms")
        if creationflags & ~(NEW_GROUP | NO_WINDOW):
            raise ValueError(f"creationflags {creationflags:#x} are not known here")
        super().__init__(*args, start_new_session=bool(creationflags), **options)


def _psutil(real: types.ModuleType) -> View:
    class Process(real.Process):
        def memory_info(self) -> types.SimpleNamespace:
            info = super().memory_info()
            return types.SimpleNamespace(rss=info.rss, vms=info.vms, peak_wset=info.rss)

        def nice(self) -> int:
            return 0x20  # NORMAL_PRIORITY_CLASS

    classes = {"IDLE_PRIORITY_CLASS": 0x40, "BELOW_NORMAL_PRIORITY_CLASS": 0x4000}
    return View(real, (), Process=Process, **classes)


views: dict[str, View] = {
    "os": View(os, OF_OS, name="nt"),
    "signal": View(signal, OF_SIGNAL, SIGBREAK=signal.SIGQUIT),
    "sys": View(sys, (), platform="win32"),
    "subprocess": View(
        subprocess,
        (),
        Popen=Popen,
        CREATE_NEW_PROCESS_GROUP=NEW_GROUP,
        CREATE_NO_WINDOW=NO_WINDOW,
    ),
}
real_import = builtins.__import__


def _import(
    name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
) -> Any:
    found = real_import(name, globals, locals, fromlist, level)
    if not _is_ours(globals or {}):
        return found
    if name.split(".")[0] in MODULES:
        raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
    if found.__name__ == "psutil" and "psutil" not in views:
        views["psutil"] = _psutil(found)
    return views.get(found.__name__, found)


def _is_ours(importer: dict[str, Any]) -> bool:
    spec = importer.get("__spec__")
    name = importer.get("__name__") or ""
    return (spec.name if name == "__main__" and spec else name).split(".")[0] in PROJECT


# --- files ---


def _open_files() -> set[tuple[int, int]]:
    """Device and number of every file that a process has open."""
    found = set()
    for handle in pathlib.Path("/proc").glob("[0-9]*/fd/*"):
        try:
            status = handle.stat()
        except OSError:  # it is gone, or another user's
            continue
        if stat.S_ISREG(status.st_mode):
            found.add((status.st_dev, status.st_ino))
    return found


def _refuse_if_open(*paths: Any) -> None:
    """Raise as Windows does where one of the paths, or a file below it, is open."""
    for path in map(pathlib.Path, paths):
        below = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
        named = [os.lstat(one) for one in below if os.path.lexists(one)]
        if not _open_files().isdisjoint((one.st_dev, one.st_ino) for one in named):
            raise PermissionError(13, "The process cannot access the file", str(path))


class _WindowsPath(pathlib.PosixPath):
    """Never made: holds the methods that pathlib's own class gets."""

    def replace(self, target: Any) -> Any:
        _refuse_if_open(self, target)
        return replace(self, target)

    def rename(self, target: Any) -> Any:
        _refuse_if_open(self)
        if os.path.lexists(target):
            raise FileExistsError(17, "The file exists", str(self), None, str(target))
        return rename(self, target)

    def unlink(self, missing_ok: bool = False) -> None:
        _refuse_if_open(self)
        unlink(self, missing_ok)


replace, rename, unlink = pathlib.Path.replace, pathlib.Path.rename, pathlib.Path.unlink
for method in ("replace", "rename", "unlink"):
    setattr(pathlib.Path, method, vars(_WindowsPath)[method])
builtins.__import__ = _import
