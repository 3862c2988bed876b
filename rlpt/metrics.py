"""What a run writes down and shows.

`metrics.jsonl` and `rollouts.jsonl` in the workdir are the truth: one JSON object a
line, `step` first, each step there once however often the run was killed and resumed.
TensorBoard and W&B mirror the metrics, and the live line shows the few numbers that
one watches.  Nothing here imports jax: values are anything that `float` takes.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import pathlib
import sys
import time
import typing as tp
import uuid

import rich.console
import rich.progress

PathLike = str | os.PathLike[str]
Row = dict[str, tp.Any]

METRICS_FILE = "metrics.jsonl"
ROLLOUTS_FILE = "rollouts.jsonl"

# The live line: heading, metric, format. The ETA and what begins with "verify/" come after.
LIVE = (
    ("reward", "reward/mean", "{:.3f}"),
    ("eval pass@1", "eval/pass@1", "{:.3f}"),
    ("entropy", "policy/entropy", "{:.3f}"),
    ("length", "rollout/length", "{:.1f}"),
    ("truncated", "rollout/truncated", "{:.0%}"),
    ("tok/s", "rollout/tokens_per_second", "{:.0f}"),
)
_HEADING_EVERY = 20  # rows on a terminal
_RATE_STEPS = 20  # the ETA goes by the mean over so many steps


def local_dir(workdir: PathLike) -> pathlib.Path:
    """The workdir as a local path, made if it is not there.

    Raises: ValueError for a URL: a line cannot be appended to an object in a bucket.
    """
    if "://" in str(workdir):
        raise ValueError(
            f"workdir: got {str(workdir)!r}; metrics and rollouts are appended to files, so give "
            "a directory of this machine or a mounted bucket"
        )
    path = pathlib.Path(workdir)
    path.mkdir(parents=True, exist_ok=True)
    return path


def plain(value: tp.Any) -> tp.Any:
    """`value` as strict JSON data: arrays as lists, floats to 6 decimals, NaN and inf as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "tolist"):  # numpy and jax arrays and scalars
        return plain(value.tolist())
    value = float(value)
    return round(value, 6) if math.isfinite(value) else None


def _rows(path: pathlib.Path) -> tp.Iterator[tuple[int, Row]]:
    """(offset behind the line, row) of each whole line; a torn last line is left out.

    Raises: ValueError with the line number for a damaged line elsewhere.
    """
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                row = json.loads(line)
                if not isinstance(row["step"], int):
                    raise TypeError("its step is not an integer")
            except (ValueError, KeyError, TypeError) as e:
                raise ValueError(
                    f"{path}, line {number}: got {line[:60]!r}, expected a JSON object with an "
                    f"integer 'step' ({e}); delete that line, or the file, and start again"
                ) from e
            yield end, row


def read_jsonl(path: PathLike) -> list[Row]:
    """The rows of `metrics.jsonl`, in order; null stands for NaN and infinity."""
    return [row for _, row in _rows(pathlib.Path(path))]


def read_rollouts(path: PathLike, step: int | None = None) -> list[Row]:
    """The rows of `rollouts.jsonl`, of one step or of all; see `RolloutLog` for the keys."""
    found = []
    for _, row in _rows(pathlib.Path(path)):
        if step is not None and row["step"] > step:
            break
        if step is None or row["step"] == step:
            found.append(row)
    return found


