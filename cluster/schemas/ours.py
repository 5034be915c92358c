"""JSON schemas of what AnonymousNet writes beside KubeRay's kinds, as far as it uses them; all objects are closed.

`POD` is the pod template of KubeRay's CRDs (kuberay.json).
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _object(*required: str, **properties: Schema) -> Schema:
    """Properties whose names are Python's keywords carry an underscore at their end."""
    named = {name.rstrip("_"): part for name, part in properties.items()}
    return {"type": "object", "properties": named, "required": list(required), "additionalProperties": False}


def _list(items: Schema, at_least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": at_least}


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
META = _object("name", name={"type": "string", "maxLength": 63}, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
PORT = {"type": ["integer", "string"]}
CHOSEN = _object(matchLabels=TEXTS)
SOURCE = _object("type", "uid", type={"const": "prometheus"}, uid=TEXT)
RBAC = "rbac.authorization.k8s.io"


def _kind(name: str, api: str, *required: str, **properties: Schema) -> Schema:
    named = _object("apiVersion", "kind", "metadata", *required, apiVersion={"const": api}, kind={"const": name},
                    metadata=META, **properties)  # fmt: skip
    return {name: named}


def _rules(side: str) -> Schema:
    block = _object("cidr", cidr=TEXT, except_=_list(TEXT))
    peer = _object(podSelector=CHOSEN, namespaceSelector=CHOSEN, ipBlock=block)
    port = _object("port", protocol=_one_of("TCP", "UDP", "SCTP"), port=PORT)
    return _list(_object(**{side: _list(peer), "ports": _list(port)}))


_CLAIM = _object("accessModes", "resources", accessModes=_list(TEXT, 1), storageClassName=TEXT,
                 resources=_object("requests", requests=TEXTS))  # fmt: skip
_PANEL = _object(
    "id", "type", "title", "gridPos", "targets",
    id={"type": "integer", "minimum": 1}, type=_one_of("timeseries", "stat", "table"),
    title={"type": "string", "minLength": 1}, description=TEXT, datasource=SOURCE, fieldConfig={"type": "object"},
    gridPos=_object("x", "y", "w", "h", x={"type": "integer", "minimum": 0, "maximum": 23}, y=COUNT,
                    w={"type": "integer", "minimum": 1, "maximum": 24}, h={"type": "integer", "minimum": 1}),
    targets=_list(_object("refId", "expr", refId=TEXT, expr={"type": "string", "minLength": 1}, legendFormat=TEXT,
                          datasource=SOURCE), 1),
)  # fmt: skip

KINDS: dict[str, Schema] = {
    **_kind("Namespace", "v1"),
    **_kind("ConfigMap", "v1", "data", data=TEXTS),
    **_kind("ServiceAccount", "v1", automountServiceAccountToken=FLAG),
    **_kind("Service", "v1", "spec", spec=_object(
        "selector", "ports", selector=TEXTS, type=_one_of("ClusterIP"),
        ports=_list(_object("port", name=TEXT, port=COUNT, targetPort=PORT, protocol=_one_of("TCP", "UDP")), 1))),
    **_kind("Role", f"{RBAC}/v1", "rules", rules=_list(_object(
        "apiGroups", "resources", "verbs", apiGroups=_list(TEXT), resources=_list(TEXT),
        verbs=_list(_one_of("get", "list", "watch", "create", "update", "patch", "delete"))))),
    **_kind("RoleBinding", f"{RBAC}/v1", "subjects", "roleRef",
            subjects=_list(_object("kind", "name", kind=_one_of("ServiceAccount"), name=TEXT, namespace=TEXT), 1),
            roleRef=_object("apiGroup", "kind", "name", apiGroup={"const": RBAC}, kind=_one_of("Role"), name=TEXT)),
    **_kind("NetworkPolicy", "networking.k8s.io/v1", "spec", spec=_object(
        "podSelector", "policyTypes", podSelector=CHOSEN, policyTypes=_list(_one_of("Ingress", "Egress"), 1),
        ingress=_rules("from"), egress=_rules("to"))),
    **_kind("StatefulSet", "apps/v1", "spec", spec=_object(
        "serviceName", "selector", "template", serviceName=TEXT, replicas=COUNT, selector=CHOSEN,
        template={"$ref": "#/$defs/POD"},
        volumeClaimTemplates=_list(_object("metadata", "spec", metadata=META, spec=_CLAIM)))),
    **_kind("PodMonitor", "monitoring.coreos.com/v1", "spec", spec=_object(
        "selector", "podMetricsEndpoints", selector=CHOSEN,
        podMetricsEndpoints=_list(_object(
            "port", port=TEXT, path=TEXT, interval={"type": "string", "pattern": "^[0-9]+(s|m)$"},
            relabelings=_list(_object(sourceLabels=_list(TEXT), targetLabel=TEXT))), 1))),
    "Kustomization": _object(
        "apiVersion", "kind", "resources", apiVersion={"const": "kustomize.config.k8s.io/v1beta1"},
        kind={"const": "Kustomization"}, namespace=TEXT, resources=_list(TEXT, 1),
        images=_list(_object("name", name=TEXT, newName=TEXT, newTag=TEXT))),
}  # fmt: skip
DASHBOARD = _object(
    "uid", "title", "schemaVersion", "panels", uid={"type": "string", "maxLength": 40}, title=TEXT, tags=_list(TEXT),
    schemaVersion={"type": "integer", "minimum": 36}, version=COUNT, editable=FLAG, refresh=TEXT, timezone=TEXT,
    time=_object("from", "to", from_=TEXT, to=TEXT), templating=_object(list=_list({"type": "object"})),
    annotations=_object(list=_list({"type": "object"})), panels=_list(_PANEL, 1),
)  # fmt: skip
PROMETHEUS = _object(
    "scrape_configs", global_=_object(scrape_interval=TEXT, evaluation_interval=TEXT),
    scrape_configs=_list(_object("job_name", job_name=TEXT, scrape_interval=TEXT, metrics_path=TEXT,
                                 file_sd_configs=_list(_object("files", files=_list(TEXT, 1))),
                                 static_configs=_list(_object("targets", targets=_list(TEXT, 1)))), 1),
)  # fmt: skip
