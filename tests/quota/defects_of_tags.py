"""Defects of the rules of tags."""

import pytest
import scenarios_of_tags
from defect_detection import Detectable

from tollkeeper.quota.rules import admission
from tollkeeper.quota.rules.accounts import Account
from tollkeeper.quota.rules.tag_rules import TagRules


def no_quotas_of_tags(patch: pytest.MonkeyPatch) -> None:
    """A call does not hold on the quotas of its tags."""
    genuine = Account.quotas_of
    patch.setattr(Account, "quotas_of", lambda account, billing: genuine(account, billing._replace(tags=())))


def any_tag_passes(patch: pytest.MonkeyPatch) -> None:
    """A tag needs no declaration, and none is required."""
    patch.setattr(TagRules, "require", lambda rules, tags: None)


def a_tag_may_be_missing(patch: pytest.MonkeyPatch) -> None:
    """A call without tags passes, although one is required."""
    genuine = TagRules.require
    patch.setattr(TagRules, "require", lambda rules, tags: genuine(rules, tags or None))


def a_charge_without_its_tags(patch: pytest.MonkeyPatch) -> None:
    """The audit could not find the quotas that it skipped."""
    patch.setattr(admission, "encode_tags", lambda tags: None)


DEFECTS: list[Detectable] = [
    Detectable(no_quotas_of_tags, scenarios_of_tags.quota_of_a_tag),
    Detectable(any_tag_passes, scenarios_of_tags.declared_tags),
    Detectable(a_tag_may_be_missing, scenarios_of_tags.declared_tags),
    Detectable(a_charge_without_its_tags, scenarios_of_tags.quota_of_a_tag),
]
