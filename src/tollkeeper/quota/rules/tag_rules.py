"""The tags of a tenant: which ones its calls may have, and the quotas of their values. No I/O."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tollkeeper.errors import TagRefused
from tollkeeper.quota.rules.subjects import QuotaRow, Quotas, not_replaced
from tollkeeper.tags import Tags, split_tag

SHOWN_NAMES = 20
MAX_INSTANCES = 1_000
"""Tags whose quotas of templates are remembered."""


@dataclass(frozen=True, slots=True)
class TagRules:
    """What a tenant has declared. The users of a tenant share one."""

    values: Mapping[str, frozenset[str] | None] = field(default_factory=lambda: MappingProxyType({}))
    """The values that each tag may have, by its name; None for any value."""
    required: frozenset[str] = frozenset()
    """The tags that every call must have."""
    quotas: Mapping[str, Quotas] = field(default_factory=lambda: MappingProxyType({}))
    """The quotas of each tag, as `name=value`; and its templates, as `name`."""
    instances: dict[str, Quotas] = field(default_factory=dict, compare=False)
    """The quotas of some tags that have quotas of templates, as they were made."""

    def require(self, tags: Tags | None) -> None:
        """Raise TagRefused for a tag that is not declared, for a value that is not allowed, and if a tag is missing
        that is required. None stands for work of the server, which needs none.
        """
        for tag in tags or ():
            name, value = split_tag(tag)
            if name not in self.values:
                raise TagRefused(f"Your tenant has not declared the tag {name}. {self._declared()}")
            allowed = self.values[name]
            if allowed is not None and value not in allowed:
                raise TagRefused(f"The tag {name} may not have the value {value}. An administrator can add it.")
        if self.required and tags is not None:
            missing = self.required.difference([split_tag(tag)[0] for tag in tags])
            if missing:
                name = min(missing)
                raise TagRefused(f"Your tenant requires the tag {name}. Send X-Tollkeeper-Tags: {name}=VALUE.")

    def quotas_of(self, tag: str) -> Quotas:
        """The quotas of a tag, `name=value`: its own, and those that it has of templates."""
        if not self.quotas:
            return ()
        own, templates = self.quotas.get(tag, ()), self.quotas.get(split_tag(tag)[0])
        if templates is None:
            return own
        made = self.instances.get(tag)
        if made is None:
            if len(self.instances) >= MAX_INSTANCES:
                self.instances.clear()
            made = self.instances[tag] = own + not_replaced(templates, tag, own)
        return made

    def all_quotas(self) -> Iterator[QuotaRow]:
        """The quotas of all values, and the templates."""
        for quotas in self.quotas.values():
            yield from quotas

    def _declared(self) -> str:
        if not self.values:
            return "An administrator declares tags with POST /admin/tags."
        return f"It has declared: {', '.join(sorted(self.values)[:SHOWN_NAMES])}."


UNTAGGED = TagRules()


def tag_rules(declared: Iterable[tuple[str, bool, Iterable[str] | None]], quotas: Iterable[QuotaRow]) -> TagRules:
    """The rules of a tenant: the name of each tag, whether it is required, and its values or None; and the quotas."""
    rows = list(declared)
    by_tag: dict[str, Quotas] = {}
    for quota in quotas:
        tag = quota.key.subject.name
        by_tag[tag] = (*by_tag.get(tag, ()), quota)
    return TagRules(
        {name: frozenset(values) if values is not None else None for name, _, values in rows},
        frozenset(name for name, is_required, _ in rows if is_required),
        by_tag,
    )
