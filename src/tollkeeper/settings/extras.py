"""Packages that only some settings need."""

from importlib import metadata

from tollkeeper.errors import ConfigurationError


def missing_package(needed_by: str, extra: str) -> ConfigurationError:
    """The error for a setting or an option whose extra is not installed. It names the packages: the extra's own name
    would install another copy of Tollkeeper where this one runs from a checkout.
    """
    requirements = [each.replace('"', "'").partition(";") for each in metadata.requires("tollkeeper") or ()]
    packages = [f"'{package.strip()}'" for package, _, marker in requirements if f"'{extra}'" in marker]
    return ConfigurationError(f"{needed_by} needs a package. Install it: python -m pip install {' '.join(packages)}")
