"""Where gRPC ends: binding and validation of requests, replies, errors, servicers."""
