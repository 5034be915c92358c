"""Places in S3: addresses that lead elsewhere, and private evidence where strangers can read."""

from __future__ import annotations

from typing import Any

import pytest
from botocore import UNSIGNED
from botocore.exceptions import ClientError

from anonymousnet.errors import StorageError
from anonymousnet.pipelines import s3
from anonymousnet.pipelines.storage import Bucket, storage_of

PLACE = Bucket("audit", "job/", None)


@pytest.mark.parametrize(
    "address", ["s3://b/../x", "s3://b/a/../x", "s3://b/./x", "s3://b//x", "s3://b/a//x", "s3://b/.."]
)
def test_addresses_that_lead_elsewhere_are_refused(address: str) -> None:
    with pytest.raises(StorageError, match="without empty parts, `.` and `..`, got"):
        storage_of(address)


def test_plain_addresses_are_read_alike_with_and_without_a_slash() -> None:
    assert storage_of("s3://b/a/x/") == storage_of("s3://b/a/x") == Bucket("b", "a/x/", None)
    assert storage_of("s3://b/") == storage_of("s3://b") == Bucket("b", "", None)
    assert storage_of("s3://b/..a/x.y") == Bucket("b", "..a/x.y/", None)


class Server:
    """Says what it is told to say, and refuses all else."""

    def __init__(self, signature: Any = None, **says: Any) -> None:
        self.signature, self.says = signature, says

    def __getattr__(self, name: str) -> Any:
        def answer(**_: Any) -> Any:
            if name in self.says and (name != "list_objects_v2" or self.signature is UNSIGNED):
                return self.says[name]
            raise ClientError({"Error": {"Code": "AccessDenied"}}, name)

        return answer


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ({}, ""),
        ({"get_bucket_policy_status": {"PolicyStatus": {"IsPublic": False}}, "get_bucket_acl": {"Grants": []}}, ""),
        ({"get_bucket_acl": {"Grants": [{"Grantee": {"ID": "owner"}, "Permission": "FULL_CONTROL"}]}}, ""),
        ({"get_bucket_policy_status": {"PolicyStatus": {"IsPublic": True}}}, "its policy is public"),
        ({"get_bucket_acl": {"Grants": [{"Grantee": {"URI": "x/global/AllUsers"}}]}}, "names everybody"),
        ({"get_bucket_acl": {"Grants": [{"Grantee": {"URI": "x/global/AuthenticatedUsers"}}]}}, "names everybody"),
        ({"list_objects_v2": {}}, "without credentials"),
    ],
)  # fmt: skip
def test_a_bucket_that_strangers_can_read_is_known(
    says: dict[str, Any], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "client", lambda _, signature=None: Server(signature, **says))
    shown = s3.open_to_strangers(PLACE)
    assert found in shown
    assert bool(shown) == bool(found)
