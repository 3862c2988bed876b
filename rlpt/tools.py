"""What a rollout works with: generate, score and verify, each of which fills a `batches.Batch`.

Rollouts are host control flow over these calls; they never see the model.
"""

from __future__ import annotations

import collections
import collections.abc
import concurrent.futures
import dataclasses
import functools
import threading
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt import batches, distributed, metrics, scoring, sharding
from rlpt import generate as generate_lib
from rlpt import lanes as lanes_lib
from rlpt.batches import Batch, Pending, Text
from rlpt.columns import Table
from rlpt.config import ConfigError
from rlpt.models.transformer import ModelConfig
from rlpt.tasks.base import Prompt, hash_int, stable_id
from rlpt.verifiers.base import Trajectory, Verdict

ROLLOUT, EVALUATE, SAMPLE = 0, 1, 2  # purposes: each has draws of its own
_CHECK_EVERY = 16  # tokens between looks for stop strings

Item = tuple[Prompt, int]  # a prompt and how often the stream gave it before


class Setup:
    """What a rollout can ask of a run before it begins: fn.check gets it, and `Tools` has it too.

    Attributes:
      sampling: config.sampling.  verifier_names: in the order of the config.
      tasks: the labels of config.tasks; () where they are not known.
    """

    def __init__(
        self,
        sampling: tp.Any,
        verifier_names: collections.abc.Iterable[str],
        tasks: collections.abc.Iterable[str] = (),
    ):
        self.sampling = sampling
        self.verifier_names, self.tasks = tuple(verifier_names), tuple(tasks)

    def need_verifier(self, name: str, where: str) -> None:
        """Raises: ValueError where the config has no such verifier. where: for the message."""
        if name not in self.verifier_names:
            known = ", ".join(self.verifier_names)
            raise ValueError(f"{where}: got {name!r}, expected a verifier of the config: {known}")

    def need_whole_law(self, where: str) -> None:
        """For a rollout whose rows keep sampler_logp as old_logp: it has to be the model's own.

        Args: where: the rollout and the setting that asks for it, for the message.

        Raises: ValueError where the sampling law leaves tokens out.
        """
        s = self.sampling
        if s.top_k or s.top_p < 1 or s.min_p:
            raise ValueError(
                f"{where}: got top_k={s.top_k}, top_p={s.top_p:g}, min_p={s.min_p:g}: rows that "
                "are not on policy would keep log-probs of the truncated law, those of the update "
                "are not; sample from the whole law (0, 1, 0)"
            )


