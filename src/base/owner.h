// Whose the files are that root makes for a service.
#pragma once

#include <filesystem>

namespace permllm {

// Where this process is root's, what it made at `path`, open as `descriptor`, is given to the owner of the folder that it lies in: a service that runs
// as that user has to read it. Nothing else changes, and nothing fails.
void give_to_owner_of_folder(const std::filesystem::path& path, int descriptor);

}  // namespace permllm
