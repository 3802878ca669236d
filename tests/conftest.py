"""Settings that every test shares: CPU, eight fake devices, one compile cache, and no silent rank promotion."""

import importlib.metadata
import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = "--xla_force_host_platform_device_count=8"
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag ends the process
        # Without optimized machine code, the suite compiles in a quarter of the time.
        flags += " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "speech_jax_test_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

if os.environ.get("SPEECH_JAX_TYPECHECK"):
    from tests.support import typecheck

    typecheck.install()
