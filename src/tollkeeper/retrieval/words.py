"""The words of a text, as the keyword search compares them. The database has only keyed hashes of them.

So an index of words, which cannot be encrypted as a whole, does not show the documents to who reads the database. What
it does show is how often one and the same unknown word occurs in chunks of one tenant.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

MAX_WORD_LENGTH = 60
MAX_QUERY_WORDS = 64
"""Different words of a question that are searched for: the first ones."""
_WORD = re.compile(r"\w+")
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
"""Of languages that put no spaces between words: each character counts as one."""
_COMMON_WORDS = """
a an and are as at be but by can do does did for from had has have he her his how i if in into is it its me my no not
of on or our she so that the their them then there these they this to us was we were what when where which who why will
with would you your
"""
COMMON = frozenset(_COMMON_WORDS.split())
"""English words that say nothing of a subject. Without this, they would decide which chunks are found."""


def words_of(text: str) -> Iterator[str]:
    """The words of a text, in order, in the form in which they are compared."""
    for found in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if _IDEOGRAPHS.search(found):
            yield from found[:MAX_WORD_LENGTH]
        elif found not in COMMON:
            yield _stem(found[:MAX_WORD_LENGTH])


def query_words(text: str) -> list[str]:
    """The different words of a question, at most MAX_QUERY_WORDS."""
    return list(dict.fromkeys(words_of(text)))[:MAX_QUERY_WORDS]


def share_of(wanted: Iterable[str], text: str) -> float:
    """How many of the wanted words the text has, as a share of them: 0 to 1."""
    words = set(wanted)
    return len(words.intersection(words_of(text))) / len(words) if words else 0.0


@lru_cache(maxsize=10_000)
def _stem(word: str) -> str:
    """Without the end of an English plural (D. Harman, "How effective is suffixing?", 1991: the S stemmer)."""
    if len(word) > 3 and word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if len(word) > 2 and word.endswith("s") and not word.endswith(("us", "ss")):
        return word[:-1]
    return word
