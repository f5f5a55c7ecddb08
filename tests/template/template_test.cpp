#include "template/template.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "permllm/error.h"

namespace permllm::jinja {
namespace {

using Json = nlohmann::ordered_json;

// 6 July 2024, 15:04:05, as render_templates.py has it.
std::tm date() {
  std::tm date{};
  date.tm_year = 124, date.tm_mon = 6, date.tm_mday = 6, date.tm_hour = 15, date.tm_min = 4, date.tm_sec = 5,
  date.tm_wday = 6, date.tm_yday = 187;
  return date;
}

Variables variables_of(const Json& json) {
  Variables variables;
  for (const auto& [name, value] : json.items())
    variables.emplace_back(name, json_value(value, name == "messages" || name == "tools"));
  return variables;
}

std::string text_of(const std::vector<Template::Piece>& pieces) {
  std::string text;
  for (const auto& piece : pieces) text += piece.text;
  return text;
}

// With what is of contents in brackets.
std::string marked(std::string_view source, const Json& variables = {}) {
  std::string text;
  for (const auto& piece : Template(source).render(variables_of(variables), date()))
    text += piece.contents ? "<" + piece.text + ">" : piece.text;
  return text;
}

std::string error_of(const std::function<void()>& action, Code code = Code::unsupported) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_EQ(error.field(), "tokenizer.chat_template");
    return error.message();
  }
  return "none";
}
std::string refusal(std::string_view source, const Limits& limits = {}, Code code = Code::unsupported) {
  return error_of([&] { Template(source, limits).render({}, date(), limits); }, code);
}

const Json& cases() {
  static const Json all = [] {
    std::ifstream file(std::string(PERMLLM_TINY_MODELS) + "/templates.json");
    return Json::parse(file);
  }();
  return all;
}

TEST(Template, a_conversation_is_rendered) {
  const Template t("{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}");
  Variables variables{
      {"messages",
       list_value({dict_value({{"role", text_value("user", false)}, {"content", text_value(" <|user|> ", true)}})})}};
  const auto pieces = t.render(variables, date());
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[0].text, "<|user|>");
  EXPECT_FALSE(pieces[0].contents);
  EXPECT_EQ(pieces[1].text, "<|user|>");
  EXPECT_TRUE(pieces[1].contents);
  EXPECT_EQ(pieces[2].text, "\n");
}

// tests/data/templates and template_expressions.txt, to the byte; what jinja2 refuses is refused.
TEST(Template, everything_is_as_jinja2_has_it) {
  std::size_t refused = 0;
  for (const Json& one : cases()) {
    const std::string name = one.at("name"), source = one.at("source");
    std::optional<std::string> text;
    std::string why;
    try {
      text = text_of(Template(source).render(variables_of(one.at("variables")), date()));
    } catch (const Error& error) {
      why = error.what();
    }
    refused += text ? 0 : 1;
    if (one.at("text").is_null()) {
      EXPECT_FALSE(text) << name << ": " << *text;
    } else {
      EXPECT_EQ(text.value_or(why), one.at("text").get<std::string>()) << name;
    }
  }
  EXPECT_GT(cases().size(), 600u);
  EXPECT_GT(refused, 50u);
}

// In one conversation all contents are Greek: whatever a template does with them, no letter loses its mark, and no other gains one.
TEST(Template, every_letter_of_contents_keeps_its_mark) {
  std::size_t letters = 0, others = 0;
  for (const Json& one : cases()) {
    const std::string name = one.at("name");
    if (name.find(".jinja, greek") == std::string::npos || name.find("tools") != std::string::npos ||
        one.at("text").is_null())
      continue;
    for (const auto& piece :
         Template(one.at("source").get<std::string>()).render(variables_of(one.at("variables")), date())) {
      for (std::size_t at = 0; at < piece.text.size();) {
        const std::size_t size = character_size(std::string_view(piece.text).substr(at));
        const char32_t code = code_point(std::string_view(piece.text).substr(at, size));
        const bool greek = code >= 0x370 && code < 0x400;
        if (greek) {
          ++letters;
          EXPECT_TRUE(piece.contents) << name;
        } else if (code > 0x20 && piece.contents) {
          ++others;
          EXPECT_NE(std::string_view("<think>/\"\\useranytm").find(piece.text[at]), std::string_view::npos)
              << name << ": " << piece.text;
        }
        at += size;
      }
    }
  }
  EXPECT_GT(letters, 200u);
  EXPECT_GT(others, 20u);
}

