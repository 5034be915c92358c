"""The HTTP contract, over the real deployments in Ray Serve's local mode: no cluster, no port, small networks."""

from __future__ import annotations

import base64
import io
import logging
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from ray import serve

from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.images import encode_photo
from anonymousnet.data.synthetic import render_page
from anonymousnet.serve.app import behind
from anonymousnet.serve.ingress import Service, application
from anonymousnet.serve.keys import new_key
from anonymousnet.serve.problems import Problem
from anonymousnet.serve.release_key import mark_of

SECRET = bytes(range(32))
PROBLEM = {"type", "title", "status", "remedy"}
PRIVATE = ("probabilit", "changed", "likeness", "similar")


@pytest.fixture(scope="module")
def settings(small_weights: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, str]]:
    folder = tmp_path_factory.mktemp("service")
    file = folder / "keys.json"
    keys = {
        "open": new_key(file, "open"), "narrow": new_key(file, "narrow", max_epsilon=5.0, min_strength=1.0),
        "one": new_key(file, "one", max_epsilon=1.0), "crowd": new_key(file, "crowd"),
        "poor": new_key(file, "poor", budget=15.0), "slow": new_key(file, "slow", per_minute=2),
    }  # fmt: skip
    config = Config.load(None, [
        *small_weights, f"serve.keys={file}", f"release.ledger={folder}/ledger.sqlite", "release.budget=25",
        "serve.max_bytes=300000", "serve.max_pixels=1000000", "serve.max_faces=4", "serve.buckets=[s3://photos/public]",
        "serve.audit=s3://private", f"serve.turing.answers={folder}/turing.sqlite",
    ])  # fmt: skip
    return config, keys


@pytest.fixture(scope="module", autouse=True)
def _batches_without_a_replica() -> Iterator[None]:
    """`serve.batch` asks for its replica only to warn about settings, and in local mode there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ray.serve.batching._BatchQueue._warn_if_max_batch_size_exceeds_max_ongoing_requests", lambda _: None
        )
        yield


def served(config: Config, name: str) -> TestClient:
    mark = mark_of(SECRET)
    align, books = behind(config, mark)
    handles = [
        serve.run(app, name=f"{name}-{i}", route_prefix=None, _local_testing_mode=True)
        for i, app in enumerate((align, books))
    ]
    return TestClient(application(Service(config, SECRET, *handles)), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(settings: tuple[Config, dict[str, str]]) -> Iterator[TestClient]:
    with served(settings[0], "composed") as found:
        found.headers["Authorization"] = f"Bearer {settings[1]['open']}"
        yield found


@pytest.fixture(scope="module")
def photo() -> bytes:
    return encoded(render_page(1, faces=1, width=320)[0])


def encoded(array: np.ndarray, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


def refused(answer: Any, status: int) -> dict[str, Any]:
    """The problem body of an answer."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body.keys() >= PROBLEM
    assert body["status"] == status
    assert "Traceback" not in answer.text
    return body


def expected(config: Config, photo: bytes, key: str = "open", **changes: Any) -> bytes:
    """What `Anonymizer` makes of it."""
    release = config.release.model_copy(update={"name": f"{key}/default"})
    config = config.model_copy(update={"release": release, **changes})
    return encode_photo(Anonymizer.load(config, SECRET)(photo).image, "same", 95)[0]


