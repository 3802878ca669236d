"""A speech set for tensorflow-datasets, as small as can be. It must live in a package: tfds looks for its files."""

import numpy as np
import tensorflow_datasets as tfds


class ToySpeech(tfds.core.GeneratorBasedBuilder):
    """Noise with text; 16-bit samples in int64, as tfds keeps them by default."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "speech": tfds.features.Audio(sample_rate=8000),
            "text": tfds.features.Text(),
            "speaker_id": np.int64,
            "id": np.str_,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples(2)}

    def _generate_examples(self, count=5):
        for i in range(count):
            yield f"key{i}", {"speech": samples(i), "text": f"héllo {i}", "speaker_id": i % 2, "id": f"utt{i}"}


def samples(i):
    """What example i holds."""
    return np.random.default_rng(i).integers(-20000, 20000, 4000 + 100 * i).astype(np.int64)
