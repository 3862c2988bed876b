"""A run's own programs, compiled with abstract arrays: rollout, scoring, credit, update."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
import typing as tp

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlpt import build, generate, learner, sharding
from rlpt import columns as columns_lib
from rlpt.config import ConfigError
from rlpt.models import lora, products, transformer
from rlpt.models.transformer import ModelConfig
from rlpt.plan import hlo

Tree = tp.Any
_DTYPES = {"i": jnp.int32, "b": jnp.bool_, "f": jnp.float32}


@dataclasses.dataclass
class Program:
    """One compiled program and what was found in it, a device.

    bytes: of arguments, outputs that are no arguments, temporaries and code; need: all of them;
    error: the compiler's words where it does not fit, and then nothing else is known.
    """

    name: str
    compile_seconds: float
    bytes: dict[str, int]
    counts: hlo.Counts
    error: str = ""

    @property
    def need(self) -> int:
        return sum(self.bytes.values())


class Abstract:
    """The arrays of a run as shapes with shardings.

    Args:
      config: of the run.  model: the policy's shape.  mesh: of rlpt.sharding, over devices
        that need not be here.

    Raises: ConfigError for what is not planned: further learners, scorers, lanes, int8 weights.
    """

    def __init__(self, config: tp.Any, model: ModelConfig, mesh: Mesh):
        for name, plain in (("weights", ""), ("lanes", 0)):
            if (got := config.sampling[name]) != plain:
                raise ConfigError(
                    f"plan: got config.sampling.{name}={got!r}, expected {plain!r}: the programs "
                    "of that sampler are not planned; plan without it, for an upper bound"
                )
        if config.learners:
            raise ConfigError("plan: got config.learners, expected a run that trains one policy")
        if config.scorers:
            raise ConfigError(
                f"plan: got config.scorers={config.scorers!r:.80}, expected (): their programs are "
                "not planned, nor is what reads their columns"
            )
        self.config, self.mesh = config, mesh
        self.model = build.model_config(config, model)
        self.chain, self.scorers = build.check(config)
        self.learner = build.make_learner(config, self.model, mesh)
        self.reads = {c for _, m in self.chain.methods for c in m.reads} | self.learner.reads()
        self.reads |= {c for s in self.scorers for c in s.reads} | set(config.log.columns)
        self.base = self.placed(
            jax.eval_shape(lambda: transformer.init_params(self.model, jax.random.key(0)))
        )
        trained, self.frozen = self.base, None
        if rank := config.model.lora.rank:
            adapt = functools.partial(lora.init_lora, rank=rank, targets=config.model.lora.targets)
            key = jax.eval_shape(lambda: jax.random.key(0))
            trained = self.placed(jax.eval_shape(lambda b, k: adapt(b, key=k), self.base, key))
            self.frozen = self.base
        self.opt = jax.eval_shape(self.learner.optimizer.init, trained)
        self.opt = _with(self.opt, sharding.shardings_like(self.opt, trained, mesh))
        self.trained = trained

    def placed(self, params: Tree) -> Tree:
        """Parameters as the update has them."""
        return _with(params, sharding.shardings(params, self.mesh))

    @property
    def rollout_params(self) -> Tree:
        """Parameters as the sampler has them (see `Learners.rollout_params`)."""
        dtype = jnp.dtype(self.config.sampling.dtype)

        def own(path: tp.Any, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            where = {
                "as_trained": x.sharding,
                "gathered": sharding.without_fsdp(x.sharding),
                "replicated": sharding.everywhere(self.mesh),
            }[self.config.mesh.rollout]
            rounded = self.rounds_kernels and products.is_kernel(path)
            return jax.ShapeDtypeStruct(x.shape, jnp.bfloat16 if rounded else dtype, sharding=where)

        with_path = jax.tree_util.tree_map_with_path
        trained, frozen = (with_path(own, t) for t in (self.trained, self.frozen))
        return jax.eval_shape(self.learner.assemble, trained, frozen) if frozen else trained

    @property
    def rounds_kernels(self) -> bool:
        """Whether the sampler has the kernels of layers in bfloat16 (`Learners.rollout_params`)."""
        c = self.config
        return c.model.matmul_precision == "bfloat16" and c.sampling.dtype == "float32"

    @property
    def shares_rollout_params(self) -> bool:
        """Whether the sampler reads the very arrays that are trained."""
        same = self.config.sampling.dtype == "float32" and not self.rounds_kernels
        return same and self.config.mesh.rollout == "as_trained"

    def array(self, shape: tp.Sequence[int], dtype: tp.Any, whole: bool = False) -> tp.Any:
        """[P, ...] cut as batches are, or whole on every device."""
        cut = sharding.everywhere(self.mesh) if whole else sharding.batch_sharding(self.mesh)
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=cut)

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """P, G and the largest L and T."""
        c = self.config
        return {
            "P": c.rollout.prompts * c.rollout.group_blocks,
            "G": c.rollout.group,
            "L": max(c.sampling.prompt_buckets),
            "T": max(c.sampling.completion_buckets),
        }

    @functools.cached_property
    def batch(self) -> columns_lib.Table:
        """What a rollout makes, and the log-probs that are asked for."""
        table = {}
        own = build.rollout_columns(self.config)
        for name, column in build.abstract_table(self.config).items():
            axes = own[name][0] if name in own else columns_lib.LEGEND.get(name, ("PG",))[0]
            table[name] = self.array(
                [self.sizes.get(a, n) for a, n in zip(axes, column.shape, strict=True)],
                column.dtype,
            )
        like = table["sampler_logp"]
        if "ref_logp" in self.reads:
            table["ref_logp"] = like
        if self.learner.old_logp_given:
            table["old_logp"] = like
        return table


def _with(tree: Tree, shardings: Tree) -> Tree:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def local_bytes(tree: Tree) -> int:
    """Bytes of the leaves on one device."""
    return sum(
        jnp.dtype(x.dtype).itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(tree)
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def compile_all(
    run: Abstract, say: tp.Callable[[str], None] = print
) -> tuple[dict[str, Program], Tree]:
    """Compiles what a step runs. Returns: the programs by name, and the sampler's state.

    say: told of each program before and after it is compiled.
    """
    found: dict[str, Program] = {}
    size, config = run.sizes, run.config
    slabs = size["P"] // config.learner.minibatches // (config.learner.micro_blocks or size["P"])

    def finish(name: str, lower: tp.Callable[[], tp.Any], dynamic: float) -> tp.Any:
        began = time.time()
        compiled, error = None, ""
        try:
            compiled = lower().compile()
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            error = str(e).partition("\n\n")[0]
        took = time.time() - began
        if compiled is None:
            found[name] = Program(name, took, {}, hlo.Counts(), error)
        else:
            m = compiled.memory_analysis()
            parts = {
                "arguments": m.argument_size_in_bytes,
                "outputs": m.output_size_in_bytes - m.alias_size_in_bytes,
                "temporaries": m.temp_size_in_bytes,
                "code": m.generated_code_size_in_bytes,
            }
            counts = hlo.count(compiled.as_text(), dynamic, functools.partial(_pairs, size))
            found[name] = Program(name, took, parts, counts)
        say(f"{name}: compiled in {took:.0f} s" + (", does not fit" if error else ""))
        return compiled

    law, numbers = generate.make_law(*(config.sampling[k] for k in generate.LawNumbers._fields))
    p, g, width = size["P"], size["G"], size["T"]
    key = jax.eval_shape(lambda: jax.random.key(0))
    stop = run.array((1,), jnp.int32, whole=True)
    dtype = jnp.dtype(config.sampling.dtype)
    rows = run.array((p, size["L"]), jnp.int32), run.array((p, size["L"]), jnp.bool_)
    prefill = finish(
        "prefill",
        lambda: generate.start.lower(
            run.model, run.rollout_params, *rows, key, run.array((p, g, 4), jnp.int32), stop,
            numbers, run.array((p, g), jnp.bool_), run.array((p, 1), jnp.int32),
            law=law, width=width, pad=0, dtype=dtype, mesh=run.mesh,
        ),
        1,
    )  # fmt: skip
    state: Tree = None
    if prefill is not None:
        state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            prefill.out_info,
            prefill.output_shardings,
        )
        finish(
            "decode",
            lambda: generate.decode.lower(
                run.model, run.rollout_params, state, jax.ShapeDtypeStruct((), jnp.int32), stop,
                numbers, law=law, pad=0, dtype=dtype,
            ),
            (width - 1) / len(generate.segments(width)),
        )  # fmt: skip
    if run.learner.needs_old_logp or "ref_logp" in run.reads:
        table = {k: run.batch[k] for k in learner.MODEL_COLUMNS}
        finish("score", lambda: tp.cast(tp.Any, run.learner.score).lower(run.base, table), slabs)
    credited = functools.partial(_credit, run)
    finish("credit", lambda: jax.jit(credited).lower(run.batch, key), 1)
    new = jax.eval_shape(credited, run.batch, key)
    table = {k: v for k, v in run.batch.items() if "/" not in k and k != "answer_id"}
    made = {"advantages"} | (run.learner.reads() & set(new))
    table |= {k: run.array(new[k].shape, new[k].dtype) for k in made}
    table = {
        k: run.array((v.shape[0] // config.learner.minibatches, *v.shape[1:]), v.dtype)
        for k, v in table.items()
    }
    finish(
        "update",
        lambda: tp.cast(tp.Any, run.learner.step).lower(
            {"params": run.trained, "opt": run.opt}, run.frozen, table, run.learner.numbers(0),
            jax.ShapeDtypeStruct((), jnp.int32),
        ),
        slabs,
    )  # fmt: skip
    return found, state


def _credit(run: Abstract, table: columns_lib.Table, key: jax.Array) -> columns_lib.Table:
    chain = run.chain
    new, _ = chain(dict(table), chain.init(), chain.numbers(0), key, jnp.int32(0))
    return {k: v for k, v in new.items() if v is not table.get(k)}


def _pairs(size: dict[str, int], queries: int, keys: int) -> float:
    """(query, key) pairs that a splash kernel visits, blocks that it cuts not counted whole."""
    if queries == keys or queries < size["G"] * (size["T"] - 1):
        return queries * queries / 2
    width = size["T"] - 1
    return queries * (size["L"] + width / 2)
