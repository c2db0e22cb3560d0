"""Strict numerics and eight virtual CPU devices for every test."""

import gc
import os
from pathlib import Path

# Before JAX starts, and for the command-line runs of the tests too.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a small run is compilation; one cache serves all tests and their subprocesses.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Programs that run for a second are not worth minutes of optimising; users' runs are optimised.
FAST = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    # Pieces that are compiled side by side are more work in all, and both cores have a test.
    " --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("XLA_FLAGS", FAST)
# A command would start anew to have it (ec_jax/command.py): tests/test_startup.py.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")

import jax
import pytest
from absl import flags

# Looking for garbage among all that was traced and compiled takes seconds each time.
gc.set_threshold(50_000, 20, 20)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def _parsed_flags():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(autouse=True)
def _strict_types(request):
    """Our own mathematics mixes no types by accident; Flax and optax do so on purpose."""
    ours = {"losses", "evaluation"} & set(request.path.parts)
    with jax.numpy_dtype_promotion("strict" if ours else "standard"):
        yield
