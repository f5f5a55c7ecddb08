#include "template/evaluator.h"

#include <fmt/format.h>

#include <algorithm>

#include "template/operations.h"

namespace permllm::jinja {

using Kind = Expression::Kind;

class Evaluator::Inner {
 public:
  Inner(Evaluator& evaluator, Scope* outer) : evaluator_(evaluator), before_(evaluator.scope_) {
    auto& free = evaluator.free_;
    std::unique_ptr<Scope> scope;
    if (free.empty()) {
      evaluator.machine_.charge(sizeof(Scope) + 64);
      scope = std::make_unique<Scope>();
    } else {
      scope = std::move(free.back());
      free.pop_back();
    }
    scope->outer = outer;
    evaluator.scope_ = scope.get();
    scope_ = std::move(scope);
  }
  explicit Inner(Evaluator& evaluator) : Inner(evaluator, evaluator.scope_) {}
  ~Inner() {
    evaluator_.scope_ = before_;
    if (scope_->held) {
      evaluator_.scopes_.push_back(std::move(scope_));
    } else {
      clear();
      evaluator_.free_.push_back(std::move(scope_));
    }
  }
  Inner(const Inner&) = delete;
  Inner& operator=(const Inner&) = delete;
  // For the next turn of a loop.
  void renew() {
    if (!scope_->held) return clear();
    evaluator_.machine_.charge(sizeof(Scope) + 64);
    auto scope = std::make_unique<Scope>();
    scope->outer = scope_->outer;
    evaluator_.scope_ = scope.get();
    evaluator_.scopes_.push_back(std::exchange(scope_, std::move(scope)));
  }

 private:
  void clear() {
    evaluator_.machine_.release(scope_->values.size() * sizeof(scope_->values[0]));
    scope_->values.clear();
  }
  Evaluator& evaluator_;
  Scope* before_;
  std::unique_ptr<Scope> scope_;
};

class Evaluator::Capture {
 public:
  explicit Capture(Evaluator& evaluator)
      : evaluator_(evaluator), builder_(evaluator.machine_), before_(evaluator.out_) {
    evaluator.out_ = &builder_;
  }
  ~Capture() { evaluator_.out_ = before_; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  Value take() { return builder_.take(); }

 private:
  Evaluator& evaluator_;
  Builder builder_;
  Builder* before_;
};

class Evaluator::Macro : public Object {
 public:
  Macro(Evaluator& evaluator, const Statement& statement, Scope* outer)
      : evaluator_(evaluator), statement_(statement), outer_(outer) {}
  const char* type() const override { return "macro"; }
  bool callable() const override { return true; }
  std::optional<Value> attribute(Machine& machine, std::string_view name) override {
    if (name == "name") return machine.text(statement_.name);
    return std::nullopt;
  }
  Value call(Machine&, const Arguments& arguments) override {
    return evaluator_.call_macro(statement_, outer_, arguments);
  }

 private:
  Evaluator& evaluator_;
  const Statement& statement_;
  Scope* outer_;
};

class Evaluator::Loop : public Object {
 public:
  Loop(ListPointer items, std::size_t depth) : items_(std::move(items)), depth_(depth) {}
  const char* type() const override { return "loop"; }
  void turn(std::size_t at) { at_ = at; }
  std::optional<Value> attribute(Machine& machine, std::string_view name) override {
    const auto number = [](std::size_t value) -> Value { return static_cast<std::int64_t>(value); };
    const std::size_t size = items_->items.size();
    if (name == "index") return number(at_ + 1);
    if (name == "index0") return number(at_);
    if (name == "first") return at_ == 0;
    if (name == "last") return at_ + 1 == size;
    if (name == "length") return number(size);
    if (name == "revindex") return number(size - at_);
    if (name == "revindex0") return number(size - at_ - 1);
    if (name == "depth") return number(depth_ + 1);
    if (name == "depth0") return number(depth_);
    if (name == "previtem") return at_ == 0 ? Value(Undefined{}) : items_->items[at_ - 1];
    if (name == "nextitem") return at_ + 1 == size ? Value(Undefined{}) : items_->items[at_ + 1];
    if (name == "cycle") return machine.object<Function>(cycle, this);
    if (name == "changed") return machine.object<Function>(changed, this);
    return std::nullopt;
  }

