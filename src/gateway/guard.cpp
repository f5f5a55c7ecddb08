#include "gateway/guard.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <charconv>
#include <sstream>

#include "base/small_file.h"
#include "net/tls.h"

namespace permllm {
namespace {

std::array<unsigned char, 32> hash_of(const std::string& text) {
  std::array<unsigned char, 32> hash{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash.data());
  return hash;
}

gateway::Refusal forbidden(const std::string& message, const std::string& code) {
  return {403, "permission_error", message, "", code};
}

constexpr const char* k_posts[] = {"/v1/chat/completions",
                                   "/v1/completions",
                                   "/v1/responses",
                                   "/v1/messages",
                                   "/v1/messages/count_tokens",
                                   "/api/chat",
                                   "/api/generate",
                                   "/api/show",
                                   "/v1/embeddings",
                                   "/api/embed",
                                   "/api/embeddings",
                                   "/tokenize",
                                   "/detokenize"};

bool is_page(const std::string& route) { return route == "/" || route == "/assets"; }

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

ListenAddress::ListenAddress(const std::string& address) {
  check_address(address, "--listen", Code::usage);
  const std::size_t colon = address.rfind(':');
  host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  boost::system::error_code error;
  const auto ip = boost::asio::ip::make_address(host, error);
  const char* last = address.data() + address.size();
  const auto [end, parsed] = std::from_chars(address.data() + colon + 1, last, port);
  if (error || parsed != std::errc() || end != last)
    throw Error(Code::usage, "--listen", fmt::format("\"{}\" is no IP address and port, like 127.0.0.1:8080", address));
  loopback = ip.is_loopback();
}

std::string sha256(const std::string& text) {
  const auto hash = hash_of(text);
  return {reinterpret_cast<const char*>(hash.data()), hash.size()};
}

ApiKeys ApiKeys::of_file(const std::string& path) {
  ApiKeys keys;
  std::istringstream lines(read_small_file(path, true));
  for (std::string line; std::getline(lines, line);) {
    line.erase(line.find_last_not_of(" \t\r") + 1);
    if (line.empty() || line.front() == '#') continue;
    if (line.size() < 16) throw Error(Code::file, path, "a key has fewer than 16 characters");
    keys.hashes_.push_back(hash_of(line));
  }
  if (keys.hashes_.empty()) throw Error(Code::file, path, "holds no key; expected one a line");
  return keys;
}

std::optional<std::size_t> ApiKeys::find(const std::string& key) const {
  const auto hash = hash_of(key);
  std::optional<std::size_t> found;
  for (std::size_t i = 0; i < hashes_.size(); ++i) {
    if (CRYPTO_memcmp(hash.data(), hashes_[i].data(), hash.size()) == 0) found = i;
  }
  return found;
}

GatewayGuard::GatewayGuard(const ListenAddress& listen, std::uint16_t port, std::vector<std::string> names,
                           ApiKeys keys, std::size_t body_bytes)
    : listen_(listen),
      port_(fmt::format(":{}", port)),
      names_(std::move(names)),
      keys_(std::move(keys)),
      body_bytes_(body_bytes) {}

bool GatewayGuard::own_host(const httplib::Request& request) const {
  std::string host = lower(request.get_header_value("Host"));
  if (host.ends_with(port_)) host.resize(host.size() - port_.size());
  const auto bracketed = [](const std::string& ip) { return ip.find(':') == std::string::npos ? ip : "[" + ip + "]"; };
  if (host == "localhost" || host == "127.0.0.1" || host == "[::1]" || host == bracketed(listen_.host)) return true;
  // Of an address for all networks: the one that the connection came to. A page of others has a name there.
  if (!listen_.loopback && host == bracketed(request.local_addr)) return true;
  return std::any_of(names_.begin(), names_.end(), [&](const std::string& name) { return host == lower(name); });
}

std::string GatewayGuard::route_of(const std::string& path) {
  if (path.starts_with("/assets/")) return "/assets";
  if (path.starts_with("/v1/models/")) return "/v1/models/id";
  for (const char* route : {"/", "/v1/models", "/health", "/metrics", "/v1/privacy", "/v1/activity", "/api/tags",
                            "/api/version", "/api/ps"}) {
    if (path == route) return route;
  }
  for (const char* route : k_posts) {
    if (path == route) return route;
  }
  return "other";
}

namespace {

// Of OpenAI's and of others' interfaces, what programs ask for that is not here; by their beginnings.
constexpr const char* k_not_offered[] = {
    "/v1/responses/",  "/v1/messages/", "/v1/images",      "/v1/audio",         "/v1/files",
    "/v1/batches",     "/v1/edits",     "/v1/moderations", "/v1/assistants",    "/v1/threads",
    "/v1/fine_tuning", "/v1/rerank",    "/v1/realtime",    "/v1/vector_stores", "/api/",
    "/completion",     "/props",        "/slots",          "/v1/conversations"};

// What there is instead of a path that is none.
gateway::Refusal no_path(const std::string& path) {
  std::string rest = path;
  while (rest.size() > 1 && rest.ends_with('/')) rest.pop_back();
  while (rest.starts_with("/v1/")) rest.erase(0, 3);
  for (const std::string& right : {"/v1" + rest, rest}) {
    const std::string route = GatewayGuard::route_of(right);
    if (right == path || route == "other" || route == "/assets" || route == "/") continue;
    return gateway::invalid(fmt::format("there is nothing at this path; {} is what this server has",
                                        route == "/v1/models/id" ? "/v1/models/ID" : route),
                            "", "unknown_url", 404);
  }
  for (const char* begin : k_not_offered) {
    if (path.starts_with(begin) || ("/v1" + path).starts_with(begin))
      return gateway::invalid(
          "this is not offered here; /v1/chat/completions and /v1/completions answer, /v1/models says what there is",
          "", "unknown_url", 404);
  }
  return gateway::invalid("there is nothing at this path; docs/serve.md lists what there is", "", "unknown_url", 404);
}

}  // namespace

// OpenAI's clients send Authorization, Anthropic's x-api-key.
std::optional<std::size_t> GatewayGuard::key_of(const httplib::Request& request) const {
  const std::string bearer = request.get_header_value("Authorization");
  if (request.get_header_value_count("Authorization") == 1 && lower(bearer.substr(0, 7)) == "bearer ")
    return keys_.find(bearer.substr(7));
  if (request.get_header_value_count("Authorization") == 0 && request.get_header_value_count("x-api-key") == 1)
    return keys_.find(request.get_header_value("x-api-key"));
  return std::nullopt;
}

bool GatewayGuard::admits(const httplib::Request& request) const { return !keys_.needed() || key_of(request); }

std::optional<gateway::Refusal> GatewayGuard::refuse(const httplib::Request& request) const {
  const std::string route = route_of(request.path), &method = request.method;
  if (!own_host(request))
    return forbidden(
        "the Host header is not this server's: expected localhost or its address; --allow-host names another",
        "foreign_host");
  const std::string origin = lower(request.get_header_value("Origin"));
  if (request.has_header("Origin") && (request.get_header_value_count("Origin") != 1 ||
                                       origin != "http://" + lower(request.get_header_value("Host")))) {
    return forbidden("the Origin header is not this server's: pages of others have no access", "foreign_origin");
  }
  const std::string site = request.get_header_value("Sec-Fetch-Site");
  if (!is_page(route) && (site == "cross-site" || site == "same-site"))
    return forbidden("pages of others have no access", "foreign_origin");
  const bool posts = std::find(std::begin(k_posts), std::end(k_posts), route) != std::end(k_posts);
  const bool fits = posts              ? method == "POST"
                    : route == "other" ? method == "GET" || method == "HEAD" || method == "POST"
                                       : method == "GET" || method == "HEAD";
  if (!fits) {
    gateway::Refusal refusal = gateway::invalid(posts ? "expected POST" : "expected GET", "", "", 405);
    refusal.allow = posts ? "POST" : "GET, HEAD";
    return refusal;
  }
  if (!is_page(route) && route != "/health" && !admits(request)) {
    return gateway::Refusal{
        401, "authentication_error",
        "expected the header Authorization: Bearer KEY, or x-api-key: KEY, with a key of --key-file", "",
        "invalid_api_key"};
  }
  if (route == "other") return no_path(request.path);
  if (!posts) return std::nullopt;
  std::string type = lower(request.get_header_value("Content-Type"));
  type = type.substr(0, type.find(';'));
  type.erase(type.find_last_not_of(" \t") + 1);
  if (type != "application/json") return gateway::invalid("expected Content-Type: application/json", "", "", 415);
  if (request.has_header("Content-Encoding"))
    return gateway::invalid("expected a body without Content-Encoding", "", "", 415);
  const std::string length = request.get_header_value("Content-Length");
  std::uint64_t bytes = 0;
  if (!length.empty() &&
      (std::from_chars(length.data(), length.data() + length.size(), bytes).ec != std::errc() || bytes > body_bytes_)) {
    return gateway::invalid(fmt::format("the body is larger than {} bytes", body_bytes_), "", "body_too_large", 413);
  }
  return std::nullopt;
}

}  // namespace permllm
