// What Python's operators and protocols do with values. Each ends the run with an error, at the machine's line, where Python raises one; integers
// beyond 64 bits do too.
#pragma once

#include <optional>
#include <string_view>

#include "template/machine.h"

namespace permllm::jinja {

bool truth(Machine& machine, const Value& value);
bool equal(Machine& machine, const Value& left, const Value& right);
int order(Machine& machine, const Value& left, const Value& right);  // below 0: left is first
bool contains(Machine& machine, const Value& all, const Value& one);
std::optional<std::size_t> length(Machine& machine, const Value& value);  // nullopt: it has none
Value arithmetic(Machine& machine, std::string_view sign, const Value& left, const Value& right);
Value negative(Machine& machine, const Value& value);

// str(), repr() and json.dumps(). A negative indent: on one line.
void print(Machine& machine, Builder& out, const Value& value);
void represent(Machine& machine, Builder& out, const Value& value);
void write_json(Machine& machine, Builder& out, const Value& value, const Value& indent, bool sorted, bool ascii,
                std::string_view comma, std::string_view colon);
TextPointer to_text(Machine& machine, const Value& value);  // str()
std::string real_text(double value);

// What a loop visits: items, keys of a dict, characters. Of a generator once.
ListPointer items_of(Machine& machine, const Value& value);
bool is_iterable(const Value& value);
const Value* find(Machine& machine, const Dict& dict, const Value& key);  // null: it has none

// value.name, value[key]; undefined where there is none.
Value attribute(Machine& machine, const Value& value, const std::string& name);
Value item(Machine& machine, const Value& value, const Value& key);
// Bounds that are none are left out.
Value slice(Machine& machine, const Value& value, const Value& begin, const Value& end, const Value& step);

// An integer, or a truth value as one; nullopt: neither.
std::optional<std::int64_t> integer(const Value& value);
std::optional<double> number(const Value& value);
[[noreturn]] void fail_undefined(Machine& machine, const Undefined& value);

}  // namespace permllm::jinja