TEST(Template, operations_keep_the_marks) {
  const Json v{{"messages", Json::array({"ab c", "x,y", "  p ", "l1\nl2", "q\"\n"})}};
  const auto of = [&](const std::string& expression) { return marked("{{ " + expression + " }}", v); };
  EXPECT_EQ(of("'(' + messages[0] + ')'"), "(<ab c>)");
  EXPECT_EQ(of("'(' ~ messages[0] ~ 1 ~ ')'"), "(<ab c>1)");
  EXPECT_EQ(of("('(' + messages[0] + ')')[0:3]"), "(<ab>");
  EXPECT_EQ(of("('(' + messages[0] + ')')[::-1]"), ")<c ba>(");
  EXPECT_EQ(of("('(' + messages[0] + ')')[1]"), "<a>");
  EXPECT_EQ(of("messages[2] | trim ~ '.'"), "<p>.");
  EXPECT_EQ(of("('<' + messages[2]).strip('< ')"), "<p>");
  EXPECT_EQ(of("messages[1].split(',') | join('; ')"), "<x>; <y>");
  EXPECT_EQ(of("'a,b'.split(messages[1][1])[1]"), "b");
  EXPECT_EQ(of("'a-b' | replace('-', messages[1])"), "a<x,y>b");
  EXPECT_EQ(of("messages[1] | replace(',', '-')"), "<x>-<y>");
  EXPECT_EQ(of("('z' ~ messages[0]) | upper"), "Z<AB C>");
  EXPECT_EQ(of("('z' ~ messages[0]) | title"), "Z<ab C>");
  EXPECT_EQ(of("('' ~ messages[0] ~ 'Z') | capitalize"), "<Ab c>z");
  EXPECT_EQ(of("messages[3] | indent(2)"), "<l1>\n  <l2>");
  EXPECT_EQ(of("messages[3].splitlines() | last"), "<l2>");
  EXPECT_EQ(of("messages[4] | tojson"), "\"<q\\\"\\n>\"");
  EXPECT_EQ(of("{'k': messages[4]} | tojson"), "{\"k\": \"<q\\\"\\n>\"}");
  EXPECT_EQ(of("[messages[0], 'z']"), "['<ab c>', 'z']");
  EXPECT_EQ(of("'%s!' % messages[0]"), "<ab c>!");
  EXPECT_EQ(of("'{}!'.format(messages[0])"), "<ab c>!");
  EXPECT_EQ(of("messages[0] * 2 ~ 'z' * 2"), "<ab cab c>zz");
  EXPECT_EQ(of("messages[0] | length"), "4");
  EXPECT_EQ(of("messages[0] | list | reverse | first"), "<c>");
  EXPECT_EQ(of("messages | sort | last | center(7, ) ~ messages[9]"), "  <x,y>  ");
  EXPECT_EQ(of("nothing | default(messages[1])"), "<x,y>");
  EXPECT_EQ(of("messages[0] if messages[0] else 'z'"), "<ab c>");
  EXPECT_EQ(
      marked(
          "{% set x %}[{{ messages[1] }}]{% endset %}{{ x }}{% macro f(t) %}({{ t }}{{ caller() }}){% endmacro %}"
          "{% call f(messages[1]) %}{{ messages[0] }}!{% endcall %}{% filter upper %}a{{ messages[1] }}{% endfilter %}",
          v),
      "[<x,y>](<x,yab c>!)A<X,Y>");
  EXPECT_EQ(marked("{% for k, v in messages.items() %}{{ k }}={{ v }};{% endfor %}", Json{{"messages", {{"a", "b"}}}}),
            "<a>=<b>;");
}

