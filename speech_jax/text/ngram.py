"""Word n-gram language models: interpolated Kneser-Ney training, ARPA files, and scores word by word."""

from __future__ import annotations

import gzip
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
Words = tuple[str, ...]
_MAX_LINE = 1 << 20


class NGramModel(NamedTuple):
    """A back-off n-gram model.

    Attributes:
        order: length of the longest n-grams.
        log_probs: n-gram -> ln p(last word | words before it).
        backoffs: history -> ln of its back-off weight.
    """

    order: int
    log_probs: dict[Words, float]
    backoffs: dict[Words, float]

    def score(self, history: Words, word: str) -> float:
        """Return ln p(word | history) by back-off (Katz 1987); a word outside the vocabulary counts as <unk>."""
        if (word,) not in self.log_probs:
            word = UNKNOWN
        history = history[-(self.order - 1) :] if self.order > 1 else ()
        total = 0.0
        while True:
            log_prob = self.log_probs.get((*history, word))
            if log_prob is not None:
                return total + log_prob
            if not history:
                return total + self.log_probs.get((UNKNOWN,), -math.inf)
            total += self.backoffs.get(history, 0.0)
            history = history[1:]

    def has_word(self, word: str) -> bool:
        """Return True if the word is in the vocabulary."""
        return (word,) in self.log_probs

    def score_text(self, words: Sequence[str]) -> float:
        """Return ln p of a whole sentence, including its end."""
        history, total = (START,), 0.0
        for word in (*words, END):
            total += self.score(history, word)
            history = (*history, word if self.has_word(word) else UNKNOWN)[-max(self.order - 1, 1) :]
        return total


def train_ngrams(sentences: Iterable[Sequence[str]], order: int = 3) -> NGramModel:
    """Train an interpolated Kneser-Ney model (Chen and Goodman 1999).

    Each order has one discount, n1 / (n1 + 2 n2). The lowest order is interpolated with a uniform distribution over all
    words and <unk>, so that no probability is 0.

    Args:
        sentences: lists of words, one per sentence.
        order: length of the longest n-grams, 1 to 9.

    Raises:
        UserError: there are no words.
    """
    if not 1 <= order <= 9:
        raise UserError(f"order: found {order}, expected 1 to 9")
    highest: Counter[Words] = Counter()
    for sentence in sentences:
        padded = (START,) * (order - 1) + tuple(sentence) + (END,)
        highest.update(padded[i : i + order] for i in range(len(padded) - order + 1))
    if all(gram[-1] == END for gram in highest):
        raise UserError("language model: found no words, expected texts to count")
    # Lower orders count the contexts of an n-gram, except at the beginning of a sentence.
    counts: list[Counter[Words]] = [Counter() for _ in range(order)]
    counts[-1] = highest
    for n in range(order - 1, 0, -1):
        for gram, count in counts[n].items():
            shorter = gram[1:]
            counts[n - 1][shorter] += count if shorter[0] == START and n > 1 else 1
    vocabulary = {gram[0] for gram in counts[0]} | {UNKNOWN}
    probs: dict[Words, float] = {}
    backoffs: dict[Words, float] = {}
    for n, table in enumerate(counts, 1):
        totals: defaultdict[Words, int] = defaultdict(int)
        kinds: defaultdict[Words, int] = defaultdict(int)
        for gram, count in table.items():
            totals[gram[:-1]] += count
            kinds[gram[:-1]] += 1
        frequencies = Counter(table.values())
        once, twice = frequencies[1], frequencies[2]
        discount = once / (once + 2 * twice) if once and twice else 0.5
        share = {h: discount * kinds[h] / totals[h] for h in totals}
        if n == 1:
            uniform = share[()] / len(vocabulary)
            for word in vocabulary:
                probs[(word,)] = max(table[(word,)] - discount, 0.0) / totals[()] + uniform
            continue
        for gram, count in table.items():
            history = gram[:-1]
            lower = _lower(probs, backoffs, gram[1:])
            probs[gram] = (count - discount) / totals[history] + share[history] * lower
        for history, weight in share.items():
            backoffs[history] = weight
    probs.setdefault((START,), 1e-99)
    log_probs = {gram: math.log(p) for gram, p in probs.items() if any(w != START for w in gram) or len(gram) == 1}
    return NGramModel(order, log_probs, {h: math.log(w) for h, w in backoffs.items()})


