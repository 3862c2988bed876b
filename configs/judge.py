"""A language model as the verifier, with its error rates taken out of the update.

  export JUDGE_URL=http://127.0.0.1:8000/v1 JUDGE_MODEL=Qwen/Qwen3-8B
  rlpt train --config configs/judge.py:url=$JUDGE_URL,model=$JUDGE_MODEL --workdir runs/judge
  rlpt train --config configs/judge.py --workdir runs/judge        # a server at 127.0.0.1:8000
  rlpt train --config configs/judge.py:runlocal --workdir /tmp/judge          # without a judge

Without any service, by the model of the quickstart, which is a poor judge:

  rlpt serve --model embedded --prompt_tokens 768 --port 8000 &
  rlpt train --config configs/judge.py:model=embedded,max_tokens=64,deadline=600 --workdir runs/j

The server is any with OpenAI's /chat/completions (vLLM, SGLang, llama.cpp). The reward is its
verdict on the reply as a whole. The rates are those that Cai et al., arXiv 2510.00915, measured
for a language model as the verifier on MATH500: it refused 16.2% of the right answers and passed
33.6% of the wrong ones. Measure your own (`rlpt.verifiers.judge.rates`, see docs/judges.md) and
give them as fp_rate and fn_rate; and see first what one token does to the judge (`judge.audit`;
Zhao et al., "One Token to Fool LLM-as-a-Judge", arXiv 2507.08794). In the first paper such a judge
as the reward was worse than a rule; where there is a rule, let the judge hear its appeals instead:
configs/noisy_appeals.py.
Not run by us with a large judge. Tested are the client, against a server that fails in every way,
and the runlocal arm, in which a pattern stands in for the judge.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: 'url=URL,model=NAME[,key=NAME_OF_ENVIRONMENT_VARIABLE][,max_tokens=N][,deadline=SECONDS]
    [,fp_rate=X,fn_rate=Y]', or runlocal.
    """
    given = dict(part.split("=", 1) for part in (arg or "").split(",") if "=" in part)
    deadline = float(given.get("deadline", 55.0))  # for all rows of a step
    c = rlpt.config.default()
    c.steps = 100
    c.tasks = (dict(fn="arithmetic.sums", digits=2),)
    c.verifiers = (
        dict(
            fn="judge.judge",
            name="judge",
            base_url=given.get("url", "http://127.0.0.1:8000/v1"),
            model=given.get("model", "judge"),
            api_key_env=given.get("key", ""),
            extract="whole",
            max_chars=1000,
            max_tokens=int(given.get("max_tokens", 256)),
            concurrency=16,
            timeout=max(20.0, deadline / 4),
            deadline=deadline,
            cache="",  # a path keeps verdicts over restarts
        ),
    )
    # A reply of the judge that is no verdict is the judge's doing, not the completion's.
    c.missing.unparsable = "mask"
    # All rows of a step are one call.
    c.pool.deadline, c.pool.batch_deadline = deadline + 5.0, deadline + 35.0
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (16,)
    c.advantage = (
        dict(fn="noise.control", scale=1.0, writes="control_advantages"),
        dict(
            fn="noise.backward",
            fp_rate=float(given.get("fp_rate", 0.336)),
            fn_rate=float(given.get("fn_rate", 0.162)),
            scale=1.0,
        ),
        "noise.audit",
    )
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
