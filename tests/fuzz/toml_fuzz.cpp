// What people write or carry: an invite, the record of an invite, settings of the commands. The first byte of an input says which.
#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/small_file.h"
#include "cli/helper.h"
#include "cli/provider.h"
#include "fuzz/scratch.h"
#include "fuzz/target.h"
#include "service/identity.h"
#include "user/invite.h"

namespace permllm::test {
namespace {

const ScratchFolder& scratch() {
  static const ScratchFolder folder;
  return folder;
}

// What was read and saved is read again as the same.
void read_invite(std::span<const std::uint8_t> text) {
  const Invite invite = load_invite(scratch().file("invite", text));
  const auto again = scratch().path() / "again";
  std::filesystem::remove(again);
  save_invite(invite, again);
  const Invite same = load_invite(again);
  PERMLLM_ASSERT(same.provider_address == invite.provider_address && same.provider_pin == invite.provider_pin &&
                 same.tokens == invite.tokens);
  PERMLLM_ASSERT(same.helper_address == invite.helper_address && same.helper_pin == invite.helper_pin);
  PERMLLM_ASSERT(same.identity.certificate.pem() == invite.identity.certificate.pem());
}

void read_record(std::span<const std::uint8_t> text) { load_record(scratch().file("alice.toml", text)); }

// --print-config ends the command before it does anything.
void read_settings(std::span<const std::uint8_t> text) {
  const std::string path = scratch().file("settings", text).string();
  for (const char* command : {"provider", "helper"}) {
    CLI::App app;
    add_provider(app);
    add_helper(app);
    try {
      app.parse(std::vector<std::string>{"--print-config", path, "--config", command});
    } catch (const CLI::ParseError&) {
    }
  }
}

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  std::vector<std::vector<std::uint8_t>> all;
  const auto add = [&](std::uint8_t kind, std::string_view text) { add_seed(all, kind, text); };
  const Identity provider = make_identity(Role::provider, "acme", 36500);
  const Invite invite{"localhost:1", provider.certificate.pin(),         "[::1]:2", provider.certificate.pin(),
                      1000,          make_user(provider, "alice", 36500)};
  const auto path = scratch().path() / "seed";
  std::filesystem::remove(path);
  save_invite(invite, path);
  add(0, read_small_file(path));
  save_record(scratch().path(),
              {.name = "alice", .key = invite.identity.certificate.pin(), .tokens = 1000, .last_day = "2027-01-31"});
  add(1, read_small_file(record_path(scratch().path(), "alice")));
  add(2,
      "[helper]\nidentity = \"h\"\nlisten = \"127.0.0.1:0\"\npatience = 1.5\nevents = true\n[provider]\nidentity = "
      "\"p\"\nmodel = \"m\"\nhelper = \"h:1\"\n"
      "profile = \"fast\"\ncontext = 64\nfused = \"auto\"\nrtt = \"10ms\"\n");
  return all;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  if (size == 0) return 0;
  const std::span text(data + 1, size - 1);
  // Settings are printed.
  static const bool quiet = freopen("/dev/null", "w", stdout) != nullptr;
  PERMLLM_ASSERT(quiet);
  try {
    data[0] % 3 == 0 ? test::read_invite(text) : data[0] % 3 == 1 ? test::read_record(text) : test::read_settings(text);
  } catch (const Error&) {
  }
  return 0;
}
