"""What tests replace in a server: the ledger's store, the catalog with its providers, and what could not be booked."""

from dataclasses import dataclass, field

from tollkeeper.bootstrap.catalog import CatalogSource
from tollkeeper.bootstrap.ledger import make_store
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.spill import Spill
from tollkeeper.quota.stores.base import Store
from tollkeeper.settings import Settings


@dataclass(frozen=True, slots=True)
class Backends:
    """`catalog_source` makes the catalog anew at a reload."""

    store: Store
    catalog: Catalog
    spill: Spill
    catalog_source: CatalogSource = field(default_factory=CatalogSource)


def make_backends(settings: Settings) -> Backends:
    source = CatalogSource()
    return Backends(make_store(settings), source.make(settings), Spill(settings.spill_folder), source)
