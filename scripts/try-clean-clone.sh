#!/usr/bin/env bash
# What a newcomer does: clones the committed tree into an empty folder, with an empty home and nothing exported, runs
# `npm ci && npm start`, pastes the README's first request, and stops the service again.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
folder=$(mktemp -d)
service=''
finish() {
  if [ -n "$service" ]; then kill -TERM -- "-$service" 2>/dev/null || true; fi
  rm -rf "$folder"
}
trap finish EXIT

git clone --quiet "$top" "$folder/project"
# Where the machine reaches npm through a registry of its own.
if [ -f ~/.npmrc ]; then cp ~/.npmrc "$folder/.npmrc"; fi
cd "$folder/project"
port=$(node -e 's=require("net").createServer().listen(0,"127.0.0.1",()=>{console.log(s.address().port);s.close()})')
stranger=(env -i HOME="$folder" PATH="$PATH" LANG=C.UTF-8 TERM=dumb PORT="$port")
"${stranger[@]}" npm ci --silent
set -m
"${stranger[@]}" npm start >"$folder/log" 2>&1 &
service=$!
set +m

ready=''
for _ in $(seq 1 360); do
  if curl -sf "http://127.0.0.1:$port/health/ready" >"$folder/ready" 2>/dev/null; then ready=yes; break; fi
  if ! kill -0 "$service" 2>/dev/null; then break; fi
  sleep 0.5
done
if [ -z "$ready" ]; then
  echo 'The service did not get ready:' >&2
  tail -40 "$folder/log" >&2
  exit 1
fi

# The request as the README prints it, but for the port.
request=$(sed -n '/^curl .*\/analyze/,/^```/p' README.md | sed '/^```/d')
[ -n "$request" ] || { echo 'README.md shows no request to /analyze.' >&2; exit 1; }
answer=$(bash -c "${request//:3000/:$port}")
node -e '
  const analysis = JSON.parse(process.argv[1]);
  const { status, differential } = analysis;
  if (status !== "completed" || !(differential?.totalWbc > 0)) {
    console.error(`The first request was not answered as the README says: ${process.argv[1].slice(0, 600)}`);
    process.exit(1);
  }
  console.log(`First request: ${differential.totalWbc} white cells in samples/smear.png`);
' "$answer"

kill -TERM -- "-$service"
for _ in $(seq 1 60); do
  if ! kill -0 -- "-$service" 2>/dev/null; then service=''; break; fi
  sleep 0.5
done
if [ -n "$service" ]; then
  echo 'The service did not stop within 30 s.' >&2
  tail -20 "$folder/log" >&2
  exit 1
fi
if curl -sf "http://127.0.0.1:$port/health/live" >/dev/null 2>&1; then
  echo 'Something still listens after the service stopped.' >&2
  exit 1
fi
echo 'Clean clone: installed, started, answered, stopped.'
