"""Word n-gram language models: interpolated Kneser-Ney training, ARPA files, and scores word by word."""

from __future__ import annotations

import lzma
import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from speech_jax.core.documents import check_file
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_compressed, open_decompressed
from speech_jax.core.log import log

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
LOG_ZERO = -99.0  # log10 of no probability, as SRILM writes it
Words = tuple[str, ...]
_LN10 = math.log(10)
_MAX_LINE = 1 << 20
_MAX_OTHERS = 10_000  # lines of an ARPA file that are no n-grams (a preamble, empty ones), or occur again
_MARKS = {START: START, END: END, UNKNOWN: UNKNOWN, "!enter": START, "!exit": END, "!!unk": UNKNOWN}  # the latter: HTK
_COUNT = re.compile(r"ngram\s+(\d{1,2})\s*=\s*(\d{1,18})", re.ASCII)
_SECTION = re.compile(r"\\(\d{1,2})-grams:", re.ASCII)
_KENLM = "mmap lm http://kheafield.com/code"


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
    """Write the model in the ARPA format of SRILM, KenLM and Kaldi (log10, back-off weights after histories).

    A name that ends in .gz, .bz2 or .xz gets a file that is compressed in this way.
    """
    tables: list[list[Words]] = [[] for _ in range(model.order)]
    for gram in {**model.log_probs, **dict.fromkeys(model.backoffs)}:
        tables[len(gram) - 1].append(gram)
    with open_compressed(path) as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={len(t)}\n" for n, t in enumerate(tables, 1)))
        for n, table in enumerate(tables, 1):
            file.write(f"\n\\{n}-grams:\n")
            for gram in sorted(table):
                line = f"{model.log_probs.get(gram, LOG_ZERO * _LN10) / _LN10:.7g}\t{' '.join(gram)}"
                weight = model.backoffs.get(gram)
                file.write(line + (f"\t{weight / _LN10:.7g}\n" if weight is not None else "\n"))
        file.write("\n\\end\\\n")


class _Arpa:
    """An ARPA file while it is read: its promised counts, and the n-grams so far.

    Attributes:
        path: the file, for messages.
        line: number of the line that is read.
        section: n of the n-grams that are read.
        counts: n -> number of n-grams by the file's head.
        sizes: n -> number of n-gram lines read.
        repeated: n-grams that occur again; the first score above log 0 is kept, KenLM keeps the first.
    """

    def __init__(self, path: Path):
        self.path, self.line, self.section = path, 0, 0
        self.counts: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.log_probs: dict[Words, float] = {}
        self.backoffs: dict[Words, float] = {}
        self.repeated: list[Words] = []

    def error(self, found: str, expected: str) -> UserError:
        return UserError(f"{self.path}:{self.line}: found {found}, expected {expected}")

    def add_count(self, line: str) -> None:
        match, n = _COUNT.fullmatch(line), len(self.counts) + 1
        if not match or int(match[1]) != n:
            raise self.error(repr(line[:60]), f"'ngram {n}=COUNT' or '\\1-grams:'")
        self.counts[n], self.sizes[n] = int(match[2]), 0

    def begin_section(self, n: int) -> None:
        if n not in self.counts:
            raise self.error(f"{n}-grams", f"those that the head counts, {list(self.counts)}")
        self.section = n

    def add_gram(self, line: str) -> None:
        n = self.section
        fields = line.replace("\t", " ").split(" ")  # no other white space: it may be a part of words
        if "" in fields:
            fields = [field for field in fields if field]
        if not n < len(fields) < n + 3:
            raise self.error(repr(line[:60]), f"a score, {n} words and a weight")
        score = _number(fields[0])
        if not score <= 0:  # NaN too
            raise self.error(f"score {fields[0][:60]!r}", "a log10 probability of at most 0")
        gram = tuple(fields[1 : n + 1])
        if "<" in line or "!" in line:
            gram = tuple(_MARKS.get(word.lower(), word) for word in gram)
        self.sizes[n] += 1
        if self.sizes[n] > self.counts[n]:
            raise self.error(f"more than {self.counts[n]} {n}-grams", "as many as the head counts")
        if gram in self.log_probs:
            self.repeated.append(gram)
            if len(self.repeated) > _MAX_OTHERS:
                raise self.error(f"more than {_MAX_OTHERS} n-grams that occur again", "each once")
            if self.log_probs[gram] > LOG_ZERO * _LN10:
                return
        self.log_probs[gram] = max(score, LOG_ZERO) * _LN10
        if len(fields) == n + 2:
            weight = _number(fields[-1]) * _LN10
            if not math.isfinite(weight):
                raise self.error(f"weight {fields[-1][:60]!r}", "a finite log10 back-off weight")
            self.backoffs[gram] = weight

    def model(self) -> NGramModel:
        wrong = [f"{size} of {self.counts[n]} {n}-grams" for n, size in self.sizes.items() if size != self.counts[n]]
        if wrong:
            raise UserError(f"{self.path}: found {', '.join(wrong)}, expected a whole language model (ARPA)")
        if self.repeated:
            log.warning(
                "%s: %d n-grams occur again, the first %r; of each the first score above log 0 is taken",
                self.path, len(self.repeated), " ".join(self.repeated[0]),
            )  # fmt: skip
        if (UNKNOWN,) not in self.log_probs:
            self.log_probs[(UNKNOWN,)] = LOG_ZERO * _LN10
            log.warning(
                "%s: it has no unknown word (%s), so a transcript with a word that is not in it is next to impossible",
                self.path, UNKNOWN,
            )  # fmt: skip
        return NGramModel(max(self.counts), self.log_probs, self.backoffs)


