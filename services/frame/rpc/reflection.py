"""Server reflection, as grpc.reflection.v1 and v1alpha: the same messages under two names.

grpcio-reflection knows the older name only; clients of today ask by the newer one first, some by no other.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from services.frame.rpc.handlers import HandlerRegistry

_FILE = "grpc/reflection/v1/reflection.proto"
SERVICE_NAME = "grpc.reflection.v1.ServerReflection"


def add_reflection(service_names: Sequence[str], registry: HandlerRegistry) -> None:
    """Register both versions with `registry`: they tell of these services and of themselves."""
    _describe_v1()
    names = [*service_names, SERVICE_NAME, reflection.SERVICE_NAME]
    servicer = reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
        servicer, registry.as_server()
    )
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    registry.add_registered_method_handlers(SERVICE_NAME, {"ServerReflectionInfo": handler})


def _describe_v1() -> None:
    """Put the file of v1 into the pool of descriptors, where reflection looks for what it describes."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_FILE)
    except KeyError:
        older = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(older)
        older.name = _FILE
        older.ClearField("options")
        text = text_format.MessageToString(older).replace("grpc.reflection.v1alpha", "grpc.reflection.v1")
        pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
