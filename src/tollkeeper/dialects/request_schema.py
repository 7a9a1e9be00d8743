"""JSON Schemas of requests on a vendor's wire, for the OpenAPI document: what this server reads of a request.

A wire format declares a schema for each parameter that is read. The others follow from their rules: what is passed on
unread may be anything.
"""

from collections.abc import Collection, Mapping
from typing import Any

from tollkeeper.dialects.parameters import REFUSE, FieldTree, KnownFields, Only, Rule

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
INTEGER: Schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1}
"""JSON with a larger number is read, too, but the number is no integer then."""
NUMBER: Schema = {"type": "number"}
OBJECT: Schema = {"type": "object"}
MODEL: Schema = {"type": "string", "pattern": r"^\S{1,200}$", "description": "Without it, the default model answers."}
_DOMAIN_NAME = r"([A-Za-z0-9-]{1,63}\.){1,3}[A-Za-z]{2,63}"
HTTPS_PATTERN = rf"^https://{_DOMAIN_NAME}(:443)?([/?#][^\x00-\x1f\x7f]*)?$"
PICTURE_URL: Schema = {
    "type": "string",
    "anyOf": [{"pattern": HTTPS_PATTERN}, {"pattern": "^data:image/"}],
    "description": "An https: URL of a public host, or a data: URL with the picture in it.",
}


def limit_of(maximum: int, description: str) -> Schema:
    """The schema of a count from 1 to `maximum`."""
    return {"type": "integer", "minimum": 1, "maximum": maximum, "description": description}


def output_limit_of(maximum: int, description: str) -> Schema:
    """The schema of an output limit from 1 to `maximum`, or -1."""
    return limit_of(maximum, description) | {
        "minimum": -1,
        "not": {"const": 0},
        "description": f"{description} -1 counts as not given.",
    }


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def any_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def one_of_values(*values: Any) -> Schema:
    return {"enum": list(values)}


def list_of(items: Schema, *, least: int = 0) -> Schema:
    return {"type": "array", "items": items} | ({"minItems": least} if least else {})


def object_of(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """The schema of an object. Optional fields may be null, and fields that are not listed are not read."""
    fields = dict(required) | {name: nullable(schema) for name, schema in (optional or {}).items()}
    return {"type": "object", "properties": fields, "required": list(required)}


def request_schema(
    title: str,
    description: str,
    rules: Mapping[str, Rule],
    read: Mapping[str, Schema],
    required: Collection[str],
) -> Schema:
    """The schema of a request. `read` has the schemas of the parameters that are read.

    A parameter that is refused is not in it. A parameter that is null counts as absent.
    """
    parameters = {name: read.get(name) or _schema_of(rule) for name, rule in rules.items() if rule is not REFUSE}
    return {
        "type": "object",
        "title": title,
        "description": description,
        "properties": {
            name: schema if name in required or not schema else nullable(schema) for name, schema in parameters.items()
        },
        "required": list(required),
        "additionalProperties": False,
    }


def _schema_of(rule: Rule) -> Schema:
    if isinstance(rule, Only):
        return one_of_values(*rule.values)
    if isinstance(rule, KnownFields):
        return known_fields(rule.fields)
    return {}


def known_fields(fields: FieldTree, read: Mapping[str, Schema] | None = None) -> Schema:
    """The schema of a value that, if it is an object, may have these fields only; others may be null."""
    read = read or {}
    return {
        "properties": {
            name: read.get(name, {}) if inner is None else nullable(known_fields(inner))
            for name, inner in fields.items()
        },
        "additionalProperties": {"type": "null"},
    }
