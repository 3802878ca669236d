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
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

CHECKED = bool(os.environ.get("SPEECH_JAX_TYPECHECK"))  # `make test-types`: calls are held to their annotations
if CHECKED:
    from tests.support import typecheck

    typecheck.install()


def pytest_configure(config):
    """Register the suite's own markers."""
    config.addinivalue_line("markers", "bad_types: passes what an annotation forbids, on purpose")


def pytest_collection_modifyitems(items):
    """Leave out what a type checker would refuse before the code does."""
    for item in items:
        if CHECKED and item.get_closest_marker("bad_types"):
            item.add_marker(pytest.mark.skip(reason="wrong types on purpose"))


@pytest.fixture(scope="session")
def start_models(tmp_path_factory):
    """Return a function: norm -> config of the trained start model of tests/support/domains.py, trained once."""
    from tests.support import domains

    folder = tmp_path_factory.mktemp("domains")
    corpus = domains.make_corpus(folder / "data")
    trained = {}

    def start_model(norm: str = "layer"):
        if norm not in trained:
            config = domains.base(corpus, folder / f"start_{norm}", norm)
            result, text = domains.run(config)
            assert result is not None, text
            trained[norm] = config
        return trained[norm]

    return start_model
