"""Weights at scale: what a process reads of a model in files, and what an export needs.

The large model is loaded by two processes of four devices each, as a pod would; each tells what
it has read, how much memory that took, and whether its numbers are those of the files.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from rlpt import blocks, build, distributed, learners, sharding
from rlpt import config as config_lib
from rlpt.models import hf, leaves, lora, transformer
from rlpt.models import load as load_lib
from rlpt.models.hf.weights import hf_slots
from rlpt.models.transformer import ModelConfig
from tests.numeric import devices

ROOT = pathlib.Path(__file__).parents[1]
MB = 1 << 20
SLACK = 64 * MB  # of an allocator, and of what jax itself takes while it places arrays

LARGE = ModelConfig(  # 419 MB in float32, of which a weight's layers are at most a quarter
    vocab_size=4096, num_layers=6, d_model=1024, d_ff=4096, num_heads=16, num_kv_heads=16,
    head_dim=64, qk_norm=True, family="qwen3",
)  # fmt: skip
SMALL = ModelConfig(
    vocab_size=17, num_layers=3, d_model=8, d_ff=12, num_heads=4, num_kv_heads=2, head_dim=4,
    qkv_bias=True, tie_embeddings=False, family="qwen2",
)  # fmt: skip


def random_params(cfg, dtype=np.float32):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: rng.standard_normal(shape, np.float32).astype(dtype),
        transformer.param_shapes(cfg),
        is_leaf=lambda s: isinstance(s, tuple),
    )


def save(directory, cfg, params, **kw):
    tokenizer = load_lib.toy_tokenizer(17)
    hf.save_hf(directory, cfg, params, tokenizer, run_info={"run_id": "r"}, **kw)
    return directory


def size(params):
    return sum(x.nbytes for x in jax.tree.leaves(params))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(directory of several files, parameters) of a small model."""
    params = random_params(SMALL)
    directory = tmp_path_factory.mktemp("models") / "small"
    save(directory, SMALL, params, max_shard_bytes=2500)
    assert len(list(directory.glob("model-*.safetensors"))) > 3, "several files"
    return directory, params


@pytest.fixture
def reads(monkeypatch):
    """Bytes of every read of a Leaf, in order."""
    return watch(monkeypatch.setattr)


def watch(replace, methods=("__getitem__", "pick")):
    taken = []

    def watched(original):
        def read(leaf, index):
            value = original(leaf, index)
            taken.append(value.nbytes)
            return value

        return read

    for name in methods:
        replace(leaves.Leaf, name, watched(getattr(leaves.Leaf, name)))
    return taken


# ---- two processes of a pod


def plain(directory, cfg):
    """The whole tree by the library of the format, every tensor stacked by hand."""
    tensors = {}
    for path in directory.glob("*.safetensors"):
        tensors |= load_file(path)
    out = {"layers": {}}
    for name, slot in hf_slots(cfg).items():
        value = tensors[name].T if slot.transposed else tensors[name]
        if slot.layer is None:
            out[slot.leaf[0]] = value
        else:
            out["layers"].setdefault(slot.leaf[1], []).append(value)
    return out | {"layers": {k: np.stack(v) for k, v in out["layers"].items()}}


