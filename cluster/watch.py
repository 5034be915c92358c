"""Grafana dashboards, as JSON, and the names of the metrics they may ask for.

Panels are a few words each; Grafana's format is the same for all of them. Names are Prometheus's: Ray puts `ray_`
before each of them, ours too. Jobs have no metrics of their own: of them Ray's are shown (Ray Data, Ray Train).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

SERVING = {
    "ray_anonymousnet_requests_total", "ray_anonymousnet_request_seconds", "ray_anonymousnet_stage_seconds",
    "ray_anonymousnet_batch_faces", "ray_anonymousnet_epsilon_spent_total", "ray_anonymousnet_faces_total",
    "ray_anonymousnet_withheld_total",
}  # fmt: skip
"""What the service exports (serve/)."""
HISTOGRAM = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph: its title, unit (Grafana's name), and what it shows: PromQL by legend."""

    title: str
    unit: str
    queries: dict[str, str]
    about: str = ""


def _quantile(q: float, metric: str, by: str) -> str:
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket[5m])))"


ENDPOINT = (
    Panel("Requests", "reqps", {
        "{{route}} {{status}}": "sum by (route, status) (rate(ray_anonymousnet_requests_total[1m]))"}),
    Panel("Refused or failed", "percentunit", {
        "429, 503": 'sum(rate(ray_anonymousnet_requests_total{status=~"429|503"}[5m])) / '
                    "sum(rate(ray_anonymousnet_requests_total[5m]))",
        "other 5xx": 'sum(rate(ray_anonymousnet_requests_total{status=~"500|502|504"}[5m])) / '
                     "sum(rate(ray_anonymousnet_requests_total[5m]))"}),
    Panel("Latency", "s", {
        "{{route}} p50": _quantile(0.5, "ray_anonymousnet_request_seconds", "route"),
        "{{route}} p99": _quantile(0.99, "ray_anonymousnet_request_seconds", "route")}),
    Panel("Time in each stage, p95", "s", {
        "{{stage}}": _quantile(0.95, "ray_anonymousnet_stage_seconds", "stage")}),
    Panel("Faces in a pass", "none", {
        "{{stage}}": "sum by (stage) (rate(ray_anonymousnet_batch_faces_sum[5m])) / "
                     "sum by (stage) (rate(ray_anonymousnet_batch_faces_count[5m]))"},
        "Mean batch of each stage. 1 under load: wait_s is too short, or the replicas are too many."),
    Panel("Faces", "none", {
        "released a second": "sum(rate(ray_anonymousnet_faces_total[5m]))",
        "withheld, {{reason}}": "sum by (reason) (rate(ray_anonymousnet_withheld_total[5m]))"}),
    Panel("Epsilon spent in an hour", "none", {"all keys": "sum(increase(ray_anonymousnet_epsilon_spent_total[1h]))"}),
    Panel("Waiting", "none", {
        "{{deployment}}": "sum by (deployment) (ray_serve_deployment_queued_queries)"}),
    Panel("Replicas at work", "none", {
        "{{deployment}} healthy": "sum by (deployment) (ray_serve_deployment_replica_healthy)",
        "{{deployment}} busy with": "sum by (deployment) (ray_serve_replica_processing_queries)"}),
    Panel("Errors in replicas", "none", {
        "{{deployment}}": "sum by (deployment) (rate(ray_serve_deployment_error_counter_total[5m]))"}),
)  # fmt: skip

