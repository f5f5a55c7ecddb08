#include "gateway/first_answers.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "base/file.h"
#include "base/small_file.h"
#include "permllm/error.h"

namespace permllm {
namespace {

using nlohmann::json;

constexpr std::size_t k_most_bytes = 16 << 20;  // some kilobytes a name, and a provider may think of new ones

}  // namespace

FirstAnswers::FirstAnswers(const std::filesystem::path& folder, const std::string& provider, std::string model)
    : file_(folder.empty() ? folder : folder / (provider + ".json")), model_(std::move(model)) {}

FirstAnswers::All FirstAnswers::read() const {
  if (file_.empty()) return in_memory_;
  if (!is_there(file_)) return {};
  try {
    return json::parse(read_small_file(file_, false, k_most_bytes)).at("models").get<All>();
  } catch (const json::exception&) {
    throw Error(Code::file, file_.string(), "the canaries' first answers are damaged: remove it");
  }
}

std::optional<FirstAnswers::Tokens> FirstAnswers::find(const std::string& prompt) const {
  const All all = read();
  const auto model = all.find(model_);
  if (model == all.end()) return std::nullopt;
  const auto found = model->second.find(prompt);
  return found == model->second.end() ? std::nullopt : std::optional(found->second);
}

void FirstAnswers::keep(const std::string& prompt, const Tokens& answer) {
  All all = read();
  all[model_].emplace(prompt, answer);
  if (file_.empty()) {
    in_memory_ = std::move(all);
    return;
  }
  const std::string text = json{{"models", all}}.dump() + "\n";
  if (text.size() > k_most_bytes) {
    throw Error(Code::file, file_.string(),
                fmt::format("the canaries' first answers would take more than {} bytes: remove it", k_most_bytes));
  }
  make_private_folder(file_.parent_path());
  replace_file(file_, text, 0600);
}

std::vector<std::string> FirstAnswers::models() const {
  std::vector<std::string> names;
  for (const auto& [name, answers] : read()) names.push_back(name);
  return names;
}

}  // namespace permllm
