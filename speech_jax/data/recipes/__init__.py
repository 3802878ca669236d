"""Recipes: turn published recordings into manifests. `python -m speech_jax.prepare NAME --out DIR …` runs one.

A recipe is a module of this folder, named in `RECIPES`, with these public names:

    Options                         a frozen dataclass with a docstring under each field; tyro makes them flags. It may
                                    be empty. A field without a default is a required flag.
    lists(options) -> list[Path]    optional: the files of texts that it reads. Where they have changed, it runs again.
    prepare(out_dir: Path, options: Options) -> None
        writes out_dir/{split}.jsonl with `data.manifest.write_manifest`, one file per split ("train", "dev", "test" or
        the set's own names). Audio that has to be extracted or made goes under out_dir/audio/.
        Resumable: a file is written under a temporary name and renamed (`core.files.open_atomic`), and a file that is
        there is not made again. Deterministic. Bad input raises UserError; one bad recording among many is named with
        `core.log.log.warning` and left out. Progress by tqdm on stderr.

The front door prints the statistics and writes the shards; a recipe need not.
"""

# name -> one line for the front door's help. The module is speech_jax.data.recipes.NAME, imported when it is used.
RECIPES = {
    "folder": "a folder of recordings with a CSV (or TSV) of file name and text",
    "kaldi": "a Kaldi data directory: wav.scp, text, and segments, utt2spk, utt2lang where they are",
    "librispeech": "LibriSpeech, as its unpacked tree or its tar files",
    "ljspeech": "LJSpeech or any set in its layout: metadata.csv and wavs/",
    "tfds": "a prepared tensorflow-datasets speech set, read without TensorFlow",
    "queen": "Flight of the Amazon Queen, talkie: 4.5 h of acted English, from the Debian package",
    "asterisk": "Asterisk prompts in English, Spanish, French, Italian or Russian, from the Debian packages",
    "fillets": "Fish Fillets: Czech and Dutch dialogues, from the Debian packages",
    "tuxpaint": "Tux Paint stamps: short phrases in many languages, from the Debian package",
    "synthetic": "synthetic speech by espeak-ng, in two domains",
}
