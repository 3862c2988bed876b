"""Out of device memory, for real and as other devices say it: stage, bytes, settings."""

import re

import jax
import jax.numpy as jnp
import pytest

from rlpt import build, evaluate, learners, memory, overlap, train
from rlpt import config as config_lib
from rlpt.memory import DeviceMemoryError, explain_oom, remedies

GIB = 1 << 30


@pytest.fixture
def config():
    return config_lib.default()


def settings(stage, config):
    return [(r.setting, r.lower) for r in remedies(stage, config)]


def raised(stage, config, message):
    """What the user reads for a message of XLA."""
    with pytest.raises(DeviceMemoryError) as error, explain_oom(stage, config):
        raise jax.errors.JaxRuntimeError(message)
    assert isinstance(error.value.__cause__, jax.errors.JaxRuntimeError)
    return str(error.value)


def test_an_allocation_that_cannot_succeed(config):
    table = jnp.ones((1 << 10, 1 << 10))

    @jax.jit
    def update(x):  # 2^40 numbers, which a sort needs all at once
        return jnp.sort((x[:, :, None, None] * x[None, None]).reshape(-1))

    with pytest.raises(DeviceMemoryError) as error, explain_oom("update", config):
        jax.block_until_ready(update(table))
    text = str(error.value)
    asked = re.search(r"asked for (\d+(\.\d+)?) TiB", text)
    assert asked and float(asked[1]) >= 4, text
    assert text.startswith("update: out of device memory") and "XLA: RESOURCE_EXHAUSTED" in text
    first, second = (
        text.index("learner.micro_blocks=4 (now 0, all at once)"),
        text.index("model.remat=full"),
    )
    assert first < second < text.index("optim.moments=bfloat16 (now float32)"), text


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Out of memory allocating 281474976710656 bytes.", "256 TiB"),
        ("Out of memory while trying to allocate 4770354232 bytes.\nBufferAssignment", "4.443 GiB"),
        ("Out of memory while trying to allocate 32.00GiB.", "32 GiB"),
        ("Failed to allocate request for 176.00MiB (184549376B) on device ordinal 0", "176 MiB"),
        ("Attempting to reserve 3.95G at the bottom of memory. That was not possible.", "3.95 GiB"),
        (
            "Error allocating device buffer: Attempting to allocate 1.50G. There are 1.15G",
            "1.5 GiB",
        ),
        ("Out of memory, somehow", "more than there is"),
    ],
)
def test_bytes_in_the_messages_of_other_devices(config, message, told):
    text = raised("score", config, f"RESOURCE_EXHAUSTED: {message}")
    assert f"asked for {told}; the device (cpu) does not tell how much it has" in text
    assert text.endswith(f"\nXLA: RESOURCE_EXHAUSTED: {message.splitlines()[0]}")


def test_a_program_that_does_not_fit_a_tpu(config):
    text = raised(
        "generate",
        config,
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 21.95G of 15.48G hbm. Exceeded hbm capacity by 6.47G.\n\nTotal hbm usage",
    )
    assert "asked for 21.95 GiB; the device (cpu) has 15.48 GiB" in text


def test_the_device_tells_its_limit(config, monkeypatch):
    class Device:
        device_kind = "NVIDIA H200"

        def memory_stats(self):
            return {"bytes_limit": 120 * GIB}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    text = raised("update", config, "RESOURCE_EXHAUSTED: trying to allocate 130.00GiB.")
    assert "asked for 130 GiB; the device (NVIDIA H200) has 120 GiB" in text


def test_other_errors_and_success_pass(config):
    with explain_oom("update", config):
        pass
    for error in (jax.errors.JaxRuntimeError("INTERNAL: connection broken"), ValueError("x")):
        with pytest.raises(type(error)) as found, explain_oom("update", config):
            raise error
        assert found.value is error
    unknown = pytest.raises(ValueError, match="got 'train', expected one of start, generate, score")
    with unknown, explain_oom("train", config):
        pass


