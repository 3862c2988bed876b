"""Verdicts of a judge that were paid for once, in an SQLite file."""

from __future__ import annotations

import contextlib
import math
import sqlite3

_BUSY = 2.0  # seconds to wait for another process that writes


class Cache:
    """Scores by key. Processes may share the file; what goes wrong later costs only the reuse.

    Attributes:
      error: why the cache is not used (any more); "": it works.
    """

    def __init__(self, path: str):
        """Opens or makes the file.

        Raises: ValueError where that cannot be.
        """
        try:
            self._db = sqlite3.connect(
                path, timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
            with contextlib.suppress(sqlite3.OperationalError):
                self._db.execute("PRAGMA journal_mode = WAL")  # busy: another process does it
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, score REAL NOT NULL)"
            )
        except sqlite3.Error as e:
            raise ValueError(
                f"cache: cannot use {path!r}: {e}; expected an SQLite file in a directory that "
                "exists and can be written to, or '' for no cache"
            ) from e
        self.error = ""

    def get(self, key: str) -> float | None:
        """The score in [0, 1] under a key, or None."""
        if self.error:
            return None
        try:
            row = self._db.execute("SELECT score FROM verdicts WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as e:
            self.error = f"cache: {e}"
            return None
        if row is None or type(row[0]) is not float:
            return None
        return row[0] if math.isfinite(row[0]) and 0.0 <= row[0] <= 1.0 else None

    def put(self, key: str, score: float) -> None:
        if self.error:
            return
        try:
            self._db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, score))
        except sqlite3.Error as e:
            self.error = f"cache: {e}"

    def close(self) -> None:
        self._db.close()
