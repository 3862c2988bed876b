"""BRPO: a judge says of each completion whether it is better than one of its group.

  export JUDGE_URL=http://127.0.0.1:8000/v1 JUDGE_MODEL=Qwen/Qwen3-8B
  rlpt train --config configs/brpo.py:url=$JUDGE_URL,model=$JUDGE_MODEL --workdir runs/brpo
  rlpt train --config configs/brpo.py --workdir runs/brpo              # a server at 127.0.0.1:8000
  rlpt train --config configs/brpo.py:runlocal --workdir /tmp/brpo     # no judge

Jia et al., "Writing-Zero: Bridge the Gap Between Non-verifiable Tasks and Verifiable Rewards"
(BRPO), arXiv 2506.00103. There: a judge trained to compare two texts, one row of the group drawn at
random as the reference, +1 or -1 without mean or std, the reference row not trained, prompts
without a contrast left out as in DAPO. Differs in: any judge, asked for one score of the pair; what
a tie gets (-1) and the bound of the contrast (0.9) were not confirmed. Not run by us with a large
judge; in the runlocal arm a pattern stands in for it. The evaluation, and `rewards` in the log, are
the verdicts of `number`, which are not trained on.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: 'url=URL,model=NAME[,key=NAME_OF_ENVIRONMENT_VARIABLE][,max_tokens=N]
    [,deadline=SECONDS]', or runlocal.
    """
    given = dict(part.split("=", 1) for part in (arg or "").split(",") if "=" in part)
    deadline = float(given.get("deadline", 55.0))  # for all rows of a step
    c = rlpt.config.default()
    c.steps = 100
    c.tasks = (dict(fn="arithmetic.sums", digits=2),)
    c.verifiers = (
        dict(
            fn="rubric.pairwise",
            name="better",
            base_url=given.get("url", "http://127.0.0.1:8000/v1"),
            model=given.get("model", "judge"),
            api_key_env=given.get("key", ""),
            criteria="a right result first, then a brief one",
            options=dict(
                max_tokens=int(given.get("max_tokens", 256)),
                timeout=max(20.0, deadline / 4),
                deadline=deadline,
            ),
            missing=dict(unparsable="mask"),
            weight=0.0,  # it compares; what is right is said by the other
        ),
        dict(fn="number.number", name="number"),
    )
    # All rows of a step are one call.
    c.pool.deadline, c.pool.batch_deadline = deadline + 5.0, deadline + 35.0
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (16,)
    c.rollout.fn = "reference.bootstrapped"
    c.advantage = (
        dict(fn="pairwise.brpo", tie=-1.0, bound=0.9, reads=dict(rewards="verdict/better")),
    )
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
