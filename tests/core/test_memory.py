import os
import platform
import subprocess
import sys

import pytest

# The faults of using 64 MB ten times over, after the first time.
PROGRAM = """
import resource, sys
from speech_jax.core.memory import keep_freed_memory
import numpy as np
print(keep_freed_memory() if sys.argv[1] == "keep" else False)
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


# The same of 3 GB, of which a thousand pages are touched.
LARGE = PROGRAM.replace("np.ones(1 << 23)", "np.empty(3 << 27)[:: 3 << 17].fill(1)")


def faults(how: str, program: str = PROGRAM, **env: str) -> tuple[bool, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    run = subprocess.run(
        [sys.executable, "-c", program, how], env=clean | env, capture_output=True, text=True, check=True
    )
    kept, count = run.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to do")
def test_freed_memory_is_used_again():
    pages = 10 * (1 << 26) // os.sysconf("SC_PAGE_SIZE")
    assert faults("leave")[1] > pages / 600  # huge pages of 2 MB may serve 512 at a time
    kept, count = faults("keep")
    assert kept and count < 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to do")
def test_more_than_two_gigabytes_are_used_again():
    assert faults("leave", LARGE)[1] > 1000
    kept, count = faults("keep", LARGE)
    assert kept and count < 10


def test_the_users_own_settings_stay():
    assert not faults("keep", MALLOC_ARENA_MAX="2")[0]
