"""Noisy verdicts: what growing rates cost, and what the corrections win back.

  rlpt sweep configs/sweeps/noise_rates.py --workers 2
  rlpt sweep configs/sweeps/noise_rates.py:runlocal --out /tmp/noise_rates

Cai et al., arXiv 2510.00915: false positives 0.1 and false negatives 0.2 there. The job is that of
configs/noisy_control.py; the corrections know the rates that are injected. The evaluation is
clean. Expected: about four minutes a run on two CPU cores, 21 runs.
"""

RATES = ((0.1, 0.2), (0.2, 0.4))  # false positive, false negative


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    settings = [("clean", {"shaping": ()})]
    for fp_rate, fn_rate in RATES:
        noise = {"shaping.0.fp_rate": fp_rate, "shaping.0.fn_rate": fn_rate}
        settings.append((f"control-{fp_rate}-{fn_rate}", noise))
        for name in ("backward", "forward"):
            fn = dict(fn=f"noise.{name}", scale=1.0, fp_rate=fp_rate, fn_rate=fn_rate)
            settings.append((f"{name}-{fp_rate}-{fn_rate}", noise | {"advantage": (fn,)}))
    return dict(
        config="configs/noisy_control.py" + (f":{arg}" if arg else ""),
        settings=settings,
        baseline="clean",
        seeds=(0, 1, 2),
    )