def truncate_steps(path: PathLike, last_step: int | None) -> tuple[int, Row | None]:
    """Cuts a file of steps off after `last_step` (None: before the first), in place.

    Whole lines stay as they are, a torn last line goes.  No file is no error.
    Returns: the last line that stays, as (its offset, row); (0, None) if none does.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return 0, None
    start, keep, last = 0, 0, None
    if last_step is not None:
        for end, row in _rows(path):
            if row["step"] > last_step:
                break
            start, keep, last = keep, end, row
    os.truncate(path, keep)
    return start, last


class _Lines:
    """Appends JSON lines to a file; each call hands its lines to the system before it returns."""

    def __init__(self, path: pathlib.Path, resume_step: int | None):
        self._start, self.last = truncate_steps(path, resume_step)
        self._path = path
        path.touch()
        self._file = path.open("r+b")
        self._file.seek(0, os.SEEK_END)

    def append(self, rows: tp.Iterable[Row]) -> None:
        with self._named():
            for row in rows:
                self._start, self.last = self._file.tell(), row
                self._file.write(self._line(row))
            self._file.flush()

    def replace_last(self, row: Row) -> None:
        """Writes over the last line; filled up with blanks, so that no rest of it can stay."""
        with self._named():
            length = self._file.seek(0, os.SEEK_END) - self._start
            self._file.seek(self._start)
            self._file.write(self._line(row)[:-1].ljust(length - 1) + b"\n")
            self._file.flush()
        self.last = row

    def _line(self, row: Row) -> bytes:
        # ASCII: no lone surrogate or odd line separator of a completion gets into the file
        return json.dumps(row, allow_nan=False).encode("ascii") + b"\n"

    @contextlib.contextmanager
    def _named(self) -> tp.Iterator[None]:
        """Adds the file's name to an error of the system."""
        try:
            yield
        except OSError as e:
            raise OSError(e.errno, f"{e.strerror}, while writing", str(self._path)) from e

    def sync(self) -> None:
        """Has the lines on disk: a mounted bucket gets them when it is asked to, or at the end."""
        with self._named():
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._named():  # what a failed append has left in the buffer is tried again
            self._file.close()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextlib.contextmanager
