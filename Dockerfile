# syntax=docker/dockerfile:1
# Leukodiff: API and worker in one image. The command decides: `serve` (API and worker), `serve --no-worker`, `work`,
# `migrate`. How each step was tried: docs/decisions/0010-container-image.md.

ARG NODE_IMAGE=node:24-bookworm-slim

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

# 3. The image.
FROM ${NODE_IMAGE}
RUN apt-get update \
  && apt-get install --yes --no-install-recommends tini \
  && rm -rf /var/lib/apt/lists/*
LABEL org.opencontainers.image.title="Leukodiff" \
      org.opencontainers.image.description="White blood cell differential from blood smear images" \
      org.opencontainers.image.licenses="Apache-2.0"
# glibc keeps a memory arena for every thread; image decoding on many threads would fragment them (sharp's own advice).
ENV NODE_ENV=production \
    MALLOC_ARENA_MAX=2 \
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
ENTRYPOINT ["tini", "--", "node", "dist/main.js"]
CMD ["serve"]
