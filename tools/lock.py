"""One at a time: a lock between processes that needs no package, under any Python from 3.6 on.

The lock is the operating system's, on an open file. When a process ends, however it ends, the system lets go of it, so
that nothing which was killed can keep others waiting; the file that is left says nothing by being there.
"""

import contextlib
import errno
import os
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

PAUSE = 0.2  # seconds between two tries
TAKEN = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, getattr(errno, "ENOTSUP", None), getattr(errno, "EOPNOTSUPP", None)}


def take(file):
    """Whether the lock could be had just now."""
    try:
        if fcntl is not None:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return True  # some network file systems have none; it is as it was without this file
        if error.errno in TAKEN:
            return False
        raise
    return True


def is_still_there(path, file):
    """Whether what was locked is the file that others would open: `make clean` may have removed it meanwhile."""
    try:
        there, here = os.stat(path), os.fstat(file.fileno())
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


@contextlib.contextmanager
def one_at_a_time(path, what):
    """Hold the lock while the body runs; as long as another process holds it, wait, and say once for what."""
    os.makedirs(os.path.dirname(str(path)), exist_ok=True)
    told = False
    while True:
        file = open(str(path), "ab")  # noqa: SIM115 - closed when the lock is let go
        try:
            if take(file) and is_still_there(str(path), file):
                break
        except BaseException:
            file.close()
            raise
        file.close()
        if not told:
            print(f"Waiting for another {what} in this folder to end (Ctrl-C gives up)", flush=True)
            told = True
        time.sleep(PAUSE)
    try:
        yield
    finally:
        file.close()
