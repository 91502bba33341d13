"""A stand-in for an S3-compatible object store that lives by its signatures.

Owns PUT and GET of objects, and the check of AWS Signature Version 4 over what it received, byte
for byte: the request target as it came, the Host, every signed header, and the body's hash. It is
the store's half of the bargain only: no buckets, listings, parts, metadata or time limits.

    python storage_stand_in.py --listen 127.0.0.1:9000
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ACCESS_KEY = "tailhop-access"
SECRET_KEY = "tailhop-secret"
REGION = "us-east-1"
UNSIGNED = "UNSIGNED-PAYLOAD"


class Refusal(Exception):
    """A request that is not what its sender signed; says what of it is not."""


class Handler(BaseHTTPRequestHandler):
    """One connection. The target comes from the request line: `path` merges leading slashes."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes] = {}

    def do_GET(self) -> None:
        self.answer(b"")

    def do_PUT(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    def answer(self, body: bytes) -> None:
        path, _, query = self.requestline.split(" ")[1].partition("?")
        if path == "/":
            # A probe. It asks whether somebody is there, not for an object.
            return self.send(403, error("AccessDenied", "no object is named"))
        try:
            self.check(path, query, body)
        except Refusal as refusal:
            return self.send(403, error("SignatureDoesNotMatch", str(refusal)))
        if self.command == "PUT":
            self.objects[path] = body
            return self.send(200, b"")
        if path not in self.objects:
            return self.send(404, error("NoSuchKey", path))
        return self.send(200, self.objects[path])

    def check(self, path: str, query: str, body: bytes) -> None:
        """Raises unless the signature is of this very request."""
        if "X-Amz-Signature=" in query:
            signed = {name: value for name, _, value in (p.partition("=") for p in query.split("&"))}
            scope = signed["X-Amz-Credential"].replace("%2F", "/")
            names, given = signed["X-Amz-SignedHeaders"].replace("%3B", ";"), signed["X-Amz-Signature"]
            time, payload = signed["X-Amz-Date"], UNSIGNED
            query = "&".join(p for p in query.split("&") if not p.startswith("X-Amz-Signature="))
        else:
            found = re.fullmatch(
                r"AWS4-HMAC-SHA256 Credential=(\S+), SignedHeaders=(\S+), Signature=(\w+)",
                self.headers.get("authorization", ""),
            )
            if not found:
                raise Refusal("it is not signed")
            scope, names, given = found.groups()
            time, payload = self.headers["x-amz-date"], self.headers["x-amz-content-sha256"]
            if payload != UNSIGNED and payload != hashlib.sha256(body).hexdigest():
                raise Refusal("the body is another one")
        wanted = signature(self.command, path, query, self.fields(names), names, time, scope, payload)
        if not hmac.compare_digest(wanted, given):
            raise Refusal(f"{self.command} {path}?{query} for {self.headers['host']}")

    def fields(self, names: str) -> str:
        """The signed headers as they are signed."""
        lines = []
        for name in names.split(";"):
            values = self.headers.get_all(name)
            if not values:
                raise Refusal(f"the signed header {name} is missing")
            lines.append(f"{name}:{','.join(' '.join(v.split()) for v in values)}\n")
        return "".join(lines)

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps quiet."""


def signature(
    method: str, path: str, query: str, fields: str, names: str, time: str, scope: str, payload: str
) -> str:
    """Signature Version 4 as S3 takes it: the path as it is, not normalised, not encoded again."""
    query = "&".join(sorted(part if "=" in part else part + "=" for part in query.split("&") if part))
    request = "\n".join([method, path, query, fields, names, payload])
    access, day, region, service, end = scope.split("/")
    if (access, region, service, end) != (ACCESS_KEY, REGION, "s3", "aws4_request"):
        raise Refusal(f"the scope is {scope}")
    digest = hashlib.sha256(request.encode()).hexdigest()
    words = "\n".join(["AWS4-HMAC-SHA256", time, f"{day}/{region}/{service}/{end}", digest])
    key = b"AWS4" + SECRET_KEY.encode()
    for part in (day, region, service, end, words):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def error(code: str, message: str) -> bytes:
    plain = message.replace("&", "&amp;").replace("<", "&lt;")
    return f"<Error><Code>{code}</Code><Message>{plain}</Message></Error>".encode()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--listen", default="127.0.0.1:9000")
    host, _, port = arguments.parse_args().listen.rpartition(":")
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
