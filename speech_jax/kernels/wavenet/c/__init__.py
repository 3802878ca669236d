"""C sources of the native WaveNet step, and the library that setup.py builds from them where there is a compiler.

`kernels/wavenet/native_pack.py` loads the library with ctypes; there is no Python module in this folder.
"""
