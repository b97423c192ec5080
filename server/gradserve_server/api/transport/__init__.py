"""What every call passes around its RPC: address and certificates, interceptor, health checks, parsing, its end."""
