"""The gRPC layer: requests and their validation, replies, errors, the servicers."""
