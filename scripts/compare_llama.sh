#!/usr/bin/env bash
# compare_llama.sh [MODEL [THREADS]]: what llama.cpp takes for a token in the clear on this machine, as one JSON line.
# For development only: no test or release needs it. It installs the npm package node-llama-cpp, whose prebuilt binaries are
# packages too, into a temporary folder (about 700 MB).
set -euo pipefail
version=3.22.1
root=$(cd "$(dirname "$0")/.." && pwd)
model=$(realpath "${1:-$root/models/SmolLM2-135M-Instruct.Q4_1.gguf}")
threads=${2:-2}

for program in node npm; do
  if ! command -v "$program" >/dev/null; then
    echo "compare_llama.sh needs $program (Node.js 20 or newer), which is not installed." >&2
    exit 1
  fi
done
if [ ! -f "$model" ]; then
  echo "$model is not there; make model fetches the test model." >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! { npm init -y && npm install --no-audit --no-fund --ignore-scripts "node-llama-cpp@$version"; } >log 2>&1; then
  cat log >&2
  echo "node-llama-cpp could not be installed. Is there a network, and does npm reach a registry?" >&2
  exit 1
fi

# A prompt of 40 tokens, then 96 tokens chosen greedily, one by one.
cat >run.mjs <<'END'
import {getLlama} from "node-llama-cpp";
const [path, count] = process.argv.slice(2);
const threads = Number(count), prompt_tokens = 40, tokens = 96;
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, maxThreads: threads, logLevel: "error"});
const model = await llama.loadModel({modelPath: path, gpuLayers: 0});
const context = await model.createContext({contextSize: 256, batchSize: 64, threads});
const text = "The history of computing begins long before the first electronic machine was built. ";
const prompt = model.tokenize(text.repeat(8)).slice(0, prompt_tokens);
const times = [];
let last = performance.now();
for await (const _ of context.getSequence().evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
  const now = performance.now();
  times.push(now - last);
  last = now;
  if (times.length > tokens) break;
}
const prefill = times.shift();
const mean = times.reduce((sum, time) => sum + time, 0) / times.length;
const median = times.toSorted((a, b) => a - b)[times.length >> 1];
const rounded = (x) => Number(x.toFixed(2));
console.log(JSON.stringify({
  threads: context.currentThreads, prompt_tokens: prompt.length, prefill_ms: rounded(prefill), tokens: times.length,
  mean_ms: rounded(mean), median_ms: rounded(median), tokens_per_second: rounded(1000 / mean),
}));
process.exit(0);
END
node run.mjs "$model" "$threads"
