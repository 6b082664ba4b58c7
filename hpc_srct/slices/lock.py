"""One run at a time on one store.

The owner leaves a file that names its host, process and start, and touches it now and then.
A lock is stale when its process is gone (same host), or when nobody has touched it for some
minutes (another host).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from hpc_srct.errors import InputError
from hpc_srct.files import machine_error

LOCK = ".lock"
TOUCH_EVERY_S = 20.0
STALE_AFTER_S = 300.0


class StoreLock:
    """Holds a store until `release`.

    Parameters
    ----------
    folder
        The store; made where it is missing.

    Raises
    ------
    InputError
        Another run holds it.
    MachineError
        The folder cannot be written.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOCK
        self._mine = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": _process_start(os.getpid()),
                "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
        )
        self._made_folder = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._take()
        except OSError as error:
            raise machine_error(folder, error) from error
        self._over = threading.Event()
        threading.Thread(target=self._keep_fresh, daemon=True).start()

    def release(self) -> None:
        """Give the store free."""
        self._over.set()
        with contextlib.suppress(OSError):
            if self.path.read_text() == self._mine:
                self.path.unlink()
                if self._made_folder:
                    self.path.parent.rmdir()  # where nothing came of it: refused unless empty

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self) -> None:
        for _ in range(3):
            # Written whole under another name first: a link appears at once, with its content.
            aside = self.path.with_name(f"{LOCK}.{socket.gethostname()}.{os.getpid()}")
            aside.write_text(self._mine)
            try:
                os.link(aside, self.path)
                return
            except FileExistsError:
                self._remove_if_stale()
            finally:
                aside.unlink()
        raise InputError(f"{self.path}: could not be taken; run again.")

    def _remove_if_stale(self) -> None:
        try:
            text = self.path.read_text()
            untouched = time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return
        owner = _parsed(text)
        if not _is_stale(owner, untouched):
            raise InputError(
                f"{self.path.parent}: another run is writing this store (host"
                f" {owner.get('host', '?')}, process {owner.get('pid', '?')}, since"
                f" {owner.get('time', '?')}).\nWait for it, or remove {self.path} if it is dead."
            )
        # Taken away by rename, so that of two that find it stale only one has it.
        grave = self.path.with_name(f"{LOCK}.stale.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(grave)
            if grave.read_text() != text:
                # Somebody was quicker and this is a fresh lock: give it back.
                with contextlib.suppress(FileExistsError):
                    os.link(grave, self.path)
            grave.unlink()

    def _keep_fresh(self) -> None:
        while not self._over.wait(TOUCH_EVERY_S):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def _parsed(text: str) -> dict[str, Any]:
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_stale(owner: dict[str, Any], untouched: float) -> bool:
    if owner.get("host") == socket.gethostname() and isinstance(owner.get("pid"), int):
        return not _alive(owner["pid"], owner.get("started"))
    return untouched > STALE_AFTER_S


def _alive(pid: int, started: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    now = _process_start(pid)
    # The number may be a newer process's, after a restart.
    return now is None or started is None or now == started


def _process_start(pid: int) -> str | None:
    """When a process started, in ticks since boot, with the boot's name; None where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    # A zombie writes nothing any more.
    return f"{boot}:{rest[18]}" if state != "Z" else "gone"
