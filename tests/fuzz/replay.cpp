// Runs a fuzz target without a fuzzer: over its seeds, over every truncation of them and over a number of their mutations, the
// same in each run. Fails on a crash, on what is thrown but no Error, and on memory out of proportion to the input, and then
// leaves the input in the file "crash".
//   NAME_fuzz_replay                  as above
//   NAME_fuzz_replay --count N        with N mutations
//   NAME_fuzz_replay --write FOLDER   writes the seeds for libFuzzer
//   NAME_fuzz_replay FILE...          runs these inputs, each of them as a seed too where --count is given
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <random>
#include <string>

#include "fuzz/target.h"

extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

using Bytes = std::vector<std::uint8_t>;

const Bytes* running = nullptr;  // the input that the target has
std::atomic<std::size_t> allocated = 0, limit = ~std::size_t{0};

void keep_input() {
  if (running == nullptr) return;
  const int file = open("crash", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  [[maybe_unused]] const auto written = write(file, running->data(), running->size());
  running = nullptr;
}
void on_signal(int signal) {
  keep_input();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const Bytes& input) {
  const Bytes copy(input);  // of just this capacity, so that a sanitizer sees reads past its end
  running = &copy;
  limit = allocated + permllm::test::memory_for(copy.size());
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
  limit = ~std::size_t{0};
  running = nullptr;
}

// One to four changes: flipped bits, bytes, numbers at the edges of their types, cuts, repetitions, parts of another seed.
Bytes mutated(const std::vector<Bytes>& seeds, std::mt19937_64& random) {
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : static_cast<std::size_t>(random() % n); };
  const auto at = [](Bytes& bytes, std::size_t i) { return bytes.begin() + static_cast<std::ptrdiff_t>(i); };
  Bytes input = seeds[below(seeds.size())];
  for (std::size_t changes = 1 + below(4); changes > 0 && !input.empty(); --changes) {
    const std::size_t begin = below(input.size()), length = 1 + below(std::min<std::size_t>(64, input.size() - begin));
    switch (random() % 7) {
      case 0:
        input[begin] = static_cast<std::uint8_t>(input[begin] ^ 1u << random() % 8);
        break;
      case 1:
        input[begin] = static_cast<std::uint8_t>(random());
        break;
      case 2: {
        const std::size_t width = std::min(std::size_t{1} << random() % 4, input.size() - begin);
        const std::uint64_t edges[] = {0,
                                       1,
                                       0x7f,
                                       0x80,
                                       0xff,
                                       0x7fffffff,
                                       0x80000000,
                                       0xffffffff,
                                       ~std::uint64_t{0},
                                       ~std::uint64_t{0} >> 1,
                                       std::uint64_t{1} << 32,
                                       std::uint64_t{1} << 61,
                                       input.size(),
                                       input.size() - begin};
        std::memcpy(input.data() + begin, &edges[below(std::size(edges))], width);
        break;
      }
      case 3:
        input.resize(begin);
        break;
      case 4:
        input.erase(at(input, begin), at(input, begin + length));
        break;
      case 5: {
        const Bytes part(at(input, begin), at(input, begin + length));
        input.insert(at(input, below(input.size())), part.begin(), part.end());
        break;
      }
      default: {
        Bytes other = seeds[below(seeds.size())];
        input.resize(begin);
        input.insert(input.end(), at(other, below(other.size() + 1)), other.end());
      }
    }
  }
  return input;
}

Bytes read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace

// For targets that do not say it themselves.
[[gnu::weak]] std::size_t permllm::test::memory_for(std::size_t input) { return (std::size_t{4} << 20) + 64 * input; }

// All memory of the program is counted. Aligned memory is not: no parser asks for it.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (size > limit || allocated > limit - size) {
    limit = ~std::size_t{0};
    std::fprintf(stderr, "%zu bytes asked for, too many for an input of %zu\n", size, running->size());
    std::abort();
  }
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  allocated += malloc_usable_size(memory);
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  allocated -= malloc_usable_size(memory);
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }

int main(int argc, char** argv) {
  std::size_t count = 200000;
  std::vector<Bytes> seeds;
  bool mutate = true;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--count" && i + 1 < argc) {
      count = std::stoul(argv[++i]);
      mutate = true;
    } else if (argument == "--write" && i + 1 < argc) {
      std::filesystem::create_directories(argv[++i]);
      for (const Bytes& seed : permllm::test::seeds()) {
        std::ofstream out(std::filesystem::path(argv[i]) / ("seed-" + std::to_string(seeds.size())), std::ios::binary);
        seeds.push_back(seed);
        out.write(reinterpret_cast<const char*>(seed.data()), static_cast<std::streamsize>(seed.size()));
      }
      return 0;
    } else {
      mutate = false;
      seeds.push_back(read(argument));
    }
  }
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, on_signal);
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(keep_input);
  if (seeds.empty()) seeds = permllm::test::seeds();
  for (const Bytes& seed : seeds) {
    run(seed);
    for (std::size_t length = 0; mutate && length < seed.size(); ++length) {
      run({seed.begin(), seed.begin() + static_cast<std::ptrdiff_t>(length)});
    }
  }
  std::mt19937_64 random(1);
  for (std::size_t i = 0; mutate && i < count; ++i) run(mutated(seeds, random));
}
