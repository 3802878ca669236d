"""Run as a program by espeak.py, in a process of its own: `python espeak_child.py VOICE`, a JSON list of clauses on
stdin, a JSON list of their phonemes in IPA on stdout.

Constants and signatures are those of espeak-ng's speak_lib.h.
"""

import ctypes
import json
import os
import sys


def main() -> int:
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
    found = []
    for clause in json.load(sys.stdin):
        buffer = ctypes.create_string_buffer(clause.encode())
        at, parts = ctypes.c_void_p(ctypes.addressof(buffer)), []
        while at.value:  # one part of the clause a call, until nothing is left
            parts.append(library.espeak_TextToPhonemes(ctypes.byref(at), utf8, ipa).decode())
        found.append(" ".join(parts))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