class Tools(Setup):
    """generate, score and verify over one model, tokenizer and verifier pool.

    Args:
      sampling: as in the config.  missing: of `settings.missing_by_verifier`.
      pool: a VerifierPool or None.
      key: the run's root key.  mesh: of rlpt.sharding, None: one device.
      counted_names: of the verifiers that decide, see `verifiers.base.counted_names`; None: all.
      `params` is set by whoever owns the weights.
    """

    def __init__(
        self,
        model: ModelConfig,
        tokenizer: tp.Any,
        pool: tp.Any,
        sampling: tp.Any,
        missing: collections.abc.Mapping[str, collections.abc.Mapping[str, str]],
        verifier_names: collections.abc.Sequence[str],
        key: jax.Array,
        mesh: tp.Any = None,
        counted_names: collections.abc.Sequence[str] | None = None,
    ):
        super().__init__(sampling, verifier_names)
        self.model, self.tokenizer, self.pool = model, tokenizer, pool
        self.missing = missing
        self.counted_names = tuple(verifier_names if counted_names is None else counted_names)
        self.key, self.mesh = key, mesh
        self.params: tp.Any = None
        self.defer = False  # verify() in the background, see `settle`
        self._judging = threading.Lock()
        self._background = concurrent.futures.ThreadPoolExecutor(1, "rlpt-verify")
        self._recorded: dict[str, dict[int, list[dict[str, tp.Any]]]] = {}
        self.max_prompt = max(sampling.prompt_buckets)
        self.width = max(sampling.completion_buckets)
        self.contexts = sorted(  # widths of prompts, and of prompts with a part of a completion
            {*sampling.prompt_buckets, *(self.max_prompt + w for w in sampling.completion_buckets)}
        )
        self._check_strings("config.sampling.stop_strings", sampling.stop_strings)
        if self.max_prompt + self.width > model.max_positions:
            raise ConfigError(
                f"sampling: prompt bucket {self.max_prompt} + completion bucket "
                f"{self.width} exceeds the "
                f"model's context of {model.max_positions} positions"
            )

    def encode(self, prompt: Prompt) -> list[int]:
        """The rendered chat, ready to be completed, as tokens."""
        return self.tokenizer.chat(list(prompt.messages))

    def generate(
        self,
        items: collections.abc.Sequence[Item | None],
        *,
        group: int,
        step: int,
        attempt: int = 0,
        first_sample: int | collections.abc.Sequence[int] = 0,
        purpose: int = ROLLOUT,
        temperature: float | None = None,
        prefixes: collections.abc.Sequence[collections.abc.Sequence[int]] | None = None,
        max_tokens: int | None = None,
        until: collections.abc.Sequence[str] = (),
    ) -> Batch:
        """Samples `group` completions of every prompt. items: None is an empty block.

        attempt, first_sample: enter the draws' keys, so that a retry, a branch or further
        samples of a prompt never meet the same noise; first_sample may be one a block.

        prefixes: tokens that a block's completions begin with, [] for none.  They are encoded
        once a block and are context: at the end of prompt_tokens and in the text, not among the
        completion tokens.  Draws are keyed by the position behind prompt and all: a row that goes
        on from its own first tokens, as the same attempt and sample, is the same row again.

        max_tokens: of a completion, at most, prefix not counted; the table is that wide.  Default:
        what the prefix leaves of the largest bucket, in a table as wide as that bucket.

        until: strings behind which a completion ends too.  They are looked for behind the prefix
        alone, and stay in the text: such as the end of a step, or of a call of a tool, from where
        a further call of `generate` goes on.

        Raises: ValueError for a prefix that leaves no room or contains a stop string; ConfigError
          for a string in `until` that no text shows.
        """
        self._check_strings("until", until)
        if short := -len(items) % sharding.shards(self.mesh):  # as many blocks on every device
            if not isinstance(first_sample, int):
                first_sample = [*first_sample, *[0] * short]
            if prefixes is not None:
                prefixes = [*prefixes, *[()] * short]
            whole = self.generate(
                [*items, *[None] * short], group=group, step=step, attempt=attempt,
                first_sample=first_sample, purpose=purpose, temperature=temperature,
                prefixes=prefixes, max_tokens=max_tokens, until=until,
            )  # fmt: skip
            return batches.take_blocks(whole, range(len(items)))
        s = self.sampling
        temperature = s.temperature if temperature is None else temperature
        p, stops, pad = len(items), tuple(s.stop_strings), self.tokenizer.pad_id
        starts = [list(x) for x in prefixes] if prefixes is not None else [[] for _ in items]
        room = [self.width - len(x) if max_tokens is None else max_tokens for x in starts]
        self._check_prefixes(items, starts, room, stops)
        nothing: list[list[int]] = [[] for _ in items]
        ends = [e for e in ((starts, stops), (nothing, tuple(until))) if e[1]]
        rows = [self.encode(i[0]) + x if i else [] for i, x in zip(items, starts, strict=True)]
        widths = self.contexts if any(starts) else s.prompt_buckets
        length = batches.bucket(max(map(len, rows), default=0), widths, "prompt")
        tokens = np.full((p, length), pad, np.int32)
        mask = np.zeros((p, length), bool)
        for i, row in enumerate(rows):
            if row:
                tokens[i, length - len(row) :] = row
                mask[i, length - len(row) :] = True
        alive = np.broadcast_to(
            np.array([i is not None for i in items])[:, None], (p, group)
        ).copy()
        prompt_id = np.array([stable_id(i[0].id) if i else 0 for i in items], np.int32)
        ids = np.zeros((p, group, 4), np.int32)
        ids[..., 0] = prompt_id[:, None]
        ids[..., 1] = np.array([i[1] if i else 0 for i in items])[:, None]
        ids[..., 2] = attempt
        ids[..., 3] = np.broadcast_to(first_sample, p)[:, None] + np.arange(group)
        most = max([r for r, i in zip(room, items, strict=True) if i] or [1])
        width = (
            batches.bucket(most, s.completion_buckets, "completion") if max_tokens is None else most
        )
        batched = functools.partial(lanes_lib.generate, lanes=s.lanes, slots=s.slots)
        out = (batched if s.lanes else generate_lib.generate)(
            self.model,
            self.params,
            tokens,
            mask,
            jax.random.fold_in(jax.random.fold_in(self.key, purpose), step),
            ids,
            width=width,
            stop=self.tokenizer.eos_ids,
            law=generate_lib.make_law(temperature, s.top_k, s.top_p, s.min_p),
            pad=pad,
            alive=alive,
            offset=[len(x) for x in starts],
            mesh=self.mesh,
            dtype=jnp.dtype(s.dtype),
            check=(lambda t, n, d: self._ended(t, n, d, ends)) if ends else None,
            check_every=_CHECK_EVERY,
        )
        table: Table = {k: np.array(v) for k, v in sharding.fetch(out).items()}
        over = np.arange(width) >= np.array(room)[:, None, None]
        table["truncated"] |= (table["completion_mask"] & over).any(-1)
        _cut(table, over, pad)
        for begins, strings in ends:
            self._cut_at_stop(table, begins, strings)
        if max_tokens is None and width < self.width:
            more = ((0, 0), (0, 0), (0, self.width - width))
            for name, fill in (
                ("completion_tokens", pad), ("completion_mask", False), ("sampler_logp", 0)
            ):  # fmt: skip
                table[name] = np.pad(table[name], more, constant_values=fill)
        texts = distributed.join([
            self._text(table, r // group, r % group, starts[r // group], stops)
            if alive[r // group, r % group]
            else ""
            for r in distributed.part(range(p * group))
        ])  # fmt: skip
        completions = [texts[i * group : (i + 1) * group] for i in range(p)]
        table |= {
            "prompt_tokens": tokens,
            "prompt_mask": mask,
            "loss_mask": table["completion_mask"].copy(),
            "temperature": np.full((p, group), temperature or 1.0, np.float32),
            "origin": np.zeros((p, group), np.int32),
            "row_mask": alive,
            "train_mask": np.ones((p, group), bool),
            "group": np.where(alive[:, 0], np.arange(p), -1).astype(np.int32),
            "prompt_id": prompt_id,
            "row_id": np.arange(p * group, dtype=np.int32).reshape(p, group),
            "answer_id": np.full((p, group), -1, np.int32),
        }
        text = Text(
            [i[0] if i else None for i in items],
            [self.tokenizer.render(list(i[0].messages)) if i else "" for i in items],
            completions,
            [[{} for _ in range(group)] for _ in range(p)],
        )
        return Batch(table, text)

    def _check_strings(self, where: str, strings: collections.abc.Sequence[str]) -> None:
        """Raises: ConfigError for a string that every text has, or that none can have."""
        for text in strings:
            if not text:
                raise ConfigError(f"{where}: got '', which every text has, expected some text")
            if token := self.tokenizer.unseen(text):
                raise ConfigError(
                    f"{where}: got {text!r} with the special token {token!r}, which text does not "
                    "show, so that it is never found; what ends a completion are the tokens of the "
                    "tokenizer_config.json and generation_config.json of the model"
                )

    def _check_prefixes(
        self,
        items: collections.abc.Sequence[Item | None],
        starts: list[list[int]],
        room: list[int],
        stops: tuple[str, ...],
    ) -> None:
        """Raises: ValueError, see `generate`."""
        for i, (item, start, left) in enumerate(zip(items, starts, room, strict=True)):
            if item and left < 1:
                raise ValueError(
                    f"generate: block {i} has room for {left} tokens behind a prefix of "
                    f"{len(start)}, expected at least 1; shorten the prefix or add a larger "
                    "bucket to config.sampling.completion_buckets"
                )
            if start and stops and self.tokens_until(start, stops) is not None:
                raise ValueError(
                    f"generate: the prefix {self.tokenizer.decode(start)!r} of block {i} contains "
                    f"one of config.sampling.stop_strings {stops}; change one of them"
                )

    def tokens_until(
        self,
        tokens: collections.abc.Sequence[int],
        strings: collections.abc.Sequence[str],
        count: int = 1,
    ) -> int | None:
        """The number of tokens, from the start, whose text has the strings `count` times in all.

        Returns: None where all of the tokens have not.
        """

        def has(n: int) -> bool:
            text = self.tokenizer.decode(tokens[:n])
            return sum(text.count(s) for s in strings) >= count

        low, high = 0, len(tokens)  # not has(low), has(high)
        if not has(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if has(middle) else (middle, high)
        return high

    def _text(self, table: Table, i: int, j: int, start: list[int], stops: tuple[str, ...]) -> str:
        tokens = table["completion_tokens"][i, j][table["completion_mask"][i, j]]
        text = self.tokenizer.decode(start + tokens.tolist())
        cuts = [text.find(s) for s in stops if s in text]
        return text[: min(cuts)] if cuts else text

    def _stopped(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        done: np.ndarray,
        starts: list[list[int]],
        stops: tuple[str, ...],
    ) -> np.ndarray:
        """Which rows that are not done have a stop string in what is new.

        A token is at least one byte, so a stop string that ends in the new tokens begins no
        further back than it has bytes.  A hit counts where the whole text has the string too.
        """
        tail = _CHECK_EVERY + max(len(s.encode()) for s in stops)
        out = np.zeros(lengths.shape, bool)
        for i, j in zip(*np.nonzero(~done), strict=True):
            row = starts[i] + tokens[i, j, : lengths[i, j]].tolist()
            new, decode = row[-tail:], self.tokenizer.decode
            out[i, j] = any(s in decode(new) and s in decode(row) for s in stops)
        return out

    def _ended(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        done: np.ndarray,
        ends: list[tuple[list[list[int]], tuple[str, ...]]],
    ) -> np.ndarray:
        """Which rows are done. ends: what rows begin with, and the strings that end such rows."""
        for starts, strings in ends:
            done = done | self._stopped(tokens, lengths, done, starts, strings)
        return done

    def _cut_at_stop(self, table: Table, starts: list[list[int]], stops: tuple[str, ...]) -> None:
        """Ends rows after the token that completes a stop string."""
        over = np.zeros(table["completion_mask"].shape, bool)
        for i, j in np.ndindex(*over.shape[:2]):
            n = int(table["completion_mask"][i, j].sum())
            row = starts[i] + table["completion_tokens"][i, j, :n].tolist()
            end = self.tokens_until(row, stops)
            if end is not None:
                over[i, j, end - len(starts[i]) :] = True
                table["truncated"][i, j] = False
        _cut(table, over, self.tokenizer.pad_id)

    def score(self, table: Table) -> Table:
        """logp and entropy [P,G,T] float32 of the completions, 0 outside completion_mask.

        Under softmax(logits / temperature) of the current weights, without top-k, top-p or min-p;
        on every device block after block.
        """
        names = (
            "prompt_tokens", "prompt_mask", "completion_tokens", "completion_mask", "temperature",
        )  # fmt: skip
        p, shards = len(table["completion_tokens"]), sharding.shards(self.mesh)
        at = np.arange(-(-p // shards) * shards) % p  # as many on every device
        columns = sharding.place_batch({k: np.asarray(table[k])[at] for k in names}, self.mesh)
        out = scoring.score(
            self.model, self.params, columns, entropy=True,
            dtype=jnp.dtype(self.sampling.dtype), blocks=shards, shards=shards,
        )  # fmt: skip
        return {k: v[:p] for k, v in sharding.fetch(out).items()}

    def uniform(self, *parts: int | str) -> float:
        """A number in [0, 1) that follows from the run's key and `parts`: for host choices."""
        return hash_int(*np.asarray(jax.random.key_data(self.key)).ravel(), *parts) / 2**64

    def recorded(self, path: str, step: int, origin: int = 0, blocks: int = 0) -> Batch:
        """The batch of one step of a rollouts.jsonl, see `from_rows`.

        Raises: ValueError where the file has no such step, naming those that it has, or not all of
          its rows.
        """
        if path not in self._recorded:
            steps: dict[int, list[dict[str, tp.Any]]] = {}
            for row in metrics.read_rollouts(path):
                steps.setdefault(row["step"], []).append(row)
            self._recorded = {path: steps}
        found = self._recorded[path]
        if step not in found:
            have = f"steps {min(found)} to {max(found)}" if found else "no rows"
            raise ValueError(f"replay: {path} has no step {step}; it has {have}")
        rows = found[step]
        if len(rows) != (whole := rows[0].get("rows_of_step", len(rows))):
            raise ValueError(
                f"replay: {path} has {len(rows)} rows of step {step}, expected {whole}: the file "
                "was cut; take an earlier step, or record it again"
            )
        return self.from_rows(rows, origin, blocks)

    def from_rows(
        self,
        rows: collections.abc.Sequence[collections.abc.Mapping[str, tp.Any]],
        origin: int = 0,
        blocks: int = 0,
    ) -> Batch:
        """A batch from rows of rollouts.jsonl: the same tokens, log-probs and verdicts.

        Args:
          rows: of one step, as `rlpt.metrics.read_rollouts` gives them, or `to_rows`.
          origin: of the rows that had origin 0: 0: to be trained on as if sampled now; 2: by
            older weights.  Others keep theirs.
          blocks: at least so many; those without rows are empty.
        Raises: ValueError for no rows or a block of which some rows are missing.
        """
        p = max([blocks, *(1 + r["block"] for r in rows)])
        g = 1 + max((r["sample"] for r in rows), default=-1)
        have = collections.Counter(r["block"] for r in rows)
        if not rows or set(have.values()) != {g}:
            raise ValueError(
                f"replay: got {len(rows)} rows of {len(have)} blocks, expected {g} samples of each"
            )
        length = batches.bucket(max(len(r["prompt_tokens"]) for r in rows), self.contexts, "prompt")
        t = self.width
        pad = self.tokenizer.pad_id
        table: Table = {
            "prompt_tokens": np.full((p, length), pad, np.int32),
            "prompt_mask": np.zeros((p, length), bool),
            "completion_tokens": np.full((p, g, t), pad, np.int32),
            "completion_mask": np.zeros((p, g, t), bool),
            "loss_mask": np.zeros((p, g, t), bool),
            "sampler_logp": np.zeros((p, g, t), np.float32),
            "temperature": np.ones((p, g), np.float32),
            "truncated": np.zeros((p, g), bool),
            "origin": np.full((p, g), origin, np.int32),
            "row_mask": np.zeros((p, g), bool),
            "train_mask": np.ones((p, g), bool),
            "group": np.full(p, -1, np.int32),
            "prompt_id": np.zeros(p, np.int32),
            "row_id": np.arange(p * g, dtype=np.int32).reshape(p, g),
            "answer_id": np.full((p, g), -1, np.int32),
        } | {f"verdict/{n}": np.full((p, g), np.nan, np.float32) for n in self.verifier_names}
        text = Text(
            [None] * p,
            [""] * p,
            [[""] * g for _ in range(p)],
            [[{} for _ in range(g)] for _ in range(p)],
        )
        for r in rows:
            i, j, n, k = r["block"], r["sample"], len(r["tokens"]), len(r["prompt_tokens"])
            if n > t:
                raise ValueError(
                    f"replay: a completion of {n} tokens does not fit the bucket of {t}"
                )
            table["prompt_tokens"][i, length - k :] = r["prompt_tokens"]
            table["prompt_mask"][i, length - k :] = True
            for name, key in (
                ("completion_tokens", "tokens"),
                ("loss_mask", "loss_mask"),
                ("sampler_logp", "sampler_logp"),
            ):
                table[name][i, j, :n] = r[key]
            table["completion_mask"][i, j, :n] = True
            for name in ("temperature", "truncated"):
                table[name][i, j] = r[name]
            masks = r.get("rollout_masks", {"row_mask": r["row_mask"]})  # as before shaping
            for name, value in masks.items():
                table[name][i, j] = value
            table["prompt_id"][i] = r["prompt_id"]
            # what files of earlier versions do not have is as if sampled block by block
            table["group"][i] = r.get("group", i)
            table["row_id"][i, j] = r.get("row_id", i * g + j)
            table["origin"][i, j] = r.get("origin", 0) or origin
            text.prompts[i] = Prompt(r["id"], (), r["answer"])
            text.prompt_text[i] = r["prompt"]
            text.completions[i][j] = r["completion"]
            for name, score in r["verdicts"].items():
                outcome = r["outcomes"][name]
                detail = r.get("details", {}).get(name, "")
                text.verdicts[i][j][name] = Verdict(score, outcome, detail)
                counts_as = self._counts_as(name, outcome, score)
                if f"verdict/{name}" in table and counts_as is not None:
                    table[f"verdict/{name}"][i, j] = counts_as
        return Batch(table, text)

    # for rollouts, which have no other way to a batch
    take_blocks = staticmethod(batches.take_blocks)
    widen = staticmethod(batches.widen)
    concatenate = staticmethod(batches.concatenate)
    to_rows = staticmethod(batches.to_rows)
    outcomes_of = staticmethod(batches.outcomes_of)

    def _counts_as(self, name: str, outcome: str, score: float | None) -> float | None:
        """The score, or what its absence counts as by the run's settings; None: a masked row."""
        if score is not None:
            return score
        policy = self.missing.get(name, {}).get(outcome, "mask")
        return None if policy == "mask" else np.nan if policy == "ignore" else float(policy)

    def judge(
        self,
        trajectories: collections.abc.Sequence[Trajectory],
        prompts: collections.abc.Sequence[Prompt],
    ) -> list[dict[str, Verdict]]:
        """The verdicts of every verifier, as `VerifierPool.verify`, the same on every process.

        Of several processes each judges its part of the trajectories, or the first all, where a
        verifier compares them.
        """
        pairs = list(zip(trajectories, prompts, strict=True))
        return _verdicts(distributed.join(self._judge(self._part(pairs))))

    def ask(
        self,
        name: str,
        texts: collections.abc.Sequence[str],
        prompts: collections.abc.Sequence[Prompt],
    ) -> list[Verdict]:
        """What the verifier `name` says of each text: a tool of a call, a judge of a beginning.

        Raises: ConfigError where the config has no such verifier.
        """
        asked = [dataclasses.replace(p, verifier=name) for p in prompts]
        return [row[name] for row in self.judge([Trajectory(t) for t in texts], asked)]

    def _part(
        self, pairs: collections.abc.Sequence[tuple[Trajectory, Prompt]]
    ) -> collections.abc.Sequence[tuple[Trajectory, Prompt]]:
        """What this process judges."""
        if distributed.count() > 1 and self.pool.coupled(prompt for _, prompt in pairs):
            return pairs if distributed.primary() else pairs[:0]
        return distributed.part(pairs)

    def _judge(self, pairs: collections.abc.Sequence[tuple[Trajectory, Prompt]]) -> list[tp.Any]:
        """Verdicts as JSON; one call at a time."""
        with self._judging:
            found = self.pool.verify([t for t, _ in pairs], [p for _, p in pairs])
        return [{k: dataclasses.astuple(v) for k, v in row.items()} for row in found]

    def verify(
        self,
        batch: Batch,
        meta: collections.abc.Mapping[tuple[int, int], dict[str, tp.Any]] | None = None,
    ) -> Batch:
        """Judges the live rows: columns verdict/<name>, row_mask, text.verdicts, outcomes.

        A verdict that is missing counts as config.missing says; where that is `mask`,
        the row leaves statistics and loss, where it is `ignore`, the verdict is NaN.  With
        `defer` the verdicts are made in the background, and are there after `settle`.

        meta: (block, row) -> what verifiers get to know beside its text, `Trajectory.meta`.
        """
        table, text = batch.table, batch.text
        live = [(i, j) for i, j in np.ndindex(*table["row_mask"].shape) if table["row_mask"][i, j]]
        pairs = [
            (
                Trajectory(
                    text.completions[i][j],
                    text.prompt_text[i],
                    bool(table["truncated"][i, j]),
                    (meta or {}).get((i, j), {}),
                ),
                tp.cast(Prompt, text.prompts[i]),
            )
            for i, j in live
        ]
        for name in self.verifier_names:
            table[f"verdict/{name}"] = np.full(table["row_mask"].shape, np.nan, np.float32)
        mine = self._part(pairs)
        if self.defer:
            batch.pending = Pending(live, self._background.submit(self._judge, mine))
        else:
            self._enter(batch, live, self._judge(mine))
        return batch

    def settle(self, batch: Batch) -> None:
        """Waits for the verdicts of a batch and enters them; nothing where they are there."""
        if batch.pending is not None:
            rows, part = batch.pending
            batch.pending = None
            self._enter(batch, rows, part.result())

    def _enter(self, batch: Batch, rows: list[tuple[int, int]], part: list[tp.Any]) -> None:
        """Enters the verdicts of which this process has a part."""
        table, text = batch.table, batch.text
        for (i, j), verdicts in zip(rows, _verdicts(distributed.join(part)), strict=True):
            text.verdicts[i][j] = verdicts
            known = bool(verdicts)
            for name, verdict in verdicts.items():
                batch.outcomes[f"{name}/{verdict.outcome}"] += 1
                score = self._counts_as(name, verdict.outcome, verdict.score)
                if score is None:
                    known = False
                else:
                    table[f"verdict/{name}"][i, j] = score
            table["row_mask"][i, j] = known


def _verdicts(rows: list[tp.Any]) -> list[dict[str, Verdict]]:
    return [{k: Verdict(*v) for k, v in row.items()} for row in rows]


def _cut(table: Table, over: np.ndarray, pad: int) -> None:
    """Takes the tokens where `over` (broadcast to [P,G,T]) is True out of the completions."""
    table["completion_mask"] &= ~over
    for name, fill in (("completion_tokens", pad), ("sampler_logp", 0)):
        table[name] = np.where(over, np.array(fill, table[name].dtype), table[name])