def _number(field: str) -> float:
    """Return a number that is written in ASCII; NaN for anything else."""
    try:
        return float(field) if field.isascii() and "_" not in field else math.nan
    except ValueError:
        return math.nan


def read_arpa(path: str | Path) -> NGramModel:
    r"""Read an ARPA file of SRILM, KenLM, IRSTLM, CMU's toolkit or HTK, plain or compressed (gzip, bzip2, xz).

    Fields are one or more spaces or tabs apart, text before `\data\` is skipped, and `<s>`, `</s>` and `<unk>` may be
    in capitals, or HTK's `!ENTER`, `!EXIT` and `!!UNK`. A score of -inf is read as -99.

    Raises:
        UserError: a line is wrong, named as FILE:LINE; or the file is not whole.
    """
    path = Path(path)
    check_file(path, "a language model (ARPA)")
    arpa, others, reading = _Arpa(path), 0, "preamble"
    try:
        with open_decompressed(path) as file:
            while raw := file.readline(_MAX_LINE + 1):
                arpa.line += 1
                if len(raw) > _MAX_LINE:
                    raise arpa.error(f"a line of more than {_MAX_LINE} bytes", "n-grams")
                line = raw.decode("utf-8-sig" if arpa.line == 1 else "utf-8").strip(" \t\r\n")
                if reading == "grams" and line and line[0] != "\\":
                    arpa.add_gram(line)
                    continue
                others += 1
                if others > _MAX_OTHERS:
                    raise arpa.error(f"{_MAX_OTHERS} lines without n-grams", "a language model (ARPA)")
                if reading == "preamble":
                    if line.startswith(_KENLM):
                        raise arpa.error("a binary model of KenLM", "the ARPA file that it was made of")
                    reading = "counts" if line == "\\data\\" else reading
                elif line == "\\end\\":
                    model = arpa.model()
                    rest = file.read(_MAX_LINE).strip()  # to the end of a compressed file, where its checksum is
                    if rest:
                        raise arpa.error(f"{rest[:40]!r} after '\\end\\'", "the end of the file")
                    return model
                elif match := _SECTION.fullmatch(line):
                    arpa.begin_section(int(match[1]))
                    reading = "grams"
                elif reading == "counts" and line:
                    arpa.add_count(line)
                elif line:
                    raise arpa.error(repr(line[:60]), "n-grams, '\\N-grams:' or '\\end\\'")
    except UnicodeDecodeError as error:
        raise arpa.error("bytes that are not UTF-8", "a language model (ARPA)") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {reason}, expected a language model (ARPA)") from error
    missing = {"preamble": "\\data\\", "counts": "\\1-grams:", "grams": "\\end\\"}[reading]
    raise UserError(f"{path}: found no line {missing!r}, expected a whole language model (ARPA)")
