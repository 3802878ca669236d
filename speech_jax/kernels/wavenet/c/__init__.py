"""C sources of the native WaveNet step, and the library that setup.py builds of them where there is a compiler.

`kernels/wavenet/native_pack.py` loads the library with ctypes; nothing here is a Python module.
"""
