#include "service/http_head.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <vector>

namespace permllm {
namespace {

constexpr std::array k_methods{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"};

struct Fault {
  int status;
  const char* why;
};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}
bool alphanumeric(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }
bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return alphanumeric(c) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}
std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}
// uri-host and port, as far as their letters go; whose it is, is another question.
bool is_authority(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return alphanumeric(c) || std::string_view("-._~!$&'()*+,;=:[]%").find(c) != std::string_view::npos;
  });
}

struct Field {
  std::string name;  // in small letters
  std::string_view written, value;
};

struct Lines {
  std::string_view method, target, version;
  std::vector<Field> fields;
};

Lines lines_of(std::string_view head) {
  std::vector<std::string_view> lines;
  while (!head.empty()) {
    const std::size_t end = std::min(head.find('\n'), head.size());
    std::string_view line = head.substr(0, end);
    head.remove_prefix(std::min(end + 1, head.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_of(std::string_view("\r\0", 2)) != std::string_view::npos)
      throw Fault{400, "a line of the head has a control character"};
    if (line.empty() && lines.empty()) continue;  // RFC 9112, 2.2
    if (line.empty()) break;
    lines.push_back(line);
  }
  if (lines.empty()) throw Fault{400, "the request has no first line"};
  Lines all;
  const std::string_view first = lines.front();
  const std::size_t one = first.find(' '), two = first.rfind(' ');
  if (one == std::string_view::npos || one == two) throw Fault{400, "the first line is no method, target and version"};
  all.method = first.substr(0, one);
  all.target = first.substr(one + 1, two - one - 1);
  all.version = first.substr(two + 1);
  if (all.target.empty() || all.target.find_first_of(" \t") != std::string_view::npos)
    throw Fault{400, "the first line is no method, target and version"};
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const std::size_t colon = lines[i].find(':');
    const std::string_view name = lines[i].substr(0, colon);
    if (colon == std::string_view::npos || !is_token(name)) throw Fault{400, "a line of the head is no field"};
    all.fields.push_back({lower(name), name, trimmed(lines[i].substr(colon + 1))});
  }
  return all;
}

// All fields of a name; several are one list (RFC 9110, 5.3).
std::vector<std::string_view> values_of(const Lines& lines, std::string_view name) {
  std::vector<std::string_view> values;
  for (const Field& field : lines.fields) {
    if (field.name == name) values.push_back(field.value);
  }
  return values;
}

// The one length that all agree on; none given: nothing.
std::optional<std::string> length_of(const Lines& lines) {
  std::optional<std::string> length;
  for (const std::string_view value : values_of(lines, "content-length")) {
    if (value.empty() || !std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; }))
      throw Fault{400, "Content-Length is no number"};
    if (length && *length != value) throw Fault{400, "the Content-Lengths differ"};
    length = value;
  }
  return length;
}

bool is_chunked(const Lines& lines, bool first_version) {
  const auto values = values_of(lines, "transfer-encoding");
  if (values.empty()) return false;
  if (first_version) throw Fault{400, "HTTP/1.0 has no Transfer-Encoding"};
  if (values.size() > 1 || lower(values[0]) != "chunked")
    throw Fault{501, "the only Transfer-Encoding known is chunked"};
  return true;
}

std::string rewritten(const Lines& lines, bool& chunked) {
  if (!is_token(lines.method)) throw Fault{400, "the method is none"};
  if (std::find(k_methods.begin(), k_methods.end(), lines.method) == k_methods.end())
    throw Fault{501, "this method is not known"};
  if (!lines.version.starts_with("HTTP/") || lines.version.size() != 8 || lines.version[6] != '.')
    throw Fault{400, "the first line is no method, target and version"};
  if (lines.version[5] != '1' || lines.version[7] < '0' || lines.version[7] > '9')
    throw Fault{505, "this server speaks HTTP/1.1"};
  const bool first_version = lines.version[7] == '0';

  const auto hosts = values_of(lines, "host");
  if (hosts.size() != 1 || !is_authority(hosts[0]))
    throw Fault{400, "expected one Host header, with a host and perhaps a port"};
  std::string target(lines.target), host(hosts[0]);
  const std::string scheme = lower(lines.target.substr(0, 8));
  for (const std::string_view begin : {"http://", "https://"}) {
    if (!scheme.starts_with(begin)) continue;
    const std::size_t end = std::min(target.find_first_of("/?#", begin.size()), target.size());
    host = target.substr(begin.size(), end - begin.size());
    if (host.empty() || !is_authority(host)) throw Fault{400, "the target's host is none"};
    target.erase(0, end);
    if (!target.starts_with('/')) target.insert(0, "/");
    break;
  }
  if (!target.starts_with('/') && target != "*") throw Fault{400, "the target is no path"};

  chunked = is_chunked(lines, first_version);
  std::optional<std::string> length = length_of(lines);
  if (chunked && length) throw Fault{400, "a body in chunks has no Content-Length"};
  if (!chunked && !length && lines.method != "GET" && lines.method != "HEAD") length = "0";
  std::string text = std::string(lines.method) + " " + target + (first_version ? " HTTP/1.0" : " HTTP/1.1") +
                     "\r\nHost: " + host + "\r\n";
  if (length) text += "Content-Length: " + *length + "\r\n";
  for (const Field& field : lines.fields) {
    if (field.name == "host" || field.name == "content-length" || field.name == "upgrade" || field.name == "range" ||
        field.name == "if-range")
      continue;
    if (field.name == "expect") {  // which HTTP/1.0 does not know
      if (!first_version && lower(field.value) == "100-continue") text += "Expect: 100-continue\r\n";
      continue;
    }
    text += std::string(field.written) + ": " + std::string(field.value) + "\r\n";
  }
  return text + "\r\n";
}

}  // namespace

HttpHead http_head(std::string_view head) {
  HttpHead made;
  try {
    made.text = rewritten(lines_of(head), made.chunked);
  } catch (const Fault& fault) {
    made = {std::string(head.starts_with("HEAD ") ? "HEAD" : "GET") + " /refused HTTP/1.1\r\n\r\n", fault.status,
            fault.why};
  }
  return made;
}

std::string ChunkTrailer::pass(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    switch (state_) {
      case State::size:
        out += c;
        line_ += c;
        if (c == '\n') {
          std::size_t size = 0;
          const auto [end, error] = std::from_chars(line_.data(), line_.data() + line_.size(), size, 16);
          const bool read = error == std::errc() && end != line_.data();
          line_.clear();
          left_ = size + 2;
          // What is no size the library refuses.
          state_ = !read || size > SIZE_MAX - 2 ? State::end : size == 0 ? State::trailer : State::data;
        }
        break;
      case State::data:
        out += c;
        if (--left_ == 0) state_ = State::size;
        break;
      case State::trailer:
        line_ += c;
        if (c != '\n') break;
        if (line_ == "\r\n" || line_ == "\n") {
          out += "\r\n";
          state_ = State::end;
        }
        line_.clear();
        break;
      case State::end:
        out += c;
        break;
    }
  }
  return out;
}

}  // namespace permllm
