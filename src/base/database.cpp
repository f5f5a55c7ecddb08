#include "base/database.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "permllm/error.h"

namespace permllm {

Database::Database(const std::filesystem::path& path) : name_(path.empty() ? "ledger" : path.string()) {
  if (!path.empty()) {  // its other files take this one's mode
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) throw Error(Code::file, path.string(), "cannot be opened for writing");
    struct stat status {};
    const bool open_to_others = fstat(file, &status) != 0 || (status.st_mode & 077) != 0;
    close(file);
    if (open_to_others) {
      throw Error(Code::file, path.string(), fmt::format("holds secrets and is open to others than its owner (mode {:04o}); run chmod 600 {}", status.st_mode & 07777, path.string()));
    }
  }
  if (sqlite3_open_v2(path.empty() ? ":memory:" : path.c_str(), &database_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX,
                      nullptr) != SQLITE_OK) {
    fail();
  }
  sqlite3_busy_timeout(database_, 10'000);
  try {
    // With FULL each commit waits for the disk; a journal beside it keeps those that were made.
    run("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;");
  } catch (const Error&) {
    sqlite3_close(database_);
    throw;
  }
}

Database::~Database() { sqlite3_close(database_); }

void Database::fail() const {
  const int code = sqlite3_errcode(database_) & 0xff;
  const bool disk = code == SQLITE_FULL || code == SQLITE_IOERR || code == SQLITE_BUSY;
  throw Error(disk ? Code::resource : Code::file, name_, fmt::format("{}{}", sqlite3_errstr(code), code == SQLITE_FULL || code == SQLITE_IOERR ? "; is its disk full?" : ""));
}

void Database::run(const char* sql) {
  if (sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) fail();
}

void Database::transaction(const std::function<void()>& body) {
  run("BEGIN IMMEDIATE");
  try {
    body();
    run("COMMIT");
  } catch (...) {
    sqlite3_exec(database_, "ROLLBACK", nullptr, nullptr, nullptr);
    throw;
  }
}

Database::Query::Query(Database& database, const char* sql)
    : database_(database), statement_(nullptr, [](sqlite3_stmt* s) { sqlite3_finalize(s); }) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(database.database_, sql, -1, &statement, nullptr) != SQLITE_OK) database.fail();
  statement_.reset(statement);
}

Database::Query& Database::Query::bind(std::uint64_t value) {
  sqlite3_bind_int64(statement_.get(), ++bound_, static_cast<sqlite3_int64>(value));
  return *this;
}
Database::Query& Database::Query::bind(const std::string& text) {
  sqlite3_bind_text(statement_.get(), ++bound_, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
  return *this;
}
Database::Query& Database::Query::bind(std::span<const std::uint8_t> bytes) {
  sqlite3_bind_blob(statement_.get(), ++bound_, bytes.data(), static_cast<int>(bytes.size()), SQLITE_TRANSIENT);
  return *this;
}

bool Database::Query::step() {
  const int result = sqlite3_step(statement_.get());
  if (result == SQLITE_ROW) return true;
  if (result != SQLITE_DONE) database_.fail();
  return false;
}

std::uint64_t Database::Query::number(int column) const { return static_cast<std::uint64_t>(sqlite3_column_int64(statement_.get(), column)); }
std::string Database::Query::text(int column) const {
  const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
  return {text, static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column))};
}
std::vector<std::uint8_t> Database::Query::bytes(int column) const {
  const auto* bytes = static_cast<const std::uint8_t*>(sqlite3_column_blob(statement_.get(), column));
  return {bytes, bytes + sqlite3_column_bytes(statement_.get(), column)};
}

}  // namespace permllm