@pytest.mark.parametrize("stage", ["start", "generate", "score", "update", "evaluate"])
def test_every_remedy_may_be_set_and_ends(stage, config):
    """The first advice followed, and again: all are valid settings, and none is given for ever."""
    config.rollout.group = 4
    seen = []
    while found := remedies(stage, config):
        assert len(seen) < 40, f"goes round in circles: {seen[-6:]}"
        seen.append(found[0])
        section, key = found[0].setting.split(".")
        assert config[section][key] == found[0].now != found[0].lower, found[0]
        config[section][key] = found[0].lower
        config_lib.validate(config)
    changed = {r.setting: r.lower for r in seen}
    assert changed == {
        "start": {"optim.moments": "factored"},
        "generate": {"sampling.lanes": 1, "sampling.slots": 1, "rollout.prompts": 1},
        "score": {"learner.micro_blocks": 1, "model.logits_chunk": 1, "rollout.prompts": 1},
        "update": {
            "learner.micro_blocks": 1, "model.remat": "full", "model.logits_chunk": 1,
            "rollout.prompts": 1, "optim.moments": "factored",
        },
        "evaluate": {"sampling.lanes": 1, "sampling.slots": 1, "eval.blocks": 1},
    }[stage], seen  # fmt: skip


def test_the_order_of_each_stage(config):
    config.rollout.prompts, config.rollout.group = 12, 8
    config.learner.minibatches, config.learner.micro_blocks = 2, 3
    config.learners.critic = {"loss": ("mse",), "micro_blocks": 6}
    assert settings("update", config) == [
        ("learner.micro_blocks", 2),
        ("learners.critic.micro_blocks", 4),
        ("model.remat", "full"),
        ("model.logits_chunk", 2**23),
        ("rollout.prompts", 6),
        ("optim.moments", "bfloat16"),
    ]
    assert settings("generate", config) == [("sampling.lanes", 4), ("rollout.prompts", 6)]
    config.sampling.lanes = 2
    assert settings("evaluate", config)[:3] == [
        ("sampling.lanes", 1), ("sampling.slots", 6), ("eval.blocks", 6),
    ]  # fmt: skip
    config.optim.name = "lion"
    assert "optim.moments" not in dict(settings("update", config))
    assert settings("start", config) == []


def test_devices_that_hold_the_same_weights_can_share_them(config, monkeypatch):
    class Mesh:
        shape = {"data": 4, "fsdp": 1, "model": 2}

    monkeypatch.setattr(memory.sharding, "make_mesh", lambda sizes: Mesh())
    config.rollout.prompts = 16
    (mesh, moments) = remedies("start", config)
    assert str(mesh) == "--config.mesh.data=1 --config.mesh.fsdp=-1 (now -1 and 1)"
    assert moments.setting == "optim.moments"
    assert settings("score", config)[0] == ("learner.micro_blocks", 8), "a multiple of 4 parts"
    config.rollout.prompts = 4
    assert [s for s, _ in settings("score", config)] == [
        "model.logits_chunk", "mesh.data=1 --config.mesh.fsdp",
    ], "4 blocks on 4 parts cannot be cut further"  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "owner", "method"),
    [
        ("start", learners.Learners, "__init__"),
        ("evaluate", evaluate, "evaluate"),
        ("generate", overlap.Rollouts, "__call__"),
    ],
)
def test_a_run_says_it(stage, owner, method, config, monkeypatch, tmp_path):
    def fail(*args, **kw):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: trying to allocate 130.00GiB.")

    monkeypatch.setattr(owner, method, fail)
    config.model.source = "toy:layers=1,width=16,heads=2,kv_heads=1,ff=8"
    config.log.tensorboard = config.log.console = False
    if stage == "generate":  # which an evaluation comes before
        load = build.load_tasks
        monkeypatch.setattr(build, "load_tasks", lambda config: (load(config)[0], []))
    with pytest.raises(
        DeviceMemoryError, match=f"^{stage}: out of device memory: asked for 130 Gi"
    ):
        train.train(config, tmp_path)
