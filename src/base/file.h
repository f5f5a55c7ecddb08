// An open file, read and written at offsets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace permllm {

// Errors name the file (without its folder: a peer may read them) and what was to happen.
class File {
 public:
  enum class Mode { read, write, create };
  // create: for reading and writing, made with mode 0600 where it is absent. Errors: file.
  File(const std::filesystem::path& path, Mode mode);
  // Without a path: its bytes live in memory and go with the last reference. Errors: resource.
  static File in_memory(const std::string& name);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  const std::string& name() const { return name_; }
  int descriptor() const { return file_; }
  std::uint64_t size() const;
  // Errors: resource, from here on. False where the file ends before `out` does, or cannot be read there.
  bool read(std::uint64_t offset, std::span<std::uint8_t> out) const;
  void write(std::uint64_t offset, std::span<const std::uint8_t> bytes) const;
  void resize(std::uint64_t size) const;
  // Has so many bytes, zeros, for which the disk has set room aside. Errors: resource; then it is empty.
  void allocate(std::uint64_t size) const;
  // Bytes that the file's disk has left.
  std::uint64_t free_space() const;
  // Gives the room of these bytes back to the file system; they read as zeros, the size stays. False where it does not take any.
  bool free(std::uint64_t offset, std::uint64_t bytes) const;
  void sync() const;  // what was written is on the disk
  // Its writing begins, so that sync has less to wait for. Never fails.
  void start_sync(std::uint64_t offset, std::uint64_t bytes) const;
  // Held until the file is closed. False where another process holds it.
  bool lock() const;
  // Likewise, together with others who hold it so.
  bool lock_shared() const;
  // Whether it is the file that stands there now.
  bool is_at(const std::filesystem::path& path) const;
  // Of one byte, which need not be there; held until the file is closed. False where another open file has it, of this process or of any.
  // Errors: resource, where the file system keeps no such locks.
  bool lock_byte(std::uint64_t offset) const;
  // Whether another open file has it. Errors: likewise.
  bool byte_is_locked(std::uint64_t offset) const;

 private:
  File() = default;
  int file_ = -1;
  std::string name_;
};

// What stands there, links followed; not_found: nothing. Errors: file, where it cannot be looked at: a link that leads to itself, a folder that
// may not be entered.
std::filesystem::file_type type_of(const std::filesystem::path& path);
// Whether anything does. Errors: likewise.
bool is_there(const std::filesystem::path& path);

// Makes the folder, for its owner alone, where there is none. One that is there is somebody's: its mode stays, and what is secret in it has a
// mode of its own. Errors: file, where it cannot be made; those of check_writers.
void make_private_folder(const std::filesystem::path& folder);
// Errors: file, where it is no folder, or where others than its owner may write: they could put an older file in a newer one's place.
void check_writers(const std::filesystem::path& folder);

// Makes what was created, renamed or removed in a folder last. Errors: resource.
void sync_folder(const std::filesystem::path& folder);
// A new name in the same folder, in one step, for good. Errors: resource.
void rename_file(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace permllm