class TestAnonymize:
    def test_the_bytes_are_those_of_the_anonymizer(
        self, client: TestClient, settings: tuple[Config, dict[str, str]], photo: bytes
    ) -> None:
        answer = client.post("/v1/anonymize", content=photo, headers={"Content-Type": "image/jpeg"})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content == expected(settings[0], photo)
        form = client.post("/v1/anonymize", files={"photo": ("a.jpg", photo, "image/jpeg")})
        assert form.content == answer.content
        as_json = client.post("/v1/anonymize", content=photo, headers={"Accept": "application/json"}).json()
        assert base64.b64decode(as_json["photo"]) == answer.content
        assert (as_json["width"], as_json["height"]) == Image.open(io.BytesIO(photo)).size

    def test_fused_gives_the_same(self, settings: tuple[Config, dict[str, str]], photo: bytes) -> None:
        config, keys = settings
        one = config.model_copy(update={"serve": config.serve.model_copy(update={"fused": True})})
        with served(one, "fused") as fused:
            headers = {"Authorization": f"Bearer {keys['open']}"}
            answer = fused.post("/v1/anonymize", content=photo, headers=headers)
            assert answer.content == expected(config, photo)
            assert fused.post("/v1/attributes", content=photo, headers=headers).status_code == 200
            assert fused.get("/v1/health/ready").json() == {"status": "ready"}

    def test_public_evidence_and_nothing_private(self, client: TestClient, photo: bytes) -> None:
        answer = client.post("/v1/anonymize?epsilon=4", content=photo)
        assert (answer.headers["anonymousnet-epsilon"], answer.headers["anonymousnet-photo-epsilon"]) == ("4", "4")
        assert answer.headers["anonymousnet-account"] == '"near-duplicates of this photo"'
        as_json = client.post("/v1/anonymize?epsilon=4", content=photo, headers={"Accept": "application/json"})
        face = as_json.json()["faces"][0]
        assert set(face) == {"released", "epsilon", "photo_epsilon", "account", "t", "covers", "unprotected",
                             "strength", "region", "perturbation",
                             "weights", "precision"}  # fmt: skip
        assert as_json.json().keys() == {"photo", "media_type", "width", "height", "faces", "release"}
        assert not [name for name in answer.headers if any(word in name for word in PRIVATE)]
        assert answer.headers["cache-control"] == as_json.headers["cache-control"] == "no-store"

    def test_two_keys_get_different_photos(
        self, client: TestClient, settings: tuple[Config, dict[str, str]], photo: bytes
    ) -> None:
        theirs = client.post(
            "/v1/anonymize?epsilon=4", content=photo, headers={"Authorization": f"Bearer {settings[1]['narrow']}"}
        )
        assert theirs.status_code == 200
        assert theirs.content != client.post("/v1/anonymize?epsilon=4", content=photo).content


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(90_000))) + chunk(b"IEND", b"")
    )


