#!/usr/bin/env bash
# Development only: runs keys, a query, an answer and its decryption under valgrind with every secret marked as undefined: seeds, the
# index, the provider's table. Memcheck then names each branch and each address that depends on one. Expected are the three lines
# that are printed and no other: `a`, which is public, is drawn by rejection; two range checks whose outcome is always the same.
#   apt-get install valgrind;  scripts/check_he_constant_time.sh        (AVX2: valgrind does not know AVX-512)
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/main.cpp" <<'EOF'
#include <valgrind/memcheck.h>

#include <cstdio>

#include "he/answer.h"
#include "he/kernels.h"

using namespace permllm;
using namespace permllm::he;

template <class T>
void hide(T* data, std::size_t count) { VALGRIND_MAKE_MEM_UNDEFINED(data, count * sizeof(T)); }
template <class T>
void show(T* data, std::size_t count) { VALGRIND_MAKE_MEM_DEFINED(data, count * sizeof(T)); }

Seed hidden_seed(std::uint8_t n) {
  std::array<std::uint8_t, Seed::k_bytes> bytes{n};
  hide(bytes.data(), bytes.size());
  return Seed{bytes};
}

int main() {
  const Parameters p = parameters_of(8192);
  std::vector<std::uint32_t> table(p.vocabulary);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::uint32_t>(table.size() - 1 - i);
  const SecretKey secret(hidden_seed(1));
  PublicKey key = public_key(secret, "", hidden_seed(2));
  std::size_t index = random_index(p, hidden_seed(3));
  Query query = encrypt(secret, p, index, hidden_seed(4));
  show(key.b.data(), key.b.size());  // what travels is public
  show(query.c0.data(), query.c0.size());
  show(query.seed.data(), query.seed.size());
  const PreparedKey prepared_key(key, "");
  const PreparedQuery prepared(query);
  hide(table.data(), table.size());
  Reply reply = answer(prepared_key, prepared, table, 100, hidden_seed(5));
  show(reply.words.data(), reply.words.size());
  std::uint32_t entry = decrypt(secret, p, reply);
  show(&entry, 1);
  show(&index, 1);
  show(table.data(), table.size());
  const std::size_t wanted = (index + p.positions() - 100) % p.positions();
  std::printf("%s, %s\n", kernels::target(), entry == table[wanted] ? "the entry is right" : "the entry is WRONG");
  return entry != table[wanted];
}
EOF
c++ -std=gnu++20 -O3 -g -Isrc -Iinclude "$work/main.cpp" src/he/*.cpp src/rand/{seed,counter_mode}.cpp src/ring/{simd,pack}.cpp \
  src/wire/message.cpp src/base/error.cpp -lhwy -lcrypto -lfmt -o "$work/main"
valgrind --error-limit=no --log-file="$work/log" "$work/main"
# The first line of this project in each error's stack, as source.
own='\((main|answer|query|keys|sample|polynomial|kernels|wire|seed|counter_mode)\.(cpp|h):[0-9]+\)'
awk -v own="${own//\\/\\\\}" '/uninitialised/ {waiting = 1}
  waiting && match($0, own) {print substr($0, RSTART + 1, RLENGTH - 2); waiting = 0}' "$work/log" |
  sort -u | while IFS=: read -r file line; do
  source=$(ls src/he/"$file" src/rand/"$file" "$work/$file" 2>/dev/null | head -n 1) || true
  echo "$source:$line:$(sed -n "${line}p" "$source")"
done | tee "$work/lines"
! grep -vE "remove_if\(words|PERMLLM_ASSERT\(index <|if \(entry >= p\.vocabulary\)" "$work/lines"
