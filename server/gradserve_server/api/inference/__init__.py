"""The Open Inference Protocol (v2) of Triton and KServe: its calls become those of the server's own services.

https://github.com/kserve/open-inference-protocol
"""
