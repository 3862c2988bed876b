"""Functions of a user's own, named in test configs as 'tests.toy:name'."""

import jax
import jax.numpy as jnp

from rlpt.columns import Transform
from rlpt.verifiers.base import judged


def starts_with_digit(trajectory, prompt):
    """Correct when the completion starts with a digit: a toy model can learn it."""
    return judged(trajectory.text[:1].isdigit())


def always(trajectory, prompt, *, score: float = 1.0):
    """Everything is correct."""
    return judged(score > 0)


def gone(trajectory, prompt):
    """A service that does not answer."""
    raise ConnectionError("nobody is there")


def trl_length(prompts, completions, **columns):
    """A reward of TRL's signature."""
    return [None if len(c) == 0 else min(len(c), 8) / 8 for c in completions]


def _moving_baseline(rewards, row_mask, state, *, decay: float = 0.9):
    mean = jnp.sum(jnp.where(row_mask, rewards, 0)) / jnp.maximum(row_mask.sum(), 1)
    new = jnp.where(state["count"] == 0, mean, decay * state["mean"] + (1 - decay) * mean)
    out = {"rewards": rewards - new, "metrics/shaping/baseline": new}
    return out, {"mean": new, "count": state["count"] + 1}


moving_baseline = Transform(
    init=lambda: {"mean": jnp.float32(0), "count": jnp.int32(0)}, update=_moving_baseline
)


def greedy_advantage(rewards, row_mask=None, *, scale: float = 1.0):
    """An estimator of a user's own."""
    return rewards * scale


def without_the_first(rewards, row_mask):
    """Leaves the first row of each block out."""
    return {"row_mask": row_mask & (jnp.arange(rewards.shape[1]) > 0)}


def heads(rewards, key):
    """Its own draw, as a metric."""
    return {"rewards": rewards, "metrics/heads": jax.random.uniform(key)}


def tails(rewards, key):
    """As `heads`."""
    return {"rewards": rewards, "metrics/tails": jax.random.uniform(key)}


def wants_unmade_column(rewards, brilliance):
    """Asks for a column that nothing makes."""
    return rewards * brilliance


def wrong_shape(rewards):
    """Returns one number a group."""
    return rewards.sum(1)


def surprise(logp, temperature, head, hidden, models, *, scale: float = 1.0):
    """A scorer that reads all that scorers may ask for."""
    logits = head(hidden) / temperature[..., None, None]
    assert logits.shape[:3] == logp.shape and "critic" in models
    return {"surprise": -scale * logp, "top": logits.max(-1)}


def as_before(rewards, surprise):
    """Reads a scorer's column, and changes nothing."""
    return jnp.where(surprise[..., 0] > -jnp.inf, rewards, 0.0)


def a_scalar(rewards):
    """Writes a number where a column belongs."""
    return {"level": rewards.mean()}


def wants_model(models):
    """A scorer that asks for a model that is not there."""
    return models["critic"]({})["value"]


def labelled(stream, tools, state, step, *, prompts: int, group: int):
    """On-policy rows with labels [P,G,T] for a reward model."""
    from rlpt.rollouts import sample

    batches, state = sample.on_policy(stream, tools, state, step, prompts=prompts, group=group)
    table = batches["policy"].table
    ones = table["completion_mask"].astype("float32")
    table["labels"] = table["verdict/digit"][..., None] * ones + ones
    return batches, state


labelled.columns = {"labels": ("PGT", "f")}


def last_score(scores, completion_mask):
    """The score at the last token is the reward."""
    last = completion_mask.sum(-1, keepdims=True) - 1
    return jnp.take_along_axis(scores, jnp.maximum(last, 0), -1)[..., 0]


def verdict_term(verdict, completion_mask):
    """A loss term that reads columns by prefix."""
    return verdict["digit"][..., None] * completion_mask


def undefined_value(value):
    """A term of a critic's loss that is never finite."""
    return value * jnp.nan
