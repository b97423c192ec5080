from gradserve.v1 import attack_pb2 as _attack_pb2
from gradserve.v1 import certify_pb2 as _certify_pb2
from gradserve.v1 import concepts_pb2 as _concepts_pb2
from gradserve.v1 import dense_pb2 as _dense_pb2
from gradserve.v1 import differentiate_pb2 as _differentiate_pb2
from gradserve.v1 import exemplars_pb2 as _exemplars_pb2
from gradserve.v1 import explain_pb2 as _explain_pb2
from gradserve.v1 import inspect_pb2 as _inspect_pb2
from gradserve.v1 import maximize_pb2 as _maximize_pb2
from gradserve.v1 import influence_pb2 as _influence_pb2
from gradserve.v1 import predict_pb2 as _predict_pb2
from gradserve.v1 import project_pb2 as _project_pb2
from gradserve.v1 import stylize_pb2 as _stylize_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
