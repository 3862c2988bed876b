r"""Rubrics as rewards, implicit: a judge reads the whole rubric and gives one rating.

  export JUDGE_URL=http://127.0.0.1:8000/v1 JUDGE_MODEL=Qwen/Qwen3-8B
  rlpt train --config configs/rubrics_implicit.py:url=$JUDGE_URL,model=$JUDGE_MODEL --workdir runs/r
  rlpt train --config configs/rubrics_implicit.py --workdir runs/r     # a server at 127.0.0.1:8000
  rlpt train --config configs/rubrics_implicit.py:runlocal --workdir /tmp/rubrics   # no judge

Without any service, by the model of the quickstart, which is a poor judge:

  rlpt serve --model embedded --prompt_tokens 768 --port 8000 &
  rlpt train --workdir runs/r \
    --config configs/rubrics_implicit.py:model=embedded,max_tokens=64,deadline=600

Gunjal et al., "Rubrics as Rewards", arXiv 2507.17746. There: a rating from 1 to 10, scaled to
[0, 1]; the rest as in configs/rubrics_explicit.py, whose job this has. Not run by us with a large
judge.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: 'url=URL,model=NAME[,key=NAME_OF_ENVIRONMENT_VARIABLE][,max_tokens=N]
    [,deadline=SECONDS]', or runlocal.
    """
    given = dict(part.split("=", 1) for part in (arg or "").split(",") if "=" in part)
    deadline = float(given.get("deadline", 55.0))  # for all rows of a step
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (
        dict(
            fn="rubric.implicit",
            name="rubric",
            weight=1.0,
            items=(
                dict(text="Its last number is the sum.", category="Essential"),
                dict(text="Says nothing before the number.", category="Important"),
                dict(text="Does not repeat the question.", category="Pitfall"),
            ),
            base_url=given.get("url", "http://127.0.0.1:8000/v1"),
            model=given.get("model", "judge"),
            api_key_env=given.get("key", ""),
            low=1.0,
            high=10.0,
            reference=True,
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
