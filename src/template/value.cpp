#include "template/value.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "permllm/error.h"

namespace permllm::jinja {

std::size_t depth_of(const Value& value) {
  if (const auto* list = std::get_if<ListPointer>(&value)) return (*list)->depth;
  if (const auto* dict = std::get_if<DictPointer>(&value)) return (*dict)->depth;
  return 0;
}

const char* type_name(const Value& value) {
  constexpr const char* names[] = {"Undefined", "NoneType", "bool", "int", "float", "str", "list", "dict", "object"};
  if (const auto* list = std::get_if<ListPointer>(&value)) {
    constexpr const char* kinds[] = {"list", "tuple", "range", "dict_items", "generator"};
    return kinds[static_cast<std::size_t>((*list)->kind)];
  }
  return names[value.index()];
}

Value text_value(std::string_view text, bool contents) { return std::make_shared<const Text>(text, contents); }

Value list_value(Values items) {
  List list;
  for (const Value& item : items) list.depth = std::max(list.depth, 1 + depth_of(item));
  list.items = std::move(items);
  return std::make_shared<const List>(std::move(list));
}

Value dict_value(std::vector<std::pair<std::string, Value>> items) {
  Dict dict;
  for (auto& [key, value] : items) {
    dict.depth = std::max(dict.depth, 1 + depth_of(value));
    dict.items.emplace_back(text_value(key, false), std::move(value));
  }
  return std::make_shared<const Dict>(std::move(dict));
}

namespace {

Value of_json(const nlohmann::ordered_json& json, bool contents, std::size_t depth) {
  if (depth > k_most_nested) throw Error(Code::usage, "tools", "is nested too deep");
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean:
      return json.get<bool>();
    case nlohmann::ordered_json::value_t::number_integer:
      return json.get<std::int64_t>();
    case nlohmann::ordered_json::value_t::number_unsigned:
      if (json.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()})
        throw Error(Code::usage, "tools", "a number has more than 63 bits");
      return json.get<std::int64_t>();
    case nlohmann::ordered_json::value_t::number_float:
      return json.get<double>();
    case nlohmann::ordered_json::value_t::string:
      return text_value(json.get_ref<const std::string&>(), contents);
    case nlohmann::ordered_json::value_t::array: {
      Values items;
      for (const auto& item : json) items.push_back(of_json(item, contents, depth + 1));
      return list_value(std::move(items));
    }
    case nlohmann::ordered_json::value_t::object: {
      Dict dict;
      for (const auto& [key, value] : json.items()) {
        Value item = of_json(value, contents, depth + 1);
        dict.depth = std::max(dict.depth, 1 + depth_of(item));
        dict.items.emplace_back(text_value(key, contents), std::move(item));
      }
      return std::make_shared<const Dict>(std::move(dict));
    }
    default:
      return None{};
  }
}

}  // namespace

Value json_value(const nlohmann::ordered_json& json, bool contents) { return of_json(json, contents, 1); }

}  // namespace permllm::jinja
