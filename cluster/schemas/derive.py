"""KubeRay's CRDs -> kuberay.json, the small form that `anonymousnet cluster validate` reads.

    python -m anonymousnet.cluster.schemas.derive FOLDER_OF_CRDS     # KubeRay's helm-chart/kuberay-operator/crds

Version v1 of RayCluster, RayJob and RayService as one JSON schema: what Kubernetes states beyond JSON schema is put in
JSON schema's words, descriptions and status are dropped, objects are closed (a misspelt field is an error, as under
`kubectl apply --validate=strict`), and what occurs many times (pod templates) is kept once, under `$defs`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

OUT = Path(__file__).with_name("kuberay.json")
SHARED = 400
"""Subschemas that occur twice and are longer than this, in characters, are shared."""
QUANTITY = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
KEPT = ("type", "enum", "required", "minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "pattern",
        "anyOf", "oneOf", "allOf", "not", "const")  # fmt: skip
META = {
    "type": "object", "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "maxLength": 63}, "namespace": {"type": "string"},
        **{key: {"type": "object", "additionalProperties": {"type": "string"}} for key in ("labels", "annotations")},
    },
}  # fmt: skip
"""What a manifest of ours says of itself; CRDs leave it open."""
OPEN = {"type", "description"}


def main() -> None:
    """Write OUT from the CRDs in the folder that the command line names."""
    kinds = {}
    for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
        spec = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        (v1,) = (version for version in spec["versions"] if version["name"] == "v1")
        whole = v1["schema"]["openAPIV3Schema"]
        whole["properties"].pop("status", None)
        kind = closed(whole)
        kind["required"] = ["apiVersion", "kind", "metadata", "spec"]
        kind["properties"] |= {
            "apiVersion": {"const": "ray.io/v1"}, "kind": {"const": spec["names"]["kind"]},
            "metadata": {**META, "required": ["name"]},
        }  # fmt: skip
        kinds[spec["names"]["kind"]] = kind
    definitions: dict[str, Any] = {}
    counts = Counter[str]()
    for kind in kinds.values():
        count(kind, counts)
    shared = {name: shorter(kind, counts, definitions) for name, kind in kinds.items()}
    head = kinds["RayCluster"]["properties"]["spec"]["properties"]["headGroupSpec"]
    definitions["POD"] = shorter(head["properties"]["template"], counts, definitions)
    OUT.write_text(json.dumps({"kinds": shared, "$defs": definitions}, separators=(",", ":"), sort_keys=True) + "\n")


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A Kubernetes schema as a closed JSON schema, without descriptions."""
    if schema.get("x-kubernetes-int-or-string"):
        return QUANTITY
    found = {key: schema[key] for key in KEPT if key in schema}
    if "properties" in schema:
        found["properties"] = {
            name: META if name == "metadata" and part.keys() <= OPEN else closed(part)
            for name, part in schema["properties"].items()
        }
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = closed(schema["additionalProperties"])
    if "items" in schema:
        found["items"] = closed(schema["items"])
    return found


def text(schema: Any) -> str:
    """One text for equal schemas."""
    return json.dumps(schema, sort_keys=True, separators=(",", ":"))


def count(schema: Any, counts: Counter[str]) -> None:
    """How often each subschema occurs; what lies within one that occurred before is not counted again."""
    if isinstance(schema, dict):
        counts[text(schema)] += 1
        if counts[text(schema)] > 1:
            return
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        count(part, counts)


def shorter(schema: Any, counts: Counter[str], definitions: dict[str, Any]) -> Any:
    """The same schema, its long and frequent parts in `definitions`."""
    if isinstance(schema, list):
        return [shorter(part, counts, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    whole = text(schema)
    if "type" in schema and counts[whole] > 1 and len(whole) > SHARED:
        name = hashlib.sha256(whole.encode()).hexdigest()[:8]
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = {key: shorter(part, counts, definitions) for key, part in schema.items()}
        return {"$ref": f"#/$defs/{name}"}
    return {key: shorter(part, counts, definitions) for key, part in schema.items()}


if __name__ == "__main__":
    main()
