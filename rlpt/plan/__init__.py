"""Planning a run on machines that are not here: does it fit, and what would a step take.

`programs` lowers and compiles a run's own programs with abstract arrays for a topology, `hlo`
counts FLOPs and collectives in what came out, `chips` turns them into seconds by assumptions
that it states, `report` puts it together.  libtpu compiles for a TPU where there is none.
"""
