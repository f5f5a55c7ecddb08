#!/usr/bin/env bash
# `make test-clients`: programs that people have, and a browser, against `permllm serve` with all three parties on this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$PWD/build/release/permllm
model=$PWD/$1
place=$PWD/build/clients
mkdir -p "$place"

packages() {  # packages VENV FILE: of the Python package index
  cmp -s "tests/clients/$2" "$place/$2" && return
  python3 -m venv "$place/$1"
  "$place/$1/bin/pip" install --quiet --disable-pip-version-check -r "tests/clients/$2"
  cp "tests/clients/$2" "$place/"
}
packages venv requirements.txt
packages venv-openai-2 requirements-openai-2.txt
if ! cmp -s tests/clients/package.json "$place/package.json"; then
  cp tests/clients/package.json "$place/package.json.new"
  mv "$place/package.json.new" "$place/package.json"
  npm install --prefix "$place" --no-audit --no-fund --ignore-scripts --silent || { rm "$place/package.json"; exit 1; }
fi
if ! cmp -s tests/clients/pom.xml "$place/pom.xml"; then
  rm -rf "$place/java"
  mvn -q -B -f tests/clients/pom.xml dependency:copy-dependencies -DoutputDirectory="$place/java"
  cp tests/clients/pom.xml "$place/"
fi

declare -A gateways
trap 'for gateway in "${gateways[@]}"; do kill "$gateway" 2> /dev/null || true; wait "$gateway" 2> /dev/null || true; done' EXIT
start() {  # start NAME SETTING...
  local name=$1
  shift
  : > "$place/$name.events"
  "$binary" serve --demo "$model" --listen 127.0.0.1:0 --events "$@" > "$place/$name.events" 2> "$place/$name.log" &
  gateways[$name]=$!
}
url() {  # url NAME: where it listens, as soon as it does
  local port
  for _ in $(seq 600); do
    port=$(sed -n 's/.*"ready".*"port":\([0-9]*\).*/\1/p; s/.*"port":\([0-9]*\).*"ready".*/\1/p' "$place/$1.events" | head -n 1)
    [ -z "$port" ] || { echo "http://127.0.0.1:$port"; return; }
    kill -0 "${gateways[$1]}" 2> /dev/null || break
    sleep 0.2
  done
  cat "$place/$1.log" >&2
  exit 1
}
export PERMLLM_KEY=a-key-of-the-clients PERMLLM_BINARY=$binary PERMLLM_MODEL=$model PATH=$place/venv/bin:$PATH
(umask 077 && echo "$PERMLLM_KEY" > "$place/keys")
start open
start strict --key-file "$place/keys" --max-requests 1 --sessions 1 --stock 64  # wants a key, answers one request at a time, has material ready
start named --profile open --context 4096 --ahead 256  # answers can be held to a form
PERMLLM_URL=$(url open)
PERMLLM_STRICT_URL=$(url strict)
PERMLLM_NAMED_URL=$(url named)
export PERMLLM_URL PERMLLM_STRICT_URL PERMLLM_NAMED_URL

failed=0
python3 -B tests/clients/clients_test.py || failed=1
python3 -B tests/clients/agents_test.py || failed=1
"$place/venv-openai-2/bin/python3" -B tests/clients/frameworks_test.py || failed=1
cp tests/clients/*.mjs tests/web/*.mjs web/tree.js "$place/"  # node looks for packages beside the program
mv "$place/tree.js" "$place/tree.mjs"
node --test "$place/tree_test.mjs" "$place/client_test.mjs" "$place/sdk_test.mjs" || failed=1
java -cp "$place/java/*" tests/clients/JavaClientsTest.java || failed=1
node "$place/page_test.mjs" "$PERMLLM_URL" "$(command -v chromium)" || failed=1
[ "$failed" = 0 ] || { echo "the gateways' logs:" >&2; tail -n 30 "$place/open.log" "$place/strict.log" "$place/named.log" >&2; }
exit "$failed"