def _lower(probs: dict[Words, float], backoffs: dict[Words, float], gram: Words) -> float:
    """Return p of the shorter n-gram, whose order has already been computed."""
    weight = 1.0
    while gram not in probs:
        weight *= backoffs.get(gram[:-1], 1.0)
        gram = gram[1:]
    return weight * probs[gram]


# ---- ARPA files


def write_arpa(path: str | Path, model: NGramModel) -> None:
    """Write the model in the ARPA format of SRILM, KenLM and Kaldi (log10, back-off weights after histories)."""
    tables: list[list[Words]] = [[] for _ in range(model.order)]
    for gram in {**model.log_probs, **dict.fromkeys(model.backoffs)}:
        tables[len(gram) - 1].append(gram)
    ten = math.log(10)
    with open_atomic(path) as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={len(t)}\n" for n, t in enumerate(tables, 1)))
        for n, table in enumerate(tables, 1):
            file.write(f"\n\\{n}-grams:\n")
            for gram in sorted(table):
                line = f"{model.log_probs.get(gram, -99 * ten) / ten:.7g}\t{' '.join(gram)}"
                weight = model.backoffs.get(gram)
                file.write(line + (f"\t{weight / ten:.7g}\n" if weight is not None else "\n"))
        file.write("\n\\end\\\n")


def read_arpa(path: str | Path) -> NGramModel:
    """Read an ARPA file, plain or gzipped. Raise UserError naming the line that is wrong."""
    path = Path(path)
    log_probs: dict[Words, float] = {}
    backoffs: dict[Words, float] = {}
    counts: dict[int, int] = {}
    section, ended, number, ten = 0, False, 0, math.log(10)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="\n") as file:
            while line := file.readline(_MAX_LINE + 1):
                number += 1
                where = f"{path}:{number}"
                line = line.rstrip("\r\n")
                if len(line) > _MAX_LINE:
                    raise UserError(f"{where}: found a line of more than {_MAX_LINE} characters, expected n-grams")
                if not line.strip() or line == "\\data\\":
                    continue
                if line == "\\end\\":
                    ended = True
                    break
                if line.startswith("\\") and line.endswith("-grams:") and line[1:-7].isdecimal():
                    section = int(line[1:-7])
                    continue
                if section == 0:
                    name, _, count = line.removeprefix("ngram ").partition("=")
                    if not line.startswith("ngram ") or not name.isdecimal() or not count.isdecimal():
                        raise UserError(f"{where}: found {line[:60]!r}, expected 'ngram N=COUNT'")
                    counts[int(name)] = int(count)
                    continue
                fields = line.split("\t") if "\t" in line else line.split(" ", 1)
                gram = tuple(fields[1].split(" ")) if len(fields) > 1 else ()
                if len(fields) not in (2, 3) or len(gram) != section:
                    raise UserError(f"{where}: found {line[:60]!r}, expected a score, {section} words and a weight")
                try:
                    log_probs[gram] = float(fields[0]) * ten
                    if len(fields) == 3:
                        backoffs[gram] = float(fields[2]) * ten
                except ValueError as error:
                    raise UserError(f"{where}: found {line[:60]!r}, expected numbers ({error})") from error
    except (OSError, EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {reason}, expected a language model (ARPA)") from error
    sizes = Counter(len(gram) for gram in log_probs)
    wrong = [n for n in counts if counts[n] != sizes[n]]
    if not ended or not counts or wrong:
        problem = f"{sizes[wrong[0]]} of {counts[wrong[0]]} {wrong[0]}-grams" if wrong else "no end"
        raise UserError(f"{path}: found {problem}, expected a whole language model (ARPA)")
    if (UNKNOWN,) not in log_probs:
        log_probs[(UNKNOWN,)] = -99 * ten
    return NGramModel(max(counts), log_probs, backoffs)
