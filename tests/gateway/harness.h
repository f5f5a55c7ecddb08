// Provider, helper and gateway in processes of their own, and the clients that tests ask with.
#pragma once
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <thread>

#include "cli/process.h"

namespace permllm::gateway_test {

using Json = nlohmann::json;
using std::chrono::steady_clock;
using namespace std::chrono_literals;

inline constexpr const char* k_question = "Is it so?";

// What the program says, and its exit status.
inline std::pair<int, std::string> run(const std::string& arguments) {
  FILE* output = popen(("exec " PERMLLM_BINARY " " + arguments + " 2>&1").c_str(), "r");
  std::string text;
  for (std::array<char, 256> line; std::fgets(line.data(), static_cast<int>(line.size()), output) != nullptr;)
    text += line.data();
  return {WEXITSTATUS(pclose(output)), text};
}

// A party in a process of its own, ready to be dialled.
class Service {
 public:
  explicit Service(const std::string& arguments)
      : process_({"-c", "exec " PERMLLM_BINARY " " + arguments}, "/bin/sh"),
        port_(process_.wait_for("ready").at("port").get<int>()) {}
  int end(int number = SIGTERM) {  // the exit status
    tell(number);
    return process_.wait();
  }
  void tell(int number) const { kill(process_.pid(), number); }
  int port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  Process process_;
  int port_;
};

// Passes on what comes for a party, each piece a little later: over such a link a token takes its time.
class SlowRelay {
 public:
  explicit SlowRelay(int to) : to_(to), listening_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in any = loopback(0);
    EXPECT_EQ(bind(listening_, reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
    EXPECT_EQ(listen(listening_, 16), 0);
    socklen_t size = sizeof any;
    getsockname(listening_, reinterpret_cast<sockaddr*>(&any), &size);
    port_ = ntohs(any.sin_port);
    accepting_ = std::jthread([this] {
      for (int from = 0; (from = accept(listening_, nullptr, nullptr)) >= 0;) {
        const int on = ::socket(AF_INET, SOCK_STREAM, 0);
        const sockaddr_in party = loopback(to_);
        if (connect(on, reinterpret_cast<const sockaddr*>(&party), sizeof party) != 0) shutdown(from, SHUT_RDWR);
        const std::lock_guard lock(mutex_);
        for (const int socket : {from, on}) {
          const int yes = 1;
          setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
          sockets_.push_back(socket);
        }
        passing_.emplace_back([from, on] { pass(from, on); });
        passing_.emplace_back([from, on] { pass(on, from); });
      }
    });
  }
  ~SlowRelay() {
    shutdown(listening_, SHUT_RDWR);
    accepting_.join();
    for (const int socket : sockets_) shutdown(socket, SHUT_RDWR);
    passing_.clear();
    for (const int socket : sockets_) close(socket);
    close(listening_);
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  static sockaddr_in loopback(int port) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(static_cast<std::uint16_t>(port));
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
  }
  static void pass(int from, int to) {
    char chunk[65536];
    for (ssize_t got = 0; (got = recv(from, chunk, sizeof chunk, 0)) > 0;) {
      std::this_thread::sleep_for(5ms);
      if (send(to, chunk, static_cast<std::size_t>(got), MSG_NOSIGNAL) != got) break;
    }
    shutdown(to, SHUT_WR);
  }
  int to_, listening_, port_ = 0;
  std::mutex mutex_;
  std::vector<int> sockets_;
  std::list<std::jthread> passing_;  // of the thread that accepts, until that ends
  std::jthread accepting_;
};

// Provider and helper.
struct Parties {
  explicit Parties(const std::filesystem::path& at, const std::string& provider_options = "") : folder(at) {
    std::filesystem::create_directory(folder);
    for (const char* role : {"helper", "provider"})
      run(std::string("keygen --role ") + role + " --out " + (folder / role).string());
    std::filesystem::copy(folder / "provider" / "certificate.pem", folder / "helper" / "peers" / "provider.pem");
    std::filesystem::copy(folder / "helper" / "certificate.pem", folder / "provider" / "peers" / "helper.pem");
    helper = std::make_unique<Service>("helper --events --log-level off --drain 0 --listen 127.0.0.1:0 --identity " +
                                       (folder / "helper").string());
    provider = std::make_unique<Service>(
        "provider --events --log-level off --drain 0 --listen 127.0.0.1:0 --context 64 --identity " +
        (folder / "provider").string() + " --helper " + helper->address() +
        " --model " PERMLLM_TINY_MODELS "/llama.gguf " + provider_options);
  }
  // A gateway with an invite of its own.
  std::unique_ptr<Service> gateway(const std::string& options = "", int tokens = 100000,
                                   const std::string& provider_address = "") {
    const auto file = invite(tokens, provider_address);
    return serve(file, folder / file.stem(), options);
  }
  // Of a new user.
  std::filesystem::path invite(int tokens = 100000, const std::string& provider_address = "") {
    const std::string name = "user" + std::to_string(++users);
    const auto file = folder / (name + ".invite");
    run("invite " + name + " --identity " + (folder / "provider").string() + " --provider-address " +
        (provider_address.empty() ? provider->address() : provider_address) + " --helper-address " + helper->address() +
        " --tokens " + std::to_string(tokens) + " --out " + file.string());
    return file;
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
  std::string logged() const {
    std::ifstream in(log());
    return {std::istreambuf_iterator<char>(in), {}};
  }

  std::filesystem::path folder;
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
  explicit RawConnection(const Service& gateway) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(gateway.port()));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    const timeval patience{30, 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  ~RawConnection() { close(socket_); }
  RawConnection(const RawConnection&) = delete;
  void send(const std::string& text) const {
    for (std::size_t done = 0; done < text.size();) {
      const ssize_t sent = ::send(socket_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
      if (sent <= 0) return;
      done += static_cast<std::size_t>(sent);
    }
  }
  // Until the peer closes, or `until` has come.
  std::string receive(const std::string& until = "") const {
    std::string all;
    const auto end = steady_clock::now() + 30s;
    for (char chunk[4096]; (until.empty() || all.find(until) == std::string::npos) && steady_clock::now() < end;) {
      const ssize_t got = recv(socket_, chunk, sizeof chunk, 0);
      if (got <= 0) break;
      all.append(chunk, static_cast<std::size_t>(got));
    }
    return all;
  }

 private:
  int socket_;
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
