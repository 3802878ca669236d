"""Phonemes by the espeak-ng library; espeak.py runs this file in a separate process.

Usage: `python espeak_child.py VOICE`, with a JSON list of clauses on stdin and a JSON list of their phonemes (IPA) on
stdout. Constants and signatures are those of espeak-ng's speak_lib.h.
"""

import ctypes
import json
import os
import sys


def main() -> int:
    """Read clauses, write phonemes; return the exit code."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
    retrieval, utf8, ipa = 1, 1, 2
    if library.espeak_Initialize(retrieval, 0, os.fsencode(espeakng_loader.get_data_path()), 0) < 0:
        print("espeak-ng found no data in the wheel", file=sys.stderr)
        return 1
    if library.espeak_SetVoiceByName(sys.argv[1].encode()) != 0:
        print("The specified espeak-ng voice does not exist.", file=sys.stderr)
        return 1
    phonemes = []
    for clause in json.load(sys.stdin):
        buffer = ctypes.create_string_buffer(clause.encode())
        pointer, parts = ctypes.c_void_p(ctypes.addressof(buffer)), []
        while pointer.value:  # each call converts one part of the clause and advances the pointer
            parts.append(library.espeak_TextToPhonemes(ctypes.byref(pointer), utf8, ipa).decode())
        phonemes.append(" ".join(parts))
    print(json.dumps(phonemes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
