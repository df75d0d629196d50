"""Instructions to models in texts that are to be data.

Nothing is taken out for what it says: a page about prompt injection is full of it. A chunk carries
what was found as flags, each with a reason and a score, and whoever answers with chunks decides.
Patterns look at text without accents, look-alike letters and double spaces. Every repetition has a
bound, so time grows with the length of the text alone.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from functions.libraries.document import Flag, Hidden

SUSPICIOUS = 0.7
"""From this score on a chunk had better not reach a model without a word about it."""

_EXCERPT = 120  # characters
_SCANNED = 200_000  # characters of one text

_GAP = r"[^.!?]"


@dataclass(frozen=True, slots=True)
class _Rule:
    reason: str
    score: float
    pattern: re.Pattern[str]
    in_code: float = 0.7
    """What is left of the score inside code, where such words are often an example."""


def _rule(reason: str, score: float, pattern: str, in_code: float = 0.7) -> _Rule:
    return _Rule(reason, score, re.compile(pattern), in_code)


_RULES = (
    _rule(
        "override_instructions",
        0.9,
        rf"\b(?:ignore|disregard|forget|override|bypass|discard)\b{_GAP}{{0,40}}?"
        r"\b(?:previous|prior|above|preceding|earlier|former|all|any|your|system|other|the|these)\b"
        rf"{_GAP}{{0,30}}?\b(?:instructions?|(?:system )?prompts?|guardrails?|system messages?)\b",
    ),
    _rule(
        "override_instructions",
        0.9,
        rf"\b(?:ignore|disregard|forget)\b{_GAP}{{0,20}}?\b(?:previous|prior|your|earlier|above)\b"
        rf"{_GAP}{{0,20}}?\b(?:rules|guidelines|directions|training|context|conversation)\b",
    ),
    _rule(
        "override_instructions",
        0.9,
        rf"\b(?:ignor(?:e[rsz]?|ez)|oublie[rsz]?)\b{_GAP}{{0,40}}?\b(?:instructions|consignes|"
        rf"directives)\b{_GAP}{{0,20}}?\b(?:precedentes|anterieures|ci-dessus|initiales|donnees)\b"
        rf"|\b(?:ignora|olvida)\w{{0,5}}\b{_GAP}{{0,40}}?\binstrucciones\b"
        rf"|\b(?:ignoriere|vergiss|missachte)\w{{0,3}}\b{_GAP}{{0,40}}?"
        r"\b(?:anweisungen|instruktionen)\b",
    ),
    _rule(
        "new_role",
        0.8,
        r"\byou are now (?:an? |the )?(?:[\w-]{1,30} ){0,3}?(?:assistant|agent|model|ai|bot|hacker|"
        r"root|dan|jailbroken|unrestricted)\b|\byou are now in [\w-]{1,20} mode\b"
        r"|\bdo anything now\b|\bact as (?:an? )?(?:unrestricted|jailbroken|unfiltered)\b"
        r"|\byour new (?:instructions?|task|role|goal|objective|system prompt) (?:is|are)\b",
    ),
    _rule(
        "addresses_model",
        0.5,
        r"\b(?:ai|llm|coding|language)[ -](?:assistants?|agents?|models?)\b[^.!?]{0,20}?"
        r"\b(?:must|shall|have to|are required to|is required to|are instructed)\b"
        r"|\b(?:note|important|attention|instructions?|message|notice) (?:to|for) "
        r"(?:all |any |the )?(?:ai|llms?|claude|chatgpt|gpt|copilot|cursor|gemini|"
        r"language models?|assistants?)\b"
        r"|\bif you are an? (?:ai|llm|large language|language model|assistant)\b",
    ),
    _rule(
        "secrecy",
        0.7,
        r"\b(?:do not|don't|dont|never) (?:tell|inform|mention|notify|alert|reveal|disclose)"
        r"(?: (?:this|it|that|anything|about this))?(?: to)? (?:the|your) (?:user|human|operator)\b"
        r"|\bwithout (?:telling|informing|notifying|alerting) "
        r"(?:the|your) (?:user|human|operator)\b",
    ),
    _rule(
        "reveal_prompt",
        0.8,
        rf"\b(?:reveal|print|repeat|output|show|leak|disclose|dump|recite)\b{_GAP}{{0,30}}?"
        r"\b(?:your|the|its) (?:system prompt|initial instructions|hidden instructions|"
        r"system message|system instructions)\b",
    ),
    _rule(
        "exfiltrate",
        0.8,
        rf"\b(?:send|post|upload|exfiltrate|forward|transmit|leak|append)\b{_GAP}{{0,60}}?"
        r"\b(?:conversation|chat history|environment variables|api keys?|passwords?|credentials|"
        r"secrets?|private keys?|ssh keys?|access tokens?|system prompt)\b"
        r".{0,60}?\b(?:to|at|via)\b.{0,20}?https?://",
        0.5,
    ),
    _rule(
        "tool_call",
        0.4,
        r"\b(?:you must|you should|now|please|immediately) (?:call|invoke|use|run) the "
        r"(?:[\w.-]{1,40} ){1,4}?(?:tool|function|command) (?:with|to|and)\b",
    ),
)
# As they are written: case matters, and so do brackets.
_MARKERS = (
    _rule(
        "role_marker",
        0.7,
        r"<\|(?:im_start|im_end|im_sep|system|user|assistant|endoftext|eot_id|begin_of_text|"
        r"start_header_id|end_header_id|tool_call)\|>|\[/?INST\]|<</?SYS>>"
        r"|</?(?:system|system_prompt|system-reminder|assistant|instructions)>",
        0.5,
    ),
    _rule(
        "tool_call",
        0.7,
        r"</?(?:antml:)?(?:function_calls?|tool_calls?|tool_use|tool_result|tool_response|invoke)"
        r"(?: [^<>]{0,200})?>|\"(?:tool_calls|function_call)\"\s{0,9}:\s{0,9}[\[{]",
        0.4,
    ),
    _rule(
        "role_marker",
        0.5,
        r"(?m)^(?:#{1,4} ?)?(?:SYSTEM|System)(?: (?:prompt|message|note))?: ?\S",
        0.3,
    ),
)
_BASE64 = re.compile(r"(?<![\w+/])[A-Za-z0-9+/_-]{80,}={0,2}")
_PRINTABLE = 0.9  # of what base64 decodes to, for it to be a text

# How sure one may be that what is hidden so is hidden from people only.
_HIDDEN = {
    "comment": 0.0,  # everybody writes them
    "screen_readers_only": 0.1,
    "hidden_attribute": 0.2,  # scripts show it
    "clipped": 0.2,
    "visibility_hidden": 0.3,
    "style_sheet": 0.3,
    "display_none": 0.3,
}
_HIDDEN_OTHERWISE = 0.5

_LOOK_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u0432\u043d\u043a\u043c\u0442"
    "\u03b1\u03b5\u03bf\u03c1\u03b9\u03bd\u03ba\u03c4\u03c5\u0131\u2019",
    "aeopcyxijshdqbhkmtaeopivktui'",
)


def flags_of_text(text: str, *, is_code: bool = False) -> tuple[Flag, ...]:
    """What in a text looks as if it were meant for a model."""
    text = text[:_SCANNED]
    found = [*_matches(_RULES, _plain(text), is_code), *_matches(_MARKERS, text, is_code)]
    found += _encoded(text, is_code)
    return strongest(found)


def flags_of_hidden(block: Hidden) -> tuple[Flag, ...]:
    """What to think of a text that the page does not show."""
    inside = flags_of_text(block.content)
    found = list(block.flags)
    if inside:
        worst = max(inside, key=lambda flag: flag.score)
        score = min(1.0, worst.score + (0.1 if block.reason == "comment" else 0.3))
        found.append(Flag("hidden_instructions", round(score, 2), worst.excerpt))
    score = _HIDDEN.get(block.reason, _HIDDEN_OTHERWISE)
    if score:
        found.append(Flag("hidden_text", score, _excerpt(block.content)))
    return strongest(found)


def strongest(flags: Iterable[Flag]) -> tuple[Flag, ...]:
    """One flag for each reason, the surest first."""
    best: dict[str, Flag] = {}
    for flag in flags:
        if flag.reason not in best or best[flag.reason].score < flag.score:
            best[flag.reason] = flag
    return tuple(sorted(best.values(), key=lambda flag: (-flag.score, flag.reason)))


def _matches(rules: Iterable[_Rule], text: str, is_code: bool) -> list[Flag]:
    found = []
    for rule in rules:
        match = rule.pattern.search(text)
        if match:
            score = round(rule.score * (rule.in_code if is_code else 1), 2)
            found.append(Flag(rule.reason, score, _excerpt(match.group())))
    return found


def _encoded(text: str, is_code: bool) -> list[Flag]:
    """Long runs of base64: what they hold, or that nobody knows."""
    found = []
    for match in _BASE64.finditer(text):
        run = match.group()
        decoded = _decoded(run)
        inside = _matches(_RULES, _plain(decoded), is_code=False) if decoded else []
        if inside:
            found.append(Flag("encoded_instructions", 0.9, inside[0].excerpt))
        elif not is_code and _is_mixed(run):
            found.append(Flag("encoded_payload", 0.3, _excerpt(run)))
    return found


def _is_mixed(run: str) -> bool:
    """Not a rule of dashes, a path or a word: random bytes have all of these."""
    return all(any(test(c) for c in run) for test in (str.isdigit, str.isupper, str.islower))


def _decoded(run: str) -> str:
    plain = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(plain + "=" * (-len(plain) % 4))
    except (binascii.Error, ValueError):
        return ""
    text = data.decode("utf-8", "replace")
    shown = sum(1 for character in text if character.isprintable() or character.isspace())
    return text if shown >= _PRINTABLE * len(text) and "\ufffd" not in text else ""


def _plain(text: str) -> str:
    """Small letters without accents, one space at a time, no marks of emphasis."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    text = text.casefold()
    if not text.isascii():
        text = text.translate(_LOOK_ALIKE)
    return " ".join(text.replace("*", "").replace("`", "").replace("_", " ").split())


def _excerpt(text: str) -> str:
    return " ".join(text.split())[:_EXCERPT]
