"""Kernels for CPUs: convolutions, and passes in half precision. Nothing here imports the rest of the server.

What each gains is the processor time of a gradient pass of 8 images without it, over that of a pass with all of them
(`python -m tests.bench.kernels`; one thread of an AMD EPYC with AVX-512 and bfloat16, 2026-11-28):

    module               kernel                              resnet18 FAST    vit_b_32 FAST    vit_b_32 EXACT
    cpu_mode             linear layers as single products         1.0              6.9              1.15
    convolutions         SubPixel, a first layer's gradient       1.10             1.2              -
    convolutions         Packed, SideBySide, Pointwise            1.0              -                1.0

The last three gain on processors with AMX, where resnet18 in FAST is 1.10 times faster with all kernels for 8 images
and 1.35 times for one (2026-11-22). torch.compile is not used: it needs a C++ compiler where the server runs, and
compiles for a kind of pass, while passes here differ in their rows, taps and rules all the time.
"""
