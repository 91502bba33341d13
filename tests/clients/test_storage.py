"""An S3 client behind a route that changes neither path nor Host: its signatures must hold.

The signer is botocore, the core of boto3; the verifier is `storage_stand_in.py`, which computes
every signature again from what it received.
"""

from __future__ import annotations

import http.client
import os
from urllib.parse import urlsplit

import botocore.session
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError
from conftest import tailhop_url
from storage_stand_in import ACCESS_KEY, REGION, SECRET_KEY

KEYS = [
    "plain",
    "with space",
    "with  two  spaces ",
    "a+b",
    "a%2Fb",
    "100%",
    "\u65e5\u672c/\u00e4.txt",
    "a//b",
    "/lead",
    "trail/",
    "trail//",
    "a;p=1",
    "a=b&c?d#e",
    "~!*'()-_.",
    "a:b@c,d$e",
    "[x]{y}|z^`\"<>",
    "..a/...",
]


@pytest.fixture
def bucket() -> str:
    """The first segment of the route to the store; only the rig has one."""
    name = os.environ.get("TAILHOP_BUCKET")
    if not name:
        pytest.skip("TAILHOP_BUCKET names no route to an object store")
    return name


def client_with(secret: str) -> BaseClient:
    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=tailhop_url(),
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=secret,
        config=Config(
            signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 0}
        ),
    )


@pytest.mark.parametrize("key", KEYS)
def test_a_signed_object_goes_and_comes_back(bucket: str, key: str) -> None:
    client = client_with(SECRET_KEY)
    body = f"object {key}".encode() * 100
    client.put_object(Bucket=bucket, Key=key, Body=body, Metadata={"owner": "hera  files"})
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == body


@pytest.mark.parametrize("key", KEYS)
def test_a_presigned_address_holds(bucket: str, key: str) -> None:
    client = client_with(SECRET_KEY)
    client.put_object(Bucket=bucket, Key=key, Body=b"presigned")
    asked = {"Bucket": bucket, "Key": key, "ResponseContentType": "text/plain; a=b"}
    url = client.generate_presigned_url("get_object", Params=asked)
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request("GET", url.removeprefix(f"http://{parts.netloc}"))
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"presigned")


def test_a_large_object_is_sent_once_and_whole(bucket: str) -> None:
    client = client_with(SECRET_KEY)
    body = bytes(range(256)) * 4096
    client.put_object(Bucket=bucket, Key="large", Body=body)
    assert client.get_object(Bucket=bucket, Key="large")["Body"].read() == body


def test_the_store_does_check(bucket: str) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client_with("another secret").put_object(Bucket=bucket, Key="plain", Body=b"x")
