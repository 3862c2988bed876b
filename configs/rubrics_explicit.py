"""Rubrics as rewards: every criterion is judged by itself, the reward is their weighted share.

  rlpt train --config configs/rubrics_explicit.py --workdir runs/rubrics
  rlpt train --config configs/rubrics_explicit.py:url=$JUDGE_URL,model=$JUDGE_MODEL --workdir runs/r
  rlpt train --config configs/rubrics_explicit.py:runlocal --workdir /tmp/rubrics

Gunjal et al., "Rubrics as Rewards", arXiv 2507.17746. There: Qwen2.5-7B, 16 completions, batch 96,
lr 5e-6, 7 to 20 criteria a prompt written by a strong model that saw the reference, GPT-4o-mini as
the judge; weights Essential 1, Important 0.7, Optional 0.3, Pitfall 0.9 (from memory). Such rubrics
stand in the data: tasks files.jsonl with meta=("rubric",), and no items here.

The job here is that of configs/quickstart.py, SmolLM2 and one-digit sums on a laptop, with one
rubric for all prompts, whose criteria are programs; url and model add one for a judge. The details
in rollouts.jsonl have a mark a criterion (`rlpt.verifiers.rubric.shares`); pass@k is of the rubric;
the verdicts of `number` are in the log.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: 'url=URL,model=NAME[,key=NAME_OF_ENVIRONMENT_VARIABLE][,max_tokens=N]
    [,deadline=SECONDS]', or runlocal.
    """
    given = dict(part.split("=", 1) for part in (arg or "").split(",") if "=" in part)
    deadline = float(given.get("deadline", 55.0))  # for all rows of a step
    items = (
        dict(
            text="Its last number is the sum.",
            category="Essential",
            program=dict(fn="number.number"),
        ),
        dict(
            text="Says nothing before the number.",
            category="Important",
            program=dict(fn="pattern.regex", pattern=r"^\s*-?[0-9]"),
        ),
        dict(
            text="Does not repeat the question.",
            category="Pitfall",
            program=dict(fn="pattern.regex", pattern=r"^[^+=]*$"),
        ),
    )
    if "url" in given:
        items += (dict(text="Is polite and free of remarks.", category="Optional"),)
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (
        dict(
            fn="rubric.explicit",
            name="rubric",
            weight=1.0,
            items=items,
            base_url=given.get("url", ""),
            model=given.get("model", ""),
            api_key_env=given.get("key", ""),
            options=dict(
                max_tokens=int(given.get("max_tokens", 256)),
                timeout=max(20.0, deadline / 4),
                deadline=deadline,
            ),
            missing=dict(unparsable="mask"),
        ),
        dict(fn="number.number", name="number", weight=0.0),
    )
    # All rows of a step are one call.
    c.pool.deadline, c.pool.batch_deadline = deadline + 5.0, deadline + 35.0
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
