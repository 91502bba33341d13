"""A stand-in for a Qdrant server: Qdrant's own embedded engine behind the REST routes of points.

Owns the routes that clients need for collections and points, with the envelope, the error texts
and the 5 s keep-alive of the server; qdrant_stand_in_grpc.py has the same by gRPC, for who asks for
it. It is not Qdrant: no snapshots, no cluster, no api-key, and collections are gone when it ends.
Settings other than those of vectors (HNSW, strict mode, metadata) are kept and told and have no
effect. Points, vectors of all kinds, payload indexes, distances and filters are the real engine's
(PyPI qdrant-edge-py).

    python qdrant_stand_in.py --listen 127.0.0.1:6333 [--listen-grpc 127.0.0.1:6334] --data FOLDER
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import qdrant_edge as edge

VERSION = "1.19.0"
KEEP_ALIVE_SECONDS = 5.0

Json = Any


class Refusal(Exception):
    """A request that gets an error, with the status and the words of the server."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Collection:
    """One collection: a shard of the engine, and how it was asked for."""

    def __init__(self, folder: Path, request: Json) -> None:
        self.vectors = request.get("vectors") or {}
        self.sparse = request.get("sparse_vectors") or {}
        self.config = config_of(request)
        self.indexes: Json = {}
        config = edge.EdgeConfig(
            vectors=vector_params(self.vectors),
            sparse_vectors={name: sparse_params(it or {}) for name, it in self.sparse.items()},
        )
        self.shard = edge.EdgeShard.create(str(folder), config)
        self.lock = threading.Lock()
        self.operations = 0

    def update(self, operation: edge.UpdateOperation) -> Json:
        with self.lock:
            self.shard.update(operation)
            self.operations += 1
            return {"operation_id": self.operations, "status": "completed"}


