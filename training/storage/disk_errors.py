"""What a disk's refusal means and what to do about it: one sentence for each kind of error."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
FORBIDDEN = (errno.EACCES, errno.EPERM)
# Windows' own codes, which Python passes on as winerror: locked or opened by another program
IN_USE = (32, 33)
TOO_LONG = 206  # which Python takes for a file that is not there
# ERROR_CLOUD_FILE_...: what OneDrive and others keep elsewhere and cannot fetch now
IN_CLOUD = (*range(358, 406), 426)
CLOUD = "It is kept in a cloud: choose “Always keep on this device” for its folder"
TOO_MANY = (errno.EMFILE, errno.ENFILE)
MANY = "Too many files are open: close other programs"
MEMORY = "Memory was full: close other programs"
# As torch says it, for the system's own number is lost
NO_MEMORY = re.compile("out of memory|not enough memory|(can't|cannot) allocate memory", re.I)


def system_error(error: BaseException) -> OSError:
    """The system's own error, or the one that an error of ours was made of."""
    found = error if isinstance(error, OSError) else error.__cause__
    return found if isinstance(found, OSError) else OSError(str(error))


def cause(error: OSError) -> str:
    """What the system said, without the paths of it."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        reasons = [str(one[2]) for one in error.args[0] if len(one) == 3]
        return reasons[0] if reasons else "some files could not be copied"
    return error.strerror or str(error) or type(error).__name__


def advice(error: OSError, otherwise: str = "choose another folder") -> str:
    """What to do about a file or folder that could not be written.

    otherwise: where else the work can go, as the end of a sentence.
    """
    code, windows = error.errno, getattr(error, "winerror", None)
    if windows in IN_CLOUD:
        return f"{CLOUD}, or {otherwise}."
    if code in TOO_MANY:
        return f"{MANY}, or {otherwise}."
    if code in FULL:
        return f"Free space on that disk or {otherwise}."
    if windows in IN_USE:
        return f"Another program has it open: close that program, or {otherwise}."
    if code in FORBIDDEN:
        return f"Look at its owner and permissions, or {otherwise}."
    if code == errno.EROFS:
        return f"That disk can only be read: {otherwise}."
    if code == errno.EFBIG:
        return f"That disk takes no file of this size: {otherwise}."
    if code == errno.ENAMETOOLONG or windows == TOO_LONG:
        return f"Use shorter names, or {otherwise}."
    if code in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return f"A file and a folder are in each other's place there: {otherwise}."
    if code == errno.ENOENT:
        return f"Look whether that disk is there, or {otherwise}."
    return f"Look whether that disk is sound and connected, or {otherwise}."


def not_read(path: Path | str, error: OSError) -> str:
    """What to say of a file that is expected to be there and could not be read."""
    aid = reading_aid(error)
    if not aid and error.errno in (errno.ENOENT, errno.ENOTDIR):
        aid = "Look whether it is still there"
    if not aid and error.errno in (errno.EISDIR, errno.EINVAL, errno.ELOOP):
        aid = "Give an ordinary file"
    aid = aid or "Look whether its disk is sound and connected"
    return f"{path} cannot be read ({cause(error)}). {aid}."


def reading_aid(error: BaseException) -> str:
    """What to do about a file that could not be read, as a sentence without its end; "" where
    nothing was said against reading it, so that what it holds is wrong.
    """
    number = re.search(r"os error (\d+)", str(error))  # safetensors passes on no more
    code = getattr(error, "errno", None) or (int(number[1]) if number else None)
    windows = getattr(error, "winerror", None)
    if windows in IN_CLOUD:
        return CLOUD
    if windows in IN_USE:
        return "Another program has it open: close that program"
    if code in TOO_MANY:
        return MANY
    if code == errno.ENOMEM or isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return MEMORY
    if code in FORBIDDEN:
        return "Allow reading it"
    if code in (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT):
        return "Look whether its disk is sound and connected"
    return ""
