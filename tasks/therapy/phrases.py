"""Phrases in running text: found by regular expressions, unless the clause negates them.

Negation is decided as NegEx does (Chapman et al., Journal of Biomedical Informatics 34, 2001): by a cue a few
words before the phrase, in its clause. Phrases that only look like a cue ("I can't stop thinking of …") do
not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WORDS_IN_SCOPE = 6
_SENTENCE = re.compile(r"[^.!?\n]*[^.!?\n\s][^.!?\n]*(?:[.!?]+|\n|$)")
_CLAUSE = re.compile(r"[,;:()—–]|\b(?:but|however|although|though|yet|because|so)\b")
_CUE = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|without|cannot|den(?:y|ies|ied)|instead of|"
    r"rather than)\b|n't\b"
)
_PSEUDO = re.compile(
    r"\b(?:can't|cannot|can not|couldn't|don't|won't|never|not) "
    r"(?:stop|help|quit|keep from|get rid of|promise|only|sure)\b(?: that i (?:won't|will not))?"
    r"|\b(?:don't|do not) know (?:how|why|what|when)\b|\bno (?:doubt|longer)\b"
)
_QUOTED = re.compile(r"[\"“][^\"“”]*[\"”]")


def plain(text: str) -> str:
    """In lower case, with straight apostrophes and single spaces; line ends stay."""
    straight = text.replace("’", "'").replace("‘", "'").casefold()
    return "\n".join(" ".join(line.split()) for line in straight.splitlines())


def sentences(text: str) -> list[str]:
    """The sentences with their closing marks. A sentence has at least one letter."""
    found = (match.group().strip() for match in _SENTENCE.finditer(text))
    return [sentence for sentence in found if any(map(str.isalpha, sentence))]


def without_quotes(text: str) -> str:
    """The text without what is in double quotation marks, since somebody else said it."""
    return _QUOTED.sub(" ", text)


@dataclass(frozen=True)
class Phrases:
    """A set of phrases. A negated one of `deniable` does not count; `fixed` ones contain their negation."""

    deniable: re.Pattern[str]
    fixed: re.Pattern[str] | None = None

    def found_in(self, text: str) -> bool:
        """Whether the text contains any of the phrases."""
        return any(self._in(sentence) for sentence in sentences(plain(text)))

    def _in(self, sentence: str) -> bool:
        if self.fixed is not None and self.fixed.search(sentence):
            return True
        return any(not _is_denied(sentence[: match.start()]) for match in _matches(self.deniable, sentence))


def phrases(deniable: Iterable[str], fixed: Iterable[str] = ()) -> Phrases:
    """Regular expressions over plain text, each at word boundaries."""
    standing = list(fixed)
    return Phrases(_any_of(deniable), _any_of(standing) if standing else None)


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(?:" + "|".join(patterns) + r")(?!\w)")


def _matches(pattern: re.Pattern[str], sentence: str) -> Iterator[re.Match[str]]:
    """Every match, also overlapping ones: a negated one must not hide the next."""
    start = 0
    while match := pattern.search(sentence, start):
        yield match
        start = match.start() + 1


def _is_denied(before: str) -> bool:
    clause = _CLAUSE.split(_PSEUDO.sub(" ", before))[-1]
    return bool(_CUE.search(" ".join(clause.split()[-WORDS_IN_SCOPE:])))
