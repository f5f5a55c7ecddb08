// The ledger between two processes: the other is this program, started again, which does a line of its input after the other.
#include "session/ledger.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <list>

#include "cli/local_parties.h"
#include "support/errors.h"
#include "support/rig.h"

namespace permllm::test {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t k_chain = 0x8123456789abcdef;
constexpr const char* k_taken = "another program has used or removed this chain";
Marks marks(std::uint32_t n) { return {{n, n, n, 0}}; }
std::uint32_t slots(Ledger& ledger) { return ledger.find({}, k_chain).value().burnt[k_slot_kind]; }

// What a program does with the chain.
class Program {
 public:
  explicit Program(const fs::path& path) : ledger_(std::in_place, path) {}
  std::string does(const std::string& what, std::uint32_t number = 0) {
    std::string said = "done";
    const std::string error = error_of([&] {
      if (what == "read") read_ = ledger_->find({}, k_chain);
      if (what == "hold" && !(hold_ = ledger_->hold(k_chain))) said = "held";
      if (what == "begin") burning_.emplace(*ledger_, "", k_chain, ledger_->find({}, k_chain).value().burnt);
      if (what == "reach") burning_->reach(marks(number));
      if (what == "end") burning_.reset(), hold_.reset();
      if (what == "drop" && !ledger_->drop(read_.value())) said = "stays";
      if (what == "agree") {  // after a round trip
        ChainRecord later = read_.value();
        later.burnt = marks(number);
        ledger_->change(*read_, later);
      }
      if (what == "close") ledger_.reset();
      if (what == "say") said = std::to_string(slots(*ledger_));
    });
    return error == "no error" ? said : error;
  }