def _without_torch() -> tp.Iterator[None]:
    """Lets `import torch` fail inside, unless it is loaded already.

    tensorboardX imports torch where it finds it, which costs seconds and gigabytes.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def _tensorboard(workdir: pathlib.Path, resume_step: int | None) -> tp.Any:
    with _without_torch():
        import tensorboardX

    first = 0 if resume_step is None else resume_step + 1
    return tensorboardX.SummaryWriter(
        str(workdir / "tensorboard"),
        purge_step=first,  # hides what a killed run wrote after its last checkpoint
        flush_secs=10,
        # tensorboardX names files by the second and would overwrite those of a quick restart
        filename_suffix=f".{first:09d}.{uuid.uuid4().hex[:8]}",
    )


def _wandb(workdir: pathlib.Path, settings: dict[str, tp.Any]) -> tp.Any:
    try:
        with _without_torch():
            import wandb
    except ModuleNotFoundError as e:
        raise ValueError(
            "wandb: the config asks for W&B, which is not installed: pip install 'rlpt[wandb]', "
            "or set config.log.wandb to False"
        ) from e

    id_file = workdir / "wandb-id"
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex[:8])
    defaults = {
        "mode": os.environ.get("WANDB_MODE", "offline"),  # nothing is sent unless asked for
        "id": id_file.read_text().strip(),
        "resume": "allow",
        "dir": str(workdir),
    }
    return wandb.init(**{**defaults, **settings})


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class Metrics:
    """Writes the metrics of a run, and prints its live line.

    Args:
      workdir: local directory; gets `metrics.jsonl` and `tensorboard/`.
      resume_step: last step of the checkpoint that the run goes on from; later lines
        are dropped.  None: a fresh run, which starts an empty file.
      tensorboard: mirror to TensorBoard event files.
      wandb: arguments of `wandb.init` as a dict ({} will do); None: no W&B.  Its mode is
        "offline" unless given here or in WANDB_MODE; `wandb sync` uploads later.
      console: print the live line.
      total_steps: for the live line and the ETA.
      primary: False on all processes but one: nothing is written or printed.
    """

    def __init__(
        self,
        workdir: PathLike,
        *,
        total_steps: int,
        resume_step: int | None = None,
        tensorboard: bool = True,
        wandb: dict[str, tp.Any] | None = None,
        console: bool = True,
        primary: bool = True,
    ):
        self._total = total_steps
        self._eval = "-"
        self._lines: _Lines | None = None
        self._tensorboard: tp.Any = None
        self._wandb: tp.Any = None
        self._console = rich.console.Console() if console and primary else None
        self._rows_shown = 0
        self._times: collections.deque[tuple[int, float]] = collections.deque(maxlen=_RATE_STEPS)
        self._open = contextlib.ExitStack()
        if not primary:
            return
        path = local_dir(workdir)
        with self._open:  # closes what is open already when the next one fails
            self._lines = self._open.enter_context(_Lines(path / METRICS_FILE, resume_step))
            if tensorboard:
                self._tensorboard = self._open.enter_context(_tensorboard(path, resume_step))
            if wandb is not None:
                self._wandb = self._open.enter_context(_wandb(path, dict(wandb)))
            self._open = self._open.pop_all()

    def write(self, step: int, values: tp.Mapping[str, tp.Any]) -> None:
        """Writes the line {"step", "time" (Unix seconds), **values}.

        Another call for the same step adds to its line, and replaces what is there.

        Args:
          step: not before the last one written.
          values: flat names such as "policy/entropy" to numbers; NaN and inf become null.
        Raises:
          ValueError: an earlier step, or a value that is no number.
          OSError: the line could not be written; names the file.
        """
        numbers: dict[str, float] = {}
        for name, value in values.items():
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError) as e:
                raise ValueError(f"metric {name!r}: got {value!r}, expected a number") from e
        if self._lines is None:
            return
        finite = {name: v for name, v in numbers.items() if math.isfinite(v)}
        new = {name: finite.get(name) for name in numbers}
        last = self._lines.last
        if last is not None and step < last["step"]:
            raise ValueError(f"metrics: got step {step} after {last['step']}; steps must not fall")
        if last is not None and step == last["step"]:
            self._lines.replace_last({**last, **new})
        else:
            self._lines.append([{"step": step, "time": round(time.time(), 3), **new}])
        if self._tensorboard is not None:
            for name, value in finite.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)

    def sync(self) -> None:
        """Returns when what was written is on disk. Raises: OSError, naming the file."""
        if self._lines is not None:
            self._lines.sync()

    def live(self, step: int, values: tp.Mapping[str, tp.Any]) -> None:
        """Prints the live line: a row of a table on a terminal, a plain line elsewhere.

        Args:
          values: metrics by the names of `LIVE`, and "verify/<outcome>" counts; "-" stands
            for what is missing.  The evaluation is kept until the next one.
        """
        if self._console is None:
            return
        self._times.append((step, time.monotonic()))
        cells = [("step", f"{step}/{self._total}")]
        for label, name, form in LIVE:
            text = form.format(float(values[name])) if name in values else "-"
            if label == "eval pass@1":
                text = self._eval = text if name in values else self._eval
            cells.append((label, text))
        cells.append(("ETA", self._eta(step)))
        outcomes = "  ".join(
            f"{name.removeprefix('verify/')} {float(v):.4g}"
            for name, v in values.items()
            if name.startswith("verify/") and float(v) != 0
        )
        with lasting():
            if self._console.is_terminal:
                self._print_row(self._console, cells, outcomes)
            else:
                line = "  ".join(f"{label} {text}" for label, text in cells)
                print(f"{line}  {outcomes}".rstrip(), flush=True)

    def _eta(self, step: int) -> str:
        """From the mean over the last steps, without those up to the first, which compile."""
        (first, start), (last, end) = self._times[min(1, len(self._times) - 1)], self._times[-1]
        if step >= self._total:
            return _duration(0)
        if last <= first:
            return "-"
        return _duration((self._total - step) * (end - start) / (last - first))

    def _print_row(
        self, console: rich.console.Console, cells: list[tuple[str, str]], outcomes: str
    ) -> None:
        """Aligned under headings, which come again every so many rows."""
        widths = [max(len(label), 6) for label, _ in cells]
        widths[0] = max(len("step"), 2 * len(str(self._total)) + 1)
        widths[-1] = len("0:00:00")

        def show(texts: tp.Iterable[str], last: str, style: str | None = None) -> None:
            line = "  ".join(t.rjust(w) for t, w in zip(texts, widths, strict=True))
            text = f"{line}  {last}".rstrip()
            console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)

        if self._rows_shown % _HEADING_EVERY == 0:
            show((label for label, _ in cells), "outcomes", "bold")
        self._rows_shown += 1
        show((text for _, text in cells), outcomes)

    def close(self) -> None:
        """Closes the file and flushes the mirrors; safe to call again."""
        self._open.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RolloutLog:
    """Writes `rollouts.jsonl`: what was sampled, how it was judged, what it is worth.

    A row is a dict; the loop writes these keys, and a method may add its own:
      prompt_id, row_id: int; id: the task's own id of the prompt; prompt, completion: text
      prompt_tokens, tokens: token ids, without padding
      sampler_logp, advantages: one float a token of the completion
      verdicts: {verifier: score, null = no verdict}; outcomes: {verifier: outcome}
      reward: float; truncated: bool; origin: int
      row_mask: bool, behind shaping; rollout_masks: {"row_mask", "train_mask"}, before it
      rows_of_step: int, how many rows there are of the step
      columns: {column: number, or one a token}, of config.log.columns
    Floats are kept to 6 decimals, NaN and infinity become null.

    Args:
      workdir, resume_step, primary: as for `Metrics`.
    """

    def __init__(self, workdir: PathLike, *, resume_step: int | None = None, primary: bool = True):
        self.path = pathlib.Path(workdir) / ROLLOUTS_FILE
        self._lines: _Lines | None = None
        if primary:
            local_dir(workdir)
            self._lines = _Lines(self.path, resume_step)

    def write(self, step: int, rows: tp.Iterable[tp.Mapping[str, tp.Any]]) -> None:
        """Appends the rows of a step. Raises: OSError, naming the file."""
        if self._lines is not None:
            self._lines.append({"step": step, **plain(dict(row))} for row in rows)

    def sync(self) -> None:
        """Returns when what was written is on disk. Raises: OSError, naming the file."""
        if self._lines is not None:
            self._lines.sync()

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()

    def __enter__(self) -> RolloutLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Timer:
    """Seconds by stage: `with timer("rollout"): ...`; a stage entered again adds up.

    jax returns before it has computed: block on a result inside the stage.

    Attributes:
      seconds: {stage: seconds}.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> tp.Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


