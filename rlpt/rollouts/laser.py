"""LaSeR: one more token behind a completion, whose likelihood is the policy's verdict on it."""

from __future__ import annotations

import typing as tp

import numpy as np

_FILL = {"completion_tokens": 0, "completion_mask": False, "loss_mask": False, "sampler_logp": 0.0}


def marked(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    token: str,
    reference_logp: float = 0.0,
) -> tuple[tp.Any, tp.Any]:
    """On-policy groups; `token` is appended to every completion, read by the model, not trained.

    It is the last token of completion_mask, not in loss_mask, and takes one place of the bucket.
    How likely it is, `scorers.verification.self_logp` writes; what that says of the completion,
    `rewards.verification.self_reward`.

    Columns beside the usual ones: self_reference [P,G] float32, the same in all rows: the log-prob
    of the token before any training.

    Args:
      stream, tools: as in `sample.on_policy`.
      state: None, or {"reference": the log-prob that the first step measured}.
      token: the text of one token that no completion has, such as an unused special token.
      reference_logp: that log-prob, nats; 0: measured on the completions of the first step, which
        the model has not been trained on.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for a text that is not one token, or a temperature other than 1, at which the
      log-prob would be of another law.

    Reference: Yang et al., "LaSeR: Reinforcement Learning with Last-Token Self-Rewarding",
    arXiv:2510.14943.
    """
    _check(tools)
    ids = tools.tokenizer.encode(token)
    if len(ids) != 1:
        raise ValueError(
            f"marked token: got {token!r}, which is {len(ids)} tokens, expected one, such as an "
            "unused special token of the model"
        )
    items = stream.take(prompts)
    batch = tools.generate(items, group=group, step=step, max_tokens=tools.width - 1)
    table = batch.table
    for column, fill in _FILL.items():
        table[column] = np.pad(
            table[column], ((0, 0), (0, 0), (0, 1)), constant_values=np.array(fill)
        )
    end = table["completion_mask"].sum(-1, keepdims=True)
    np.put_along_axis(table["completion_tokens"], end, ids[0], axis=-1)
    np.put_along_axis(table["completion_mask"], end, True, axis=-1)
    if state is None:
        state = {"reference": reference_logp or _mean_logp(tools, table, end)}
    table["self_reference"] = np.full((prompts, group), state["reference"], np.float32)
    return {"policy": tools.verify(batch)}, state


def _check(setup: tp.Any) -> None:
    """Raises: ValueError, see `marked`."""
    if setup.sampling.temperature != 1.0:
        raise ValueError(
            f"marked: got config.sampling.temperature={setup.sampling.temperature}, expected 1"
        )


marked.check = _check  # type: ignore[attr-defined]
marked.columns = {"self_reference": ("PG", "f")}  # type: ignore[attr-defined]


def _mean_logp(tools: tp.Any, table: tp.Any, at: np.ndarray) -> float:
    """The mean log-prob of the tokens at [P,G,1]."""
    logp = np.take_along_axis(np.asarray(tools.score(table)["logp"]), at, axis=-1)
    return float(logp.mean())
