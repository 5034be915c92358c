"""Cluster files: rendered from one configuration, and every mistake in them is named by file and line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from anonymousnet.cluster.cli import main
from anonymousnet.cluster.render import Choices, render
from anonymousnet.cluster.sizes import NAMED, Size, fitted
from anonymousnet.cluster.validate import validate
from anonymousnet.config import Config
from anonymousnet.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "cluster" / "shipped"
CONFIGS = ROOT / "pipelines" / "configs"


def test_shipped_files_are_what_the_configuration_renders() -> None:
    files = render([Size.parse(name) for name in NAMED], Config(), Choices())
    there = {str(p.relative_to(SHIPPED)) for p in SHIPPED.rglob("*") if p.is_file()}
    assert there == set(files)
    other = [name for name, text in files.items() if (SHIPPED / name).read_text() != text]
    assert not other, "run: anonymousnet cluster render --size small --size medium --size large --out cluster/shipped"


def test_shipped_files_have_no_mistake() -> None:
    done = CliRunner().invoke(main, ["cluster", "validate", str(SHIPPED)])
    assert (done.exit_code, done.output.strip()) == (0, "44 files, no mistakes")


@pytest.mark.parametrize(("file", "size"), [("node-8-gpu.yaml", "1x8"), ("cluster-4x8-gpu.yaml", "4x8")])
def test_training_configurations_fit_their_sizes_as_they_are(file: str, size: str) -> None:
    config = Config.load(CONFIGS / file)
    found = fitted(config, Size.parse(size))
    assert found.model_copy(update={"serve": config.serve}) == config  # they say nothing of the service


def test_what_files_share_follows_from_the_size() -> None:
    files = render([Size.parse("2x4", "a10g")], Config.load(None, ["precision=bf16"]), Choices(task="generator"))
    config = Config.model_validate(yaml.safe_load(files["2x4/anonymousnet.yaml"]))
    assert (config.scale.workers, config.scale.nodes, config.scale.zero, config.train.batch) == (8, 2, 2, 16 * 8)
    assert (config.device, config.precision) == ("cuda", "bf16")
    mapped = yaml.safe_load(files["2x4/kubernetes/config.yaml"])["data"]["anonymousnet.yaml"]
    assert yaml.safe_load(mapped) == yaml.safe_load(files["2x4/anonymousnet.yaml"])
    job = yaml.safe_load(files["2x4/kubernetes/train.yaml"])
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (group["minReplicas"], group["maxReplicas"]) == (2, 2)
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert "anonymousnet train generator " in job["spec"]["entrypoint"]
    assert "--workers 8 " in yaml.safe_load(files["2x4/kubernetes/bulk.yaml"])["spec"]["entrypoint"]
    aws = yaml.safe_load(files["2x4/launcher/aws.yaml"])["available_node_types"]
    assert aws["gpu-spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert aws["gpu"]["resources"] == {"CPU": 48, "GPU": 4}


def test_machines_without_gpus_get_the_other_image(tmp_path: Path) -> None:
    files = render([Size.parse("2x0")], Config(), Choices(hosts=("10.0.0.1", "10.0.0.2", "10.0.0.3")))
    assert "cuda" not in files["2x0/kubernetes/train.yaml"] + files["2x0/launcher/aws.yaml"]
    assert yaml.safe_load(files["2x0/launcher/on-premises.yaml"])["provider"]["worker_ips"] == ["10.0.0.2", "10.0.0.3"]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert validate([tmp_path])[1] == []


@pytest.mark.parametrize(
    ("size", "overrides", "said"),
    [
        ("huge", [], "no size 'huge'; expected one of small, medium, large, or NODESxGPUS"),
        ("2x3", [], "AWS has no machine with 3 x NVIDIA L4; it has them with 1, 4, 8"),
        ("1x8", ["scale.workers=9", "scale.gpus_per_worker=1"], "9 GPUs and size 1x8 has 1 machines with 8 GPUs"),
        ("1x8", ["scale.nodes=2"], "scale.nodes is 2 and size 1x8 has 1 machines"),
        ("2x0", ["device=cuda"], "take a size such as 2x1, or set device to cpu"),
        ("1x8", ["train.batch=100"], "expected a multiple of 16 for 8 workers, got 100"),
        ("1x0", ["scale.workers=99"], "scale.workers is 99 and size 1x0"),
    ],
)
def test_a_size_that_cannot_serve_the_configuration_is_refused(
    size: str, overrides: list[str], said: str, tmp_path: Path
) -> None:
    sets = [word for item in overrides for word in ("--set", item)]
    done = CliRunner().invoke(main, ["cluster", "render", "--size", size, "--out", str(tmp_path / "out"), *sets])
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "out").exists()


def test_private_evidence_gets_a_bucket_of_its_own() -> None:
    with pytest.raises(ConfigError, match="would share bucket b"):
        render([Size.parse("small")], Config(), Choices(bucket="b", audit_bucket="b"))


def test_no_secret_is_in_any_file() -> None:
    for path in SHIPPED.rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            assert document.get("kind") != "Secret"
            assert "stringData" not in document


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_kustomize_builds_the_shipped_base() -> None:
    for size in NAMED:
        built = subprocess.run(
            ["kubectl", "kustomize", str(SHIPPED / size / "kubernetes")], capture_output=True, text=True, check=True
        )
        assert {"RayCluster", "NetworkPolicy", "StatefulSet"} <= {d["kind"] for d in yaml.safe_load_all(built.stdout)}


PLANTED: list[tuple[str, Callable[[str], str], str, str]] = [
    # file, the mistake, the line it is on (its text), what is said
    ("large/kubernetes/raycluster.yaml", lambda t: t.replace("maxReplicas: 4", "maxReplica: 4", 1),
     "maxReplica: 4", "has no field spec.workerGroupSpecs[0].maxReplica; did you mean maxReplicas?"),
    ("large/kubernetes/train.yaml", lambda t: t.replace("backoffLimit: 3", "backoffLimit: thrice"),
     "backoffLimit: thrice", 'spec.backoffLimit is "thrice"; expected a value of type "integer"'),
    ("large/kubernetes/train.yaml", lambda t: t.replace("maxReplicas: 4", "maxReplicas: 3").replace("cas: 4", "cas: 3"),
     "maxReplicas: 3", "the cluster grows to 24 GPUs, scale.workers need 32"),
    ("medium/kubernetes/endpoint.yaml", lambda t: t.replace("runAsNonRoot: true", "runAsNonRoot: false"),
     "securityContext: &pod", "the pod may run as root; set runAsNonRoot: true"),
    ("medium/kubernetes/endpoint.yaml", lambda t: t.replace("num_replicas: 1", "num_replicaz: 1", 1),
     "num_replicaz: 1", "Serve has no field applications[0].deployments[0].num_replicaz; did you mean num_replicas?"),
    ("medium/kubernetes/endpoint.yaml", lambda t: t.replace("upscale_delay_s: 5.0", "upscale_delay_s: soon", 1),
     "upscale_delay_s: soon", 'upscale_delay_s is "soon"; expected'),
    ("medium/kubernetes/bulk.yaml",
     lambda t: t.replace('{name: OMP_NUM_THREADS, value: "1"}', '{name: AWS_SECRET_ACCESS_KEY, value: "hush"}'),
     "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY stands here in plain text; make a Secret"),
    ("medium/kubernetes/bulk.yaml", lambda t: t.replace(":0.1.0-cuda", ":latest", 2),
     ":latest", "is another one every day; name a version"),
    ("small/kubernetes/network.yaml", lambda t: t.replace("policyTypes: [Ingress, Egress]", "policyTypes: [Inwards]"),
     "policyTypes: [Inwards]", 'spec.policyTypes[0] is "Inwards"; expected one of ["Ingress", "Egress"]'),
    ("small/kubernetes/kustomization.yaml", lambda t: t.replace("- redis.yaml", "- reddis.yaml"),
     "reddis.yaml", "there is no file reddis.yaml"),
    ("small/launcher/aws.yaml", lambda t: t.replace("idle_timeout_minutes", "idle_timeout_minute"),
     "idle_timeout_minute:", "Launcher has no field idle_timeout_minute; did you mean idle_timeout_minutes?"),
    ("small/launcher/aws.yaml", lambda t: t.replace("head_node_type: head", "head_node_type: boss"),
     "head_node_type: boss", "there is no node type boss; expected one of head, gpu-spot, gpu, cpu"),
    ("small/launcher/on-premises.yaml", lambda t: t.replace("  head_ip:", "  head_address:"),
     "cluster_name", "Ray refuses it"),
    ("large/launcher/aws.yaml", lambda t: t.replace("GPU: 8", "GPU: 2"),
     "available_node_types:", "all machines together have 16 GPUs, scale.workers need 32"),
    ("large/anonymousnet.yaml", lambda t: t.replace("strength: 1.0", "strenght: 1.0"),
     "strenght: 1.0", "unknown setting 'synthesize.strenght'"),
    ("large/kubernetes/config.yaml", lambda t: t.replace("epsilon: 10.0", "epsilon: 99.0"),
     "anonymousnet.yaml: |", "it is not what"),
    ("watch/endpoint.json", lambda t: t.replace("ray_anonymousnet_faces_total", "ray_anonymousnet_face_total"),
     "ray_anonymousnet_face_total", "nobody exports ray_anonymousnet_face_total"),
    ("watch/jobs.json", lambda t: t.replace('"id": 3,', '"id": 2,'),
     '"id": 2,', "panel id 2 occurs twice"),
    ("images/Dockerfile.cuda",
     lambda t: t.replace("python:3.11.13-slim-bookworm@${PYTHON_DIGEST}\n", "python:latest\n"),
     "FROM python:latest", "hadolint's rule DL3007"),
    ("images/Dockerfile.cpu", lambda t: t.replace("USER 10001:10001", "USER root"),
     "USER root", "the image runs as root"),
    ("watch/prometheus.yaml", lambda t: t.replace("scrape_interval: 15s", "scrape_interval: 15s\n  bad\tkey: [1"),
     "bad\tkey", "not YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "plant", "line", "said"), PLANTED, ids=[f"{p[0]} {p[3][:30]}" for p in PLANTED])
def test_planted_mistakes_are_named_by_line(
    file: str, plant: Callable[[str], str], line: str, said: str, tmp_path: Path
) -> None:
    shutil.copytree(SHIPPED, tmp_path / "files")
    path = tmp_path / "files" / file
    before = path.read_text()
    path.write_text(plant(before))
    assert path.read_text() != before, "nothing was planted"
    done = CliRunner().invoke(main, ["cluster", "validate", str(tmp_path / "files"), "--json"])
    assert done.exit_code == 1
    found = json.loads(done.output)["mistakes"]
    hits = [one for one in found if said in f"{one['what']}; {one['remedy']}"]
    assert hits, found
    assert hits[0]["file"] == str(path)
    assert line in path.read_text().splitlines()[hits[0]["line"] - 1], hits[0]
    assert all(one["remedy"] for one in found)


def test_what_is_no_cluster_file_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["cluster", "validate", str(tmp_path / "nowhere")])
    assert (done.exit_code, "is not there" in done.output) == (2, True)
    (tmp_path / "a.yaml").write_text("hello: world\n")
    (tmp_path / "b.yaml").write_text("kind: Deployment\nkind: Deployment\n")
    (tmp_path / "c.yaml").write_text("apiVersion: v1\nkind: Deployment\n")
    said = [str(one) for one in validate([tmp_path])[1]]
    assert "a.yaml:1: not a file that we know" in said[0]
    assert "b.yaml:2: kind occurs twice" in said[1]
    assert "c.yaml:2: kind Deployment is not one of ours; expected one of ConfigMap" in said[2]


CRD = """
spec:
  names: {kind: RayCluster}
  versions:
    - name: v1
      schema:
        openAPIV3Schema:
          type: object
          description: words
          properties:
            spec:
              type: object
              required: [headGroupSpec]
              properties:
                size: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}, {type: string}]}
                open: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string}}}
                headGroupSpec:
                  type: object
                  properties:
                    template: {type: object, properties: {image: {type: string, pattern: "^a"}}}
            status: {type: object}
    - {name: v1alpha1, schema: {}}
"""


def test_the_schema_is_derived_from_crds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jsonschema import Draft7Validator

    from anonymousnet.cluster.schemas import derive

    (tmp_path / "crd.yaml").write_text(CRD)
    monkeypatch.setattr(derive, "OUT", tmp_path / "out.json")
    monkeypatch.setattr("sys.argv", ["derive", str(tmp_path)])
    derive.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert "words" not in json.dumps(found)
    schema = Draft7Validator({**found["kinds"]["RayCluster"], "$defs": found["$defs"]})

    def wrong(spec: dict[str, object]) -> set[str]:
        whole = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "a"}, "spec": spec}
        return {str(error.validator) for error in schema.iter_errors(whole)}

    good = {"size": "1Gi", "open": {"b": 1}, "headGroupSpec": {"template": {"image": "a:1"}}}
    assert wrong(good) == set()
    assert wrong({**good, "size": [1]}) == {"anyOf"}
    assert wrong({**good, "seize": 1}) == {"additionalProperties"}
    assert wrong({**good, "headGroupSpec": {"template": {"image": "b"}}}) == {"pattern"}
    assert wrong({}) == {"required"}
