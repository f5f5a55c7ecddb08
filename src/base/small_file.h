// Small text files: settings, certificates, keys.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace permllm {

// Errors of all: file, naming the path.

// At most `most` bytes, without the byte order mark that some editors put before a text. secret: refused where others than the owner may read or write
// the file.
std::string read_small_file(const std::filesystem::path& path, bool secret = false, std::size_t most = 64 << 10);
// Makes the file, never overwrites one. mode: of the file from its beginning, like 0600.
void write_new_file(const std::filesystem::path& path, const std::string& text, unsigned mode);
// Makes the file or replaces it, in one step: whoever reads it sees the old text or the new one.
void replace_file(const std::filesystem::path& path, const std::string& text, unsigned mode);

}  // namespace permllm
