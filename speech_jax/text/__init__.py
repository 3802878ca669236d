"""Text processing: normalization, symbols, tokenizers, phonemes, n-gram language models."""
