#include "base/database.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/owner.h"
#include "permllm/error.h"

namespace permllm {
namespace {

// Device and number of what is at a path; zeros: nothing.
std::pair<std::uint64_t, std::uint64_t> file_at(const std::filesystem::path& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return {};
  return {status.st_dev, status.st_ino};
}

void refuse_if_open_to_others(const std::filesystem::path& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) == 0 && (status.st_mode & 077) == 0) return;
  throw Error(Code::file, path.string(),
              fmt::format("holds secrets and is open to others than its owner (mode {:04o}); run chmod 600 {}",
                          status.st_mode & 07777, path.string()));
}

}  // namespace

Database::Database(const std::filesystem::path& path, Mode mode)
    : name_(path.empty() ? "ledger" : path.string()), path_(path) {
  if (mode == Mode::read) {
    if (!is_there(path)) throw Error(Code::file, path.string(), "is not there");
    if (sqlite3_open_v2(path.c_str(), &database_, SQLITE_OPEN_READONLY | SQLITE_OPEN_FULLMUTEX, nullptr) != SQLITE_OK)
      fail();
    sqlite3_busy_timeout(database_, 10'000);
    return;
  }
  if (!path.empty()) {
    // Its other files take this one's mode. One that is there is not opened: to close it would take the locks away that SQLite holds on it for
    // another Database of this process, and the next process to close it would remove the journal that that one writes into.
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0 && (errno != EEXIST || access(path.c_str(), R_OK | W_OK) != 0))
      throw Error(Code::file, path.string(), "cannot be opened for writing");
    if (file >= 0) give_to_owner_of_folder(path, file), close(file);  // SQLite's other files take its owner
    refuse_if_open_to_others(path);
    place_ = file_at(path);
    reserve_.emplace(path.string() + "-reserve", File::Mode::create);
  }
  if (sqlite3_open_v2(path.empty() ? ":memory:" : path.c_str(), &database_,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr) != SQLITE_OK) {
    fail();
  }
  sqlite3_busy_timeout(database_, 10'000);
  try {
    // With EXTRA each commit waits for the disk, and for the folder where the file system has no room for a WAL and journals come and go.
    run("PRAGMA journal_mode = WAL; PRAGMA synchronous = EXTRA; PRAGMA secure_delete = ON; PRAGMA wal_autocheckpoint = "
        "50;");
  } catch (const Error&) {
    sqlite3_close(database_);
    throw;
  }
  keep_reserve();
}

Database::~Database() { sqlite3_close(database_); }

void Database::fail() {
  full_ = is_full();
  if (full_) {
    const std::filesystem::path path(name_);  // a peer may read this
    throw Error(
        Code::resource, Reason::disk_full, (path.parent_path().filename() / path.filename()).string(),
        fmt::format("its disk is full, {} bytes are free; make room: what is used up has to be written down first",
                    reserve_->free_space()));
  }
  const int code = sqlite3_errcode(database_) & 0xff;
  throw Error(code == SQLITE_FULL || code == SQLITE_IOERR || code == SQLITE_BUSY ? Code::resource : Code::file, name_,
              sqlite3_errstr(code));
}

// A file beside the database that cannot grow is an input or output error.
bool Database::is_full() const {
  const int code = sqlite3_errcode(database_) & 0xff;
  return reserve_ && (code == SQLITE_FULL || (code == SQLITE_IOERR && reserve_->free_space() < k_reserve));
}

// A piece at a time: others may take what is left over of each.
bool Database::give_up_reserve() {
  constexpr std::uint64_t k_piece = 64 << 10;
  if (!reserve_ || reserve_->size() == 0) return false;
  reserve_->resize(reserve_->size() - std::min(k_piece, reserve_->size()));
  return true;
}

void Database::keep_reserve() noexcept {
  try {
    if (reserve_ && reserve_->size() < k_reserve && reserve_->free_space() >= 2 * k_reserve)
      reserve_->allocate(k_reserve);
  } catch (const Error&) {
    // The next time.
  }
}

void Database::run(const char* sql) {
  while (sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) {
    if (in_transaction_ || !is_full() || !give_up_reserve()) fail();
  }
}

void Database::check_place() const {
  if (path_.empty() || file_at(path_) == place_) return;
  throw Error(Code::file, name_,
              "was replaced or removed while this program runs; end every program that uses it, then start again");
}

void Database::transaction(const std::function<void()>& body) {
  check_place();
  const auto attempt = [&] {
    run("BEGIN IMMEDIATE");
    full_ = false;
    in_transaction_ = true;
    try {
      body();
      run("COMMIT");
      in_transaction_ = false;
    } catch (...) {
      in_transaction_ = false;
      sqlite3_exec(database_, "ROLLBACK", nullptr, nullptr, nullptr);
      throw;
    }
  };
  for (bool done = false; !done;) {
    try {
      attempt();
      done = true;
    } catch (const Error&) {
      if (!full_ || !give_up_reserve()) throw;
    }
  }
  keep_reserve();
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
  int result = sqlite3_step(statement_.get());
  // By itself a statement is a transaction: it did nothing.
  while (result != SQLITE_ROW && result != SQLITE_DONE && !database_.in_transaction_ && database_.is_full() &&
         database_.give_up_reserve()) {
    sqlite3_reset(statement_.get());
    result = sqlite3_step(statement_.get());
  }
  if (result == SQLITE_ROW) return true;
  if (result != SQLITE_DONE) database_.fail();
  return false;
}

std::int64_t Database::Query::change() {
  step();
  return sqlite3_changes64(database_.database_);
}

std::uint64_t Database::Query::number(int column) const {
  return static_cast<std::uint64_t>(sqlite3_column_int64(statement_.get(), column));
}
std::string Database::Query::text(int column) const {
  const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
  return {text, static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column))};
}
std::vector<std::uint8_t> Database::Query::bytes(int column) const {
  const auto* bytes = static_cast<const std::uint8_t*>(sqlite3_column_blob(statement_.get(), column));
  return {bytes, bytes + sqlite3_column_bytes(statement_.get(), column)};
}

}  // namespace permllm
