// JSON schemas: which values keep one, and the grammar of texts that do.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "structured/byte_grammar.h"

namespace permllm {

class JsonSchema {
 public:
  using Json = nlohmann::ordered_json;
  // Of what keeps: type, properties, required, additionalProperties, items, minItems, maxItems, enum, const, anyOf, oneOf (as anyOf), allOf of one,
  // $ref within the schema, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf, minLength, maxLength. Annotations (title, description,
  // format, ...) say nothing. Errors: unsupported, usage, naming `field` and the keyword; none quotes a value.
  JsonSchema(Json schema, const std::string& field);
  // Any object.
  static JsonSchema any_object();

  bool keeps(const Json& value) const;
  const Json& schema() const { return schema_; }
  // Whether each text of the grammar keeps the schema; else some bound is to be looked at when the value is there.
  bool exact() const { return exact_; }
  // '{' or '[' where each value begins with it, else 0.
  char begins_with() const;
  // Texts of the grammar have the properties in the schema's order, and none beside them where there are some; blanks are few. The object outlives the state.
  GrammarState state() const { return {grammar_, start_}; }

 private:
  using Rule = ByteGrammar::Rule;
  using Sequence = ByteGrammar::Sequence;
  void check(const Json& schema, const std::string& at, std::size_t depth);
  const Json& target(const Json& schema) const;
  // By schema and value: what is known, or, while it is being looked at, false.
  using Known = std::map<std::pair<const Json*, const Json*>, bool>;
  bool keeps(const Json& schema, const Json& value, std::size_t depth, Known& known) const;
  bool keeps_all(const Json& schema, const Json& value, std::size_t depth, Known& known) const;

  void add_common();
  Rule rule_of(const Json& schema);
  Rule rule_of_type(const Json& schema, const std::string& type);
  Rule object_of(const Json& schema);
  Rule array_of(const Json& schema);
  Rule list_of(Rule item, const char* open, const char* close, std::size_t least, std::size_t most);
  Rule rule(const std::vector<Sequence>& alternatives);

  Json schema_;
  bool exact_ = true;
  ByteGrammar grammar_;
  std::size_t depth_ = 0;  // schemas whose rules are being made
  Rule start_ = 0, blank_ = 0, string_ = 0, number_ = 0, integer_ = 0, value_ = 0, any_object_ = 0, any_array_ = 0;
  std::map<const Json*, Rule> made_;
  std::set<const Json*> within_;  // schemas whose alternatives are being made, with no byte between
};

}  // namespace permllm
