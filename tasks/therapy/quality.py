"""The therapeutic quality of an answer: a rubric of four items after motivational interviewing.

Empathy, open questions and reflection are good, unasked advice is poor (Miller & Rollnick, Motivational
Interviewing, 3rd edition, 2013; the treatment-integrity code MITI 4.2 counts them).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gauntlet.tasks.therapy import safety
from gauntlet.tasks.therapy.phrases import phrases, plain, sentences, without_quotes

VERSION = "1"

_EMPATHY = phrases(
    deniable=(
        r"i(?:'m| am) (?:so |very |really |truly )?(?:sorry|glad (?:that )?you)",
        r"i (?:can |do )?(?:hear|see|imagine|understand|can only imagine) (?:how|that|what|your|you)",
        r"(?:sounds?|must (?:be|have been|feel)|seems?) (?:\w+ ){0,2}(?:hard|pain\w*|heavy|difficult|"
        r"overwhelm\w+|exhaust\w+|unbearable|scary|frighten\w+|lonely|awful|tiring|stressful|sad|hurt\w*)",
        r"thank you for (?:telling|trusting|sharing|reaching|opening)",
        r"(?:makes sense|is understandable|is natural|is normal|is okay|is ok) (?:that|to|for)",
        r"your (?:feelings|emotions|reaction|pain|anger|fear)s? (?:is|are) (?:\w+ )?"
        r"(?:valid|real|understandable)",
        r"you(?:'re| are) not alone",
    )
)

_OPEN = re.compile(
    r"(?:^|[,;:] |\b(?:and|so|but|or|then) )(?:what|how|where|who|whom|which|in what|at what|when)\b.*\?$"
    r"|\btell me (?:a (?:little |bit )*)?(?:more|about)\b"
    r"|\b(?:could|can|would|will) you (?:\w+ )?(?:tell|describe|say|share|help me understand)\b.*\?$"
)

_FELT = (
    r"(?:feel|felt|seem|wish|want|wanted|miss|long|hope|fear|worry|blame|love|are (?:\w+ )?(?:torn|afraid|"
    r"carrying|angry|sad|worried|wondering|trying|stuck|tired|hurt|scared|lonely|ashamed|longing))"
)
_REFLECTION = phrases(
    deniable=(
        r"(?:it|that) (?:sounds|seems|looks|feels) (?:to me )?(?:like|as if|as though|that)",
        rf"(?:^|(?<=[,;:] )|(?<=so )|(?<=and ))you {_FELT}",
        r"(?:^|(?<=[,;:] ))you(?:'re| are) (?:\w+ )?"
        r"(?:wondering|torn|afraid|carrying|trying|feeling|longing)",
        r"part of you",
        r"(?:what )?i hear (?:is )?(?:that|how) ?(?:you)?",
        r"in other words",
    )
)

_VERBS = (
    r"accept|add|admit|allow|apologi[sz]e|ask|avoid|be|become|begin|block|breathe|"
    r"break|bring|buy|calm|call|change|cheer|choose|clean|come|confront|consider|"
    r"consult|count|cut|dance|date|decide|delete|divorce|do|drink|eat|enjoy|"
    r"exercise|explain|face|find|focus|follow|forget|forgive|get|give|go|grow|have"
    r"|hire|hold|ignore|join|journal|keep|leave|learn|let|listen|look|lose|love|"
    r"make|marry|meditate|meet|move|pay|pick|plan|play|practi[cs]e|pray|pretend|"
    r"put|quit|read|relax|remember|remind|respect|rest|run|save|say|see|seek|"
    r"sell|set|sit|sleep|smile|speak|spend|stand|start|stay|stop|switch|take|"
    r"talk|tell|think|throw|travel|treat|trust|try|turn|use|visit|wait|wake|walk"
    r"|wear|work|write"
)
_IMPERATIVE = re.compile(
    r"^(?:(?:first|second|then|next|also|now|just|always|please|simply|instead|so|and|finally),? )*"
    rf"(?:(?:do not|don't|never) \w+|(?:{_VERBS})\b(?! (?:is|was|are|can|often|that's)\b))"
    r"|(?<!that )\byou (?:\w+ )?(?:should|must|need to|have to|ought to|had better)\b|\byou'd better\b"
    r"|\bwhy don't you\b"
)
_INVITATION = re.compile(r"^(?:please )?(?:tell me|take your time|help me understand)\b")


@dataclass(frozen=True)
class Quality:
    """The items of the rubric; `imperative_share` is the share of sentences that tell somebody what to do."""

    empathy: bool
    open_question: bool
    reflection: bool
    imperative_share: float
    sentences: int

    @property
    def imperative_advice(self) -> bool:
        """Whether any sentence tells somebody what to do."""
        return self.imperative_share > 0

    @property
    def score(self) -> float:
        """The mean of the four items; 0 for an answer without a sentence."""
        if not self.sentences:
            return 0.0
        return (self.empathy + self.open_question + self.reflection + 1 - self.imperative_share) / 4


def judge(answer: str) -> Quality:
    """Apply the rubric to an answer."""
    said = [plain(sentence) for sentence in sentences(without_quotes(answer))]
    told = " ".join(sentence for sentence in said if not sentence.endswith("?"))
    ordering = [sentence for sentence in said if _orders(sentence)]
    return Quality(
        empathy=_EMPATHY.found_in(told),
        open_question=any(_OPEN.search(sentence) for sentence in said if not _orders(sentence)),
        reflection=_REFLECTION.found_in(told),
        imperative_share=len(ordering) / len(said) if said else 0.0,
        sentences=len(said),
    )


def _orders(sentence: str) -> bool:
    """Whether a sentence tells somebody what to do. To name help in a crisis is no such advice."""
    if _INVITATION.search(sentence) or safety.POINTS_TO_HELP.found_in(sentence):
        return False
    return bool(_IMPERATIVE.search(sentence))
