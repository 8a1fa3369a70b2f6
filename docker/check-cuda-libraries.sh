#!/bin/sh
# Fails where a library that the CUDA provider of ONNX Runtime needs is not on this system, and names it.
#
#     docker/check-cuda-libraries.sh libonnxruntime_providers_cuda.so
#
# The driver (libcuda.so.1) is not looked for: the machine that runs a container lends it. Nor are cuDNN and cuFFT, which
# the provider opens when it runs; the images of CUDA whose names have `cudnn` in them bring both.
set -eu
needed=$(ldd "$1")
missing=$(printf '%s\n' "$needed" | awk '/not found/ && $1 != "libcuda.so.1" { print $1 }')
[ -z "$missing" ] && exit 0
echo "$1 needs what is not here:" >&2
printf '  %s\n' $missing >&2
echo "The number behind libcublas.so is the CUDA release. Take an image of it:" >&2
echo "  docker build --target cuda --build-arg CUDA_IMAGE=nvidia/cuda:<release>-cudnn-runtime-ubuntu24.04 ." >&2
exit 1
