"""Tasks: where prompts and their reference answers come from (host side, no jax).

A task is a function `fn(split, *, settings) -> sequence of Prompt`, named in a
config as "module.function", or "my_pkg.mod:fn" from outside.
"""
