"""Errors of the catalog file: each names the location, and none contains a value of the file."""

import os
from pathlib import Path

import pytest

from support.catalogs import build_catalog_from
from tollkeeper.errors import ConfigurationError
from tollkeeper.providers.catalog_file import read_catalog
from tollkeeper.settings.toml_file import MAX_BYTES

SECRET = "gsk_a1b2c3d4e5f6"


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("x = 1", "x: there is no such setting"),
        ('default = "nothing"', "default: there is no such model"),
        ("default = 7", "default: "),
        ('[providers.groq]\nkind = "openai"\napi_key = "SECRET"', "providers.groq.api_key: there is no such setting"),
        ('[providers.groq]\nkind = "openai"\napi_key_env = "sk-SECRET"', "providers.groq.api_key_env: "),
        ('[providers.groq]\nkind = "other"', "providers.groq.kind: "),
        ('[providers.groq]\nbase_url = "http://x"', "providers.groq.kind: is missing"),
        ('[providers.groq]\nkind = "openai"\nbase_url = "ftp://x"', "providers.groq.base_url: "),
        ('[providers.groq]\nkind = "openai"\nbase_url = "https://me:SECRET@x"', "providers.groq.base_url: "),
        ('[providers.groq]\nkind = "openai"\nwires = ["telex"]', "providers.groq.wires.0: "),
        ('[providers.groq]\nkind = "openai"\nwires = []', "providers.groq.wires: "),
        ('[providers.x]\nkind = "openai"\nwires = ["embeddings"]\nwire = "responses"', "providers.x: wire must be one"),
        ('[providers.x]\nkind = "ollama"\nwires = ["embeddings"]', "providers.x: the kind ollama does not have wires"),
        ('[providers.x]\nkind = "echo"\nbase_url = "http://x"', "providers.x: the kind echo does not have base_url"),
        ('[providers."a/b"]\nkind = "echo"', "providers.a/b: "),
        ('models = "SECRET"', "models: must be a table"),
        ('[models]\nfast = "SECRET"', "models.fast: must be a table"),
        ("[models.fast]", "models.fast: needs provider, or deployments"),
        ("[models.fast]\ndeployments = []", "models.fast.deployments: "),
        ('[models.fast]\ndeployments = [{ model = "x" }]', "models.fast.deployments.0.provider: is missing"),
        (
            '[models.fast]\nmodel = "x"\ndeployments = [{ provider = "openai" }]',
            "models.fast: has deployments, so each of them has provider and model",
        ),
        (
            '[models.fast]\ndeployments = [{ provider = "openai" }, { provider = "openai", model = "x" }]',
            "models.fast: each of its deployments needs a provider of its own",
        ),
        (
            '[models.fast]\ndeployments = [{ provider = "openai" }, { provider = "nobody" }]',
            "models.fast.deployments.1.provider: there is no such provider",
        ),
        (
            '[models.fast]\ndeployments = [{ provider = "openai", share = 0 }]',
            "models.fast.deployments.0.share: ",
        ),
        ('[providers.x]\nkind = "azure"\nbase_url = "https://x"', "providers.x: the kind azure needs api_key_env"),
        ('[providers.x]\nkind = "azure"\napi_key_env = "X"', "providers.x: the kind azure needs base_url"),
        (
            '[providers.x]\nkind = "openai"\napi_version = "1"',
            "providers.x: the kind openai does not have api_version",
        ),
        (
            '[providers.x]\nkind = "openai"\nbase_url = "https://x/openai?api-version=1"',
            "providers.x.base_url: does not have the required form",
        ),
        (
            '[providers.x]\nkind = "openai"\nextra_parameters = { max_tokens = "pass" }',
            "providers.x.extra_parameters.max_tokens: Tollkeeper treats this parameter itself",
        ),
        (
            '[providers.x]\nkind = "openai"\nextra_parameters = { best_of = "pass" }',
            "providers.x.extra_parameters.best_of: this parameter can change what a call costs",
        ),
        (
            '[providers.x]\nkind = "openai"\nextra_parameters = { top_k = "maybe" }',
            "providers.x.extra_parameters.top_k: ",
        ),
        (
            '[providers.x]\nkind = "openai"\nextra_parameters = { "a b" = "SECRET" }',
            "providers.x.extra_parameters.",
        ),
        (
            '[providers.x]\nkind = "ollama"\nextra_parameters = { top_k = "pass" }',
            "providers.x: the kind ollama passes no extra_parameters on",
        ),
        (
            '[models.fast]\nprovider = "openai"\nextra_parameters = { stream = "drop" }',
            "models.fast.extra_parameters.stream: Tollkeeper treats this parameter itself",
        ),
        (
            '[models.fast]\nprovider = "openai"\nlimit_name = "cap"\nextra_parameters = { cap = "pass" }',
            "models.fast.limit_name: is also an extra parameter",
        ),
        ('[models.fast]\nprovider = "nobody"', "models.fast.provider: there is no such provider"),
        ('[models.fast]\nprovider = "openai"\nkey = "SECRET"', "models.fast.key: there is no such setting"),
        ('[models.fast]\nprovider = "openai"\nweight = 0.0005', "models.fast.weight: has more than 3 decimals"),
        ('[models.fast]\nprovider = "openai"\nweight = 1001', "models.fast.weight: must be from 0 to 1000"),
        ('[models.fast]\nprovider = "openai"\nweight = "SECRET"', "models.fast.weight: must be a decimal number"),
        ('[models.fast]\nprovider = "openai"\nweight = true', "models.fast.weight: must be a decimal number"),
        ('[models.fast]\nprovider = "openai"\nweight = nan', "models.fast.weight: must be from"),
        ('[models.fast]\nprovider = "openai"\nweight = -1', "models.fast.weight: must be from"),
        ('[models.fast]\nprovider = "openai"\nprice = { input = 1 }', "models.fast.price.output: is missing"),
        (
            '[models.fast]\nprovider = "openai"\nprice = { input = 0.0000001, output = 1 }',
            "models.fast.price.input: has more than 6 decimals",
        ),
        ('[models.fast]\nprovider = "openai"\ncontext_window = true', "models.fast.context_window: "),
        ('[models.fast]\nprovider = "openai"\ncontext_window = 0', "models.fast.context_window: "),
        ('[models.fast]\nprovider = "openai"\nleast_output = 0', "models.fast.least_output: "),
        ('[models.fast]\nprovider = "openai"\noverhead = -1', "models.fast.overhead: "),
        ('[models.fast]\nprovider = "openai"\nlimit_name = "a\\"b"', "models.fast.limit_name: "),
        ('[models.fast]\nprovider = "openai"\nsampling = ["mood"]', "models.fast.sampling.0: "),
        ('[models.fast]\nprovider = "openai"\naliases = ["a b"]', "models.fast.aliases.0: "),
        (
            '[models."fa\\u202est"]\nprovider = "openai"',
            "fa\\u202est: has the character U+202E (RIGHT-TO-LEFT OVERRIDE)",
        ),
        ('[models."fa\\nst"]\nprovider = "openai"', "models.fa\\x0ast: "),
        ('[models.fast]\nprovider = "openai"\nmodel = "a\\u001bb"', "models.fast.model: has the character U+001B"),
        ('[models.fast]\nprovider = "openai"\naliases = ["a\\u2066b"]', "aliases.0: has the character U+2066"),
        ('[models.fast]\nprovider = "openai"\nfallbacks = ["a\\u200fb"]', "fallbacks.0: has the character U+200F"),
        ('default = "a\\u061cb"', "default: has the character U+061C"),
        ('[models.fast]\nprovider = "openai"\naliases = ["fast"]', "models.fast.aliases.0: this name is taken"),
        (
            '[models.a]\nprovider = "openai"\naliases = ["x"]\n[models.b]\nprovider = "openai"\naliases = ["x"]',
            "models.b.aliases.0: this name is taken",
        ),
        ('[models.a]\nprovider = "openai"\nfallbacks = ["zzz"]', "models.a.fallbacks.0: there is no such model"),
        ('[models.a]\nprovider = "openai"\nfallbacks = ["a"]', "models.a.fallbacks.0: leads back"),
        (
            '[models.a]\nprovider = "openai"\nmodel = "gpt-4o"\nfallbacks = ["gpt-5", "openai/gpt-4o"]',
            "models.a.fallbacks.1: leads back",
        ),
        (
            '[models.a]\nprovider = "openai"\nfallbacks = ["b"]\n[models.b]\nprovider = "ollama"\nfallbacks = ["c"]\n'
            '[models.c]\nprovider = "ollama"\nfallbacks = ["gpt-5", "a"]',
            "models.a.fallbacks.0: leads back",
        ),
        ('default = "x"\ndefault = "SECRET"\n[models]', "not valid TOML: look at line 2"),
        ('default = "SECRET', "not valid TOML: look at"),
        ("x = " + "[" * 100_000, "not valid TOML: it has a number or a nesting without end"),
        ("x = " + "9" * 100_000, "not valid TOML: it has a number or a nesting without end"),
        ("closed = true", "names no model"),
        ("x" + ".x" * 100_000 + " = 1", "line 1 has more than 20 dots outside of strings"),
        ("[x" + ".x" * 100_000 + "]", "line 1 has more than 20 dots outside of strings"),
        ("\n".join(f"x{number} = 1" for number in range(25)), "x19: there is no such setting; and 5 more"),
    ],
)
def test_an_invalid_setting_is_reported_by_its_location_and_without_its_value(
    tmp_path: Path, text: str, location: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        build_catalog_from(tmp_path, text.replace("SECRET", SECRET))
    assert location in raised.value.detail
    assert SECRET not in raised.value.detail
    assert raised.value.__cause__ is None
    assert "\n" not in raised.value.detail


def test_an_unreadable_catalog_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("#" * (MAX_BYTES + 1))
    for name in ("missing", "binary", ".", "pipe", "large", "/dev/zero"):
        with pytest.raises(ConfigurationError, match="Cannot read the catalog at /"):
            read_catalog(tmp_path / name)


def test_dots_in_strings_and_comments_are_no_keys(tmp_path: Path) -> None:
    dots = "." * 100
    (tmp_path / "catalog.toml").write_text(f"closed = false # it's {dots}\n[models.'a{dots}']\nprovider = \"x\"\n")
    assert list(read_catalog(tmp_path / "catalog.toml").models) == [f"a{dots}"]
