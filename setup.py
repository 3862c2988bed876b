"""Package rlpt and its dependencies. Tool settings are in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "rlpt/__init__.py").read_text()).group(1)

# The backend (CPU, TPU, GPU) is an extra, so that the core is neutral. Lower bounds: the release
# line that the tests run on for what has a moving API, something older for the rest.
# jax 0.10 and flax 0.12.8 are the last for Python 3.11.
CORE = [
    "absl-py>=2.3",
    "array_record>=0.8.6",  # TFDS reads it without TensorFlow
    "chex>=0.1.92",
    "etils[epath]>=1.13",
    "flax>=0.12.8",
    "httpx>=0.28",  # judge client
    "importlib_resources>=6.0",  # some TFDS builders use it without asking for it
    "jax>=0.10,<0.13",
    "jinja2>=3.1",  # chat templates, HTML reports
    "markupsafe>=3.0",  # charts of HTML reports; jinja2 brings it
    "math-verify>=0.9",
    "matplotlib>=3.10",
    "ml-collections>=1.1",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pyarrow>=19.0",
    "rich>=14.0",
    "safetensors>=0.8",
    "sympy>=1.13",
    "tenacity>=9.0",
    "tensorboardX>=2.6.4",
    "tensorflow-datasets>=4.9.10",
    "tokenizers>=0.23",
    "transformers>=5.23",
]

_LIBTPU = "jax[tpu]; sys_platform == 'linux' and platform_machine == 'x86_64'"
EXTRAS = {
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    # What launch/quickstart.sh trains: SmolLM2 from a GGUF file, generated tasks.
    "quickstart": ["gguf>=0.17", "reasoning-gym>=0.1.25"],
    # rlpt plan compiles for TPUs that are not here with the libtpu that this jax asks for.
    "plan": [_LIBTPU],
    "test": [
        _LIBTPU,  # nothing may land that a TPU cannot compile
        "hypothesis>=6.130",
        "mypy>=1.18",
        "pytest>=8.4",
        "pytest-timeout>=2.4",
        "pytest-xdist>=3.8",
        "ruff>=0.14",
        "tensorboard>=2.20",  # reads event files back; works without TensorFlow
    ],
    # The oracle for logits, never imported in training. The CPU wheel is enough: see README.md.
    "parity": ["torch==2.13.0"],
    "docs": ["mkdocs>=1.6"],
    "notebooks": ["ipykernel>=6.29", "jupytext>=1.17", "nbclient>=0.10"],
    "wandb": ["wandb>=0.22"],
}

setuptools.setup(
    name="rlpt",
    version=VERSION,
    description="Post-training language models with reinforcement learning in JAX",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=setuptools.find_packages(include=["rlpt", "rlpt.*"]),
    package_data={"rlpt.report": ["templates/*"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["rlpt = rlpt.cli:main"]},
)
