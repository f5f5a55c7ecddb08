// Text that knows of each byte whose it is: the template's own, or of contents, which is what a person (or a program for one) wrote. Control
// tokens are searched for in the template's own alone, so no operation may make the one out of the other.
//
// How operations keep the marks: what is copied keeps its own (concatenation, slices, strip, split, splitlines, replace, join, indent, format,
// reverse, lists of characters). What is changed in place has the mark of what it was made of: cases (upper, lower, title, capitalize), escapes
// of repr and tojson, characters of a sequence. What is put between or around is of the text that it comes from: a separator, a replacement, an
// indent, the brackets of a list. Numbers, lengths, truth values, indices and comparisons have no marks: digits printed from them are the template's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace permllm::jinja {

class Text {
 public:
  static constexpr std::size_t npos = std::string::npos;

  Text() = default;
  Text(std::string_view bytes, bool contents) { add(bytes, contents); }

  const std::string& bytes() const { return bytes_; }
  std::size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  // Whether the byte at that place is of contents.
  bool contents_at(std::size_t place) const;

  void add(std::string_view bytes, bool contents);
  void add(const Text& text, std::size_t begin = 0, std::size_t end = npos);
  // each(bytes, contents) for every run of one mark between two places.
  template <class Each>
  void each_run(Each each, std::size_t begin = 0, std::size_t end = npos) const {
    end = end < size() ? end : size();
    for (std::size_t run = run_at(begin); begin < end; ++run) {
      const std::size_t stop = runs_[run].end < end ? runs_[run].end : end;
      each(std::string_view(bytes_).substr(begin, stop - begin), runs_[run].contents);
      begin = stop;
    }
  }
  std::size_t runs() const { return runs_.size(); }
  static constexpr std::size_t k_run_bytes = 16;  // that a run takes

 private:
  struct Run {
    std::size_t end;
    bool contents;
  };
  std::size_t run_at(std::size_t place) const;

  std::string bytes_;
  std::vector<Run> runs_;  // neighbours have different marks
};

// The length in bytes of the UTF-8 character that a text begins with; a byte that begins none is one by itself.
std::size_t character_size(std::string_view text);
std::size_t count_characters(std::string_view text);
// Where the character begins that ends before that place, which is none of the first.
std::size_t character_before(std::string_view text, std::size_t place);
// The place of the character of that number; the text's size behind the last.
std::size_t place_of_character(std::string_view text, std::size_t number);
char32_t code_point(
    std::string_view character);  // of one that character_size found; beyond Unicode for what is no UTF-8
std::string utf8(char32_t code);  // of a code point that has a UTF-8

// As Python's str knows them: white space, ends of lines, cases, kinds of characters. Cases beyond ASCII go character by character (and German's
// sharp s, which becomes SS).
bool is_space(char32_t code);
bool is_line_end(char32_t code);
bool is_printable(char32_t code);
std::string upper(std::string_view text);
std::string lower(std::string_view text);
enum class CharacterKind { letter, decimal, numeric, cased_upper, cased_lower };
bool is(CharacterKind kind, std::string_view character);

}  // namespace permllm::jinja
