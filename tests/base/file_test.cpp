// Folders of secrets: made for their owner alone; those that are there keep their mode, whoever is given them.
#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/small_file.h"
#include "helper/model_store.h"
#include "provider/chains.h"
#include "provider/model_record.h"
#include "service/identity.h"
#include "support/errors.h"
#include "support/program.h"
#include "support/tiny_model.h"
#include "user/user_state.h"

namespace permllm::test {
namespace {

namespace fs = std::filesystem;

unsigned mode_of(const fs::path& path) {
  struct stat status {};
  EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

TEST(PrivateFolder, is_made_for_its_owner_alone) {
  const Scratch scratch;
  const mode_t before = umask(0);
  make_private_folder(scratch / "a/b");
  make_private_folder(scratch / "c/");
  umask(before);
  EXPECT_EQ(mode_of(scratch / "a/b"), 0700u);
  EXPECT_EQ(mode_of(scratch / "c"), 0700u);
  write_text(scratch / "file", "");
  EXPECT_NE(error_of([&] { make_private_folder(scratch / "file"); }).find("is no folder"), std::string::npos);
  EXPECT_NE(error_of([&] { make_private_folder(scratch / "file/below"); }).find("cannot be made: "), std::string::npos);
}

TEST(SmallFile, is_read_without_its_byte_order_mark) {
  const Scratch scratch;
  write_text(scratch / "keys", "\xef\xbb\xbfkey\r\n\xef\xbb\xbf");
  EXPECT_EQ(read_small_file(scratch / "keys"), "key\r\n\xef\xbb\xbf");
  write_text(scratch / "short", "\xef\xbb");
  EXPECT_EQ(read_small_file(scratch / "short"), "\xef\xbb");
}

TEST(File, what_cannot_be_looked_at_is_told) {
  const Scratch scratch;
  fs::create_symlink("loop", scratch / "loop");
  fs::create_symlink("nothing", scratch / "dangling");
  write_text(scratch / "file", "");
  EXPECT_EQ(type_of(scratch / "file"), fs::file_type::regular);
  EXPECT_EQ(type_of(scratch.path()), fs::file_type::directory);
  EXPECT_TRUE(is_there(scratch / "file") && is_there(scratch.path()));
  for (const char* absent : {"none", "dangling", "file/below"}) {
    EXPECT_EQ(type_of(scratch / absent), fs::file_type::not_found) << absent;
    EXPECT_FALSE(is_there(scratch / absent)) << absent;
  }
  EXPECT_NE(error_of([&] { type_of(scratch / "loop"); }).find("cannot be looked at: Too many levels"),
            std::string::npos);
  EXPECT_NE(error_of([&] { type_of(scratch / "loop/below"); }).find("cannot be looked at: Too many levels"),
            std::string::npos);
}

// Everything that is told a folder.
struct Kind {
  const char* name;
  void (*use)(const fs::path& folder);
  const char* secret;  // a file that it makes there
};
const Kind k_kinds[] = {
    {"user", [](const fs::path& folder) { user_ledger(folder.string()); }, "ledger.sqlite"},
    {"chains",
     [](const fs::path& folder) {
       const std::vector<Plan> plans{tiny_model().plan};
       ProviderChains(folder, std::string(64, 'a'), plans, [](const std::string&) {});
     },
     "ledger.sqlite"},
    {"record", [](const fs::path& folder) { ModelRecord(folder, Digest{}, 4, std::string(64, 'a'), Seed{}); },
     "models"},
    {"store",
     [](const fs::path& folder) {
       Executor executor(1);
       ModelStore(folder, executor, [](const std::string&) {});
     },
     "store"},
    {"identity", [](const fs::path& folder) { create_identity(folder, Role::provider, "acme", 7); }, "key.pem"},
};

class Folders : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, Folders, testing::ValuesIn(k_kinds),
                         [](const auto& kind) { return std::string(kind.param.name); });

TEST_P(Folders, that_are_there_keep_their_mode) {
  const Scratch scratch;
  for (const unsigned mode : {0700u, 0750u, 0755u}) {
    const fs::path folder = scratch / std::to_string(mode);
    fs::create_directory(folder);
    ASSERT_EQ(chmod(folder.c_str(), mode), 0);
    GetParam().use(folder);
    EXPECT_EQ(mode_of(folder), mode);
    EXPECT_EQ(mode_of(folder / GetParam().secret) & 077, 0u);
  }
}

TEST_P(Folders, where_others_may_write_are_refused_with_the_remedy) {
  const Scratch scratch;
  for (const unsigned mode : {0770u, 0702u, 01777u}) {
    const fs::path folder = scratch / std::to_string(mode);
    fs::create_directory(folder);
    ASSERT_EQ(chmod(folder.c_str(), mode), 0);
    const std::string error = error_of([&] { GetParam().use(folder); });
    char text[8];
    std::snprintf(text, sizeof text, "%04o", mode);
    EXPECT_NE(error.find(std::string("(mode ") + text + ")"), std::string::npos) << error;
    EXPECT_NE(error.find("run chmod go-w " + folder.string()), std::string::npos) << error;
    EXPECT_EQ(mode_of(folder), mode);
    EXPECT_TRUE(fs::is_empty(folder));
  }
}

TEST(Ledger, that_others_may_read_is_refused_with_the_remedy) {
  const Scratch scratch;
  user_ledger((scratch / "state").string());
  const fs::path file = scratch / "state/ledger.sqlite";
  ASSERT_EQ(chmod(file.c_str(), 0640), 0);
  const std::string error = error_of([&] { user_ledger((scratch / "state").string()); });
  EXPECT_NE(error.find("open to others than its owner (mode 0640); run chmod 600 " + file.string()), std::string::npos)
      << error;
}

}  // namespace
}  // namespace permllm::test
