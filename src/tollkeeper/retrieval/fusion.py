"""Joins the results of several searches into one order."""

from collections.abc import Sequence
from typing import TypeVar

RANK_CONSTANT = 60
"""Of reciprocal rank fusion (Cormack, Clarke, Büttcher: "Reciprocal Rank Fusion outperforms Condorcet", SIGIR 2009)."""

Item = TypeVar("Item")


def fuse(*rankings: Sequence[Item]) -> list[Item]:
    """The items of all rankings, each of which has its best first. An item that several have near the top is first."""
    scores: dict[Item, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(scores, key=lambda item: -scores[item])
