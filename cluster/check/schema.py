"""Documents against JSON schemas: KubeRay's (derived from its CRDs), Ray's launcher's, and small ones of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anonymousnet.cluster.check.text import Document, Mistake, Where, shown
from anonymousnet.cluster.schemas import ours

if TYPE_CHECKING:
    from jsonschema import ValidationError


@lru_cache
def schema_of(kind: str) -> dict[str, Any] | None:
    """The schema of a Kubernetes kind, or of `Dashboard`, `Prometheus`, `Launcher` or `Serve`; None: not known."""
    if kind == "Launcher":
        origin = find_spec("ray.autoscaler")
        assert origin is not None
        assert origin.origin is not None
        found: dict[str, Any] = json.loads(Path(origin.origin).with_name("ray-schema.json").read_text())
        return found
    if kind == "Serve":
        from ray.serve.schema import ServeDeploySchema

        serve: dict[str, Any] = _closed(ServeDeploySchema.model_json_schema())
        return serve
    known = _kuberay()["kinds"] | ours.KINDS | {"Dashboard": ours.DASHBOARD, "Prometheus": ours.PROMETHEUS}
    return {**known[kind], "$defs": _kuberay()["$defs"]} if kind in known else None


def kinds() -> list[str]:
    """Kubernetes kinds whose schema is known."""
    return sorted(_kuberay()["kinds"] | ours.KINDS)


@lru_cache
def _kuberay() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(ours.__file__).with_name("kuberay.json").read_text())
    return found


def _closed(schema: Any) -> Any:
    """Ray's schema ignores what it does not know, and takes any mapping for most of its parts: nothing of this here."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if named := [part for part in schema.get("anyOf", []) if "$ref" in part]:
        return named[0]
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {name: _closed(part) for name, part in schema.items()} | closed


def against(document: Document, kind: str) -> Iterator[Mistake]:
    """What the document has that its schema does not allow, and the other way round."""
    from jsonschema import Draft7Validator

    schema = schema_of(kind)
    assert schema is not None
    for error in Draft7Validator(schema).iter_errors(document.data):
        yield from _told(document, error, kind)


def _told(document: Document, error: ValidationError, kind: str) -> Iterator[Mistake]:
    where: Where = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        for name in error.instance:
            if name not in known:
                close = get_close_matches(str(name), known, 1)
                remedy = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(sorted(known))}"
                yield document.mistake((*where, name), f"{kind} has no field {shown((*where, name))}", remedy)
    elif error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        yield document.mistake(where, f"{shown(where)} lacks {', '.join(missing)}", "add it, or render again")
    else:
        found = json.dumps(error.instance, default=str)[:60]
        expected = {"type": "a value of type", "enum": "one of", "const": "exactly"}.get(
            str(error.validator), str(error.validator)
        )
        wanted = error.validator_value
        if error.validator == "anyOf":
            expected, wanted = "a value of type", [part.get("type") for part in error.validator_value]
        yield document.mistake(where, f"{shown(where)} is {found}", f"expected {expected} {json.dumps(wanted)}")
