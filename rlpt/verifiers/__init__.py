"""Verifiers: judge a completion against a prompt's reference (host side, no jax).

A verifier is a function `verify(trajectory, prompt, *, settings) -> Verdict`, or
over many rows `verify(trajectories, prompts, *, settings) -> list of Verdict`,
named in a config as "module.function", or "my_pkg.mod:fn" from outside.
`pool.VerifierPool` runs them in processes that may hang, crash or lie.
"""
