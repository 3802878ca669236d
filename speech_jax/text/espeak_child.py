"""Phonemes by the espeak-ng library; espeak.py runs this file in a separate process.

Usage: `python espeak_child.py VOICE LIBRARY`, with a JSON list of texts on stdin. On stdout: for each text a JSON list
of its clauses, each as [text, phonemes (IPA)]. With an empty LIBRARY, that of the wheel espeakng-loader is used.
Constants and signatures are those of espeak-ng's speak_lib.h.
"""

import ctypes
import json
import os
import sys


def main() -> int:
    """Read texts, write their clauses and phonemes; return the exit code."""
    path, data = sys.argv[2], None
    if not path:
        import espeakng_loader

        path, data = espeakng_loader.get_library_path(), os.fsencode(espeakng_loader.get_data_path())
    library = ctypes.CDLL(path)
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
    retrieval = 1
    if library.espeak_Initialize(retrieval, 0, data, 0) < 0:
        print("espeak-ng found no data", file=sys.stderr)
        return 1
    if library.espeak_SetVoiceByName(sys.argv[1].encode()) != 0:
        print("The specified espeak-ng voice does not exist.", file=sys.stderr)
        return 1
    print(json.dumps([phonemize(library, text) for text in json.load(sys.stdin)]))
    return 0


def phonemize(library: ctypes.CDLL, text: str) -> list[tuple[str, str]]:
    """Return (text, phonemes) of each clause.

    Each call of the library converts a clause and advances the pointer, one character too far except at the end: it has
    read the first one of the next clause.
    """
    utf8, ipa = 1, 2
    raw = text.encode()
    buffer = ctypes.create_string_buffer(raw)
    first = ctypes.addressof(buffer)
    pointer, clauses, start = ctypes.c_void_p(first), [], 0
    while pointer.value:
        phones = library.espeak_TextToPhonemes(ctypes.byref(pointer), utf8, ipa).decode()
        end = len(text)
        if pointer.value:
            end = len(raw[: pointer.value - first].decode(errors="ignore")) - 1
        clauses.append((text[start:end], phones))
        start = end
    return clauses


if __name__ == "__main__":
    sys.exit(main())
