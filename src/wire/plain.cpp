#include "wire/plain.h"

#include <algorithm>
#include <cctype>
#include <string_view>

#include "wire/tags.h"

namespace permllm {
namespace {

bool is_message(std::string_view word) {
  for (unsigned tag = 1; tag <= static_cast<unsigned>(Tag::retrieval_reply); ++tag) {
    if (word == name_of(static_cast<Tag>(tag))) return true;
  }
  return word == "frame";
}

// Of faults of files and of what a person asked the fields are names of files and options.
bool names_the_wire(const Error& error) {
  if (error.code() == Code::usage || error.code() == Code::file || error.code() == Code::unsupported) return false;
  const std::string_view field = error.field();
  const auto is_letter = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  for (auto from = field.begin(); (from = std::find_if(from, field.end(), is_letter)) != field.end();) {
    const auto to = std::find_if_not(from, field.end(), is_letter);
    if (is_message({from, to})) return true;
    from = to;
  }
  return false;
}

}  // namespace

std::string plain_words(const Error& error) {
  if (!names_the_wire(error)) return error.what();
  const std::string said = error.by_peer() ? "peer: " : "";
  switch (error.code()) {
    case Code::malformed:
      return said + "a message does not fit what was agreed; are all parties of the same release?";
    case Code::timeout:
      return said + "the other side did not answer before the deadline";
    default:
      return said + error.message();
  }
}

std::string for_person(const Error& error) {
  const std::string remedy = remedy_of(error.reason());
  return plain_words(error) + (remedy.empty() ? "" : "; " + remedy);
}

}  // namespace permllm