 private:
  static Value cycle(Machine& machine, const Value& self, const Arguments& arguments) {
    if (arguments.values.empty()) machine.fail("cycle takes values");
    return arguments.values[static_cast<Loop&>(*std::get<Object*>(self)).at_ % arguments.values.size()];
  }
  static Value changed(Machine& machine, const Value& self, const Arguments& arguments) {
    auto& loop = static_cast<Loop&>(*std::get<Object*>(self));
    Value now = machine.list(arguments.values, List::Kind::tuple);
    const bool same = loop.seen_ && equal(machine, *loop.seen_, now);
    loop.seen_ = std::move(now);
    return !same;
  }

  const ListPointer items_;
  const std::size_t depth_;
  std::size_t at_ = 0;
  std::optional<Value> seen_;
};

Evaluator::Evaluator(const Limits& limits, const std::tm& now, const Variables& variables)
    : machine_(limits, now), variables_(variables) {}

Text Evaluator::run(const Body& body) {
  Builder out(machine_);
  const Inner top(*this, nullptr);
  out_ = &out;
  execute(body);
  out_ = nullptr;
  return out.text();
}

void Evaluator::emit(const Value& value) {
  print(machine_, *out_, value);
  if (out_->text().size() > machine_.limits().output) machine_.fail("puts out more than a template may");
}

Evaluator::Flow Evaluator::execute(const Body& body) {
  for (const Statement& statement : body) {
    if (const Flow flow = execute(statement); flow != Flow::on) return flow;
  }
  return Flow::on;
}

Evaluator::Flow Evaluator::execute(const Statement& statement) {
  const Machine::Level level(machine_);
  machine_.line = statement.line;
  using What = Statement::Kind;
  switch (statement.kind) {
    case What::data:
      emit(statement.parts[0]->constant);
      return Flow::on;
    case What::output: {
      const Value value = evaluate(*statement.parts[0]);
      emit(value);
      return Flow::on;
    }
    case What::condition:
      for (std::size_t i = 0; i < statement.bodies.size(); ++i) {
        if (i == statement.parts.size() || truth(machine_, evaluate(*statement.parts[i])))
          return execute(statement.bodies[i]);
      }
      return Flow::on;
    case What::loop:
      return loop(statement);
    case What::set: {
      const Value value = evaluate(*statement.parts[1]);
      machine_.line = statement.line;
      assign(*statement.parts[0], value);
      return Flow::on;
    }
    case What::set_block:
    case What::filter:
      return set_block(statement);
    case What::with: {
      Values values;
      for (std::size_t i = 1; i < statement.parts.size(); i += 2) values.push_back(evaluate(*statement.parts[i]));
      const Inner inner(*this);
      for (std::size_t i = 0; i < values.size(); ++i) assign(*statement.parts[2 * i], values[i]);
      return execute(statement.bodies[0]);
    }
    case What::macro:
      set(statement.name, function(statement));
      return Flow::on;
    case What::call:
      emit(call(*statement.parts[0], function(statement)));
      return Flow::on;
    case What::scope: {
      const Inner inner(*this);
      return execute(statement.bodies[0]);
    }
    case What::leave:
      return Flow::leave;
    case What::next:
      return Flow::next;
  }
  return Flow::on;
}

// A block whose output goes through filters, and then into a variable or out.
Evaluator::Flow Evaluator::set_block(const Statement& statement) {
  Value text;
  {
    Capture capture(*this);
    const Inner inner(*this);
    if (const Flow flow = execute(statement.bodies[0]); flow != Flow::on) return flow;
    text = capture.take();
  }
  const bool is_set = statement.kind == Statement::Kind::set_block;
  const Expression& filters = *statement.parts[is_set ? 1 : 0];
  if (filters.kind != Kind::absent) {
    const Value before = std::exchange(filtered_, text);
    text = evaluate(filters);
    filtered_ = before;
  }
  machine_.line = statement.line;
  if (is_set) {
    assign(*statement.parts[0], text);
  } else {
    emit(text);
  }
  return Flow::on;
}

Evaluator::Flow Evaluator::loop(const Statement& statement) {
  const Value over = evaluate(*statement.parts[1]);
  machine_.line = statement.line;
  ListPointer items = items_of(machine_, over);
  const Expression &target = *statement.parts[0], &condition = *statement.parts[2];
  if (condition.kind != Kind::absent) {
    Values kept;
    Inner inner(*this);
    for (const Value& item : items->items) {
      machine_.step();
      inner.renew();
      assign(target, item);
      if (truth(machine_, evaluate(condition))) kept.push_back(item);
    }
    items = std::get<ListPointer>(machine_.list(std::move(kept)));
  }
  const auto otherwise = [&] { return statement.bodies.size() > 1 ? execute(statement.bodies[1]) : Flow::on; };
  if (items->items.empty()) return otherwise();
  bool completed = false;  // jinja2 runs the else where no turn came to its end
  auto* loop = machine_.object<Loop>(items, std::size_t{0});
  Inner inner(*this);
  for (std::size_t i = 0; i < items->items.size(); ++i) {
    machine_.step();
    if (i > 0) inner.renew();
    loop->turn(i);
    set("loop", loop);
    machine_.line = statement.line;
    assign(target, items->items[i]);
    const Flow flow = execute(statement.bodies[0]);
    completed = completed || flow == Flow::on;
    if (flow == Flow::leave) break;
  }
  return completed ? Flow::on : otherwise();
}

void Evaluator::assign(const Expression& target, const Value& value) {
  if (target.kind == Kind::name) return set(target.text, value);
  if (target.kind == Kind::attribute) {
    const Value holder = look_up(target.parts[0]->text);
    const auto* object = std::get_if<Object*>(&holder);
    auto* names = object == nullptr ? nullptr : dynamic_cast<Namespace*>(*object);
    if (names == nullptr) machine_.fail("assigns to an attribute of what is no namespace");
    return names->set(machine_, target.text, value);
  }
  const ListPointer items = items_of(machine_, value);
  if (items->items.size() != target.parts.size()) {
    machine_.fail(fmt::format("assigns {} values to {} names", items->items.size(), target.parts.size()));
  }
  for (std::size_t i = 0; i < target.parts.size(); ++i) assign(*target.parts[i], items->items[i]);
}

void Evaluator::set(std::string_view name, const Value& value) {
  auto& values = scope_->values;
  machine_.step(1 + values.size() / 8);
  const auto found = std::find_if(values.begin(), values.end(), [&](const auto& entry) { return entry.first == name; });
  if (found != values.end()) {
    found->second = value;
    return;
  }
  machine_.charge(sizeof(values[0]));
  values.emplace_back(name, value);
}

Value Evaluator::look_up(const std::string& name) {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->outer) {
    machine_.step(1 + scope->values.size() / 8);
    for (const auto& [there, value] : scope->values) {
      if (there == name) return value;
    }
  }
  for (const auto& [there, value] : variables_) {
    if (there == name) return value;
  }
  if (const Callable global = find_global(name)) return machine_.object<Function>(global, Value(None{}));
  return Undefined{&name};
}

Evaluator::Macro* Evaluator::function(const Statement& statement) {
  for (Scope* scope = scope_; scope != nullptr && !scope->held; scope = scope->outer) scope->held = true;
  return machine_.object<Macro>(*this, statement, scope_);
}

Value Evaluator::call_macro(const Statement& macro, Scope* outer, const Arguments& arguments) {
  const Machine::Level level(machine_);
  const Parameters& parameters = macro.parameters;
  const std::size_t count = parameters.names.size(), line = machine_.line;
  std::vector<bool> used(arguments.named.size());
  const auto named = [&](std::string_view name) -> const Value* {
    for (std::size_t i = 0; i < arguments.named.size(); ++i) {
      if (!used[i] && arguments.named[i].first == name) {
        used[i] = true;
        return &arguments.named[i].second;
      }
    }
    return nullptr;
  };
  Capture capture(*this);
  const Inner inner(*this, outer);
  for (std::size_t i = 0; i < count; ++i) {
    const std::string& name = parameters.names[i];
    const std::size_t without = count - parameters.defaults.size();
    const Value* given = i < arguments.values.size() ? &arguments.values[i] : named(name);
    set(name, given != nullptr ? *given
              : i >= without   ? evaluate(*parameters.defaults[i - without])
                               : Value(Undefined{&name}));
  }
  static const std::string k_caller = "caller";
  const bool explicit_caller =
      std::find(parameters.names.begin(), parameters.names.end(), k_caller) != parameters.names.end();
  if (macro.caller && !explicit_caller) {
    const Value* given = named(k_caller);
    set(k_caller, given != nullptr ? *given : Value(Undefined{&k_caller}));
  }
  machine_.line = line;
  if (macro.kwargs) {
    std::vector<std::pair<Value, Value>> rest;
    for (std::size_t i = 0; i < arguments.named.size(); ++i) {
      if (!used[i]) rest.emplace_back(machine_.text(arguments.named[i].first), arguments.named[i].second);
    }
    set("kwargs", machine_.dict(std::move(rest)));
  } else if (std::find(used.begin(), used.end(), false) != used.end()) {
    machine_.fail(fmt::format("the macro {:.60} takes no argument of that name", macro.name));
  }
  const auto extra = arguments.values.begin() + static_cast<std::ptrdiff_t>(std::min(count, arguments.values.size()));
  if (macro.varargs) {
    set("varargs", machine_.list({extra, arguments.values.end()}, List::Kind::tuple));
  } else if (arguments.values.size() > count) {
    machine_.fail(fmt::format("the macro {:.60} takes fewer arguments", macro.name));
  }
  execute(macro.bodies[0]);
  return capture.take();
}

Value Evaluator::evaluate(const Expression& expression) {
  if (expression.kind == Kind::constant) return expression.constant;
  const Machine::Level level(machine_);
  return value_of(expression);
}

Value Evaluator::value_of(const Expression& e) {
  switch (e.kind) {
    case Kind::absent:
      return filtered_;
    case Kind::constant:
      return e.constant;
    case Kind::name:
      return look_up(e.text);
    case Kind::list:
    case Kind::tuple: {
      Values items;
      for (const ExpressionPointer& part : e.parts) items.push_back(evaluate(*part));
      return machine_.list(std::move(items), e.kind == Kind::list ? List::Kind::list : List::Kind::tuple);
    }
    case Kind::dict: {
      std::vector<std::pair<Value, Value>> items;
      for (std::size_t i = 0; i < e.parts.size(); i += 2) {
        Value key = evaluate(*e.parts[i]), value = evaluate(*e.parts[i + 1]);
        machine_.line = e.line;
        if (depth_of(key) > 0 &&
            !(std::holds_alternative<ListPointer>(key) && std::get<ListPointer>(key)->kind == List::Kind::tuple))
          machine_.fail(fmt::format("a {} can be no key", type_name(key)));
        const auto there = std::find_if(items.begin(), items.end(),
                                        [&](const auto& item) { return equal(machine_, item.first, key); });
        if (there != items.end()) {
          there->second = std::move(value);
        } else {
          items.emplace_back(std::move(key), std::move(value));
        }
      }
      return machine_.dict(std::move(items));
    }
    case Kind::attribute: {
      const Value value = evaluate(*e.parts[0]);
      machine_.line = e.line;
      return attribute(machine_, value, e.text);
    }
    case Kind::item: {
      if (e.parts[1]->kind == Kind::slice) return slice_of(e);
      const Value value = evaluate(*e.parts[0]), key = evaluate(*e.parts[1]);
      machine_.line = e.line;
      return item(machine_, value, key);
    }
    case Kind::slice:
      machine_.fail("a slice stands among other indices");
    case Kind::call:
      return call(e, nullptr);
    case Kind::filter: {
      const Value value = evaluate(*e.parts[0]);
      const Arguments arguments = arguments_of(e);
      machine_.line = e.line;
      return call_filter(machine_, e.text, value, arguments);
    }
    case Kind::test: {
      const Value value = evaluate(*e.parts[0]);
      const Arguments arguments = arguments_of(e);
      machine_.line = e.line;
      return call_test(machine_, e.text, value, arguments);
    }
    case Kind::negative: {
      const Value value = evaluate(*e.parts[0]);
      machine_.line = e.line;
      return negative(machine_, value);
    }
    case Kind::positive: {
      const Value value = evaluate(*e.parts[0]);
      machine_.line = e.line;
      return arithmetic(machine_, "+", value, std::int64_t{0});
    }
    case Kind::logical_not:
      return !truth(machine_, evaluate(*e.parts[0]));
    case Kind::logical_and: {
      const Value left = evaluate(*e.parts[0]);
      return truth(machine_, left) ? evaluate(*e.parts[1]) : left;
    }
    case Kind::logical_or: {
      const Value left = evaluate(*e.parts[0]);
      return truth(machine_, left) ? left : evaluate(*e.parts[1]);
    }
    case Kind::arithmetic: {
      const Value left = evaluate(*e.parts[0]), right = evaluate(*e.parts[1]);
      machine_.line = e.line;
      return arithmetic(machine_, e.text, left, right);
    }
    case Kind::concatenation: {
      Builder out(machine_);
      for (const ExpressionPointer& part : e.parts) print(machine_, out, evaluate(*part));
      return out.take();
    }
    case Kind::comparison:
      return compare(e);
    case Kind::conditional:
      if (truth(machine_, evaluate(*e.parts[1]))) return evaluate(*e.parts[0]);
      return e.parts[2]->kind == Kind::absent ? Value(Undefined{}) : evaluate(*e.parts[2]);
  }
  return Undefined{};
}

Value Evaluator::compare(const Expression& e) {
  Value left = evaluate(*e.parts[0]);
  for (std::size_t i = 0; i < e.names.size(); ++i) {
    Value right = evaluate(*e.parts[i + 1]);
    const std::string& sign = e.names[i];
    machine_.line = e.line;
    bool holds = false;
    if (sign == "==" || sign == "!=") {
      holds = equal(machine_, left, right) == (sign == "==");
    } else if (sign == "in" || sign == "not in") {
      holds = contains(machine_, right, left) == (sign == "in");
    } else {
      const int which = order(machine_, left, right);
      holds = sign == "<" ? which < 0 : sign == "<=" ? which <= 0 : sign == ">" ? which > 0 : which >= 0;
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Evaluator::slice_of(const Expression& e) {
  const Value value = evaluate(*e.parts[0]);
  Values bounds;
  for (const ExpressionPointer& part : e.parts[1]->parts)
    bounds.push_back(part->kind == Kind::absent ? Value(None{}) : evaluate(*part));
  machine_.line = e.line;
  return slice(machine_, value, bounds[0], bounds[1], bounds[2]);
}

Arguments Evaluator::arguments_of(const Expression& e) {
  Arguments arguments;
  const std::size_t places = e.parts.size() - e.names.size();
  for (std::size_t i = 1; i < e.parts.size(); ++i) {
    Value value = evaluate(*e.parts[i]);
    if (i < places) {
      arguments.values.push_back(std::move(value));
    } else {
      arguments.named.emplace_back(e.names[i - places], std::move(value));
    }
  }
  return arguments;
}

Value Evaluator::call(const Expression& e, Macro* caller) {
  const Expression& callee = *e.parts[0];
  // A method of a value is called without being made a value itself.
  Callable method = nullptr;
  Value self;
  if (callee.kind == Kind::attribute) {
    self = evaluate(*callee.parts[0]);
    machine_.line = callee.line;
    method = find_method(machine_, self, callee.text);
    if (method == nullptr) self = attribute(machine_, self, callee.text);
  } else {
    self = evaluate(callee);
  }
  Arguments arguments = arguments_of(e);
  if (caller != nullptr) arguments.named.emplace_back("caller", caller);
  machine_.line = e.line;
  if (method != nullptr) return method(machine_, self, arguments);
  if (const auto* object = std::get_if<Object*>(&self)) return (*object)->call(machine_, arguments);
  if (const auto* undefined = std::get_if<Undefined>(&self)) fail_undefined(machine_, *undefined);
  machine_.fail(fmt::format("a {} is no function", type_name(self)));
}

}  // namespace permllm::jinja
