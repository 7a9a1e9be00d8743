"""The time zones of the IANA database, read from the package `tzdata`.

The system's own files are not used: all hosts of an installation must agree when a window begins, and the version of
the package is locked.
"""

from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

UTC_NAME = "UTC"


@lru_cache(maxsize=1)
def time_zone_names() -> frozenset[str]:
    """The names of all time zones."""
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


@lru_cache(maxsize=1_000)
def load_time_zone(name: str) -> ZoneInfo:
    """The time zone of a name. Raises KeyError if there is none."""
    if name not in time_zone_names():
        raise KeyError(name)
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)
