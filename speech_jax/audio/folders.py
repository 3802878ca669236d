"""List the recordings of a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from speech_jax.audio.io import ENDINGS


def list_recordings(folder: str) -> tuple[list[str], list[str]]:
    """List a folder and its subfolders; links to folders are followed, each folder is listed once.

    Args:
        folder: the folder.

    Returns:
        (paths that end as a recording does, other files without hidden ones), both sorted.
    """
    recordings, others = [], []
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        links: list[str] = []  # after the folders themselves, so that a folder is named by its own path
        for root in waiting:
            for place, folders, names in os.walk(root):
                real = os.path.realpath(place)
                if real in seen:
                    folders.clear()
                    continue
                seen.add(real)
                links += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
                for name in names:
                    path = os.path.join(place, name)
                    if os.path.isfile(path) and os.path.splitext(name)[1].lower() in ENDINGS:
                        recordings.append(path)
                    elif not name.startswith("."):  # also links to nothing, and pipes
                        others.append(path)
        waiting = sorted(links)
    return sorted(recordings), sorted(others)


def describe_others(folder: str, others: Sequence[str]) -> str:
    """Return a line that counts and names files that are taken for no recordings."""
    endings = Counter(os.path.splitext(path)[1].lower() or "no ending" for path in others)
    counted = ", ".join(f"{ending} {count}" for ending, count in endings.most_common(8))
    return f"{folder}: {len(others)} other files are not read ({counted}), the first {others[0]}"
