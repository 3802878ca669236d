"""Repeat the rows of a manifest under other ids: `python -m experiments.long_recordings.repeat M.jsonl 8 OUT.jsonl`."""

import sys

from speech_jax.data.manifest import read_manifest, write_manifest


def main() -> None:
    """Write the manifest."""
    source, times, out = sys.argv[1:]
    rows = [row for row in read_manifest(source) if row.seconds <= 12]
    write_manifest(out, [row._replace(id=f"{row.id}-{turn}") for turn in range(int(times)) for row in rows])


if __name__ == "__main__":
    main()
