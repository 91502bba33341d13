"""The gRPC half of the Qdrant stand-in: the same collections, as Qdrant's own messages.

Owns the methods that clients need, by the messages and conversions of PyPI qdrant-client: a message
becomes the JSON of the REST route that does the same, and its answer a message again. As the server
does, it answers compressed where the client can read that, and takes messages of any size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import (
    GrpcToRest,
    RestToGrpc,
    grpc_field_type_to_payload_schema,
)
from qdrant_client.http import models

# So many calls run at once.
WORKERS = 16

# By the status that REST answers with (src/tonic/api and src/actix/helpers.rs of the server).
CODES = {404: grpc.StatusCode.NOT_FOUND, 409: grpc.StatusCode.ALREADY_EXISTS}

Json = Any
Message = Any
Store = Any


# Collections.


def create(store: Store, request: Message) -> Message:
    about: Json = {}
    if request.HasField("vectors_config"):
        vectors = GrpcToRest.convert_vectors_config(request.vectors_config)
        about["vectors"] = (
            {name: plain(one) for name, one in vectors.items()}
            if isinstance(vectors, dict)
            else plain(vectors)
        )
    if request.HasField("sparse_vectors_config"):
        sparse = GrpcToRest.convert_sparse_vector_config(request.sparse_vectors_config)
        about["sparse_vectors"] = {name: plain(one) for name, one in sparse.items()}
    done = store.create(about, request.collection_name)
    return messages.CollectionOperationResponse(result=done)


def delete(store: Store, request: Message) -> Message:
    done = store.delete({}, request.collection_name)
    return messages.CollectionOperationResponse(result=done)


def names(store: Store, _: Message) -> Message:
    found = store.names({})["collections"]
    return messages.ListCollectionsResponse(
        collections=[messages.CollectionDescription(name=one["name"]) for one in found]
    )


def exists(store: Store, request: Message) -> Message:
    found = store.exists({}, request.collection_name)["exists"]
    return messages.CollectionExistsResponse(result=messages.CollectionExists(exists=found))


def info(store: Store, request: Message) -> Message:
    found = models.CollectionInfo(**store.info({}, request.collection_name))
    return messages.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(found))


def change_aliases(store: Store, request: Message) -> Message:
    actions = [plain(GrpcToRest.convert_alias_operations(action)) for action in request.actions]
    return messages.CollectionOperationResponse(result=store.change_aliases({"actions": actions}))


def list_aliases(store: Store, _: Message) -> Message:
    found = store.list_aliases({})["aliases"]
    return messages.ListAliasesResponse(
        aliases=[messages.AliasDescription(**alias) for alias in found]
    )


# What changes points.


def updated(done: Json) -> Message:
    result = messages.UpdateResult(
        operation_id=done["operation_id"], status=messages.UpdateStatus.Completed
    )
    return messages.PointsOperationResponse(result=result)


def upsert(store: Store, request: Message) -> Message:
    points = [plain(GrpcToRest.convert_point_struct(point)) for point in request.points]
    return updated(store.upsert({"points": points}, request.collection_name))


def delete_points(store: Store, request: Message) -> Message:
    selected = plain(GrpcToRest.convert_points_selector(request.points))
    return updated(store.delete_points(selected, request.collection_name))


def set_payload(store: Store, request: Message) -> Message:
    about = plain(GrpcToRest.convert_points_selector(request.points_selector))
    about["payload"] = GrpcToRest.convert_payload(request.payload)
    about["key"] = given(request, "key")
    return updated(store.set_payload(about, request.collection_name))


def index(store: Store, request: Message) -> Message:
    if request.HasField("field_index_params"):
        schema = GrpcToRest.convert_payload_schema_params(request.field_index_params)
    else:
        kind = grpc_field_type_to_payload_schema(request.field_type)
        schema = GrpcToRest.convert_payload_schema_type(kind)
    about = {"field_name": request.field_name, "field_schema": plain(schema)}
    return updated(store.index(about, request.collection_name))


# What reads points.


def retrieve(store: Store, request: Message) -> Message:
    about = {"ids": [GrpcToRest.convert_point_id(one) for one in request.ids], **wanted(request)}
    found = store.retrieve(about, request.collection_name)
    return messages.GetResponse(result=[record(one) for one in found])


def scroll(store: Store, request: Message) -> Message:
    about = {"filter": filtered(request), "limit": given(request, "limit"), **wanted(request)}
    if request.HasField("offset"):
        about["offset"] = GrpcToRest.convert_point_id(request.offset)
    found = store.scroll(about, request.collection_name)
    following = found["next_page_offset"]
    return messages.ScrollResponse(
        result=[record(one) for one in found["points"]],
        next_page_offset=None
        if following is None
        else RestToGrpc.convert_extended_point_id(following),
    )


def count(store: Store, request: Message) -> Message:
    about = {"filter": filtered(request), "exact": given(request, "exact", True)}
    found = store.count(about, request.collection_name)["count"]
    return messages.CountResponse(result=messages.CountResult(count=found))


def query(store: Store, request: Message) -> Message:
    found = store.query(plain(GrpcToRest.convert_query_points(request)), request.collection_name)
    return messages.QueryResponse(result=[scored(one) for one in found["points"]])


def query_batch(store: Store, request: Message) -> Message:
    found = [query(store, one).result for one in request.query_points]
    return messages.QueryBatchResponse(
        result=[messages.BatchResult(result=points) for points in found]
    )


# The server.


def health(store: Store, _: Message) -> Message:
    return messages.HealthCheckReply(**store.version({}))


Handler = Callable[[Store, Message], Message]

METHODS: dict[str, dict[str, tuple[Any, Handler]]] = {
    "qdrant.Qdrant": {"HealthCheck": (messages.HealthCheckRequest, health)},
    "qdrant.Collections": {
        "Get": (messages.GetCollectionInfoRequest, info),
        "List": (messages.ListCollectionsRequest, names),
        "Create": (messages.CreateCollection, create),
        "Delete": (messages.DeleteCollection, delete),
        "CollectionExists": (messages.CollectionExistsRequest, exists),
        "UpdateAliases": (messages.ChangeAliases, change_aliases),
        "ListAliases": (messages.ListAliasesRequest, list_aliases),
    },
    "qdrant.Points": {
        "Upsert": (messages.UpsertPoints, upsert),
        "Delete": (messages.DeletePoints, delete_points),
        "SetPayload": (messages.SetPayloadPoints, set_payload),
        "CreateFieldIndex": (messages.CreateFieldIndexCollection, index),
        "Get": (messages.GetPoints, retrieve),
        "Scroll": (messages.ScrollPoints, scroll),
        "Count": (messages.CountPoints, count),
        "Query": (messages.QueryPoints, query),
        "QueryBatch": (messages.QueryBatchPoints, query_batch),
    },
}


def serve(store: Store, address: str) -> tuple[grpc.Server, int]:
    """Serves `store` on `address`; the server, and the port that it got."""
    server = grpc.server(
        ThreadPoolExecutor(WORKERS),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        compression=grpc.Compression.Gzip,
    )
    for service, methods in METHODS.items():
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                answering(store, handler),
                request_deserializer=request.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, (request, handler) in methods.items()
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, handlers),)
        )
    port = server.add_insecure_port(address)
    server.start()
    return server, port


def answering(store: Store, handler: Handler) -> Callable[[Message, Any], Message]:
    """`handler`, with the time it took and the codes of the server."""

    def answer(request: Message, context: grpc.ServicerContext) -> Message:
        began = time.monotonic()
        try:
            message = handler(store, request)
        except Exception as error:  # the engine raises plain Exception for wrong input
            code = CODES.get(getattr(error, "status", 400), grpc.StatusCode.INVALID_ARGUMENT)
            context.abort(code, str(error))
        if "time" in message.DESCRIPTOR.fields_by_name:
            message.time = time.monotonic() - began
        return message

    return answer


# Between messages and JSON.


def plain(model: Any) -> Json:
    """The JSON of a model of qdrant-client; a word is a model too."""
    if not hasattr(model, "model_dump"):
        return getattr(model, "value", model)
    return model.model_dump(mode="json", exclude_none=True)


def given(request: Message, field: str, default: Json = None) -> Json:
    return getattr(request, field) if request.HasField(field) else default


def wanted(request: Message) -> Json:
    """What of a point is asked for. Where nothing is said, gRPC gives ids only."""
    payload = given(request, "with_payload")
    vectors = given(request, "with_vectors")
    return {
        "with_payload": plain(GrpcToRest.convert_with_payload_selector(payload))
        if payload
        else False,
        "with_vector": plain(GrpcToRest.convert_with_vectors_selector(vectors))
        if vectors
        else False,
    }


def filtered(request: Message) -> Json:
    condition = given(request, "filter")
    return plain(GrpcToRest.convert_filter(condition)) if condition else None


def record(point: Json) -> Message:
    return RestToGrpc.convert_record(models.Record(**filled(point)))


def scored(point: Json) -> Message:
    return RestToGrpc.convert_scored_point(models.ScoredPoint(**filled(point)))


def filled(point: Json) -> Json:
    """The conversion of a record insists on a payload."""
    return {**point, "payload": point["payload"] or {}}