 private:
  std::optional<Ledger> ledger_;
  std::optional<ChainRecord> read_;
  Ledger::Hold hold_;
  std::optional<Burning> burning_;
};

// Another process. Started with this test alone, which is no test.
TEST(Other, DISABLED_process) {
  std::string path, what;
  std::getline(std::cin, path);
  Program program{path};
  std::uint32_t number = 0;
  std::cout << std::endl << "> done" << std::endl;
  while (std::cin >> what >> number) std::cout << "> " << program.does(what, number) << std::endl;
}

class Other {
 public:
  explicit Other(const fs::path& path) {
    int in[2], out[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      execl("/proc/self/exe", "ledger_test", "--gtest_filter=Other.DISABLED_process", "--gtest_also_run_disabled_tests",
            nullptr);
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    to_ = fdopen(in[1], "w");
    from_ = fdopen(out[0], "r");
    fmt::print(to_, "{}\n", path.string());
    answer();
  }
  ~Other() {
    fclose(to_);  // its input is over: it ends
    while (fgetc(from_) != EOF) {
    }
    fclose(from_);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }
  std::string does(const std::string& what, std::uint32_t number = 0) {
    fmt::print(to_, "{} {}\n", what, number);
    return answer();
  }
  void die() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  std::string answer() {
    fflush(to_);
    std::string line;
    for (int c; (c = fgetc(from_)) != EOF;) {
      if (c != '\n') {
        line += static_cast<char>(c);
      } else if (line.starts_with("> ")) {
        return line.substr(2);
      } else {
        line.clear();  // gtest's
      }
    }
    return "is gone";
  }
  pid_t pid_;
  FILE *to_, *from_;
};

struct Shared : testing::Test {
  Shared() {
    ChainRecord record;
    record.chain = k_chain;
    record.model_id = "model";
    record.paired = true;
    record.seed = seed_of(7);
    ledger.add(record);
  }
  TemporaryDirectory folder;
  fs::path path = folder.path() / "ledger.sqlite";
  Ledger ledger{path};
};
constexpr std::uint32_t k_ahead = Burning::k_stretch - 1;

TEST_F(Shared, a_mark_is_moved_from_where_this_process_left_it) {
  Program one(path);
  Other other(path);
  EXPECT_EQ(one.does("begin"), "done");
  EXPECT_EQ(one.does("reach", 3), "done");
  EXPECT_EQ(slots(ledger), 3 + k_ahead);
  EXPECT_EQ(other.does("begin"), "done");
  EXPECT_EQ(other.does("reach", 20), "done");
  EXPECT_EQ(slots(ledger), 20 + k_ahead);
  const Usage used = ledger.used("");
  const std::string error = one.does("reach", 19);
  EXPECT_NE(error.find(k_taken), std::string::npos) << error;
  EXPECT_NE(error.find("ask again"), std::string::npos) << error;
  EXPECT_EQ(slots(ledger), 20 + k_ahead);
  EXPECT_NE(one.does("reach", 18), "done");  // nor what it had burnt ahead
  EXPECT_EQ(one.does("end"), "done");
  EXPECT_EQ(slots(ledger), 20 + k_ahead);
  EXPECT_EQ(ledger.used(""), used);  // what is not moved is not counted
  EXPECT_EQ(other.does("end"), "done");
  EXPECT_EQ(slots(ledger), 20u);
}

// The prompt that was read in clear: one ends long after another has gone on behind its stretch.
TEST_F(Shared, what_is_left_is_given_back_only_where_nobody_went_on) {
  Program one(path);
  Other other(path);
  one.does("begin");
  EXPECT_EQ(one.does("reach", 3), "done");
  other.does("begin");
  EXPECT_EQ(other.does("reach", 25), "done");
  EXPECT_EQ(one.does("end"), "done");
  EXPECT_EQ(slots(ledger), 25 + k_ahead);
  EXPECT_EQ(other.does("reach", 30), "done");  // nothing happened to it
  EXPECT_EQ(other.does("end"), "done");
  EXPECT_EQ(slots(ledger), 30u);
}

TEST_F(Shared, an_agreement_does_not_overwrite_what_was_moved_during_its_round_trip) {
  Program one(path);
  Other other(path);
  EXPECT_EQ(other.does("read"), "done");
  one.does("begin");
  EXPECT_EQ(one.does("reach", 3), "done");
  EXPECT_NE(other.does("agree", 2).find(k_taken), std::string::npos);
  EXPECT_EQ(slots(ledger), 3 + k_ahead);
  EXPECT_EQ(one.does("end"), "done");
  EXPECT_EQ(other.does("read"), "done");
  EXPECT_EQ(other.does("agree", 5), "done");
  EXPECT_EQ(slots(ledger), 5u);
}

TEST_F(Shared, a_row_that_was_moved_is_not_dropped_and_one_that_is_gone_is_noticed) {
  Program one(path);
  Other other(path);
  EXPECT_EQ(other.does("read"), "done");
  one.does("begin");
  EXPECT_EQ(one.does("reach", 1), "done");
  EXPECT_EQ(other.does("drop"), "stays");
  EXPECT_EQ(other.does("read"), "done");
  EXPECT_EQ(other.does("drop"), "done");
  EXPECT_EQ(one.does("reach", 2), "done");  // burnt before
  EXPECT_NE(one.does("reach", 1 + Burning::k_stretch).find(k_taken), std::string::npos);
  EXPECT_EQ(one.does("end"), "done");
  EXPECT_FALSE(ledger.find({}, k_chain));  // nor is it there again
}

TEST_F(Shared, nothing_that_is_gone_or_was_moved_is_made) {
  const ChainRecord record = *ledger.find({}, k_chain);
  EXPECT_EQ(error_of([&] { ledger.set_made({}, k_chain, {}, marks(4), {1, 2}); }), "no error");
  EXPECT_NE(error_of([&] { ledger.set_made({}, k_chain, {}, marks(9), {1, 2}); }).find(k_taken), std::string::npos);
  EXPECT_EQ(ledger.find({}, k_chain)->made, marks(4));
  EXPECT_NE(error_of([&] { ledger.add(record); }).find(k_taken), std::string::npos);
  EXPECT_EQ(ledger.find({}, k_chain)->made, marks(4));
  EXPECT_TRUE(ledger.drop(*ledger.find({}, k_chain)));
  EXPECT_NE(error_of([&] {
              ledger.set_made({}, k_chain, marks(4), marks(9), {1, 2});
            }).find(k_taken),
            std::string::npos);
  EXPECT_NE(error_of([&] { ledger.change(record, record); }).find(k_taken), std::string::npos);
  EXPECT_TRUE(ledger.all().empty());
}

TEST_F(Shared, a_chain_is_held_by_one_and_let_go_by_the_dead) {
  Program one(path), two(path);
  Other other(path), third(path);
  EXPECT_FALSE(ledger.held(k_chain));
  EXPECT_EQ(other.does("hold"), "done");
  EXPECT_EQ(third.does("hold"), "held");
  EXPECT_EQ(one.does("hold"), "held");
  EXPECT_TRUE(ledger.held(k_chain));
  EXPECT_FALSE(ledger.held(k_chain ^ 16));
  other.die();
  EXPECT_EQ(one.does("hold"), "done");
  EXPECT_EQ(two.does("hold"), "held");  // of one process
  EXPECT_EQ(third.does("hold"), "held");
  EXPECT_EQ(one.does("end"), "done");
  EXPECT_EQ(third.does("hold"), "done");
}

TEST(Ledger, in_memory_a_chain_is_held_by_one) {
  Ledger ledger;
  Ledger::Hold hold = ledger.hold(1);
  EXPECT_TRUE(hold);
  EXPECT_FALSE(ledger.hold(1));
  EXPECT_TRUE(ledger.hold(2));
  EXPECT_TRUE(ledger.held(1));
  EXPECT_FALSE(ledger.held(2));
  hold.reset();
  EXPECT_TRUE(ledger.hold(1));
}

// Of two ledgers of one process one must not take the locks of the other away: the next process to close the file would remove the journal that is
// written into.
TEST_F(Shared, what_one_of_two_in_a_process_writes_another_process_reads) {
  const Ledger second(path);
  {
    Other other(path);
    EXPECT_EQ(other.does("close"), "done");
  }
  ledger.move_burnt({}, k_chain, {}, marks(9));
  Other other(path);
  EXPECT_EQ(other.does("say"), "9");
}

TEST_F(Shared, a_file_that_was_replaced_takes_no_marks) {
  Program one(path);
  one.does("begin");
  EXPECT_EQ(one.does("reach", 1), "done");
  const fs::path copy = folder.path() / "copy.sqlite";
  fs::copy_file(path, copy);
  fs::rename(copy, path);
  const std::string error = one.does("reach", 1 + Burning::k_stretch);
  EXPECT_NE(error.find("was replaced or removed while this program runs"), std::string::npos) << error;
  EXPECT_NE(one.does("reach", 2), "done");
}

TEST(Ledger, tokens_are_counted_with_the_marks) {
  Ledger ledger;
  ChainRecord record;
  record.chain = 3;
  record.peer = "alice";
  ledger.add(record);
  {
    Burning burning(ledger, "alice", 3, {});
    burning.reach(marks(5));
    EXPECT_EQ(ledger.used("alice").tokens, 5u + k_ahead);
  }
  EXPECT_EQ(ledger.used("alice").tokens, 5u);
  Burning burning(ledger, "alice", 3, {});  // of another time
  EXPECT_NE(error_of([&] { burning.reach(marks(7)); }), "no error");
  EXPECT_EQ(ledger.used("alice").tokens, 5u);
}

TEST(Ledger, counts_by_the_month_and_takes_off_what_was_counted_ahead_in_the_month_before) {
  const TemporaryDirectory folder;
  const fs::path path = folder.path() / "ledger.sqlite";
  std::chrono::system_clock::time_point now =
      std::chrono::sys_days(std::chrono::year(2027) / 1 / 31) + std::chrono::hours(23);
  Ledger ledger(path, [&] { return now; });
  ChainRecord record;
  record.chain = 3;
  record.peer = "alice";
  ledger.add(record);
  {
    Burning burning(ledger, "alice", 3, {});
    burning.reach({{7, 7, 2, 0}});
    now += std::chrono::hours(2);
    burning.reach({{8, 8, 3, 0}});  // within the stretch
    EXPECT_EQ(ledger.month(), "2027-02");
    EXPECT_EQ(ledger.used("alice", "2027-02"), Usage{});
  }
  EXPECT_EQ(ledger.used("alice", "2027-01"), (Usage{3, 8}));
  EXPECT_EQ(ledger.used("alice"), (Usage{3, 8}));
  {
    Burning burning(ledger, "alice", 3, {{8, 8, 3, 0}});
    burning.reach({{9, 9, 4, 0}});
  }
  EXPECT_EQ(ledger.used("alice", "2027-02"), (Usage{1, 1}));
  const auto accounts = read_accounts(path);  // while it is open
  ASSERT_EQ(accounts.size(), 1u);
  EXPECT_EQ(accounts.at("alice").ever(), (Usage{4, 9}));
  EXPECT_EQ(accounts.at("alice").in("2027-01"), (Usage{3, 8}));
  EXPECT_GE(accounts.at("alice").last_seen, static_cast<std::uint64_t>(std::chrono::system_clock::to_time_t(now)));
}

// Sessions that span a month's turn, of a user who asks much in the next: what is left of theirs comes off their own month.
TEST(Ledger, gives_back_in_the_month_in_which_it_was_counted) {
  std::chrono::system_clock::time_point now =
      std::chrono::sys_days(std::chrono::year(2027) / 1 / 31) + std::chrono::hours(23);
  Ledger ledger({}, [&] { return now; });
  const auto begun = [&](std::uint64_t chain) {
    ChainRecord record;
    record.chain = chain;
    record.peer = "alice";
    ledger.add(record);
    return std::make_unique<Burning>(ledger, "alice", chain, Marks{});
  };
  std::list<std::unique_ptr<Burning>> over;
  for (std::uint64_t chain = 1; chain <= 16; ++chain) over.push_back(begun(chain));
  for (const auto& burning : over) burning->reach(marks(1));
  now += std::chrono::hours(48);
  {
    const auto burning = begun(99);
    for (std::uint32_t i = 1; i <= 300; ++i) burning->reach(marks(i));
  }
  over.front()->reach({{1 + k_ahead, 0, 2 + k_ahead, 0}});  // a token beyond its stretch, rows within
  EXPECT_EQ(ledger.used("alice", "2027-02"), (Usage{300 + 1 + k_ahead, 300}));
  over.clear();
  EXPECT_EQ(ledger.used("alice", "2027-01"), (Usage{15 + 1 + k_ahead, 15 + 1 + k_ahead}));
  EXPECT_EQ(ledger.used("alice", "2027-02"), (Usage{300 + 1, 300}));
}

TEST(Ledger, one_of_the_second_version_keeps_its_tokens_and_what_is_known_of_its_rows) {
  const TemporaryDirectory folder;
  const fs::path path = folder.path() / "ledger.sqlite";
  { const Ledger made(path); }
  Database(path).run(
      "DROP TABLE usage; CREATE TABLE peers (peer TEXT PRIMARY KEY, tokens INTEGER NOT NULL) WITHOUT ROWID;"
      "INSERT INTO peers VALUES ('alice', 5), ('bob', 40); PRAGMA user_version = 2;"
      "INSERT INTO chains (chain, peer, model_id, plan_hash, paired, seed, own, other, burnt1) VALUES"
      " (1, 'alice', '', '', 0, '', '', '', 20), (2, 'alice', '', '', 0, '', '', '', 3), (3, 'bob', '', '', 0, '', '', "
      "'', 7)");
  EXPECT_NE(error_of([&] { read_accounts(path); }).find("is of version 2, this program reads 3"), std::string::npos);
  Ledger ledger(path);
  EXPECT_EQ(ledger.used("alice"), (Usage{5, 23}));
  EXPECT_EQ(ledger.used("bob"), (Usage{40, 40}));
  EXPECT_EQ(ledger.used("bob", ""), (Usage{40, 40}));
}

TEST(Ledger, what_root_makes_belongs_to_the_folders_owner) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const TemporaryDirectory folder;
  ASSERT_EQ(chown(folder.path().c_str(), 12345, 12345), 0);
  Ledger ledger(folder.path() / "ledger.sqlite");
  const Ledger::Hold hold = ledger.hold(1);
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(folder.path())) {
    struct stat status {};
    ASSERT_EQ(stat(entry.path().c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 12345u) << entry.path();
    ++files;
  }
  EXPECT_GE(files, 4u);  // itself, its journal, reserve and locks
}

TEST(Ledger, a_reader_makes_no_file) {
  const TemporaryDirectory folder;
  EXPECT_NE(error_of([&] { read_accounts(folder.path() / "ledger.sqlite"); }).find("is not there"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

// A peer may say that pieces of a kind are burnt that the plan does not have.
TEST(Ledger, marks_do_not_come_back_lower) {
  Ledger ledger;
  ChainRecord record;
  record.burnt = {{0, 0, 0, 5}};
  ledger.add(record);
  {
    Burning burning(ledger, "", 0, record.burnt);
    burning.reach(marks(7));
    burning.reach(marks(2));
    EXPECT_EQ(burning.used(), (Marks{{7, 7, 7, 5}}));
  }
  EXPECT_EQ(ledger.find({}, 0)->burnt, (Marks{{7, 7, 7, 5}}));
}

TEST(Ledger, one_of_the_first_version_is_read_and_a_mark_beyond_all_pieces_is_refused) {
  const TemporaryDirectory folder;
  const fs::path path = folder.path() / "ledger.sqlite";
  {
    Database database(path);
    database.run(
        "CREATE TABLE chains (chain INTEGER NOT NULL, peer TEXT NOT NULL, model_id TEXT NOT NULL, plan_hash TEXT NOT "
        "NULL, paired INTEGER NOT NULL,"
        " seed BLOB NOT NULL, own BLOB NOT NULL, other BLOB NOT NULL, made1 INTEGER, made2 INTEGER, made3 INTEGER, "
        "made4 INTEGER,"
        " burnt1 INTEGER, burnt2 INTEGER, burnt3 INTEGER, burnt4 INTEGER, length1 INTEGER, length2 INTEGER,"
        " used INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (peer, chain)) WITHOUT ROWID;"
        "CREATE TABLE peers (peer TEXT PRIMARY KEY, tokens INTEGER NOT NULL) WITHOUT ROWID;"
        "INSERT INTO chains VALUES (5, '', 'm', 'p', 1, zeroblob(32), zeroblob(32), zeroblob(32), 0, 0, 0, 0, 6, 7, 8, "
        "9, 0, 0, 1);"
        "PRAGMA user_version = 1;");
  }
  {
    Ledger ledger(path);
    EXPECT_EQ(ledger.all().at(0).burnt, (Marks{{6, 7, 8, 9}}));
    EXPECT_EQ(ledger.all().at(0).mask, Digest{});
  }
  for (const char* mark : {"-1", "4294967296"}) {
    Database(path).run(fmt::format("UPDATE chains SET burnt2 = {}", mark).c_str());
    Ledger ledger(path);
    EXPECT_NE(error_of([&] { ledger.all(); }).find("a mark is beyond all pieces"), std::string::npos) << mark;
  }
}

}  // namespace
}  // namespace permllm::test