class Store:
    """Every collection, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        self.lock = threading.Lock()

    def named(self, name: str) -> Collection:
        try:
            return self.collections[self.aliases.get(name, name)]
        except KeyError:
            raise Refusal(404, f"Not found: Collection `{name}` doesn't exist!") from None

    # Collections.

    def version(self, _: Json) -> Json:
        return {"title": "qdrant - vector search engine (stand-in)", "version": VERSION}

    def names(self, _: Json) -> Json:
        return {"collections": [{"name": name} for name in sorted(self.collections)]}

    def exists(self, _: Json, name: str) -> Json:
        return {"exists": name in self.collections}

    def create(self, request: Json, name: str) -> Json:
        with self.lock:
            if name in self.collections:
                raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
            # A folder of its own each time: a name may be any text, and may come again.
            self.collections[name] = Collection(self.folder / uuid.uuid4().hex, request)
        return True

    def delete(self, _: Json, name: str) -> Json:
        with self.lock:
            gone = self.collections.pop(name, None)
            self.aliases = {alias: to for alias, to in self.aliases.items() if to != name}
        if gone is None:
            return False
        with gone.lock:
            gone.shard.close()
        return True

    def info(self, _: Json, name: str) -> Json:
        collection = self.named(name)
        shard = collection.shard.info()
        return {
            "status": "green",
            "optimizer_status": "ok",
            "points_count": shard.points_count,
            "indexed_vectors_count": shard.indexed_vectors_count,
            "segments_count": shard.segments_count,
            "config": collection.config,
            "payload_schema": collection.indexes,
        }

    def change(self, request: Json, name: str) -> Json:
        config = self.named(name).config
        config["params"].update(request.pop("params", {}))
        config.update(request)
        return True

    def index(self, request: Json, name: str) -> Json:
        collection, field = self.named(name), request["field_name"]
        schema = request["field_schema"]
        kind = schema if isinstance(schema, str) else schema["type"]
        wanted = getattr(edge.PayloadSchemaType, kind.capitalize())
        collection.indexes[field] = {
            "data_type": kind,
            **({} if isinstance(schema, str) else {"params": schema}),
            "points": 0,
        }
        return collection.update(edge.UpdateOperation.create_field_index(field, wanted))

    def list_aliases(self, _: Json) -> Json:
        pairs = sorted(self.aliases.items())
        return {"aliases": [{"alias_name": a, "collection_name": c} for a, c in pairs]}

    def change_aliases(self, request: Json) -> Json:
        with self.lock:
            for action in request["actions"]:
                match action:
                    case {"create_alias": about}:
                        self.named(about["collection_name"])
                        self.aliases[about["alias_name"]] = about["collection_name"]
                    case {"delete_alias": about}:
                        self.aliases.pop(about["alias_name"], None)
        return True

    # Points.

    def upsert(self, request: Json, name: str) -> Json:
        points = [
            edge.Point(point["id"], vector_of(point["vector"]), point.get("payload"))
            for point in points_of_upsert(request)
        ]
        return self.named(name).update(edge.UpdateOperation.upsert_points(points))

    def delete_points(self, request: Json, name: str) -> Json:
        operation = (
            edge.UpdateOperation.delete_points_by_filter(filter_of(request["filter"]))
            if "filter" in request
            else edge.UpdateOperation.delete_points(request["points"])
        )
        return self.named(name).update(operation)

    def set_payload(self, request: Json, name: str) -> Json:
        payload, key = request["payload"], request.get("key")
        operation = (
            edge.UpdateOperation.set_payload_by_filter(filter_of(request["filter"]), payload, key)
            if request.get("filter")
            else edge.UpdateOperation.set_payload(request["points"], payload, key)
        )
        return self.named(name).update(operation)

    def point(self, _: Json, name: str, point: str) -> Json:
        found = self.retrieve({"ids": [point_id(point)], "with_vector": True}, name)
        if not found:
            raise Refusal(404, f"Not found: Point with id {point} does not exists!")
        return found[0]

    def retrieve(self, request: Json, name: str) -> Json:
        payload, vector = request.get("with_payload", True), request.get("with_vector", False)
        records = self.named(name).shard.retrieve(request["ids"], payload, vector)
        return [record_json(record) for record in records]

    def scroll(self, request: Json, name: str) -> Json:
        records, following = self.named(name).shard.scroll(
            edge.ScrollRequest(
                offset=request.get("offset"),
                limit=request.get("limit") or 10,
                filter=filter_of(request.get("filter")),
                with_payload=request.get("with_payload", True),
                with_vector=request.get("with_vector", False),
            )
        )
        points = [record_json(record) for record in records]
        return {"points": points, "next_page_offset": following}

    def count(self, request: Json, name: str) -> Json:
        counted = edge.CountRequest(
            exact=request.get("exact", True), filter=filter_of(request.get("filter"))
        )
        return {"count": self.named(name).shard.count(counted)}

    def query(self, request: Json, name: str) -> Json:
        shard = self.named(name).shard
        found = shard.query(
            edge.QueryRequest(
                limit=request.get("limit") or 10,
                offset=request.get("offset"),
                query=query_of(request.get("query"), request.get("using"), shard),
                filter=filter_of(request.get("filter")),
                score_threshold=request.get("score_threshold"),
                with_payload=request.get("with_payload") or False,
                with_vector=request.get("with_vector") or False,
            )
        )
        scored = [
            {**record_json(point), "version": point.version, "score": point.score}
            for point in found
        ]
        return {"points": scored}

    def query_batch(self, request: Json, name: str) -> Json:
        return [self.query(one, name) for one in request["searches"]]


# What a server without a configuration file reports; clients insist on the keys.
DEFAULTS: Json = {
    "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
    "optimizer_config": {"default_segment_number": 0, "flush_interval_sec": 5},
    "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
}


def config_of(request: Json) -> Json:
    """A request to create a collection, as the server tells of it afterwards."""
    params = {key: request[key] for key in PARAMS if key in request}
    others = {key: value for key, value in request.items() if key not in PARAMS}
    config = {"params": params, **DEFAULTS}
    config["optimizer_config"] = others.pop("optimizers_config", DEFAULTS["optimizer_config"])
    return {**config, **others}


def sparse_params(vector: Json) -> edge.EdgeSparseVectorParams:
    modifier = edge.Modifier.Idf if vector.get("modifier") == "idf" else None
    return edge.EdgeSparseVectorParams(modifier=modifier)


def vector_params(vectors: Json) -> Any:
    """One unnamed vector, or several named ones."""

    def params(vector: Json) -> edge.EdgeVectorParams:
        multi = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
        datatype = vector.get("datatype")
        return edge.EdgeVectorParams(
            size=vector["size"],
            distance=getattr(edge.Distance, vector["distance"]),
            on_disk=vector.get("on_disk"),
            multivector_config=multi if vector.get("multivector_config") else None,
            datatype=getattr(edge.VectorStorageDatatype, datatype.capitalize()) if datatype else None,
        )

    if "size" in vectors:
        return params(vectors)
    return {name: params(vector) for name, vector in vectors.items()}


# Keys of a request that are told as `params`.
PARAMS = ("vectors", "sparse_vectors", "shard_number", "replication_factor", "on_disk_payload")


def vector_of(vector: Json) -> Json:
    """As the engine takes it: a sparse one has a type of its own."""
    match vector:
        case {"indices": indices, "values": values}:
            return edge.SparseVector(indices, values)
        case {**named}:
            return {name: vector_of(one) for name, one in named.items()}
    return vector


def vector_json(vector: Any) -> Json:
    if isinstance(vector, edge.SparseVector):
        return {"indices": list(vector.indices), "values": list(vector.values)}
    if isinstance(vector, dict):
        return {name: vector_json(one) for name, one in vector.items()}
    return vector


def points_of_upsert(request: Json) -> list[Json]:
    """Both forms of an upsert: a list of points, or a batch of columns."""
    if "points" in request:
        return request["points"]
    batch = request["batch"]
    payloads = batch.get("payloads") or [None] * len(batch["ids"])
    return [
        {"id": point, "vector": vector, "payload": payload}
        for point, vector, payload in zip(batch["ids"], batch["vectors"], payloads, strict=True)
    ]


def query_of(query: Json, using: str | None, shard: edge.EdgeShard) -> Any:
    if isinstance(query, dict) and "nearest" in query:
        query = query["nearest"]
    match query:
        case None:
            return None
        case {"sample": "random"}:
            return edge.Sample.Random
        case [*vector]:
            return edge.Query.Nearest(vector, using)
        case int() | str():
            records = shard.retrieve([query], False, True)
            if not records:
                raise Refusal(404, f"Not found: No point with id {query} found")
            return edge.Query.Nearest(records[0].vector, using)
    raise Refusal(400, f"Wrong input: the stand-in knows no query {query}")


def filter_of(wanted: Json) -> edge.Filter | None:
    if not wanted:
        return None
    lists = {
        word: [condition_of(condition) for condition in listed(wanted[word])]
        for word in ("must", "should", "must_not")
        if wanted.get(word)
    }
    return edge.Filter(**lists)


def condition_of(condition: Json) -> Any:
    match condition:
        case {"has_id": ids}:
            return edge.HasIdCondition(set(ids))
        case {"key": key, "match": {"value": value}}:
            return edge.FieldCondition(key, match=edge.MatchValue(value))
        case {"key": key, "match": {"any": values}}:
            return edge.FieldCondition(key, match=edge.MatchAny(values))
        case {"key": key, "range": limits}:
            return edge.FieldCondition(key, range=edge.RangeFloat(**limits))
        case {"must": _} | {"should": _} | {"must_not": _}:
            return filter_of(condition)
    raise Refusal(400, f"Wrong input: the stand-in knows no condition {condition}")


def listed(one_or_many: Json) -> list[Json]:
    return one_or_many if isinstance(one_or_many, list) else [one_or_many]


def record_json(record: edge.Record | edge.ScoredPoint) -> Json:
    return {"id": record.id, "payload": record.payload, "vector": vector_json(record.vector)}


def point_id(text: str) -> int | str:
    return int(text) if text.isdigit() else text


Handler = Callable[..., Json]

# In the order of matching. `{}` is one segment of the path.
ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/", Store.version),
    ("GET", "/collections", Store.names),
    ("GET", "/aliases", Store.list_aliases),
    ("POST", "/collections/aliases", Store.change_aliases),
    ("PUT", "/collections/{}", Store.create),
    ("PATCH", "/collections/{}", Store.change),
    ("GET", "/collections/{}", Store.info),
    ("PUT", "/collections/{}/index", Store.index),
    ("DELETE", "/collections/{}", Store.delete),
    ("GET", "/collections/{}/exists", Store.exists),
    ("PUT", "/collections/{}/points", Store.upsert),
    ("POST", "/collections/{}/points", Store.retrieve),
    ("POST", "/collections/{}/points/query", Store.query),
    ("POST", "/collections/{}/points/query/batch", Store.query_batch),
    ("POST", "/collections/{}/points/scroll", Store.scroll),
    ("POST", "/collections/{}/points/count", Store.count),
    ("POST", "/collections/{}/points/delete", Store.delete_points),
    ("POST", "/collections/{}/points/payload", Store.set_payload),
    ("GET", "/collections/{}/points/{}", Store.point),
]
PATTERNS = [
    (method, re.compile(path.replace("{}", "([^/]+)")), handler) for method, path, handler in ROUTES
]
# Plain text, without an envelope.
PROBES = {
    "/healthz": "healthz check passed",
    "/livez": "healthz check passed",
    "/readyz": "all shards are ready",
}


class Connection(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    # An idle connection is closed after this, as the server does.
    timeout = KEEP_ALIVE_SECONDS
    # Head and body leave in one segment.
    wbufsize = -1
    disable_nagle_algorithm = True
    store: Store

    def answer(self) -> None:
        path = urlsplit(self.path).path
        # The server trims a slash at the end and merges double ones.
        path = "/" + "/".join(part for part in path.split("/") if part)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command == "GET" and path in PROBES:
            self.reply(200, PROBES[path].encode(), "text/plain; charset=utf-8")
            return
        began = time.monotonic()
        status, answer = self.call(path, body)
        # Only the version stands without an envelope.
        if path != "/" or status != 200:
            answer["time"] = time.monotonic() - began
        self.reply(status, json.dumps(answer, default=str).encode(), "application/json")

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = answer

    def call(self, path: str, body: bytes) -> tuple[int, Json]:
        try:
            handler, names = self.route(path)
            result = handler(self.store, json.loads(body or b"{}"), *names)
        except Refusal as refusal:
            return refusal.status, {"status": {"error": str(refusal)}}
        except json.JSONDecodeError as error:
            return 400, {"status": {"error": f"Format error in JSON body: {error}"}}
        except KeyError as error:
            return 400, {"status": {"error": f"Format error in JSON body: missing field {error}"}}
        except Exception as error:  # the engine raises plain Exception for wrong input
            return 400, {"status": {"error": f"Wrong input: {error}"}}
        return 200, result if path == "/" else {"result": result, "status": "ok"}

    def route(self, path: str) -> tuple[Handler, tuple[str, ...]]:
        for method, pattern, handler in PATTERNS:
            found = pattern.fullmatch(path)
            if method == self.command and found:
                return handler, tuple(unquote(name) for name in found.groups())
        raise Refusal(404, f"Not found: the stand-in has no {self.command} {path}")

    def reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: a test reads what it asked for."""


class Server(ThreadingHTTPServer):
    """A thread a connection; the queue is deep, because clients come in bursts."""

    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--listen", default="127.0.0.1:6333", metavar="IP:PORT")
    arguments.add_argument("--listen-grpc", metavar="IP:PORT")
    arguments.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    given = arguments.parse_args()
    given.data.mkdir(parents=True, exist_ok=True)

    host, port = given.listen.rsplit(":", 1)
    Connection.store = Store(given.data)
    server = Server((host, int(port)), Connection)
    print(f"listening on http://{host}:{server.server_port}", flush=True)
    if given.listen_grpc:
        # Its libraries take a second to load.
        import qdrant_stand_in_grpc

        calls, port = qdrant_stand_in_grpc.serve(Connection.store, given.listen_grpc)
        print(f"listening on grpc://{given.listen_grpc.rsplit(':', 1)[0]}:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
