"""The directory of one run: where its files are, and a lock so that it stays one run.

The lock is held by the operating system and so vanishes with the process, however
that ends: a run that was killed is resumed by the same command.  No jax here.
"""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import socket
import tempfile
import time
import types
import typing as tp


class WorkdirInUse(RuntimeError):
    """Another run holds the lock of the workdir."""


class WorkdirError(RuntimeError):
    """The workdir cannot be made, or not be written to."""


class Workdir:
    """A run's directory, made when it is not there, and locked.

    Usable as a context manager.  The files: `metrics` metrics.jsonl, `rollouts`
    rollouts.jsonl, `config` config.json, `config_diff` config_diff.json, `summary`
    summary.json, `checkpoints` and `export` directories (made by who fills them).

    Args:
      path: on a mounted file system; ~ is expanded.
      lock: False for one that only reads.
      primary: False for the processes of a run other than the first: no lock, and
        nothing is written.
    Raises: WorkdirInUse; WorkdirError when it is not a writable directory.
    """

    def __init__(self, path: str | os.PathLike[str], lock: bool = True, primary: bool = True):
        if "://" in str(path):
            raise WorkdirError(
                f"workdir {path}: got a URL, expected a directory of a mounted file system"
            )
        self.path = pathlib.Path(path).expanduser().resolve()
        self.metrics = self.path / "metrics.jsonl"
        self.rollouts = self.path / "rollouts.jsonl"
        self.config = self.path / "config.json"
        self.config_diff = self.path / "config_diff.json"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
        self.export = self.path / "export"
        self._primary = primary
        self._lock: tp.IO[str] | None = None
        if lock and primary:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = self._acquire()
            except OSError as e:
                raise WorkdirError(
                    f"workdir {self.path}: cannot write there ({e.strerror or e}); "
                    "choose a writable directory with --workdir"
                ) from e

    def forget(self, step: int, finished: bool) -> None:
        """Removes what an earlier life of the run left behind and this one has not come to.

        Args:
          step: at which it goes on; -1: it begins.  finished: summary.json may stay.
        """
        if not self._primary:
            return
        for file in self.path.glob("eval_*.json"):
            number = file.stem.removeprefix("eval_")
            if number.isdecimal() and int(number) > step:
                file.unlink()
        if not finished:
            self.summary.unlink(missing_ok=True)

    def write_json(self, name: str, value: tp.Any) -> pathlib.Path:
        """Writes strict JSON so that a reader sees the old file or the new, never a part.

        Returns: the path.  Raises: ValueError for NaN or inf, TypeError for what JSON
        has no word for, WorkdirError when it cannot be written.
        """
        if not self._primary:
            return self.path / name
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        target = self.path / name
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(
                "w", dir=self.path, prefix=f".{name}.", delete=False, encoding="utf-8"
            ) as file:
                temporary = pathlib.Path(file.name)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(target)
        except OSError as e:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise WorkdirError(
                f"cannot write {target}: {e.strerror or e}; the previous file is untouched. "
                "Check permissions and free space"
            ) from e
        return target

    def close(self) -> None:
        """Gives the lock back; harmless a second time."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Workdir:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def _acquire(self) -> tp.IO[str]:
        file = (self.path / ".lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            file.seek(0)
            holder = file.read().strip() or "an unknown process"
            file.close()
            raise WorkdirInUse(
                f"workdir {self.path} is in use by {holder}. Wait for that run or stop it, or "
                "choose another --workdir; the lock goes when that process ends, so do not "
                "delete the .lock file"
            ) from e
        except OSError:
            file.close()
            raise
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"pid {os.getpid()} on {socket.gethostname()}, since {started}\n")
        file.flush()
        return file
