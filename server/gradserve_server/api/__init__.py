"""Where gRPC ends: requests and their validation, replies, errors, the servicer."""
