// What a fault is in the words of a person, who does not know the messages of the wire. Logs keep what().
#pragma once

#include <string>

#include "permllm/error.h"

namespace permllm {

// what(), without a field that is the name of a message or of a part of one ("PackDealt", "Resume.session", "the answer to Resume").
std::string plain_words(const Error& error);
// The same with the remedy of its reason: what command line and gateway say.
std::string for_person(const Error& error);

}  // namespace permllm
