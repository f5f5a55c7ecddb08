// A SQLite database whose commits are on the disk when they return.
//
// Beside it lies a file of k_reserve bytes, PATH-reserve. On a full disk it is given up, bit by bit, so that commits go on; when there is room
// again it is made anew. The write-ahead log is checkpointed early, so that small changes to what is there go on within the reserve for good.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"

struct sqlite3;
struct sqlite3_stmt;

namespace permllm {

class Database {
 public:
  static constexpr std::uint64_t k_reserve = 1 << 20;
  // Opens or makes it, for its owner alone; without a path it lives in memory. Errors of all: file where it is damaged, cannot be opened or was
  // replaced since; resource, when the disk is full and the reserve with it. They name the file, never what it holds.
  // read: one that is there, which another program may have open; nothing is written.
  enum class Mode { write, read };
  explicit Database(const std::filesystem::path& path, Mode mode = Mode::write);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // One statement, its parameters and its rows.
  class Query {
   public:
    Query& bind(std::uint64_t value);
    Query& bind(const std::string& text);
    Query& bind(std::span<const std::uint8_t> bytes);
    bool step();  // false: no more rows
    // Of a statement that changes rows: does it, and says how many.
    std::int64_t change();
    std::uint64_t number(int column) const;
    std::string text(int column) const;
    std::vector<std::uint8_t> bytes(int column) const;

   private:
    friend class Database;
    Query(Database& database, const char* sql);
    Database& database_;
    std::unique_ptr<sqlite3_stmt, void (*)(sqlite3_stmt*)> statement_;
    int bound_ = 0;
  };
  Query query(const char* sql) { return Query(*this, sql); }
  void run(const char* sql);
  // Everything that `body` does, or nothing; it may be called several times. Not in a file that is not at its path any more: what were written there,
  // nobody would read again.
  void transaction(const std::function<void()>& body);

 private:
  [[noreturn]] void fail();
  void check_place() const;
  // Whether the last statement failed because its disk is full.
  bool is_full() const;
  // Whether there was one, and made room.
  bool give_up_reserve();
  void keep_reserve() noexcept;
  std::string name_;
  std::filesystem::path path_;
  std::pair<std::uint64_t, std::uint64_t> place_;  // device and number of the file
  bool full_ = false, in_transaction_ = false;
  std::optional<File> reserve_;
  sqlite3* database_ = nullptr;
};

}  // namespace permllm
