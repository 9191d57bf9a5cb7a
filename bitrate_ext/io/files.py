"""Files to be read: regular ones that hold something. Refusals are one line that names the file."""

from __future__ import annotations

import os
import stat


def open_regular(path: str | os.PathLike[str], what: str, error: type[ValueError]) -> int:
    """Open a file for reading and return its descriptor.

    Args:
        path: of the file. Only ever a name: protocols and options are not looked for in it.
        what: it should be, such as "a video file".
        error: what is raised where it is missing, may not be read, is empty, or is something else, which is not opened.
    """
    text = os.fspath(path)
    name = text if text.isprintable() else repr(text)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            reason = f"is a folder, not {what}"
        elif not stat.S_ISREG(status.st_mode):
            reason = "is not a regular file"
        elif status.st_size == 0:
            reason = "the file is empty"
        else:  # not waiting for the other end of a pipe, should it have become one
            return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        reason = "no such file"
    except PermissionError:
        reason = "no permission to read the file"
    except OSError as trouble:
        reason = f"cannot be read ({trouble.strerror})"
    except ValueError:
        reason = "a file name cannot hold a null character"
    raise error(f"{name}: {reason}")