def memory(kind):
    """Of this process: VmRSS as it is, VmHWM at most so far (getrusage tells the parent's too)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) * 1024


def local_bytes(leaf):
    return sum(shard.data.nbytes for shard in leaf.addressable_shards)


def one_process(directory):
    """What this process of several sees of loading and of exporting a model."""
    distributed.initialize("on")
    mesh = sharding.make_mesh({"data": 1, "fsdp": 4, "model": 2})
    jax.block_until_ready(sharding.place({"embed": np.ones((8, 8))}, mesh))  # jax has started
    before = memory("VmRSS")
    reads = watch(setattr)
    loaded = load_lib.load(directory)
    of_load = sum(reads)
    reads.clear()
    params = jax.block_until_ready(sharding.place(loaded.params, mesh))
    after_load = memory("VmHWM")
    own = jax.tree.leaves(params)
    report = {
        "whole": size(loaded.params),
        "fingerprint": loaded.fingerprint,
        "read_by_load": of_load,
        "read_by_place": sum(reads),
        "largest_read": max(reads),
        "largest_slice": max(s.data.nbytes for x in own for s in x.addressable_shards),
        "largest_leaf": max(local_bytes(x) for x in own),
        "held": sum(local_bytes(x) for x in own),
        "growth": after_load - before,
    }
    out = directory.with_name("out")
    save(out, LARGE, params, dtype="bfloat16", max_shard_bytes=64 * MB, fetch=sharding.fetch)
    report["export_growth"] = memory("VmHWM") - after_load
    want = plain(directory, LARGE)
    report["wrong"] = [
        jax.tree_util.keystr(path)
        for (path, leaf), value in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(want), strict=True
        )
        for shard in leaf.addressable_shards
        if not np.array_equal(np.asarray(shard.data), value[shard.index])
    ]
    distributed.agree(0)  # process 0 has written all
    again = plain(out, LARGE)
    report["wrong"] += [
        f"exported {jax.tree_util.keystr(path)}"
        for (path, value), got in zip(
            jax.tree_util.tree_leaves_with_path(want), jax.tree.leaves(again), strict=True
        )
        if not np.array_equal(value.astype(ml_dtypes.bfloat16), got)
    ]
    print(json.dumps(report))


@pytest.fixture(scope="module")
def reports():
    """What each of two processes tells of the same model, see `one_process`."""
    with tempfile.TemporaryDirectory() as work:
        directory = pathlib.Path(work) / "model"
        params = random_params(LARGE)
        save(directory, LARGE, params, max_shard_bytes=100 * MB)
        whole, fingerprint = size(params), load_lib.fingerprint(LARGE, params)
        del params
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        env = os.environ | {
            "XLA_FLAGS": devices(4),
            "JAX_PLATFORMS": "cpu",
            "RLPT_COORDINATOR": f"localhost:{port}",
            "RLPT_PROCESSES": "2",
            "PYTHONPATH": str(ROOT),
        }
        children = [
            subprocess.Popen(
                [sys.executable, __file__, "one_process", directory],
                env=env | {"RLPT_PROCESS": str(i)},
                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for i in range(2)
        ]  # fmt: skip
        try:
            ended = [child.communicate(timeout=200) for child in children]
        finally:
            for child in children:
                child.kill()
        for child, (_, stderr) in zip(children, ended, strict=True):
            assert child.returncode == 0, stderr
        got = [json.loads(stdout.splitlines()[-1]) for stdout, _ in ended]
        for report in got:
            assert report["whole"] == whole > 400e6, report
            assert report["fingerprint"] == fingerprint, "that of the arrays before they were saved"
        yield got


def test_each_process_reads_its_slices_and_no_more(reports):
    for report in reports:
        assert report["read_by_load"] < MB, "opening a model reads samples for its fingerprint"
        assert report["largest_read"] <= report["largest_slice"] < 0.04 * report["whole"], report
        assert report["read_by_place"] <= report["held"] < 0.51 * report["whole"], report


def test_memory_is_that_of_the_part_on_the_devices(reports):
    for report in reports:
        most = report["held"] + report["largest_leaf"] + SLACK
        assert report["growth"] < most < report["whole"], report
        layer = 4 * LARGE.d_model * LARGE.d_ff  # is gathered on each of the four devices
        assert report["export_growth"] < 8 * layer + 2 * SLACK < report["whole"], report


def test_both_processes_have_the_numbers_of_the_files(reports):
    assert [report["wrong"] for report in reports] == [[], []]


# ---- the models of a run


def eight_devices(directory):
    """Policy and critic of a run on eight devices, both from files."""
    reads = watch(setattr, ["__getitem__"])  # a fingerprint samples all of a model so small
    config = config_lib.default()
    config.model.source, config.mesh.fsdp, config.mesh.model = str(directory), 4, 2
    config.learners.critic = {
        "source": str(directory),
        "writes": "values",
        "loss": (dict(fn="penalties.value_clip", reads=dict(old_value="values")),),
    }
    loaded = load_lib.load(directory)
    mesh = blocks.make_mesh(config)
    made = learners.Learners(
        config, build.make_learners(config, loaded.config, mesh), (), loaded, set(),
        jax.random.key(0),
    )  # fmt: skip
    want = plain(directory, SMALL)
    report = {"largest_read": max(reads), "largest_leaf": max(map(size, jax.tree.leaves(want)))}
    for name in ("policy", "critic"):  # the critic has another head
        own = {k: v for k, v in made.states[name]["params"].items() if k in want}
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(own), {k: want[k] for k in own})
        slices = [s.data.nbytes for x in jax.tree.leaves(own) for s in x.addressable_shards]
        report[name] = [max(slices), len(slices)]
    report["reads"] = len(reads)
    print(json.dumps(report))


def test_no_model_of_a_run_is_read_whole(small):
    directory, _ = small
    env = os.environ | {
        "XLA_FLAGS": devices(8),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, __file__, "eight_devices", directory],
        env=env, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    for name in ("policy", "critic"):
        largest, slices = report[name]
        assert report["largest_read"] <= largest < report["largest_leaf"] / 3, report
        assert slices >= 8 * 14, "most leaves of the tree, on every device"
    assert report["reads"] <= report["policy"][1] + report["critic"][1] + 8, "each slice once"


# ---- one process


def test_indexing_a_leaf_is_indexing_the_array(small):
    directory, params = small
    _, tree = hf.load_hf(directory)
    assert jax.tree.structure(tree) == jax.tree.structure(params)

    def index(data, shape):
        def along(n):
            cut = st.tuples(*[st.none() | st.integers(-n, n)] * 2).map(lambda ends: slice(*ends))
            return st.integers(-n, n - 1) | cut

        return data.draw(st.tuples(*map(along, shape[: data.draw(st.integers(1, len(shape)))])))

    @hypothesis.settings(deadline=None, max_examples=60)
    @hypothesis.given(st.data())
    def check(data):
        name = data.draw(st.sampled_from(["embed", "final_norm", "q", "q_bias", "down"]))
        leaf, array = (t.get(name, t["layers"].get(name)) for t in (tree, params))
        at = index(data, array.shape)
        got = leaf[at]
        assert got.flags.owndata or got.base is None, "a copy, not a view of the file"
        assert (got.shape, got.dtype) == (array[at].shape, array.dtype)
        np.testing.assert_array_equal(got, array[at], err_msg=f"{name}{at}")
        places = np.array(data.draw(st.lists(st.integers(0, array.size - 1), min_size=1)))
        np.testing.assert_array_equal(leaf.pick(places), array.reshape(-1)[places], err_msg=name)

    check()


def test_leaves_become_arrays_where_one_host_has_room(small):
    directory, params = small
    loaded = load_lib.load(directory, "bfloat16")
    half = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params)
    for made in (
        leaves.materialise(loaded.params),
        jax.tree.map(jnp.asarray, loaded.params),
        jax.device_get(loaded.params),
    ):
        for got, want in zip(jax.tree.leaves(made), jax.tree.leaves(half), strict=True):
            assert got.dtype == ml_dtypes.bfloat16, type(got)
            np.testing.assert_array_equal(np.asarray(got), want)
    assert size(loaded.params) == size(half)
    with pytest.raises(ValueError, match="cannot be an array without a copy"):
        np.asarray(loaded.params["embed"], copy=False)


def test_loading_reads_nothing_but_the_samples_of_the_fingerprint(small, reads):
    directory, params = small
    hf.load_hf(directory)
    assert reads == [], "headers only"
    loaded = load_lib.load(directory)
    assert max(reads) <= 2 * 4096 * 4 and len(reads) == len(jax.tree.leaves(params))
    assert loaded.fingerprint == load_lib.fingerprint(SMALL, params)
    changed = params | {"embed": params["embed"] + np.eye(*params["embed"].shape, dtype="f")}
    assert loaded.fingerprint != load_lib.fingerprint(SMALL, changed)


def test_only_process_0_writes_and_all_fetch_alike(tmp_path, monkeypatch):
    params = random_params(SMALL)
    fetched = {0: [], 1: []}

    for process in fetched:

        def fetch(value, mine=fetched[process]):
            mine.append(value.tobytes())
            return np.asarray(value)

        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        save(tmp_path / str(process), SMALL, params, fetch=fetch)
    assert not (tmp_path / "1").exists() and (tmp_path / "0").exists()
    assert fetched[0] == fetched[1], "the same in the same order, or they would wait for each other"
    assert len(fetched[0]) == len(hf_slots(SMALL)), "one layer of one weight at a time"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_folds_adapters_as_it_writes(dtype, tmp_path, reads):
    base = random_params(SMALL)
    adapters = lora.init_lora(base, jax.random.key(0), 2)
    keys = jax.random.split(jax.random.key(1), len(adapters))
    for ab, key in zip(adapters.values(), keys, strict=True):
        ab["b"] = jax.random.normal(key, ab["b"].shape)
    plain_params = lora.merge(base, adapters, 0.5)
    changed = np.abs(plain_params["layers"]["down"] - base["layers"]["down"]).max()
    assert changed > 0.1, "an adapter that does nothing"
    _, in_files = hf.load_hf(save(tmp_path / "base", SMALL, base))
    unit = 1e-6 if dtype == "float32" else 2**-7  # of the last place that is stored
    for name, params in (("arrays", base), ("files", in_files)):
        attached = lora.attach(params, adapters, 0.5)
        got = plain(save(tmp_path / name, SMALL, attached, dtype=dtype), SMALL)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(plain_params), strict=True):
            np.testing.assert_allclose(x.astype("f"), y, rtol=unit, atol=1e-6, err_msg=name)
    assert max(reads) == 4 * SMALL.vocab_size * SMALL.d_model, "a layer at a time, or the embedding"


def test_a_file_that_is_gone_when_it_is_read(small, tmp_path):
    _, params = small
    _, tree = hf.load_hf(save(tmp_path / "m", SMALL, params))
    (tmp_path / "m/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"m/model\.safetensors"):
        tree["embed"][:2]


if __name__ == "__main__":
    globals()[sys.argv[1]](pathlib.Path(sys.argv[2]))
