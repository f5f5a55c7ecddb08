#include "cli/finding.h"

#include <utility>

#include "wire/plain.h"

namespace permllm {

const char* name_of(Finding::State state) {
  switch (state) {
    case Finding::State::ok:
      return "ok";
    case Finding::State::warning:
      return "warning";
    case Finding::State::wrong:
      return "wrong";
  }
  return "?";
}

void Teller::ok(const char* check, const std::string& text, nlohmann::json facts) const {
  tell_({Finding::State::ok, link_, check, text, {}, std::move(facts)});
}
void Teller::warning(const char* check, const std::string& text, const std::string& remedy,
                     nlohmann::json facts) const {
  tell_({Finding::State::warning, link_, check, text, remedy, std::move(facts)});
}
void Teller::wrong(const char* check, const std::string& text, const std::string& remedy) const {
  tell_({Finding::State::wrong, link_, check, text, remedy});
}
void Teller::wrong(const char* check, const Error& error, const std::string& remedy) const {
  const std::string of_reason = remedy_of(error.reason());
  wrong(check, error.code() == Code::malformed ? plain_words(error) : error.message(),
        of_reason.empty() ? remedy : of_reason);
}

}  // namespace permllm
