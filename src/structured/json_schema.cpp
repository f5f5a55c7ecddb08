#include "structured/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/text.h"
#include "permllm/error.h"

namespace permllm {
namespace {

using Json = JsonSchema::Json;
using Grammar = ByteGrammar;

constexpr std::size_t k_deepest = 32, k_most_items = 64;
constexpr std::size_t k_longest_chain =
    256;  // of schemas, one within the other by $ref or in place: each takes some of the stack
const std::set<std::string> k_known{"type",
                                    "properties",
                                    "required",
                                    "additionalProperties",
                                    "items",
                                    "minItems",
                                    "maxItems",
                                    "enum",
                                    "const",
                                    "anyOf",
                                    "oneOf",
                                    "allOf",
                                    "$ref",
                                    "minimum",
                                    "maximum",
                                    "exclusiveMinimum",
                                    "exclusiveMaximum",
                                    "multipleOf",
                                    "minLength",
                                    "maxLength"},
    k_says_nothing{"title",      "description", "default",     "examples", "format",
                   "deprecated", "readOnly",    "writeOnly",   "$schema",  "$id",
                   "$comment",   "$defs",       "definitions", "strict",   "discriminator"},
    k_bounds{"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"};
const std::vector<std::string> k_types{"object", "array", "string", "number", "integer", "boolean", "null"};

Grammar::Sequence join(std::initializer_list<Grammar::Sequence> parts) {
  Grammar::Sequence all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}
Grammar::Sequence text(std::string_view literal) { return Grammar::literal(literal); }
std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

bool is_type(const Json& value, const std::string& type) {
  if (type == "integer") return value.is_number() && std::floor(value.get<double>()) == value.get<double>();
  if (type == "number") return value.is_number();
  return (type == "object" && value.is_object()) || (type == "array" && value.is_array()) ||
         (type == "string" && value.is_string()) || (type == "boolean" && value.is_boolean()) ||
         (type == "null" && value.is_null());
}

// As JSON has it: the order of an object's members says nothing.
bool same(const Json& a, const Json& b) { return nlohmann::json(a) == nlohmann::json(b); }

std::size_t characters(const std::string& utf8) {
  return static_cast<std::size_t>(std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::vector<std::string> types_of(const Json& schema) {
  if (schema.contains("type")) {
    const Json& type = schema["type"];
    return type.is_string() ? std::vector{type.get<std::string>()} : type.get<std::vector<std::string>>();
  }
  if (schema.contains("properties") || schema.contains("required")) return {"object"};
  if (schema.contains("items")) return {"array"};
  return {};
}

}  // namespace

JsonSchema::JsonSchema(Json schema, const std::string& field) : schema_(std::move(schema)) {
  check(schema_, field, 0);
  add_common();
  start_ = rule_of(schema_);
}

JsonSchema JsonSchema::any_object() { return JsonSchema(Json{{"type", "object"}}, ""); }

void JsonSchema::check(const Json& schema, const std::string& at, std::size_t depth) {
  const auto wrong = [&](const std::string& keyword, const std::string& why) {
    throw Error(Code::usage, at + (keyword.empty() ? "" : "." + keyword), why);
  };
  if (depth > k_deepest) wrong("", "is nested too deep");
  if (schema.is_boolean()) {
    if (!schema.get<bool>()) throw Error(Code::unsupported, at, "no value keeps it");
    return;
  }
  if (!schema.is_object()) wrong("", "expected an object");
  const auto whole = [&](const char* keyword) {
    if (schema.contains(keyword) && !schema[keyword].is_number_unsigned()) wrong(keyword, "expected a whole number");
  };
  for (const auto& [key, value] : schema.items()) {
    if (k_says_nothing.contains(key)) continue;
    if (!k_known.contains(key))
      throw Error(Code::unsupported, fmt::format("{}.{}", at, for_terminal(key.substr(0, 40))),
                  "this keyword is not kept here");
    if (k_bounds.contains(key)) {
      exact_ = false;
      if (!value.is_number()) wrong(key, "expected a number");
    }
  }
  for (const char* keyword : {"minItems", "maxItems", "minLength", "maxLength"}) whole(keyword);
  if (schema.contains("type")) {
    const Json types = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
    for (const Json& type : types) {
      if (!type.is_string() || std::find(k_types.begin(), k_types.end(), type) == k_types.end())
        wrong("type", "expected a type's name, or a list of them");
    }
    if (types.empty()) wrong("type", "is empty");
  }
  if (schema.contains("enum") && (!schema["enum"].is_array() || schema["enum"].empty()))
    wrong("enum", "expected a list that is not empty");
  if (schema.contains("properties")) {
    if (!schema["properties"].is_object()) wrong("properties", "expected an object");
    for (const auto& [name, of] : schema["properties"].items()) check(of, at + ".properties", depth + 1);
  }
  if (schema.contains("required")) {
    const Json& names = schema["required"];
    if (!names.is_array() || std::any_of(names.begin(), names.end(), [](const Json& n) { return !n.is_string(); }))
      wrong("required", "expected a list of names");
  }
  if (schema.contains("additionalProperties") && !schema["additionalProperties"].is_boolean())
    check(schema["additionalProperties"], at + ".additionalProperties", depth + 1);
  if (schema.contains("items")) check(schema["items"], at + ".items", depth + 1);
  for (const char* keyword : {"anyOf", "oneOf", "allOf"}) {
    if (!schema.contains(keyword)) continue;
    const Json& all = schema[keyword];
    if (!all.is_array() || all.empty()) wrong(keyword, "expected a list that is not empty");
    if (std::string(keyword) == "allOf" && all.size() > 1) throw Error(Code::unsupported, at + ".allOf", "only of one");
    for (const Json& one : all) check(one, at + "." + keyword, depth + 1);
  }
  for (const char* keyword : {"$defs", "definitions"}) {
    if (!schema.contains(keyword)) continue;
    if (!schema[keyword].is_object()) wrong(keyword, "expected an object");
    for (const auto& [name, of] : schema[keyword].items()) check(of, at + "." + keyword, depth + 1);
  }
  if (schema.contains("$ref")) target(schema);
}

// Of a schema that refers to another, that one.
const Json& JsonSchema::target(const Json& schema) const {
  const Json* at = &schema;
  for (std::size_t hops = 0; at->is_object() && at->contains("$ref"); ++hops) {
    const Json& reference = (*at)["$ref"];
    try {
      if (hops > k_deepest || !reference.is_string() || !reference.get<std::string>().starts_with('#'))
        throw Error(Code::unsupported, "$ref", "");
      at = &schema_.at(Json::json_pointer(reference.get<std::string>().substr(1)));
    } catch (const std::exception&) {
      throw Error(Code::unsupported, "$ref", "leads nowhere within the schema");
    }
    if (!at->is_object() && !at->is_boolean()) throw Error(Code::unsupported, "$ref", "leads to no schema");
  }
  return *at;
}

bool JsonSchema::keeps(const Json& value) const {
  Known known;
  return keeps(schema_, value, 0, known);
}

// Each schema is asked of each value once: ways that part and meet again would double the work at each meeting.
bool JsonSchema::keeps(const Json& reference, const Json& value, std::size_t depth, Known& known) const {
  const Json& schema = target(reference);
  if (depth > 4 * k_deepest) return false;
  if (schema.is_boolean()) return schema.get<bool>();
  const auto [found, fresh] = known.try_emplace({&schema, &value}, false);
  if (fresh) found->second = keeps_all(schema, value, depth, known);
  return found->second;
}

bool JsonSchema::keeps_all(const Json& schema, const Json& value, std::size_t depth, Known& known) const {
  const std::vector<std::string> types = types_of(schema);
  if (!types.empty() &&
      std::none_of(types.begin(), types.end(), [&](const auto& type) { return is_type(value, type); }))
    return false;
  if (schema.contains("const") && !same(schema["const"], value)) return false;
  if (schema.contains("enum") &&
      std::none_of(schema["enum"].begin(), schema["enum"].end(), [&](const Json& one) { return same(one, value); }))
    return false;
  for (const char* keyword : {"anyOf", "oneOf", "allOf"}) {
    if (schema.contains(keyword) && std::none_of(schema[keyword].begin(), schema[keyword].end(),
                                                 [&](const Json& one) { return keeps(one, value, depth + 1, known); }))
      return false;
  }
  const auto bound = [&](const char* keyword, double none) {
    return schema.contains(keyword) ? schema[keyword].get<double>() : none;
  };
  if (value.is_number()) {
    const double x = value.get<double>(), step = bound("multipleOf", 0);
    if (x < bound("minimum", -INFINITY) || x > bound("maximum", INFINITY) ||
        x <= bound("exclusiveMinimum", -INFINITY) || x >= bound("exclusiveMaximum", INFINITY))
      return false;
    if (step > 0 && std::abs(std::remainder(x, step)) > 1e-9 * std::max(1.0, std::abs(x))) return false;
  }
  if (value.is_string()) {
    const auto size = static_cast<double>(characters(value.get<std::string>()));
    if (size < bound("minLength", 0) || size > bound("maxLength", INFINITY)) return false;
  }
  if (value.is_array()) {
    const auto size = static_cast<double>(value.size());
    if (size < bound("minItems", 0) || size > bound("maxItems", INFINITY)) return false;
    if (schema.contains("items") && !std::all_of(value.begin(), value.end(), [&](const Json& item) {
          return keeps(schema["items"], item, depth + 1, known);
        }))
      return false;
  }
  if (value.is_object()) {
    static const Json none = Json::object(), any = true;  // what is known of a schema is known by its place
    const Json& properties = schema.contains("properties") ? schema["properties"] : none;
    if (schema.contains("required") &&
        !std::all_of(schema["required"].begin(), schema["required"].end(),
                     [&](const Json& name) { return value.contains(name.get<std::string>()); }))
      return false;
    const Json& beside = schema.contains("additionalProperties") ? schema["additionalProperties"] : any;
    for (const auto& [name, member] : value.items()) {
      if (!keeps(properties.contains(name) ? properties[name] : beside, member, depth + 1, known)) return false;
    }
  }
  return true;
}

char JsonSchema::begins_with() const {
  const Json& schema = target(schema_);
  const std::vector<std::string> types = schema.is_object() ? types_of(schema) : std::vector<std::string>{};
  const bool plain = types.size() == 1 && !schema.contains("enum") && !schema.contains("const");
  return plain && types[0] == "object" ? '{' : plain && types[0] == "array" ? '[' : '\0';
}

// ---- The grammar -------------------------------------------------------------------------------------------------------

JsonSchema::Rule JsonSchema::rule(const std::vector<Sequence>& alternatives) {
  const Rule made = grammar_.add();
  for (const Sequence& sequence : alternatives) grammar_.alternative(made, sequence);
  return made;
}

void JsonSchema::add_common() {
  const auto refer = [](Rule of) { return Sequence{Grammar::refer(of)}; };
  const auto range = [](int first, int last) {
    return Sequence{Grammar::range(static_cast<std::uint8_t>(first), static_cast<std::uint8_t>(last))};
  };
  // At most so many of a symbol: a model that is held to a grammar must come to an end.
  const auto up_to = [&](const Sequence& symbol, std::size_t most) {
    Rule rest = rule({{}});
    for (std::size_t i = 0; i < most; ++i) rest = rule({{}, join({symbol, refer(rest)})});
    return refer(rest);
  };
  blank_ = rule({{}, text(" "), join({text("\n"), up_to(text(" "), 16)})});

  const Sequence digit = range('0', '9'), hex = {Grammar::one_of("0123456789abcdefABCDEF")}, tail = range(0x80, 0xbf);
  Grammar::Symbol plain = Grammar::range(0x20, 0x7f);
  plain.set.reset('"').reset('\\');
  const Rule letter = rule({{plain},
                            join({range(0xc2, 0xdf), tail}),
                            join({range(0xe0, 0xe0), range(0xa0, 0xbf), tail}),
                            join({range(0xe1, 0xec), tail, tail}),
                            join({range(0xed, 0xed), range(0x80, 0x9f), tail}),
                            join({range(0xee, 0xef), tail, tail}),
                            join({range(0xf0, 0xf0), range(0x90, 0xbf), tail, tail}),
                            join({range(0xf1, 0xf3), tail, tail, tail}),
                            join({range(0xf4, 0xf4), range(0x80, 0x8f), tail, tail}),
                            join({text("\\"), {Grammar::one_of("\"\\/bfnrt")}}),
                            join({text("\\u"), {Grammar::one_of("0123456789abcefABCEF")}, hex, hex, hex}),
                            join({text("\\u"), {Grammar::one_of("dD")}, range('0', '7'), hex, hex})});
  const Rule letters = grammar_.add();
  grammar_.alternative(letters, {});
  grammar_.alternative(letters, join({refer(letter), refer(letters)}));
  string_ = rule({join({text("\""), refer(letters), text("\"")})});

  const Rule whole = rule({text("0"), join({range('1', '9'), up_to(digit, 14)})});
  integer_ = rule({refer(whole), join({text("-"), refer(whole)})});
  const Rule fraction = rule({{}, join({text("."), digit, up_to(digit, 14)})});
  const Rule exponent =
      rule({{}, join({{Grammar::one_of("eE")}, refer(rule({{}, {Grammar::one_of("+-")}})), digit, up_to(digit, 1)})});
  number_ = rule({join({refer(integer_), refer(fraction), refer(exponent)})});

  value_ = grammar_.add();
  any_array_ = list_of(value_, "[", "]", 0, SIZE_MAX);
  const Rule member = rule({join({refer(string_), text(":"), refer(blank_), refer(value_)})});
  any_object_ = list_of(member, "{", "}", 0, SIZE_MAX);
  for (const Sequence& one : {refer(any_object_), refer(any_array_), refer(string_), refer(number_), text("true"),
                              text("false"), text("null")})
    grammar_.alternative(value_, one);
}

// open (item (, item)*)? close, of so many items.
JsonSchema::Rule JsonSchema::list_of(Rule item, const char* open, const char* close, std::size_t least,
                                     std::size_t most) {
  const Sequence one{Grammar::refer(item)}, blank{Grammar::refer(blank_)}, comma = join({text(","), blank, one});
  Rule more = 0;  // what may come behind the first `behind` items and more
  std::size_t behind = std::max<std::size_t>(least, 1);
  if (most == SIZE_MAX) {
    more = grammar_.add();
    grammar_.alternative(more, {});
    grammar_.alternative(more, join({comma, {Grammar::refer(more)}}));
  } else {
    more = rule({{}});
    for (std::size_t i = behind; i < most; ++i) more = rule({{}, join({comma, {Grammar::refer(more)}})});
  }
  Sequence items = one;
  for (std::size_t i = 1; i < behind; ++i) items = join({items, comma});
  std::vector<Sequence> alternatives;
  if (most > 0) alternatives.push_back(join({text(open), blank, items, {Grammar::refer(more)}, blank, text(close)}));
  if (least == 0) alternatives.push_back(join({text(open), blank, text(close)}));
  return rule(alternatives);
}

JsonSchema::Rule JsonSchema::rule_of(const Json& reference) {
  const Json& schema = target(reference);
  if (const auto found = made_.find(&schema); found != made_.end()) return found->second;
  struct Deeper {
    explicit Deeper(std::size_t& of) : depth(of) {
      if (++depth > k_longest_chain) {
        --depth;
        throw Error(Code::unsupported, "$ref", fmt::format("leads through more than {} schemas", k_longest_chain));
      }
    }
    ~Deeper() { --depth; }
    std::size_t& depth;
  } deeper(depth_);
  const Rule made = grammar_.add();
  made_[&schema] = made;
  if (schema.is_boolean()) {
    grammar_.alternative(made, {Grammar::refer(value_)});
  } else if (schema.contains("const")) {
    grammar_.alternative(made, text(dump(schema["const"])));
  } else if (schema.contains("enum")) {
    for (const Json& one : schema["enum"]) grammar_.alternative(made, text(dump(one)));
  } else if (schema.contains("anyOf") || schema.contains("oneOf") || schema.contains("allOf")) {
    const char* keyword = schema.contains("anyOf") ? "anyOf" : schema.contains("oneOf") ? "oneOf" : "allOf";
    within_.insert(&schema);
    for (const Json& one : schema[keyword]) {
      // A way that leads back without a byte has no end.
      if (within_.contains(&target(one))) throw Error(Code::unsupported, keyword, "refers to itself");
      grammar_.alternative(made, {Grammar::refer(rule_of(one))});
    }
    within_.erase(&schema);
    exact_ = exact_ && !schema.contains("properties") && !schema.contains("required");
  } else {
    const std::vector<std::string> types = types_of(schema);
    if (types.empty()) grammar_.alternative(made, {Grammar::refer(value_)});
    for (const std::string& type : types) grammar_.alternative(made, {Grammar::refer(rule_of_type(schema, type))});
  }
  return made;
}

JsonSchema::Rule JsonSchema::rule_of_type(const Json& schema, const std::string& type) {
  if (type == "object" || type == "array") {
    const auto outside = std::exchange(within_, {});
    const Rule made = type == "object" ? object_of(schema) : array_of(schema);
    within_ = outside;
    return made;
  }
  if (type == "string") return string_;
  if (type == "number") return number_;
  if (type == "integer") return integer_;
  if (type == "boolean") return rule({text("true"), text("false")});
  return rule({text("null")});
}

JsonSchema::Rule JsonSchema::array_of(const Json& schema) {
  const std::size_t least = schema.value("minItems", std::size_t{0}), most = schema.value("maxItems", SIZE_MAX);
  if (least > k_most_items || (most != SIZE_MAX && (most > k_most_items || most < least)))
    throw Error(Code::unsupported, "minItems, maxItems",
                fmt::format("expected at most {} and the first no more than the second", k_most_items));
  return list_of(schema.contains("items") ? rule_of(schema["items"]) : value_, "[", "]", least, most);
}

JsonSchema::Rule JsonSchema::object_of(const Json& schema) {
  const Json properties = schema.contains("properties") ? schema["properties"] : Json::object();
  std::set<std::string> required;
  if (schema.contains("required")) {
    for (const Json& name : schema["required"]) required.insert(name.get<std::string>());
  }
  struct Member {
    std::string name;
    Rule value;
    bool required;
  };
  std::vector<Member> members;
  if (schema.contains("properties")) {
    for (const auto& [name, of] : schema["properties"].items())
      members.push_back({name, rule_of(of), required.erase(name) > 0});
  }
  for (const std::string& name : required) members.push_back({name, value_, true});
  if (members.empty()) {
    const Json beside = schema.contains("additionalProperties") ? schema["additionalProperties"] : Json(true);
    if (beside == false) return rule({text("{}")});
    if (beside.is_boolean()) return any_object_;
    const Rule member = rule({join({{Grammar::refer(string_)},
                                    text(":"),
                                    {Grammar::refer(blank_)},
                                    {Grammar::refer(rule_of(schema["additionalProperties"]))}})});
    return list_of(member, "{", "}", 0, SIZE_MAX);
  }
  // What may come from a member on, where none came before it, and where one did.
  Rule first = rule({{}}), later = first;
  for (auto member = members.rbegin(); member != members.rend(); ++member) {
    const Sequence item = join({text(dump(member->name)),
                                text(":"),
                                {Grammar::refer(blank_)},
                                {Grammar::refer(member->value)},
                                {Grammar::refer(later)}});
    std::vector<Sequence> as_first{item}, as_later{join({text(","), {Grammar::refer(blank_)}, item})};
    if (!member->required) {
      as_first.push_back({Grammar::refer(first)});
      as_later.push_back({Grammar::refer(later)});
    }
    first = rule(as_first);
    later = rule(as_later);
  }
  const Sequence blank{Grammar::refer(blank_)};
  return rule({join({text("{"), blank, {Grammar::refer(first)}, blank, text("}")})});
}

}  // namespace permllm
