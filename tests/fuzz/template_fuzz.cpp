// Chat templates: the text of one, parsed and run on a conversation with tools, within bounds that are small.
#include <nlohmann/json.hpp>

#include "fuzz/target.h"
#include "permllm/error.h"
#include "template/template.h"

namespace permllm::test {
namespace {

const jinja::Variables& variables() {
  static const jinja::Variables shared = [] {
    const auto said = [](const char* role, const char* content) {
      return jinja::dict_value(
          {{"role", jinja::text_value(role, false)}, {"content", jinja::text_value(content, true)}});
    };
    const auto tools = nlohmann::ordered_json::parse(
        R"([{"type":"function","function":{"name":"f","description":"\u00e9\"","parameters":{"type":"object","properties":{"a":{"type":"array","default":[1,-2.5,true,null]}}}}}])");
    return jinja::Variables{{"messages", jinja::list_value({said("system", " be brief "),
                                                            said("user", "\xf0\x9f\xa6\x99 <think>x</think>\xff\n"),
                                                            said("assistant", "a, b")})},
                            {"tools", jinja::json_value(tools, true)},
                            {"bos_token", jinja::text_value("<s>", false)},
                            {"add_generation_prompt", true}};
  }();
  return shared;
}

}  // namespace

// The tree takes some hundred bytes for a byte of its text; values have the limit below, and may be twice that while one becomes another.
std::size_t memory_for(std::size_t input) { return (std::size_t{16} << 20) + 1024 * input; }

std::vector<std::vector<std::uint8_t>> seeds() {
  std::vector<std::vector<std::uint8_t>> all;
  for (
      const std::string_view text :
      {R"({{- bos_token }}{% for m in messages if m.role != 'tool' %}{{ '<|' ~ m['role'] + '|>' }}{{ m.content.strip() | trim | upper }}{{ loop.index0 % 2 == 0 and not loop.last or none }}{% else %}x{% endfor %})",
       R"({%- set ns = namespace(n=0, s='') -%}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}{% if loop.first %}{% continue %}{% elif ns.n > 5 %}{% break %}{% else %}{% set ns.s = ns.s + m.content.split('</think>')[-1].lstrip('\n') %}{% endif %}{% endfor %}{{ ns.s[1:-1] }})",
       R"({% macro f(a, b=2) %}{{ a }}{{ varargs }}{{ kwargs }}{{ caller(1) if caller else b }}{% endmacro %}{% call(x) f('y', 3, 4, c=5) %}{{ x }}{% endcall %}{{ f(1) }}{% filter indent(2, true) %}a{% endfilter %}{% set q | replace('a', 'b') %}a{% endset %}{% generation %}{{ q }}{% endgeneration %})",
       R"({{ tools | tojson(indent=2) }}{{ tools | map(attribute='function.name') | join(', ') }}{{ tools[0].function.parameters.properties.items() | list }}{{ (1, 2.5e3, 0x1f, -7 // 2, 2 ** 10, 'é\n\x41\u00e9') }}{{ {'a': [1, {}]} | dictsort }}{{ tools | selectattr('type', 'equalto', 'function') | list | length }})",
       R"({{ raise_exception('no ' ~ messages[0].content) if x is not defined }}{# c -#}  {%- raw %}{{ }}{% endraw +%}{{ strftime_now('%d %B %Y') }}{{ range(5) | sum }}{{ 'a-b'.replace('-', '').title().find('b') }}{{ '%s %d' % ('a', 3) }}{{ cycler(1, 2).next() }}{{ joiner()() }}{{ '{0}'.format(1) | int | round(1) }})"}) {
    all.emplace_back(text.begin(), text.end());
  }
  return all;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  jinja::Limits limits;
  limits.steps = 20'000;
  limits.memory = std::size_t{2} << 20;
  limits.output = std::size_t{1} << 20;
  try {
    const jinja::Template of({reinterpret_cast<const char*>(data), size}, limits);
    std::size_t bytes = 0;
    for (const auto& piece : of.render(test::variables(), std::tm{}, limits)) bytes += piece.text.size();
    PERMLLM_ASSERT(bytes <= limits.output);
  } catch (const Error& error) {
    PERMLLM_ASSERT(error.field() == "tokenizer.chat_template");
  }
  return 0;
}
