"""The part of boto3 that the tests use: a client of S3."""

from typing import Literal

class _S3:
    def create_bucket(self, *, Bucket: str) -> object: ...

def client(
    service_name: Literal["s3"],
    *,
    region_name: str,
    endpoint_url: str | None = ...,
    aws_access_key_id: str | None = ...,
    aws_secret_access_key: str | None = ...,
) -> _S3: ...