class TestBadInput:
    @pytest.mark.parametrize(("body", "status"), [
        (b"", 400), (b"hello", 415), (b"%PDF-1.7\n" + bytes(99), 415), (bytes(300_001), 413), (bomb(), 413),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415), (encoded(np.zeros((64, 64, 3), np.uint8)), 422),
    ], ids=["empty", "text", "pdf", "large", "bomb", "svg", "no face"])  # fmt: skip
    @pytest.mark.parametrize("route", ["anonymize", "attributes"])
    def test_what_is_no_photo_of_people(self, client: TestClient, route: str, body: bytes, status: int) -> None:
        refused(client.post(f"/v1/{route}", content=body, headers={"Content-Type": "image/jpeg"}), status)

    def test_a_cut_photo(self, client: TestClient, photo: bytes) -> None:
        assert refused(client.post("/v1/anonymize", content=photo[: len(photo) // 2]), 422)["title"].endswith("short")

    def test_many_faces(self, client: TestClient) -> None:
        crowd = encoded(render_page(5, faces=30, width=900)[0])
        assert refused(client.post("/v1/anonymize", content=crowd), 422)["type"].endswith("too-many-faces")

    @pytest.mark.parametrize(("query", "status"), [
        ("colour=red", 422), ("epsilon=a", 422), ("epsilon=nan", 422), ("epsilon=-1", 422), ("epsilon=inf", 422),
        ("epsilon=1e9", 403), ("strength=0.55", 422), ("strength=0", 403), ("perturbation=0.9", 403),
        ("keep=Nose", 422), ("keep=Smiling", 403), ("strength=0.8", 403),
        ("release=", 422), ("subject=" + "a" * 999, 422), ("keep=Male&protect=Male", 422),
    ])  # fmt: skip
    def test_parameters(self, client: TestClient, photo: bytes, query: str, status: int) -> None:
        refused(client.post(f"/v1/anonymize?{query}", content=photo), status)

    @pytest.mark.parametrize(("content_type", "body"), [
        ("multipart/form-data", b"x"), ("multipart/form-data; boundary=x", b"--x\r\nbroken"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="photo"\r\n\r\na\r\n--x--'),
        ("multipart/form-data; boundary=x", b"--x--\r\n"),
    ])  # fmt: skip
    def test_forms(self, client: TestClient, content_type: str, body: bytes) -> None:
        refused(client.post("/v1/anonymize", content=body, headers={"Content-Type": content_type}), 400)

    def test_addresses_and_methods(self, client: TestClient) -> None:
        refused(client.get("/v1/nothing"), 404)
        refused(client.get("/v1/anonymize"), 405)
        refused(client.delete("/v1/policy"), 405)


class TestKeys:
    @pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic abc", "Bearer \xff"])
    @pytest.mark.parametrize("route", ["anonymize", "attributes"])
    def test_missing_and_unknown(self, client: TestClient, photo: bytes, route: str, header: str | None) -> None:
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        bare = TestClient(client.app, raise_server_exceptions=False)
        answer = bare.post(f"/v1/{route}", content=photo, headers=headers)  # type: ignore[arg-type]
        refused(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"

    def test_policy_of_a_key(self, client: TestClient, settings: tuple[Config, dict[str, str]], photo: bytes) -> None:
        headers = {"Authorization": f"Bearer {settings[1]['narrow']}"}
        refused(client.post("/v1/anonymize?epsilon=6", content=photo, headers=headers), 403)
        refused(client.post("/v1/anonymize?strength=0.8", content=photo, headers=headers), 403)
        answer = client.post("/v1/anonymize", content=photo, headers=headers)
        assert answer.headers["anonymousnet-epsilon"] == "5"

    def test_rate(self, client: TestClient, settings: tuple[Config, dict[str, str]]) -> None:
        headers = {"Authorization": f"Bearer {settings[1]['slow']}"}
        for _ in range(2):
            refused(client.post("/v1/anonymize", content=b"x", headers=headers), 415)
        answer = client.post("/v1/anonymize", content=b"x", headers=headers)
        refused(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 60

    def test_budget_of_a_key(self, client: TestClient, settings: tuple[Config, dict[str, str]], photo: bytes) -> None:
        headers = {"Authorization": f"Bearer {settings[1]['poor']}"}
        other = encoded(render_page(7, faces=1, width=320)[0])
        assert client.post("/v1/anonymize", content=photo, headers=headers).status_code == 200
        assert client.post("/v1/anonymize", content=photo, headers=headers).status_code == 200  # a replay is free
        refused(client.post("/v1/anonymize", content=other, headers=headers), 403)
        left = client.get("/v1/budget", headers=headers).json()["key"]
        assert left == {"spent": pytest.approx(10), "budget": 15, "left": pytest.approx(5)}
        assert client.post("/v1/anonymize?epsilon=5", content=other, headers=headers).status_code == 200

    def test_one_keys_budget_tells_nothing_of_another_keys_photos(
        self, client: TestClient, settings: tuple[Config, dict[str, str]]
    ) -> None:
        mine = encoded(render_page(9, faces=1, width=320)[0])
        for release, status in (("a", 200), ("b", 200), ("c", 403)):  # 10 each, of 25
            assert client.post(f"/v1/anonymize?release={release}", content=mine).status_code == status
        headers = {"Authorization": f"Bearer {settings[1]['narrow']}"}
        assert client.post("/v1/anonymize", content=mine, headers=headers).status_code == 200

    def test_budget_of_a_subject(
        self, client: TestClient, settings: tuple[Config, dict[str, str]], photo: bytes
    ) -> None:
        for epsilon, status in ((20, 200), (10, 403), (5, 200)):
            query = {"subject": "alice", "release": f"r{epsilon}", "epsilon": str(epsilon)}
            assert client.post("/v1/anonymize", params=query, content=photo).status_code == status
        mine = client.get("/v1/budget?subject=alice").json()["subject"]
        assert (mine["spent"], mine["left"]) == (pytest.approx(25), pytest.approx(0, abs=1e-6))
        headers = {"Authorization": f"Bearer {settings[1]['narrow']}"}  # another key's alice is somebody else
        assert client.get("/v1/budget?subject=alice", headers=headers).json()["subject"]["spent"] == 0


class TestPhotosOfSeveralFaces:
    """Epsilon of a photo is the sum over its faces, for evidence, budgets and keys."""

    @pytest.fixture(scope="class")
    def couple(self) -> bytes:
        return encoded(render_page(3, faces=2, width=480)[0])

    def test_evidence_and_the_subjects_account(
        self, client: TestClient, settings: tuple[Config, dict[str, str]], couple: bytes
    ) -> None:
        headers = {"Authorization": f"Bearer {settings[1]['crowd']}"}
        answer = client.post("/v1/anonymize?subject=ann", content=couple, headers=headers)
        assert (answer.headers["anonymousnet-faces"], answer.headers["anonymousnet-photo-epsilon"]) == ("2", "20")
        assert answer.headers["anonymousnet-account"] == '"subject"'
        spent = client.get("/v1/budget?subject=ann", headers=headers).json()["subject"]["spent"]
        assert spent == pytest.approx(20)
        query = {"subject": "berta", "release": "strip"}
        strip = encoded(render_page(3, faces=3, width=640)[0])
        refused(client.post("/v1/anonymize", params=query, content=strip, headers=headers), 403)  # 30 of 25
        assert client.get("/v1/budget?subject=berta", headers=headers).json()["subject"]["spent"] == 0

    def test_each_face_may_be_named(
        self, client: TestClient, settings: tuple[Config, dict[str, str]], couple: bytes
    ) -> None:
        headers = {"Authorization": f"Bearer {settings[1]['crowd']}"}
        query = {"subject": "carl\tdora", "release": "named"}
        assert client.post("/v1/anonymize", params=query, content=couple, headers=headers).status_code == 200
        for name in ("carl", "dora"):
            spent = client.get("/v1/budget", params={"subject": name}, headers=headers).json()["subject"]["spent"]
            assert spent == pytest.approx(10)
        three = {"subject": "carl\tdora\tegon", "release": "wrong"}
        refused(client.post("/v1/anonymize", params=three, content=couple, headers=headers), 422)

    def test_copies_that_differ_by_a_bit_pay_together(
        self, client: TestClient, settings: tuple[Config, dict[str, str]]
    ) -> None:
        headers = {"Authorization": f"Bearer {settings[1]['crowd']}"}
        picture = render_page(11, faces=1, width=320)[0]
        statuses = []
        for i in range(4):  # 10 each, of 25
            copy = picture.copy()
            copy[0, i, 0] ^= 1
            statuses.append(client.post("/v1/anonymize", content=encoded(copy, "PNG"), headers=headers).status_code)
        assert statuses == [200, 200, 403, 403]


class TestKeyOfEpsilonOne:
    """What a key bounds is bounded whatever the way in."""

    @pytest.fixture
    def headers(self, settings: tuple[Config, dict[str, str]]) -> dict[str, str]:
        return {"Authorization": f"Bearer {settings[1]['one']}"}

    @pytest.mark.parametrize("query", [
        "epsilon=1.01", "epsilon=0.1&keep=" + "&keep=".join(ATTRIBUTES[:39]), "keep=Smiling", "strength=0.8",
        "epsilon=2&protect=Smiling",
    ])  # fmt: skip
    def test_queries(self, client: TestClient, photo: bytes, headers: dict[str, str], query: str) -> None:
        refused(client.post(f"/v1/anonymize?{query}", content=photo, headers=headers), 403)

    def test_what_it_gets(self, client: TestClient, photo: bytes, headers: dict[str, str]) -> None:
        for query in ("", "epsilon=1", "epsilon=0.5", "protect=Smiling"):
            answer = client.post(f"/v1/anonymize?{query}&release={query[:12] or 'x'}", content=photo, headers=headers)
            assert answer.status_code == 200, answer.text
            assert float(answer.headers["anonymousnet-photo-epsilon"]) <= 1

    def test_several_faces_count(self, client: TestClient, headers: dict[str, str]) -> None:
        couple = encoded(render_page(3, faces=2, width=480)[0])
        told = refused(client.post("/v1/anonymize?epsilon=1", content=couple, headers=headers), 403)
        assert "2 faces at epsilon 1 spend 2" in told["detail"]
        refused(client.post("/v1/anonymize", content=couple, headers=headers), 403)
        answer = client.post("/v1/anonymize?epsilon=0.5", content=couple, headers=headers)
        assert answer.headers["anonymousnet-photo-epsilon"] == "1"

    def test_bulk_jobs(self, client: TestClient, headers: dict[str, str]) -> None:
        body = {"source": "s3://photos/public/a", "target": "s3://photos/public/b"}
        refused(client.post("/v1/jobs", json=body, headers=headers), 403)

    @pytest.mark.parametrize(("changes", "name"), [
        ({"epsilon": None, "gamma": 0.5}, "gamma"),
        ({"epsilon": None, "gamma": 0.5, "split": "sensitivity"}, "split"),
        ({"keep": ("Smiling", "Young")}, "keep"),
    ])  # fmt: skip
    def test_the_servers_own_settings(
        self, settings: tuple[Config, dict[str, str]], photo: bytes, headers: dict[str, str], changes: dict[str, Any],
        name: str,
    ) -> None:  # fmt: skip
        config = settings[0]
        obfuscate = config.obfuscate.model_copy(update=changes)
        release = config.release.model_copy(update={"ledger": None, "budget": None})
        with served(config.model_copy(update={"obfuscate": obfuscate, "release": release}), name) as client:
            refused(client.post("/v1/anonymize", content=photo, headers=headers), 403)


class TestWithoutKeys:
    def test_only_this_machines_own_names(self, settings: tuple[Config, dict[str, str]]) -> None:
        """Else a web page could have its own name lead to 127.0.0.1, and read what this machine's user may."""
        config = settings[0]
        bare = config.model_copy(update={"serve": config.serve.model_copy(update={"keys": None})})
        with served(bare, "bare") as client:
            for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
                assert client.get("/v1/health/live", headers={"Host": host}).status_code == 200
            for host in ("evil.example:8000", "127.0.0.1.evil.example", "", "192.0.2.1", "[oops"):
                refused(client.get("/v1/health/live", headers={"Host": host}), 421)


class TestRest:
    def test_attributes_are_not_stored(self, client: TestClient, photo: bytes) -> None:
        answer = client.post("/v1/attributes", content=photo)
        assert answer.headers["cache-control"] == "no-store"
        (face,) = answer.json()["faces"]
        assert len(face["probabilities"]) == 40
        assert all(0 <= p <= 1 for p in face["probabilities"].values())
        assert face["attributes"] == {name: p > 0.5 for name, p in face["probabilities"].items()}

    def test_policy_says_what_is_so(self, client: TestClient, settings: tuple[Config, dict[str, str]]) -> None:
        policy = TestClient(client.app).get("/v1/policy").json()
        assert policy["key_required"] is True
        assert policy["strength"] == {"default": 1.0, "allowed": [1.0]}  # a ledger counts nothing else
        assert policy["keepable"] == []
        assert (policy["max_bytes"], policy["max_pixels"]) == (300_000, 1_000_000)
        assert len(policy["attributes"]) == 40

    def test_operations(self, client: TestClient, settings: tuple[Config, dict[str, str]]) -> None:
        bare = TestClient(client.app)
        assert bare.get("/v1/health/live").json() == {"status": "live"}
        assert bare.get("/v1/health/ready").json() == {"status": "ready"}
        roles = {"attributes", "surroundings", "generator", "translator", "universal", "landmarks"}
        assert set(bare.get("/v1/version").json()["weights"]) == roles

    def test_security_headers_everywhere(self, client: TestClient) -> None:
        for path in ("/v1/policy", "/v1/nothing", "/openapi.json", "/"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in headers["content-security-policy"]

    @pytest.mark.parametrize(("body", "status"), [
        ({"source": "s3://elsewhere/a", "target": "s3://photos/public/b"}, 403),
        ({"source": "s3://photos/public-not", "target": "s3://photos/public/b"}, 403),
        ({"source": "/etc/passwd", "target": "s3://photos/public/b"}, 422),
        ({"source": "s3://photos/public; rm -rf /", "target": "s3://photos/public/b"}, 422),
        ({"source": "s3://photos/public/a", "target": "s3://photos/public/b", "settings": {"epsilon": 99}}, 403),
        ({"source": "s3://photos/public/a"}, 422), ("no json", 422),
    ])  # fmt: skip
    def test_bulk_jobs_stay_within_their_places(self, client: TestClient, body: Any, status: int) -> None:
        refused(client.post("/v1/jobs", json=body), status)

    def test_a_job_nobody_knows(self, client: TestClient) -> None:
        refused(client.get("/v1/jobs/..%2f..%2fetc"), 404)
        refused(client.get("/v1/jobs/nonsense"), 422)


def test_logs_hold_nothing_of_the_photo(
    client: TestClient, photo: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anonymousnet.serve import api

    async def broken(*_: Any) -> None:
        raise RuntimeError("private: alice 0.731")

    monkeypatch.setattr(api, "_photo", broken)
    with caplog.at_level(logging.DEBUG), TestClient(client.app, raise_server_exceptions=False) as bare:
        bare.headers.update(client.headers)
        answer = bare.post("/v1/anonymize?subject=alice", content=photo)
    assert refused(answer, 500)["request_id"]
    assert "0.731" not in caplog.text + answer.text


def test_photos_never_touch_a_disk(client: TestClient, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a temporary file")

    monkeypatch.setattr("tempfile._get_default_tempdir", refuse)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    large = photo + bytes(200_000)
    assert client.post("/v1/anonymize", files={"photo": ("a.jpg", large, "image/jpeg")}).status_code == 200


def test_schemathesis_finds_no_500_and_no_undocumented_status(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given
    from hypothesis import settings as budget
    from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

    async def no_ray(_: Any) -> None:
        raise Problem("unavailable")

    monkeypatch.setattr("anonymousnet.serve.jobs._asked_of_ray", no_ray)
    few = budget(max_examples=8, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                 suppress_health_check=list(HealthCheck))  # fmt: skip
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app).exclude(path_regex="^/v1/turing")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) >= 9
    for operation in operations:

        @few
        @given(case=operation.as_strategy())
        def attempt(case: Any) -> None:
            answer = case.call(headers=dict(client.headers))
            assert answer.status_code != 500
            case.validate_response(answer, checks=[status_code_conformance, content_type_conformance])

        attempt()
