// Functions that every template has.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "template/functions.h"
#include "template/operations.h"

namespace permllm::jinja {
namespace {

constexpr std::int64_t k_longest_range = 100'000;  // as jinja2's sandbox has it
constexpr std::size_t k_longest_message = 200;     // of raise_exception

Value range(Machine& machine, const Value&, const Arguments& arguments) {
  const auto [first, second, third] = bind<3>(machine, "range", arguments, {"start", "stop", "step"}, 1);
  const auto whole = [&](const Value* value) {
    const auto of = integer(*value);
    if (!of) machine.fail("range takes whole numbers");
    return *of;
  };
  const std::int64_t begin = second == nullptr ? 0 : whole(first),
                     end = second == nullptr ? whole(first) : whole(second);
  const std::int64_t step = third == nullptr ? 1 : whole(third);
  if (step == 0) machine.fail("a range has a step of 0");
  Values items;
  for (std::int64_t at = begin; step > 0 ? at < end : at > end;) {
    if (static_cast<std::int64_t>(items.size()) >= k_longest_range)
      machine.fail(fmt::format("a range is longer than {}", k_longest_range));
    items.push_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  return machine.list(std::move(items), List::Kind::range);
}

std::vector<std::pair<Value, Value>> pairs_of(Machine& machine, const char* function, const Arguments& arguments) {
  std::vector<std::pair<Value, Value>> pairs;
  const auto set = [&](const Value& key, const Value& value) {
    machine.step(1 + pairs.size() / 8);
    const auto there =
        std::find_if(pairs.begin(), pairs.end(), [&](const auto& pair) { return equal(machine, pair.first, key); });
    if (there == pairs.end()) {
      pairs.emplace_back(key, value);
    } else {
      there->second = value;
    }
  };
  if (arguments.values.size() > 1) machine.fail(std::string(function) + " takes one value at most, and named ones");
  for (const Value& value : arguments.values) {
    if (const auto* dict = std::get_if<DictPointer>(&value)) {
      for (const auto& [key, one] : (*dict)->items) set(key, one);
      continue;
    }
    const ListPointer given = items_of(machine, value);
    for (const Value& pair : given->items) {
      const ListPointer both = items_of(machine, pair);
      if (both->items.size() != 2) machine.fail("a pair has two values");
      set(both->items[0], both->items[1]);
    }
  }
  for (const auto& [name, value] : arguments.named) set(machine.text(name), value);
  return pairs;
}

Value dict(Machine& machine, const Value&, const Arguments& arguments) {
  return machine.dict(pairs_of(machine, "dict", arguments));
}

Value make_namespace(Machine& machine, const Value&, const Arguments& arguments) {
  auto* made = machine.object<Namespace>();
  for (const auto& [key, value] : pairs_of(machine, "namespace", arguments))
    made->set(machine, text_of(machine, key)->bytes(), value);
  return made;
}

class Cycler : public Object {
 public:
  explicit Cycler(Values items) : items_(std::move(items)) {}
  const char* type() const override { return "cycler"; }
  std::optional<Value> attribute(Machine& machine, std::string_view name) override {
    if (name == "current") return items_[at_];
    const auto step = [](Machine&, const Value& self, const Arguments&) {
      auto& cycler = static_cast<Cycler&>(*std::get<Object*>(self));
      const Value now = cycler.items_[cycler.at_];
      cycler.at_ = (cycler.at_ + 1) % cycler.items_.size();
      return now;
    };
    const auto reset = [](Machine&, const Value& self, const Arguments&) -> Value {
      static_cast<Cycler&>(*std::get<Object*>(self)).at_ = 0;
      return None{};
    };
    if (name == "next") return machine.object<Function>(step, this);
    if (name == "reset") return machine.object<Function>(reset, this);
    return std::nullopt;
  }

 private:
  const Values items_;
  std::size_t at_ = 0;
};

Value cycler(Machine& machine, const Value&, const Arguments& arguments) {
  if (arguments.values.empty() || !arguments.named.empty()) machine.fail("cycler takes values");
  return machine.object<Cycler>(arguments.values);
}

class Joiner : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  const char* type() const override { return "joiner"; }
  bool callable() const override { return true; }
  Value call(Machine& machine, const Arguments& arguments) override {
    bind_none(machine, "joiner", arguments);
    return std::exchange(used_, true) ? separator_ : machine.text("");
  }

 private:
  const Value separator_;
  bool used_ = false;
};

Value joiner(Machine& machine, const Value&, const Arguments& arguments) {
  const auto [separator] = bind<1>(machine, "joiner", arguments, {"sep"});
  return machine.object<Joiner>(separator == nullptr ? machine.text(", ") : to_text(machine, *separator));
}

// The template refuses its input. What it says of contents stays unsaid: errors are shown and logged.
Value raise_exception(Machine& machine, const Value&, const Arguments& arguments) {
  const auto [message] = bind<1>(machine, "raise_exception", arguments, {"message"}, 1);
  std::string shown;
  to_text(machine, *message)->each_run([&](std::string_view bytes, bool contents) {
    if (shown.size() <= k_longest_message)
      shown += contents ? std::string_view("...") : bytes.substr(0, k_longest_message + 1);
  });
  if (shown.size() > k_longest_message) {
    shown.resize(k_longest_message);
    shown += "...";
  }
  refuse(Code::usage, machine.line, "the template says: " + for_terminal(shown));
}

// As strftime in English, for the instructions that have no locale's form.
Value strftime_now(Machine& machine, const Value&, const Arguments& arguments) {
  const auto [given] = bind<1>(machine, "strftime_now", arguments, {"format"}, 1);
  const TextPointer format = text_of(machine, *given);
  constexpr const char* days[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
  constexpr const char* months[] = {"January", "February", "March",     "April",   "May",      "June",
                                    "July",    "August",   "September", "October", "November", "December"};
  const std::tm& t = machine.now;
  const auto name = [](const auto& names, int at) {
    return std::string(names[static_cast<std::size_t>(std::clamp(at, 0, static_cast<int>(std::size(names)) - 1))]);
  };
  const int hour = t.tm_hour % 12 == 0 ? 12 : t.tm_hour % 12;
  const auto field = [&](char kind) -> std::string {
    switch (kind) {
      case 'd':
        return fmt::format("{:02}", t.tm_mday);
      case 'e':
        return fmt::format("{:2}", t.tm_mday);
      case 'm':
        return fmt::format("{:02}", t.tm_mon + 1);
      case 'y':
        return fmt::format("{:02}", t.tm_year % 100);
      case 'Y':
        return fmt::format("{}", t.tm_year + 1900);
      case 'j':
        return fmt::format("{:03}", t.tm_yday + 1);
      case 'H':
        return fmt::format("{:02}", t.tm_hour);
      case 'I':
        return fmt::format("{:02}", hour);
      case 'M':
        return fmt::format("{:02}", t.tm_min);
      case 'S':
        return fmt::format("{:02}", t.tm_sec);
      case 'p':
        return t.tm_hour < 12 ? "AM" : "PM";
      case 'A':
        return name(days, t.tm_wday);
      case 'a':
        return name(days, t.tm_wday).substr(0, 3);
      case 'B':
        return name(months, t.tm_mon);
      case 'b':
      case 'h':
        return name(months, t.tm_mon).substr(0, 3);
      case 'w':
        return fmt::format("{}", t.tm_wday);
      case 'u':
        return fmt::format("{}", t.tm_wday == 0 ? 7 : t.tm_wday);
      case 'F':
        return fmt::format("{}-{:02}-{:02}", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday);
      case 'D':
        return fmt::format("{:02}/{:02}/{:02}", t.tm_mon + 1, t.tm_mday, t.tm_year % 100);
      case 'R':
        return fmt::format("{:02}:{:02}", t.tm_hour, t.tm_min);
      case 'T':
        return fmt::format("{:02}:{:02}:{:02}", t.tm_hour, t.tm_min, t.tm_sec);
      case '%':
        return "%";
      case 'n':
        return "\n";
      case 't':
        return "\t";
      default:
        return "";
    }
  };
  const std::string_view bytes = format->bytes();
  Builder out(machine);
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t sign = std::min(bytes.find('%', at), bytes.size());
    out.add(*format, at, sign);
    if (sign == bytes.size()) break;
    at = sign + 1;
    const bool bare = at < bytes.size() && bytes[at] == '-';
    if (bare) ++at;
    std::string made = at < bytes.size() ? field(bytes[at]) : "";
    if (made.empty()) machine.fail("a date has an instruction that is not supported");
    if (bare) made.erase(0, std::min(made.find_first_not_of("0 "), made.size() - 1));
    out.add(made);
    ++at;
  }
  return out.take();
}

}  // namespace

std::optional<Value> Namespace::attribute(Machine& machine, std::string_view name) {
  machine.step(1 + values_.size() / 8);
  const auto found =
      std::find_if(values_.begin(), values_.end(), [&](const auto& entry) { return entry.first == name; });
  return found == values_.end() ? std::nullopt : std::optional(found->second);
}

void Namespace::set(Machine& machine, std::string_view name, Value value) {
  machine.step(1 + values_.size() / 8);
  const auto found =
      std::find_if(values_.begin(), values_.end(), [&](const auto& entry) { return entry.first == name; });
  if (found != values_.end()) {
    found->second = std::move(value);
    return;
  }
  machine.charge(sizeof(values_[0]) + name.size());
  values_.emplace_back(name, std::move(value));
}

Callable find_global(std::string_view name) {
  if (name == "range") return range;
  if (name == "dict") return dict;
  if (name == "namespace") return make_namespace;
  if (name == "cycler") return cycler;
  if (name == "joiner") return joiner;
  if (name == "raise_exception") return raise_exception;
  if (name == "strftime_now") return strftime_now;
  return nullptr;
}

}  // namespace permllm::jinja
