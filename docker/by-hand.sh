#!/usr/bin/env bash
# Does by hand what `docker build` and `docker run` would do with ../Dockerfile, for machines without a container engine:
# the same steps in the same order, on a real Node 24 (from npm), in a temporary folder. Run as root.
#
#     docker/by-hand.sh [folder of the model, instead of the one in models/]
#
# What it cannot show: the base image itself, its libraries, and Docker's handling of networks and volumes.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$PWD
model=${1:-}
work=$(mktemp -d)
service=''
trap '[ -z "$service" ] || kill -9 "$service" 2>/dev/null; rm -rf "$work"' EXIT
say() { printf '\n── %s\n' "$*"; }

say 'FROM node:24-bookworm-slim'
npm install --silent --prefix "$work/base" node@24
export PATH="$work/base/node_modules/.bin:$PATH"
node --version
node -e 'if (!process.version.startsWith("v24.")) process.exit(1)'

say 'the build context that .dockerignore lets through'
context=$work/context
mkdir "$context"
for pattern in $(sed -n 's/^!//p' .dockerignore); do
  # A file that is named but absent fails the build there as well.
  mkdir -p "$context/$(dirname "$pattern")"
  cp -r "$source/$pattern" "$context/$pattern"
done
for pattern in $(grep -v -e '^!' -e '^#' -e '^\*$' .dockerignore); do rm -rf "${context:?}/$pattern"; done
(cd "$context" && find . -maxdepth 1 -mindepth 1 | sort | tr '\n' ' ')

say 'stage build'
build=$work/build
mkdir "$build" && cd "$build"
cp "$context"/{package.json,package-lock.json,.npmrc} .
npm ci --silent
cp "$context"/{tsconfig.json,tsconfig.build.json} .
mkdir scripts && cp "$context/scripts/prisma-generate.mjs" scripts/
cp -r "$context/prisma" "$context/src" .
npm run --silent build
ls dist

say 'stage packages'
packages=$work/packages
mkdir "$packages" && cd "$packages"
cp "$context"/{package.json,package-lock.json,.npmrc} .
npm ci --silent --omit=dev
npm uninstall --silent --omit=dev --no-save prisma typescript
rm -rf node_modules/onnxruntime-node/bin/napi-v*/darwin node_modules/onnxruntime-node/bin/napi-v*/win32
du -sh node_modules | cut -f1
for development in typescript vitest @biomejs/biome prisma oxc-parser playwright-core; do
  if [ -e "node_modules/$development" ]; then echo "development package in the image: $development" >&2; exit 1; fi
done

say 'the image'
image=$work/image
mkdir -p "$image/app" "$image/data" && cd "$image/app"
mv "$packages/node_modules" .
cp -r "$build/dist" .
cp "$context"/{package.json,openapi.yaml,LICENSE,NOTICE} .
cp -r "$context/prisma" "$context/models" "$context/samples" .
chown 1000:1000 "$image/data" && chmod 0700 "$image/data"
chmod 0711 "$work"
du -sh "$image/app" | cut -f1
if find . -name '.env*' -not -path './node_modules/*' | grep .; then echo 'a secret in the image' >&2; exit 1; fi

# What Docker would do with USER node, cap_drop: [ALL] and no-new-privileges.
as_node=(setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs)
if "${as_node[@]}" touch "$image/app/written" 2>/dev/null; then echo 'the user can write the program' >&2; exit 1; fi

say 'ENTRYPOINT and CMD: serve, as user 1000'
port=$(node -e 's=require("net").createServer().listen(0,"127.0.0.1",()=>{console.log(s.address().port);s.close()})')
run=(env -i "PATH=$PATH" HOME=/nonexistent NODE_ENV=production LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF=lg_tcache_max:20 "DATA_DIR=$image/data" "PORT=$port" HOST=0.0.0.0)
if [ -n "$model" ]; then run+=("MODEL_DIR=$model"); fi
"${as_node[@]}" "${run[@]}" node dist/start.cjs serve >"$work/log" 2>&1 &
service=$!

# The image's own HEALTHCHECK, read from the Dockerfile.
healthcheck=$(node -e '
  const text = require("fs").readFileSync(process.argv[1], "utf8");
  process.stdout.write(JSON.parse(/HEALTHCHECK[^]*?CMD (\[.*\])/.exec(text)[1])[2]);
' "$source/Dockerfile")
healthy=''
for _ in $(seq 1 60); do
  if "${as_node[@]}" "${run[@]}" node -e "$healthcheck"; then healthy=yes; break; fi
  kill -0 "$service" 2>/dev/null || break
  sleep 1
done
if [ -z "$healthy" ]; then cat "$work/log" >&2; exit 1; fi
echo 'healthy'
if "${as_node[@]}" "${run[@]}" PORT=1 node -e "$healthcheck"; then echo 'the health check cannot fail' >&2; exit 1; fi
head -c 1 "$work/log" | grep -q '{' && echo 'logs are JSON'
grep -q 'lk_' "$work/log" && { echo 'a key in the log' >&2; exit 1; }

say 'a request from the image itself'
curl -sf "http://127.0.0.1:$port/analyze" -H "Authorization: Bearer $(cat "$image/data/first-key")" -H 'Prefer: wait=30' -F images=@samples/smear.png |
  node -e 'const a = JSON.parse(require("fs").readFileSync(0)); console.log(a.status, a.differential?.totalWbc, "white cells"); process.exit(a.status === "completed" ? 0 : 1)'

say 'docker stop'
kill -TERM "$service"
status=0
wait "$service" || status=$?
service=''
echo "exit code $status"
[ "$status" -eq 0 ]
find "$image/app" -newer "$work/log" -not -path '*/node_modules/*' -type f | grep . && { echo 'the program was written to' >&2; exit 1; }
echo
echo 'Every step of the Dockerfile was done.'
