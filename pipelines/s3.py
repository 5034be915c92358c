"""boto3's client, and its errors as ours: what was tried, what the server said, what to do about it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from anonymousnet.errors import StorageError

if TYPE_CHECKING:
    from anonymousnet.pipelines.storage import Bucket

T = TypeVar("T")
REFUSED = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AuthorizationHeaderMalformed",
}
FORBIDDEN = {"AccessDenied", "403", "AllAccessDisabled"}
MISSING = {"NoSuchKey", "404"}
EVERYBODY = ("/AllUsers", "/AuthenticatedUsers")
HELD = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
"""What a server answers when the object is not, or no longer, as the request supposes."""


@lru_cache
def client(endpoint_url: str | None, signature: Any = None) -> Any:
    """boto3's, one per process and endpoint; `signature`: botocore's UNSIGNED asks without credentials."""
    import boto3
    from botocore.config import Config

    style = {"addressing_style": "path"} if endpoint_url else {}
    config = Config(
        connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=32, s3=style, signature_version=signature,
    )  # fmt: skip
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    # A session of its own: boto3's default one is not safe to make from several threads.
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


def patiently(call: Callable[[], T], seconds: float) -> T:
    """The call's result; while the server is away, or unwell, it is made again, for so many seconds.

    Over and above boto3's own attempts, whose budget many threads use up together within seconds.
    """
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, IncompleteReadError

    deadline, pause = time.monotonic() + seconds, 0.5
    while True:
        try:
            return call()
        except (ClientError, ConnectionError, HTTPClientError, IncompleteReadError) as error:
            unwell = not isinstance(error, ClientError) or error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
            if not unwell or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 10)


def code_of(error: Any) -> str:
    """What the server called the error."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def open_to_strangers(place: Bucket) -> str:
    """What shows that strangers can read a bucket; empty where nothing does, or its server does not say."""
    from botocore import UNSIGNED
    from botocore.exceptions import BotoCoreError, ClientError

    asked = {"Bucket": place.bucket}
    with suppress(ClientError, BotoCoreError):
        if client(place.endpoint_url).get_bucket_policy_status(**asked)["PolicyStatus"]["IsPublic"]:
            return "its policy is public"
    with suppress(ClientError, BotoCoreError):
        grants = client(place.endpoint_url).get_bucket_acl(**asked)["Grants"]
        if any(grant.get("Grantee", {}).get("URI", "").endswith(EVERYBODY) for grant in grants):
            return "its access list names everybody"
    with suppress(ClientError, BotoCoreError):
        client(place.endpoint_url, UNSIGNED).list_objects_v2(**asked, Prefix=place.prefix, MaxKeys=1)
        return "it lists its objects without credentials"
    return ""


@contextmanager
def explained(place: Bucket, verb: str) -> Iterator[None]:
    """boto3's errors as ours, in one line; an object that is not there as FileNotFoundError."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    where = f"s3://{place.bucket}/{place.prefix}"
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in MISSING | HELD:
            raise FileNotFoundError(where) from error
        raise StorageError(f"cannot {verb} {where}: {_remedy(place.bucket, verb, code, error)}") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StorageError(
            f"cannot {verb} {where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except BotoCoreError as error:
        server = place.endpoint_url or "AWS"
        raise StorageError(
            f"cannot {verb} {where}: no answer from {server} ({type(error).__name__}); check the network and "
            "--endpoint-url or AWS_ENDPOINT_URL_S3"
        ) from error


def _remedy(bucket: str, verb: str, code: str, error: Exception) -> str:
    if code == "NoSuchBucket":
        return f"there is no bucket '{bucket}'; create it or check its name"
    if code in REFUSED:
        return f"the server refuses the credentials ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if code in FORBIDDEN:
        return f"no permission ({code}); ask the bucket's owner for the right to {verb}, or check the credentials"
    return f"{' '.join(str(error).split())}; try again later"
