// Provider, helper and gateway in processes of their own, and the clients that tests ask with.
#pragma once
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "support/processes.h"
#include "support/relay.h"

namespace permllm::gateway_test {

using Json = nlohmann::json;
using std::chrono::steady_clock;
using namespace std::chrono_literals;

inline constexpr const char* k_question = "Is it so?";

// A party in a process of its own, ready to be dialled.
class Service {
 public:
  explicit Service(const std::string& arguments)
      : process_({"-c", "exec " PERMLLM_BINARY " " + arguments}, "/bin/sh"), port_(test::port_of(process_)) {}
  int end(int number = SIGTERM) {  // the exit status
    tell(number);
    return process_.wait();
  }
  void tell(int number) const {
    if (process_.pid() > 0) kill(process_.pid(), number);  // -1, of one that was waited for, is everybody
  }
  int port() const { return port_; }
  std::string address() const { return test::at(port_); }

 private:
  Process process_;
  int port_;
};

// Provider and helper.
struct Parties {
  explicit Parties(const std::filesystem::path& at, const std::string& options = "",
                   const std::string& tiny_model = "llama")
      : folder(at), provider_options(options), model(tiny_model) {
    std::filesystem::create_directory(folder);
    test::make_keys(folder);
    helper = std::make_unique<Service>("helper --events --log-level off --drain 0 --listen 127.0.0.1:0 --identity " +
                                       (folder / "helper").string());
    start_provider();
  }
  // At a port that was its own before, too.
  void start_provider(int port = 0) {
    provider = std::make_unique<Service>("provider --events --log-level off --drain 0 --listen " + test::at(port) +
                                         " --context 64 --identity " + (folder / "provider").string() + " --helper " +
                                         helper->address() + " --model " PERMLLM_TINY_MODELS "/" + model + ".gguf " +
                                         provider_options);
  }
  // A gateway with an invite of its own.
  std::unique_ptr<Service> gateway(const std::string& options = "", int tokens = 100000,
                                   const std::string& provider_address = "") {
    const auto file = invite(tokens, provider_address);
    return serve(file, folder / file.stem(), options);
  }
  // Of a new user.
  std::filesystem::path invite(int tokens = 100000, const std::string& provider_address = "") {
    return test::make_invite(folder, "user" + std::to_string(++users),
                             provider_address.empty() ? provider->address() : provider_address, helper->address(),
                             tokens);
  }
  // Another program on the invite of the last one, with a state of its own.
  std::unique_ptr<Service> gateway_of_last(const std::string& state) {
    return serve(folder / ("user" + std::to_string(users) + ".invite"), folder / state);
  }
  std::unique_ptr<Service> serve(const std::filesystem::path& invite, const std::filesystem::path& state,
                                 const std::string& options = "") const {
    return std::make_unique<Service>("serve --events --listen 127.0.0.1:0 --log-level debug --invite " +
                                     invite.string() + " --state " + state.string() + " " + options + " 2>>" +
                                     log().string());
  }
  std::filesystem::path log() const { return folder / "serve.log"; }
  std::string logged() const { return test::read_text(log()); }

  std::filesystem::path folder;
  const std::string provider_options, model;
  std::unique_ptr<Service> helper, provider;
  int users = 0;
};

inline Json chat(const std::string& question = k_question, const Json& more = Json::object()) {
  Json body{{"model", "tiny"}, {"messages", {{{"role", "user"}, {"content", question}}}}, {"max_tokens", 6}};
  body.update(more);
  return body;
}

struct Reply {
  int status = 0;
  httplib::Headers headers;
  std::string text;
  Json json() const { return Json::parse(text, nullptr, false); }
  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

inline httplib::Client client_of(const Service& gateway) {
  httplib::Client client("127.0.0.1", gateway.port());
  client.set_read_timeout(60);
  return client;
}
inline Reply reply_of(const httplib::Result& result) {
  if (!result) return {0, {}, httplib::to_string(result.error())};
  return {result->status, result->headers, result->body};
}
inline Reply post(const Service& gateway, const std::string& path, const Json& body,
                  const httplib::Headers& headers = {}) {
  return reply_of(client_of(gateway).Post(path, headers, body.dump(), "application/json"));
}
inline Reply get(const Service& gateway, const std::string& path, const httplib::Headers& headers = {}) {
  return reply_of(client_of(gateway).Get(path, headers));
}

inline constexpr const char* k_chats = "/v1/chat/completions";

// A stream's events; "ping" and "done" for those that are no JSON.
inline std::vector<Json> events_of(const std::string& text) {
  std::vector<Json> events;
  for (std::size_t from = 0; from < text.size();) {
    const std::size_t end = text.find("\n\n", from);
    const std::string one = text.substr(from, end - from);
    if (one == ": ping") {
      events.emplace_back("ping");
    } else if (one == "data: [DONE]") {
      events.emplace_back("done");
    } else {
      EXPECT_TRUE(one.starts_with("data: {")) << one;
      events.push_back(Json::parse(one.substr(6)));
    }
    if (end == std::string::npos) break;
    from = end + 2;
  }
  return events;
}

// Bytes as they are.
class RawConnection {
 public:
  explicit RawConnection(const Service& gateway) : tcp_(static_cast<std::uint16_t>(gateway.port())) {
    EXPECT_TRUE(tcp_.connected());
  }
  void send(const std::string& text) const {
    tcp_.write({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  }
  // Until the peer closes, or `until` has come.
  std::string receive(const std::string& until = "") const {
    std::string all;
    const auto end = steady_clock::now() + 30s;
    for (char chunk[4096]; (until.empty() || all.find(until) == std::string::npos) && steady_clock::now() < end;) {
      const ssize_t got = recv(tcp_.descriptor(), chunk, sizeof chunk, 0);
      if (got <= 0) break;
      all.append(chunk, static_cast<std::size_t>(got));
    }
    return all;
  }

 private:
  test::RawTcp tcp_;
};
inline std::string raw(const Service& gateway, const std::string& request) {
  const RawConnection connection(gateway);
  connection.send(request);
  return connection.receive();
}
inline int raw_status(const Service& gateway, const std::string& request) {
  const std::string reply = raw(gateway, request);
  return reply.size() > 12 ? std::stoi(reply.substr(9, 3)) : 0;
}
inline std::string request_text(const Service& gateway, const Json& body) {
  const std::string text = body.dump();
  return "POST /v1/chat/completions HTTP/1.1\r\nHost: " + gateway.address() +
         "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(text.size()) + "\r\n\r\n" + text;
}
// The first event of the activity for which this holds.
template <class Holds>
Json activity_until(const Service& gateway, Holds holds) {
  const RawConnection connection(gateway);
  connection.send("GET /v1/activity HTTP/1.1\r\nHost: " + gateway.address() + "\r\n\r\n");
  for (const auto end = steady_clock::now() + 30s; steady_clock::now() < end;) {
    const std::string text = connection.receive("\n\n\r\n");
    if (text.empty()) break;
    const std::size_t from = text.find("data: ");
    if (from == std::string::npos) continue;
    const Json event = Json::parse(text.substr(from + 6, text.find("\n\n", from) - from - 6));
    if (holds(event)) return event;
  }
  ADD_FAILURE() << "the activity never came to that";
  return {};
}

}  // namespace permllm::gateway_test
