// What somebody may have meant by a word that is not known.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace permllm {

// The known word that takes the fewest letters to be put in, left out, changed or swapped with the next; empty where each takes more than a third of
// the word's letters, and more than one.
std::string nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace permllm