TEST(Template, a_refusal_names_the_line) {
  EXPECT_EQ(refusal("a\n{{ b"), "line 2: a tag has no end; --chat-format chooses another format");
  EXPECT_EQ(refusal("\n{% if x %}"),
            "line 2: expected {% endif %}, got the template's end; --chat-format chooses another format");
  EXPECT_EQ(refusal("\n\n{% include 'x' %}"),
            "line 3: the statement \"include\" is not supported; --chat-format chooses another format");
  EXPECT_EQ(refusal("{% for x in y recursive %}{% endfor %}"),
            "line 1: recursive loops are not supported; --chat-format chooses another format");
  EXPECT_EQ(refusal("\n{{ x.y.z }}"), "line 2: \"x\" is undefined; --chat-format chooses another format");
  EXPECT_EQ(refusal("{{ 1\n|\nnothere }}"),
            "line 3: the filter \"nothere\" is not supported; --chat-format chooses another format");
  EXPECT_EQ(refusal("\n{{ self is defined }}"),
            "line 2: the variable \"self\" is not supported; --chat-format chooses another format");
  EXPECT_EQ(refusal("{{ 'Stra\u00dfe'.casefold() }}"),
            "line 1: the method casefold of texts is not supported; --chat-format chooses another format");
  EXPECT_EQ(refusal("{% break %}"), "line 1: break stands in no loop; --chat-format chooses another format");
  EXPECT_EQ(refusal("{{ 9223372036854775807 + 1 }}"),
            "line 1: a whole number has more than 64 bits; --chat-format chooses another format");
  EXPECT_EQ(refusal("{{ '\\ud800' }}"),
            "line 1: an escape in a string is no character; --chat-format chooses another format");
}

TEST(Template, what_a_template_says_is_shown_without_contents_and_without_escapes) {
  const auto raised = [](const std::string& expression) {
    return error_of(
        [&] {
          Template("\n{{ raise_exception(" + expression + ") }}")
              .render(variables_of(Json{{"messages", {"secret"}}}), date());
        },
        Code::usage);
  };
  EXPECT_EQ(raised("'roles must alternate'"), "line 2: the template says: roles must alternate");
  EXPECT_EQ(raised("'not ' + messages[0] + ', never'"), "line 2: the template says: not ..., never");
  EXPECT_EQ(raised("'\\x1b[2J\\nx'"), "line 2: the template says: \xef\xbf\xbd[2J\xef\xbf\xbdx");
  EXPECT_EQ(raised("'a' * 5000"), "line 2: the template says: " + std::string(200, 'a') + "...");
  // Nor do other errors hold any.
  const std::string other = error_of([] {
    Template("{{ messages[0].nothere.x }}{{ messages[0] | int + messages[0] }}")
        .render(variables_of(Json{{"messages", {"secret"}}}), date());
  });
  EXPECT_EQ(other.find("secret"), std::string::npos);
}

TEST(Template, dates) {
  EXPECT_EQ(marked("{{ strftime_now('%d %b %Y|%B %-d, %Y|%A %a %H:%M:%S %I %p %y %j %e %m %F %%') }}"),
            "06 Jul 2024|July 6, 2024|Saturday Sat 15:04:05 03 PM 24 188  6 07 2024-07-06 %");
  EXPECT_NE(refusal("{{ strftime_now('%c') }}").find("a date has an instruction"), std::string::npos);
  EXPECT_NE(refusal("{{ strftime_now('%') }}").find("a date has an instruction"), std::string::npos);
}

