// Directories and invites: what is made, what is refused, and what changes under a running service.
#include "service/identity.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "base/file_stamp.h"
#include "cli/invite.h"
#include "net/tls.h"
#include "support/errors.h"
#include "support/parties.h"
#include "support/program.h"
#include "user/invite.h"
#include "wire/frame.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""s;

unsigned mode_of(const std::filesystem::path& path) {
  struct stat status {};
  EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
  return status.st_mode & 0777;
}

template <class F>
void expect_error(F f, const std::string& text) {
  const std::string error = error_of(f);
  EXPECT_NE(error.find(text), std::string::npos) << error;
}

// A provider and a helper who trust each other.
struct Pair {
  Scratch scratch;
  std::filesystem::path provider = scratch / "provider", helper = scratch / "helper";
  Pair() {
    const auto p = create_identity(provider, Role::provider, "acme", 7),
               h = create_identity(helper, Role::helper, "neutral", 7);
    write_text(provider / "peers" / "helper.pem", h.certificate.pem());
    write_text(helper / "peers" / "acme.pem", p.certificate.pem());
  }
  Invite invite(const std::string& name) const {
    return make_invite(provider, name, load_identity(helper, Role::helper).certificate, "localhost:1", "[::1]:2", 1000,
                       7);
  }
};

TEST(Identity, is_made_for_its_owner_alone_and_never_overwritten) {
  const mode_t before = umask(0);  // the mode is the file's own, whatever the process's mask
  const Scratch scratch;
  const Identity made = create_identity(scratch / "p", Role::provider, "acme", 7);
  umask(before);
  EXPECT_EQ(mode_of(scratch / "p/key.pem"), 0600u);
  EXPECT_EQ(mode_of(scratch / "p"), 0700u);
  const Identity read = load_identity(scratch / "p", Role::provider);
  EXPECT_EQ(read.certificate.pem(), made.certificate.pem());
  const std::string key = read_text(scratch / "p/key.pem");
  expect_error([&] { create_identity(scratch / "p", Role::provider, "acme", 7); },
               "there is a key already and it is kept; --renew");
  EXPECT_EQ(read_text(scratch / "p/key.pem"), key);
  expect_error([&] { create_identity(scratch / "q", Role::provider, "../x", 7); }, "--name: expected 1 to 64 letters");
  expect_error([&] { load_identity(scratch / "p", Role::helper); }, "is a provider's, expected a helper's");
  expect_error([&] { load_identity(scratch / "none", Role::helper); }, "permllm keygen --role helper --out");
}

