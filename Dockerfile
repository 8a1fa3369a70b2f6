# syntax=docker/dockerfile:1
# Leukodiff: API and worker in one image. The command decides: `serve` (API and worker), `serve --no-worker`, `work`,
# `migrate`. How each step was tried: docs/decisions/0010-container-image.md.
#
#     docker build .                     for processors
#     docker build --target cuda .       for NVIDIA GPUs: docs/decisions/0085-gpus.md

ARG NODE_IMAGE=node:24-bookworm-slim
# Must have the CUDA release that the provider of onnxruntime-node is linked against; the stage `cuda` checks that. With
# glibc 2.39, newer than that of NODE_IMAGE: what was installed there runs here.
ARG CUDA_IMAGE=nvidia/cuda:12.9.1-cudnn-runtime-ubuntu24.04

# 1. Compile. Needs the development dependencies; none of them reaches the final image.
FROM ${NODE_IMAGE} AS build
WORKDIR /app
# The manifest first: the packages are a layer that survives a change of the sources. .npmrc keeps onnxruntime-node
# from fetching CUDA libraries.
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json ./
COPY scripts/prisma-generate.mjs scripts/
COPY prisma/ prisma/
COPY src/ src/
RUN npm run build

# 2. What runs: production packages alone, installed for this image's own Node.
FROM ${NODE_IMAGE} AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Prisma's client names the command line `prisma` and TypeScript as optional peers, so npm keeps them: 240 MB that nothing
# here calls. onnxruntime-node brings its libraries for every system: another 220 MB.
RUN npm ci --omit=dev \
  && npm uninstall --omit=dev --no-save prisma typescript \
  && rm -rf node_modules/onnxruntime-node/bin/napi-v*/darwin node_modules/onnxruntime-node/bin/napi-v*/win32 \
  && npm cache clean --force

# The same with the libraries of CUDA, which the package's own script fetches from NuGet. It says nothing where it has none
# for the platform. TensorRT's comes along and is left out.
FROM packages AS packages-cuda
RUN apt-get update \
  && apt-get install --yes --no-install-recommends ca-certificates \
  && rm -rf /var/lib/apt/lists/*
RUN ONNXRUNTIME_NODE_INSTALL=cuda12 node node_modules/onnxruntime-node/script/install.js \
  && if [ ! -s node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so ]; then \
    echo 'onnxruntime-node has CUDA for linux/amd64 alone: docker build --platform linux/amd64' >&2; exit 1; fi \
  && rm node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime_providers_tensorrt.so

# 3. The image for NVIDIA GPUs. From here on it differs from the last stage in its base alone; a test holds them together.
FROM ${CUDA_IMAGE} AS cuda
# Node is one file. User 1000 is `ubuntu` in this base, and has to be `node` as in the other image: both write /data.
COPY --from=packages /usr/local/bin/node /usr/local/bin/
RUN userdel --remove ubuntu \
  && groupadd --gid 1000 node \
  && useradd --uid 1000 --gid node --create-home node
# GPUs have the numbers that nvidia-smi shows; by itself CUDA would put the fastest first.
ENV CUDA_DEVICE_ORDER=PCI_BUS_ID
RUN apt-get update \
  && apt-get install --yes --no-install-recommends libjemalloc2 tini \
  && rm -rf /var/lib/apt/lists/*
LABEL org.opencontainers.image.title="Leukodiff" \
      org.opencontainers.image.description="White blood cell differential from blood smear images" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV NODE_ENV=production \
    LD_PRELOAD=libjemalloc.so.2 \
    MALLOC_CONF=lg_tcache_max:20 \
    DATA_DIR=/data \
    PORT=3000
WORKDIR /app
COPY --from=packages-cuda /app/node_modules node_modules/
# A base without what the provider is linked against ends the build here, not the first start in a hospital.
COPY docker/check-cuda-libraries.sh /usr/local/bin/
RUN check-cuda-libraries.sh node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so
COPY --from=build /app/dist dist/
COPY package.json openapi.yaml LICENSE NOTICE ./
COPY prisma/ prisma/
COPY models/ models/
COPY samples/ samples/
RUN install --directory --owner=node --group=node --mode=0700 /data
USER node
VOLUME /data
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/health/ready`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["tini", "--", "node", "--max-semi-space-size=16", "dist/start.cjs"]
CMD ["serve"]

# 4. The image for processors. Last, so that `docker build` without a target makes it.
FROM ${NODE_IMAGE} AS cpu
RUN apt-get update \
  && apt-get install --yes --no-install-recommends libjemalloc2 tini \
  && rm -rf /var/lib/apt/lists/*
LABEL org.opencontainers.image.title="Leukodiff" \
      org.opencontainers.image.description="White blood cell differential from blood smear images" \
      org.opencontainers.image.licenses="Apache-2.0"
# The allocator that sharp advises: glibc's is fragmented by pictures that many threads take and give back (docs/decisions/0071).
ENV NODE_ENV=production \
    LD_PRELOAD=libjemalloc.so.2 \
    MALLOC_CONF=lg_tcache_max:20 \
    DATA_DIR=/data \
    PORT=3000
WORKDIR /app
COPY --from=packages /app/node_modules node_modules/
COPY --from=build /app/dist dist/
COPY package.json openapi.yaml LICENSE NOTICE ./
COPY prisma/ prisma/
COPY models/ models/
COPY samples/ samples/
# The user `node` (1000) comes with the base image. Only /data is writable for it.
RUN install --directory --owner=node --group=node --mode=0700 /data
USER node
VOLUME /data
EXPOSE 3000
# Ready means database, queue and model, not only that the process lives. 0 is this container's own address.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/health/ready`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# tini passes SIGTERM on and reaps what the program leaves.
ENTRYPOINT ["tini", "--", "node", "--max-semi-space-size=16", "dist/start.cjs"]
CMD ["serve"]