TEST(Template, a_run_is_bounded) {
  const char *steps = "takes more steps", *memory = "takes more memory", *deep = "nested deeper",
             *output = "puts out more";
  Limits small;
  small.steps /= 4, small.memory /= 10;
  const auto expect = [&](const std::string& source, const char* why, std::optional<Limits> limits = {}) {
    const std::string error = refusal(source, limits.value_or(small));
    EXPECT_NE(error.find(why), std::string::npos) << source.substr(0, 100) << ": " << error;
  };
  const std::string many = "{% for i in range(100000) %}";
  expect(many + "{% for k in range(100000) %}" + "{% endfor %}{% endfor %}", steps, Limits());
  expect(
      "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      memory);
  expect("{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", memory);
  expect(
      "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s | replace('a', 'aaaaaaaa') %}{% "
      "endfor %}",
      "more");
  expect("{{ 'a' * 9223372036854775807 }}", "more", Limits());
  expect("{{ 'a' * 9223372036854775807 }}", "more");
  expect("{{ [1] * 9223372036854775807 }}", "more");
  expect("{{ 'a'.center(9223372036854775807) }}", "more");
  expect("{{ 'a\nb' | indent(9223372036854775807) }}", "more");
  expect("{{ '%s' | format('a' * 99999999) * 99 }}", "more");
  expect("{% set ns = namespace(s=[]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor %}",
         "nested too deep");
  // Lists that hold one another twice have few bytes and many items.
  expect("{% set ns = namespace(s=['a']) %}{% for i in range(50) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
         "more");
  expect(
      "{% set ns = namespace(s=['a']) %}{% for i in range(50) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | "
      "tojson }}",
      "more");
  expect(
      "{% set ns = namespace(s=['a'], t=['a']) %}{% for i in range(50) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = "
      "[ns.t, ns.t] %}{% endfor %}{{ ns.s == ns.t }}",
      steps);
  expect("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", deep);
  expect(
      "{% macro f() %}{{ caller() }}{{ g() }}{% endmacro %}{% macro g() %}{% call f() %}{% endcall %}{% endmacro %}{{ "
      "g() }}",
      deep);
  expect("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}", deep);
  expect("{{ " + std::string(5000, '[') + std::string(5000, ']') + " }}", deep);
  expect("{{ " + std::string(5000, '-') + "1 }}", deep);
  std::string text = "{{ 1";
  for (int i = 0; i < 5000; ++i) text += " + 1";
  expect(text + " }}", deep);
  text = "{{ x";
  for (int i = 0; i < 5000; ++i) text += ".y";
  expect(text + " }}", deep);
  text.clear();
  for (int i = 0; i < 5000; ++i) text += "{% if x %}";
  expect(text, deep);
  text = "{{ [";
  for (int i = 0; i < 60'000; ++i) text += "1,";
  expect(text + "] }}", "words and signs");
  expect(many + "{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 9 }}{% endfor %}", output);
  // Searching takes steps for what it looks at.
  expect("{% set a = 'a' * 1000000 %}{% set b = 'a' * 500000 ~ 'b' %}" + many + "{{ a.rfind(b) }}{% endfor %}", steps);
  expect("{% set a = 'a' * 1000000 %}" + many + "{{ a.strip(a ~ 'b') | length }}{% endfor %}", steps);
  Limits bytes;
  bytes.source = 10;
  expect("0123456789a", "the limit is 10", bytes);
}

TEST(Template, bytes_that_are_no_text_stay) {
  EXPECT_EQ(marked("{{ '\xff\xc3' }}\xfe{{ '\xe2\x82' | upper | length }}{{ '\xf0\x9f' | reverse }}"),
            "\xff\xc3\xfe"
            "2\x9f\xf0");
}

TEST(Template, what_it_reads) {
  const Template t("{% macro f(a) %}{{ enable_thinking }}{% endmacro %}{% set b = tools %}");
  EXPECT_TRUE(t.reads("enable_thinking"));
  EXPECT_TRUE(t.reads("tools"));
  EXPECT_FALSE(t.reads("thinking"));
}

}  // namespace
}  // namespace permllm::jinja