// What stands in a party's folder is read as anybody's: it ends no program.
TEST(Identity, files_that_were_changed_are_refused_by_name) {
  const Pair pair;
  const Invite invite = pair.invite("alice");
  const std::filesystem::path record = record_path(pair.provider, "alice");
  std::string text = read_text(record);
  text.replace(text.find("\"alice\""), 7, "\"../x\"");
  write_text(record, text);
  expect_error([&] { load_record(record); }, "name: expected 1 to 64 letters");
  revoke_invite(pair.provider, "alice");  // it is set aside, under its own name
  EXPECT_FALSE(std::filesystem::exists(record));
  EXPECT_TRUE(std::filesystem::exists(record.string() + ".damaged"));
  // A user's certificate and key, where a provider's are renewed.
  const auto user = pair.scratch / "user";
  std::filesystem::create_directory(user);
  write_text(user / "certificate.pem", invite.identity.certificate.pem());
  write_text(user / "key.pem", key_pem(invite.identity));
  std::filesystem::permissions(user / "key.pem",
                               std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const Result renewing = run({"keygen", "--renew", "--out", user.string()});
  EXPECT_EQ(renewing.status, 2);
  EXPECT_NE(renewing.error.find("is a user's: its provider makes another invite"), std::string::npos) << renewing.error;
}

TEST(Identity, a_key_that_others_can_read_is_refused) {
  const Pair pair;
  for (const unsigned mode : {0640u, 0604u, 0620u}) {
    ASSERT_EQ(chmod((pair.provider / "key.pem").c_str(), mode), 0);
    expect_error([&] { load_identity(pair.provider, Role::provider); }, "run chmod 600 ");
  }
  ASSERT_EQ(chmod((pair.provider / "key.pem").c_str(), 0400), 0);
  EXPECT_NO_THROW(load_identity(pair.provider, Role::provider));
  const Invite invite = pair.invite("alice");
  save_invite(invite, pair.scratch / "alice.invite");
  EXPECT_EQ(mode_of(pair.scratch / "alice.invite"), 0600u);
  expect_error([&] { save_invite(invite, pair.scratch / "alice.invite"); }, "exists and is not overwritten");
  ASSERT_EQ(chmod((pair.scratch / "alice.invite").c_str(), 0644), 0);
  expect_error([&] { load_invite(pair.scratch / "alice.invite"); }, "run chmod 600 ");
}

TEST(Identity, damaged_files_are_named) {
  const Pair pair;
  const auto certificate = pair.helper / "certificate.pem", peer = pair.provider / "peers/other.pem";
  write_text(peer, "nonsense");
  expect_error([&] { load_credentials(pair.provider, Role::provider); }, "other.pem: is no certificate");
  write_text(peer, pair.invite("alice").identity.certificate.pem());
  expect_error([&] { load_credentials(pair.provider, Role::provider); }, "other.pem: is a user's certificate");
  write_text(certificate, read_text(pair.provider / "peers/helper.pem").substr(0, 100));
  expect_error([&] { load_identity(pair.helper, Role::helper); }, "certificate.pem: is no certificate");
  write_text(certificate, make_identity(Role::helper, "neutral", 7).certificate.pem());
  expect_error([&] { load_identity(pair.helper, Role::helper); }, "key.pem: is not the key of the certificate");
  std::filesystem::remove(certificate);
  expect_error([&] { load_identity(pair.helper, Role::helper); }, "certificate.pem: there is no such file");
}

// A provider's listener as the command has it, while its directory changes. Returns what it says of the user's connection.
class Service {
 public:
  Service(const std::filesystem::path& directory, Role role)
      : directory_(directory, role),
        listener_([this] { return directory_.credentials(); }, "127.0.0.1:0"),
        role_(role) {}
  std::string connect(const Credentials& client) {
    std::string said = "met";
    std::jthread serving([&] {
      const auto link = listener_.accept(Clock::now() + 5s);
      try {
        link->handshake(Clock::now() + 5s);
        link->send({40, 0, 0, {}});
        link->flush();
      } catch (const Error& error) {
        said = error.what();
      }
    });
    try {
      tls_connect(client, "127.0.0.1:" + std::to_string(listener_.port()), role_, Clock::now() + 5s)
          ->receive(Clock::now() + 5s, "a frame", k_max_payload);
    } catch (const Error&) {
    }
    serving.join();
    return said;
  }

 private:
  const LiveDirectory directory_;
  TlsListener listener_;
  Role role_;
};

TEST(Identity, invites_revocations_renewals_and_peers_reach_a_running_service) {
  const Pair pair;
  Service provider(pair.provider, Role::provider), helper(pair.helper, Role::helper);
  const auto expect_said = [](const std::string& said, const std::string& text) {
    EXPECT_NE(said.find(text), std::string::npos) << said;
  };
  const Invite alice = pair.invite("alice"), bob = pair.invite("bob");
  EXPECT_EQ(provider.connect(alice.credentials()), "met");
  EXPECT_EQ(helper.connect(alice.credentials()), "met");

  revoke_invite(pair.provider, "alice");
  expect_said(provider.connect(alice.credentials()), "user \"alice\": its invite was revoked");
  EXPECT_EQ(provider.connect(bob.credentials()), "met");
  const Invite second = pair.invite("alice");
  EXPECT_EQ(provider.connect(second.credentials()), "met");
  expect_said(provider.connect(alice.credentials()), "its invite was replaced by a newer one");

  // An invite is its key: the same certificate, written with the other form of its signature, is the same user.
  Invite rewritten = bob;
  rewritten.identity.certificate = with_other_signature(bob.identity.certificate);
  EXPECT_EQ(provider.connect(rewritten.credentials()), "met");

  // A record of version 1 held the certificate's hash, which tells no key.
  const auto old = record_path(pair.provider, "carol");
  const Invite carol = pair.invite("carol");
  write_text(old, "version = 1\nname = \"carol\"\nstate = \"active\"\ncertificate = \"" +
                      carol.identity.certificate.pin() + "\"\ntokens = 1000\nlast_day = \"2027-01-31\"\n");
  expect_said(provider.connect(carol.credentials()), "user \"carol\": its invite was made by version 0.2");
  EXPECT_NO_THROW(revoke_invite(pair.provider, "carol"));
  EXPECT_EQ(provider.connect(pair.invite("carol").credentials()), "met");

  // One of version 2 knew no rows and no months.
  write_text(old, "version = 2\nname = \"carol\"\nstate = \"active\"\nkey = \"" + carol.identity.certificate.pin() +
                      "\"\ntokens = 1000\nlast_day = \"" + today() + "\"\n");
  EXPECT_EQ(provider.connect(carol.credentials()), "met");
  EXPECT_EQ(load_record(old).rows, UserRecord::k_no_limit);
  EXPECT_FALSE(load_record(old).monthly);

  // An invite holds for as long as its record says, whatever its certificate does; the helper knows of no end.
  UserRecord term = load_record(old);
  term.last_day = day_after(today(), -1);
  save_record(pair.provider, term);
  expect_said(provider.connect(carol.credentials()), "user \"carol\": its invite ended on " + term.last_day);
  EXPECT_EQ(helper.connect(carol.credentials()), "met");
  Invite over = carol;
  over.identity = make_user(load_identity(pair.provider, Role::provider), "carol", -1);
  term.key = over.identity.certificate.pin();
  term.last_day = day_after(today(), 1);
  save_record(pair.provider, term);
  EXPECT_EQ(provider.connect(over.credentials()), "met");
  EXPECT_EQ(helper.connect(over.credentials()), "met");

  // A record that is gone or damaged lets nobody in, and the service goes on.
  const std::string record = read_text(record_path(pair.provider, "bob"));
  write_text(record_path(pair.provider, "bob"), record.substr(0, 20));
  expect_said(provider.connect(bob.credentials()), "bob.toml");
  std::filesystem::remove(record_path(pair.provider, "bob"));
  expect_said(provider.connect(bob.credentials()), "there is no invite of this name");
  write_text(record_path(pair.provider, "bob"), record);
  EXPECT_EQ(provider.connect(bob.credentials()), "met");

  // A renewed certificate is shown at once, and those who hold the pin go on.
  write_text(pair.provider / "certificate.pem",
             renewed(load_identity(pair.provider, Role::provider), 7).certificate.pem());
  EXPECT_EQ(provider.connect(bob.credentials()), "met");
  EXPECT_EQ(helper.connect(load_credentials(pair.provider, Role::provider)), "met");

  // A second provider comes to the helper, and goes again.
  create_identity(pair.scratch / "other", Role::provider, "other", 7);
  write_text(pair.scratch / "other/peers/helper.pem", load_identity(pair.helper, Role::helper).certificate.pem());
  const auto other = [&] { return load_credentials(pair.scratch / "other", Role::provider); };
  expect_said(helper.connect(other()), "is not trusted here");
  write_text(pair.helper / "peers/other.pem", other().identity.certificate.pem());
  EXPECT_EQ(helper.connect(other()), "met");
  EXPECT_EQ(helper.connect(bob.credentials()), "met");
  std::filesystem::remove(pair.helper / "peers/other.pem");
  expect_said(helper.connect(other()), "is not trusted here");

  // A key that was opened to others stops the service's connections, not the service.
  ASSERT_EQ(chmod((pair.provider / "key.pem").c_str(), 0644), 0);
  expect_said(provider.connect(bob.credentials()), "run chmod 600");
  ASSERT_EQ(chmod((pair.provider / "key.pem").c_str(), 0600), 0);
  EXPECT_EQ(provider.connect(bob.credentials()), "met");
}

// Files are read once, when they have rested for as long as a file system's clock may take to tick.
TEST(LiveDirectory, reads_files_that_have_rested_once_and_changed_ones_again) {
  const Pair pair;
  const LiveDirectory live(pair.provider, Role::provider);
  const auto key = [&] { return live.credentials().identity.key; };
  auto rests = [&] {
    const Clock::time_point end = Clock::now() + 10s;
    while (key() != key() && Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return key();
  };
  const auto first = rests();
  EXPECT_EQ(key(), first);
  // Any of its files: another peer, one less, another mode, another text of the same length in the same inode.
  const auto peer = pair.provider / "peers/helper.pem", other = pair.provider / "peers/other.pem";
  write_text(other, read_text(peer));
  EXPECT_EQ(live.credentials().trust.pins.size(), 2u);
  std::filesystem::remove(other);
  EXPECT_EQ(live.credentials().trust.pins.size(), 1u);
  rests();
  ASSERT_EQ(chmod((pair.provider / "key.pem").c_str(), 0644), 0);
  expect_error(key, "run chmod 600");
  ASSERT_EQ(chmod((pair.provider / "key.pem").c_str(), 0600), 0);
  const std::string before = live.credentials().trust.pins.front().key;
  rests();
  std::string text = make_identity(Role::helper, "neutral", 7).certificate.pem();
  while (text.size() != read_text(peer).size()) text = make_identity(Role::helper, "neutral", 7).certificate.pem();
  write_text(peer, text);
  EXPECT_NE(live.credentials().trust.pins.front().key, before);
}

// A record that changes again within a tick of the clock, at the same length and in the same inode, may have the same stamp: that of a file that was
// just changed is relied on by nobody.
TEST(LiveDirectory, a_revocation_within_one_tick_of_the_clock_is_seen) {
  const Pair pair;
  pair.invite("alice");
  const LiveDirectory live(pair.provider, Role::provider);
  const auto path = record_path(pair.provider, "alice");
  UserRecord record = load_record(path);
  for (int i = 0; i < 300; ++i) {
    record.key = std::string(64, "0123456789abcdef"[i % 16]);
    std::string text = read_text(path);
    text.replace(text.find("key = \"") + 7, 64, record.key);
    write_text(path, text);
    ASSERT_EQ(live.record("alice").key, record.key) << i;
    const FileStamp stamp = FileStamp::of(path);
    ASSERT_FALSE(stamp.matches(stamp)) << i;
  }
}

TEST(UserRecord, is_read_as_it_was_saved_and_a_wrong_field_is_named) {
  const Pair pair;
  const UserRecord made{"alice", std::string(64, 'a'), 1000, 50, true, "2027-02-28", false};
  save_record(pair.provider, made);
  const auto path = record_path(pair.provider, "alice");
  const UserRecord read = load_record(path);
  EXPECT_EQ(read.rows, 50u);
  EXPECT_TRUE(read.monthly);
  EXPECT_EQ(read.last_day, "2027-02-28");
  EXPECT_EQ(day_after("2027-02-28", 1), "2027-03-01");
  EXPECT_EQ(day_after("2028-02-28", 366), "2029-02-28");
  const std::string good = read_text(path);
  const auto expect = [&](const std::string& what, const std::string& by, const std::string& error) {
    std::string text = good;
    write_text(path, text.replace(text.find(what), what.size(), by));
    expect_error([&] { load_record(path); }, error);
  };
  expect("rows = 50", "rows = -1", "alice.toml: rows: is no whole number");
  expect("monthly", "weekly", "alice.toml: renewal: expected none or monthly");
  expect("2027-02-28", "28.2.2027", "alice.toml: last_day: expected a day like 2027-01-31");
}

TEST(Invite, holds_what_it_was_made_of) {
  const Pair pair;
  const Invite made = pair.invite("alice");
  save_invite(made, pair.scratch / "i");
  const Invite read = load_invite(pair.scratch / "i");
  EXPECT_EQ(read.provider_address, "localhost:1");
  EXPECT_EQ(read.helper_address, "[::1]:2");
  EXPECT_EQ(read.provider_pin, load_identity(pair.provider, Role::provider).certificate.pin());
  EXPECT_EQ(read.helper_pin, load_identity(pair.helper, Role::helper).certificate.pin());
  EXPECT_EQ(read.tokens, 1000u);
  EXPECT_EQ(read.identity.certificate.pem(), made.identity.certificate.pem());
  const UserRecord record = load_record(record_path(pair.provider, "alice"));
  EXPECT_EQ(record.key, made.identity.certificate.pin());
  EXPECT_EQ(record.tokens, 1000u);
  expect_error([&] { pair.invite("alice"); }, "\"alice\" has an invite; run permllm invite --revoke alice");
  expect_error([&] { pair.invite("a/b"); }, "NAME: expected 1 to 64 letters");
  expect_error([&] { revoke_invite(pair.provider, "nobody"); }, "--revoke: there is no invite of this name");
  expect_error([&] { revoke_invite(pair.provider, "../provider"); }, "--revoke: there is no invite of this name");
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return at == std::string::npos ? text : text.replace(at, what.size(), by);
}

TEST(Invite, a_wrong_field_is_named_and_nothing_of_the_key_quoted) {
  const Pair pair;
  const Invite made = pair.invite("alice");
  const auto path = pair.scratch / "i";
  save_invite(made, path);
  const std::string good = read_text(path), key = key_pem(made.identity), pin = made.provider_pin;
  const auto expect = [&](const std::string& text, const std::string& error) {
    write_text(path, text);
    const std::string said = error_of([&] { load_invite(path); });
    EXPECT_NE(said.find(error), std::string::npos) << said;
    EXPECT_EQ(said.find(key.substr(40, 20)), std::string::npos) << said;
  };
  expect("", "i: version: is missing");
  expect(replaced(good, "version = 1", "version = 2"), "i: version: 2, this program reads 1");
  expect(replaced(good, "version = 1", "version = \"1\""), "i: version: is no whole number");
  expect(replaced(good, "tokens = 1000", ""), "i: tokens: is missing");
  expect(replaced(good, "tokens = 1000", "tokens = -4"), "i: tokens: is no whole number");
  expect(replaced(good, "tokens = 1000", "tokens = 0"), "i: tokens: is 0");
  expect(replaced(good, "[provider]", "[provide]"), "i: provider: is missing");
  expect(replaced(good, "address = \"localhost:1\"", "address = \"localhost\""),
         "i: provider.address: \"localhost\" is not host:port");
  expect(replaced(good, "address = \"localhost:1\"", "address = 7"), "i: provider.address: is no text");
  expect(replaced(good, "\"[::1]:2\"", "\"a b:2\""), "i: helper.address: ");
  expect(replaced(good, "sha256:" + pin, pin), "i: provider.key: expected sha256:");
  expect(replaced(good, pin, pin.substr(1)), "i: provider.key: expected sha256:");
  expect(replaced(good, made.helper_pin, std::string(64, 'G')), "i: helper.key: expected sha256:");
  expect(replaced(good, made.identity.certificate.pem(), "x"), "i: user.certificate: is no certificate");
  expect(replaced(good, made.identity.certificate.pem(), load_identity(pair.helper, Role::helper).certificate.pem()),
         "i: user.certificate: is a helper's");
  expect(replaced(good, key, "x"), "i: user.key: is no private key");
  expect(replaced(good, key, key_pem(load_identity(pair.helper, Role::helper))),
         "i: user.key: is not the key of the certificate");
  expect(replaced(good, "[user]", "[user]\nspare = 1"), "i: user.spare: is not known");
  expect(replaced(good, "[user]", "[users]\n[user]"), "i: users: is not known");
  expect(replaced(good, "key = '''\n-", "key = ''\n-"), "is not TOML");
  expect(std::string(1 << 17, '#'), "is longer than");
  // Cut anywhere, or with any byte changed: an Error or a sound invite, never worse.
  for (std::size_t at = 0; at < good.size(); at += 3) {
    for (const std::string& text : {good.substr(0, at), good.substr(0, at) + '"' + good.substr(at + 1)}) {
      write_text(path, text);
      try {
        load_invite(path);
      } catch (const Error& error) {
        EXPECT_EQ(std::string(error.what()).find(key.substr(40, 20)), std::string::npos);
      }
    }
  }
  expect(good, "no error");
}

}  // namespace
}  // namespace permllm::test
