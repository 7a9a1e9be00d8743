"""Finds personal data and secrets in a text: each detector yields the place and the kind of what it finds.

Candidates are found by RE2, in time linear to the text, and verified by their check digits, lengths or prefixes. Each
detector raises TooDense for a text with too many candidates.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from math import log2
from string import ascii_letters, digits
from types import MappingProxyType

from tollkeeper.moderation.patterns import (
    MAX_CANDIDATES,
    PAUSE_EVERY,
    Span,
    TooDense,
    compile_pattern,
    find_spans,
)
from tollkeeper.worker_thread import pause

FindSpans = Callable[[str], Iterator[Span]]

MAX_SPACED = 42
"""Characters of the longest find that may have spaces in it: an IBAN. What is longer is one word, which is not divided.
"""

_IBANS = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18
FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20
LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24
SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
IBAN_LENGTHS = MappingProxyType({entry[:2]: int(entry[2:]) for entry in _IBANS.split()})
"""Characters of an IBAN by country (SWIFT, IBAN Registry, of ISO 13616)."""
CARD_LENGTHS = range(12, 20)
"""Digits of a card number (ISO/IEC 7812-1)."""
PHONE_DIGITS = range(9, 16)
"""Digits of a telephone number: at most 15 with its country (ITU-T E.164)."""
MIN_ENTROPY_BITS = 4.3
"""Bits per character above which a long token of mixed characters is taken for a key: 32 random ones of base64 have
about 4.7, words and identifiers less than 4.
"""

_EMAIL = compile_pattern(r"[^\s@<>\"(),;:\\\[\]]+@[^\s@<>\"'(),;:/?#\\\[\]]+")
MAX_LOCAL, MAX_DOMAIN, MAX_LABEL = 64, 255, 63
"""Characters before and after the "@", and of one part of the domain (RFC 5321, 4.5.3.1; RFC 1035, 2.3.4)."""
_PHONE = compile_pattern(
    r"(?:\+|00)[0-9](?:[ ().\-/]{0,2}[0-9]){7,13}|\(?0?[0-9]{2,5}\)?[ .\-/][0-9](?:[ .\-/]?[0-9]){5,9}"
)
_NATIONAL_PHONE = compile_pattern(r"0[0-9]{1,4}[ /-].*|\(0?[0-9]{2,5}\).*|[2-9][0-9]{2}[ .-][0-9]{3}[ .-][0-9]{4}")
_IBAN_BEGIN = compile_pattern(f"(?i:{'|'.join(IBAN_LENGTHS)})[0-9]{{2}}")
_DIGITS = compile_pattern(r"[0-9]{3,}(?:[ -][0-9]{3,})*")
_GROUP = re.compile(r"[0-9]+")
USUAL_CARD_LENGTHS = (16, 15, 14, 13, 19, 18, 17, 12)
"""The order in which lengths are tried: most cards have 16 digits."""
_KNOWN_SECRET = compile_pattern(
    r"(?:sk|rk|pk)[-_][A-Za-z0-9_-]{20,}|tk-[A-Za-z0-9_-]{20,}"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|npm_[A-Za-z0-9]{36}|hf_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{50,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{10,}"
    r"|-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
)
"""Keys by the prefixes that their issuers document: OpenAI, Anthropic, Stripe, this server, GitHub, GitLab, AWS,
Google, Slack, npm, Hugging Face, PyPI; JSON Web Tokens (RFC 7519); private keys in PEM (RFC 7468).
"""
_TOKEN_CHARACTERS = frozenset(ascii_letters + digits + "+/_=-")
_TOKEN = compile_pattern(r"[A-Za-z0-9+/_=-]{24,}")
MAX_TOKEN = 256
"""Characters of a token that may be a key. Longer ones are data, such as a file in base64."""


def find_emails(text: str) -> Iterator[Span]:
    """E-mail addresses, also with letters beyond ASCII."""
    if "@" not in text:
        return
    for start, end in find_spans(_EMAIL, text):
        local, _, domain = text[start:end].partition("@")
        plain = domain.rstrip(".!'*`-_")
        labels = plain.split(".")
        if len(local) > MAX_LOCAL or len(plain) > MAX_DOMAIN or len(labels) < 2:
            continue
        is_host = all(0 < len(one) <= MAX_LABEL and one.replace("-", "").isalnum() for one in labels)
        if is_host and (labels[-1].isalpha() or labels[-1].startswith("xn--")) and len(labels[-1]) > 1:
            yield start + len(local) - len(local.lstrip("'*`")), end - len(domain) + len(plain)


def find_phones(text: str) -> Iterator[Span]:
    """Telephone numbers: with a country, or as they are usually written within one."""
    for start, end in find_spans(_PHONE, text):
        if text[start] == "(" and ")" not in text[start:end]:
            start += 1
        found = text[start:end]
        is_international = found.startswith(("+", "00"))
        digits_found = sum(character.isdigit() for character in found)
        if not _is_alone(text, start, end) or digits_found not in PHONE_DIGITS:
            continue
        if is_international or _NATIONAL_PHONE.fullmatch(found):
            yield start, end


def find_ibans(text: str) -> Iterator[Span]:
    """IBANs with the length of their country and the right check digits (ISO 13616: modulo 97 is 1)."""
    searched = 0
    for start, _ in find_spans(_IBAN_BEGIN, text):
        if start < searched or (start and text[start - 1].isalnum()):
            continue
        end = _end_of(text, start, IBAN_LENGTHS[text[start : start + 2].upper()])
        if end is None or (end < len(text) and text[end].isalnum()):
            continue
        compact = text[start:end].replace(" ", "").upper()
        if int("".join(str(int(one, 36)) for one in compact[4:] + compact[:4])) % 97 == 1:
            searched = end
            yield start, end


def find_cards(text: str) -> Iterator[Span]:
    """Numbers of payment cards: those of a known issuer with the right check digit (ISO/IEC 7812-1, Luhn)."""
    tries = count()
    for start, end in find_spans(_DIGITS, text):
        if end - start >= CARD_LENGTHS[0] and _is_alone(text, start, end):
            for first, last in _cards_among(text[start:end], tries):
                yield start + first, start + last


def _cards_among(text: str, tries: Iterator[int]) -> Iterator[Span]:
    """The card numbers among groups of digits: several may follow one another. `tries` counts the places where one
    may begin.
    """
    groups = [match.span() for match in _GROUP.finditer(text)]
    place = 0
    while place < len(groups):
        if text[groups[place][0]] not in "23456":
            place += 1
            continue
        tried = next(tries)
        if tried >= MAX_CANDIDATES:
            raise TooDense
        if not tried % PAUSE_EVERY:
            pause()
        number, ends = "", {}
        for other in range(place, min(place + CARD_LENGTHS[-1], len(groups))):
            number += text[slice(*groups[other])]
            if len(number) > CARD_LENGTHS[-1]:
                break
            ends[len(number)] = other
        lengths = (one for one in USUAL_CARD_LENGTHS if one in ends and _passes_luhn(number[:one]))
        length = next(lengths, None)
        if length is None:
            place += 1
            continue
        yield groups[place][0], groups[ends[length]][1]
        place = ends[length] + 1


def find_secrets(text: str) -> Iterator[Span]:
    """Keys by their prefix; and long tokens of mixed characters whose entropy is that of a random key."""
    for start, end in find_spans(_KNOWN_SECRET, text):
        if not (start and text[start - 1].isalnum()):
            yield start, end
    for start, end in find_spans(_TOKEN, text):
        is_whole = not (start and text[start - 1] in _TOKEN_CHARACTERS)
        if is_whole and end - start <= MAX_TOKEN and _looks_random(text[start:end]):
            yield start, end


DETECTORS: MappingProxyType[str, FindSpans] = MappingProxyType(
    {
        "email": find_emails,
        "phone": find_phones,
        "iban": find_ibans,
        "card": find_cards,
        "secret": find_secrets,
    }
)


def _is_alone(text: str, start: int, end: int) -> bool:
    """Whether a number is no part of a longer number or word."""
    before, after = text[start - 1 : start], text[end : end + 1]
    return not (before.isalnum() or before in ("_", "+") or after.isalnum() or after == "_")


def _end_of(text: str, start: int, length: int) -> int | None:
    """Where the first `length` letters and digits end, which single spaces may separate; None if there are fewer."""
    for position in range(start, min(start + MAX_SPACED, len(text))):
        character = text[position]
        if character == " ":
            if text[position - 1] == " ":
                return None
            continue
        if not (character.isascii() and character.isalnum()):
            return None
        length -= 1
        if not length:
            return position + 1
    return None


def _passes_luhn(number: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(number)):
        doubled = int(digit) * (1 + place % 2)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def _looks_random(token: str) -> bool:
    """Whether a token has capitals, small letters and digits, and nearly as much entropy as random ones."""
    has_all = any(map(str.isdigit, token)) and any(map(str.isupper, token)) and any(map(str.islower, token))
    if not has_all:
        return False
    counts = Counter(token)
    entropy = -sum(times / len(token) * log2(times / len(token)) for times in counts.values())
    return entropy >= min(MIN_ENTROPY_BITS, log2(len(token)) - 0.5)