@contextlib.contextmanager
def lasting() -> tp.Iterator[None]:
    """For what only prints: from the first line on that cannot be written, all lines are dropped.

    A reader that is gone (`rlpt train | tee`, and Ctrl-C, which stops both) or a full disk would
    else end a run before it has written its checkpoint.
    """
    try:
        yield
    except OSError as e:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        with contextlib.suppress(OSError):
            print(f"standard output is gone ({e}): nothing more is printed", file=sys.stderr)


@contextlib.contextmanager
def progress(
    description: str, total: int, show: bool = True
) -> tp.Iterator[tp.Callable[[int], None]]:
    """A bar for something long: `with progress("evaluate", 200) as advance: advance(8)`.

    Without a terminal there is no bar, but a line every half minute and one at the end.
    show: False: nothing is printed.
    """
    console = rich.console.Console(quiet=not show)
    start, done = time.perf_counter(), 0
    spoken = start
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(description, total=total)

        def advance(n: int = 1) -> None:
            nonlocal done, spoken
            done += n
            bar.advance(task, n)
            now = time.perf_counter()
            if show and not console.is_terminal and now - spoken > 30 and done < total:
                spoken = now
                with lasting():
                    print(f"{description}: {done} of {total}, {now - start:.0f} s", flush=True)

        yield advance
    if show and not console.is_terminal:
        with lasting():
            print(f"{description}: {done} in {time.perf_counter() - start:.1f} s", flush=True)
