"""Runs code that a model wrote, in a process that can do nothing but compute.

host.py is the side of the verifier; keeper.py a process that starts one sandbox and
leaves nothing of it behind; guest.py what runs inside.  docs/sandbox.md has the tiers
and what each of them holds.
"""