JOBS = (
    Panel("Rows a second, by operator", "none", {
        "{{dataset}} {{operator}}": "sum by (dataset, operator) (rate(ray_data_output_rows[1m]))"},
        "preprocess: a row is a shard; bulk: a row is a chunk of up to 32 photos, or an archive."),
    Panel("Tasks", "none", {
        "{{operator}} running": "sum by (operator) (ray_data_num_tasks_running)",
        "{{operator}} failed": "sum by (operator) (ray_data_num_tasks_failed)"}),
    Panel("Spilled", "bytes", {"{{dataset}}": "sum by (dataset) (ray_data_spilled_bytes)"},
          "Source photos on the machines' disks: as private as the source."),
    Panel("Time waiting for batches", "s", {
        "{{dataset}}": "sum by (dataset) (rate(ray_data_iter_total_blocked_seconds[5m]))"},
        "Of each second, how long training workers waited for data."),
    Panel("Training runs", "none", {
        "{{ray_train_run_name}} {{ray_train_controller_state}}":
            "sum by (ray_train_run_name, ray_train_controller_state) (ray_train_controller_state)"}),
    Panel("Workers started again", "s", {
        "{{ray_train_run_name}}": "sum by (ray_train_run_name) (ray_train_worker_group_start_total_time_s)"},
        "A step up: a machine was lost, or taken back."),
    Panel("Machines", "none", {"CPUs": "sum(ray_node_cpu_count)", "GPUs free": "sum(ray_node_gpus_available)"}),
    Panel("CPU", "percent", {"{{instance}}": "ray_node_cpu_utilization"}),
    Panel("GPU", "percent", {"{{instance}} {{GpuIndex}}": "ray_node_gpus_utilization"}),
    Panel("GPU memory", "decmbytes", {"{{instance}} {{GpuIndex}}": "ray_node_gram_used"}),
    Panel("Memory", "percentunit", {"{{instance}}": "ray_node_mem_used / ray_node_mem_total"}),
    Panel("Disk", "percentunit", {
        "{{instance}}": "ray_node_disk_usage / (ray_node_disk_usage + ray_node_disk_free)"},
        "From 95 % on, Ray puts no more objects there."),
    Panel("Object store", "bytes", {"{{Location}}": "sum by (Location) (ray_object_store_memory)"}),
    Panel("Workers that died", "none", {
        "{{instance}}": "increase(ray_node_manager_unexpected_worker_failure_total[5m])"}),
)  # fmt: skip


def dashboard(title: str, uid: str, panels: tuple[Panel, ...]) -> str:
    """A dashboard's JSON: two panels in a row."""
    source = {"type": "prometheus", "uid": "${source}"}
    shown = [
        {
            "id": i + 1, "type": "timeseries", "title": panel.title, "description": panel.about, "datasource": source,
            "gridPos": {"x": i % 2 * 12, "y": i // 2 * 8, "w": 12, "h": 8},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(65 + j), "datasource": source, "expr": expr, "legendFormat": legend}
                for j, (legend, expr) in enumerate(panel.queries.items())
            ],
        }
        for i, panel in enumerate(panels)
    ]  # fmt: skip
    choice = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    whole = {
        "uid": uid, "title": title, "tags": ["anonymousnet"], "schemaVersion": 39, "version": 1, "editable": True,
        "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "browser",
        "templating": {"list": [choice]}, "annotations": {"list": []}, "panels": shown,
    }  # fmt: skip
    return json.dumps(whole, indent=1) + "\n"


@lru_cache
def known_metrics() -> frozenset[str]:
    """Metrics that exist: those of Ray's own dashboards, of the Ray that is installed, and our service's."""
    found = set(SERVING)
    ray = find_spec("ray")
    if ray is not None and ray.origin is not None:
        for path in (Path(ray.origin).parent / "dashboard/modules/metrics/dashboards").glob("*.py"):
            found |= set(re.findall(r"ray_[a-z_0-9]+", path.read_text()))
    return frozenset(found)


def unknown_metrics(expr: str) -> list[str]:
    """The metrics that PromQL asks for which do not exist."""
    names = set(re.findall(r"\b(ray_\w+)\b", re.sub(r"by \([^)]*\)|\{[^}]*\}", "", expr)))
    known = known_metrics()
    return sorted(n for n in names if n not in known and not any(n.removesuffix(end) in known for end in HISTOGRAM))
