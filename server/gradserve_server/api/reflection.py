"""Server reflection, v1 and v1alpha, by one servicer: their messages are the same on the wire."""

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

V1, V1ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
NAMES = (f"{V1}.ServerReflection", f"{V1ALPHA}.ServerReflection")


def add(services: Sequence[str], server: grpc.aio.Server) -> None:
    """Adds both versions to a server, which describe these services and themselves."""
    servicer = reflection.aio.ReflectionServicer((*services, *NAMES))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAMES[0], handlers),))


def _describe_v1() -> None:
    """Puts the description of v1, which grpcio-reflection lacks, into protobuf's pool, unless another package did."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileContainingSymbol(NAMES[0])
        return
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = file.name.replace("v1alpha", "v1"), V1
    for field in [field for each in file.message_type for field in each.field if field.type_name]:
        field.type_name = field.type_name.replace(V1ALPHA, V1)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(V1ALPHA, V1)
        method.output_type = method.output_type.replace(V1ALPHA, V1)
    pool.AddSerializedFile(file.SerializeToString())


_describe_v1()
