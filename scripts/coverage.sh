#!/usr/bin/env bash
# coverage.sh: how many lines of the folders of cmake/coverage.list the tests of the preset sanitize have run, from the profiles that they left
# (CMakePresets.json). Fails where a folder's figure cannot be told.
set -euo pipefail
cd "$(dirname "$0")/../build/sanitize"
if ! compgen -G 'coverage/*.profraw' >/dev/null; then
  echo "The tests have left no profiles. Was build/sanitize configured before it counted lines? Remove it." >&2
  exit 1
fi
folders=($(sed -n 's|^src:\*/src/\(.*\)/\*$|\1|p' ../../cmake/coverage.list))
programs=()
for program in tests/*_test; do programs+=(-object "$program"); done
llvm-profdata-14 merge -sparse coverage/*.profraw -o coverage/all.profdata
llvm-cov-14 export -summary-only -instr-profile coverage/all.profdata permllm "${programs[@]}" >coverage/summary.json
exec python3 - "${folders[@]}" <<'END'
import json, sys
files = json.load(open("coverage/summary.json"))["data"][0]["files"]
print("Lines that the tests under the address sanitizer have run:")
for folder in sys.argv[1:]:
    lines = [file["summary"]["lines"] for file in files if f"/src/{folder}/" in file["filename"]]
    count, run = (sum(line[key] for line in lines) for key in ("count", "covered"))
    if run == 0:
        sys.exit(f"coverage.sh: nothing is known of src/{folder}")
    print(f"  src/{folder:10} {run:6} of {count:6}  {100 * run / count:5.1f} %")
END
