#include "model/safetensors.h"

#include <gtest/gtest.h>

#include "model/model_file.h"
#include "support/small_model.h"

namespace permllm::test {
namespace {

template <class Act>
std::string error_of(const Act& act, Code code = Code::file) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}
std::string error_of(const FileBytes& bytes, Code code = Code::file) {
  return error_of([&] { parse_safetensors(bytes); }, code);
}

const std::map<std::string, SmallTensor>& two() {
  static const std::map<std::string, SmallTensor> tensors{{"a", small_tensor("a", {2, 3})},
                                                          {"b", small_tensor("b", {4})}};
  return tensors;
}

TEST(Safetensors, tensors_are_views_with_their_rows_lengths_first) {
  const FileBytes bytes = safetensors(two());
  const auto tensors = parse_safetensors(bytes);
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].shape, (std::vector<std::uint64_t>{3, 2}));
  std::vector<float> row(3);
  dequantize_row(tensors[0], 1, row);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(row[i], two().at("a").at(1, i));
}

TEST(Safetensors, halves_are_read) {
  const std::string header =
      R"({"h":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]}})";
  const FileBytes bytes = safetensors(header, {0x00, 0x3c, 0x00, 0xc2, 0x80, 0x3f, 0x40, 0xc0});
  std::vector<float> row(2);
  const auto tensors = parse_safetensors(bytes);
  dequantize_row(tensors[0], 0, row);
  EXPECT_EQ(row, (std::vector<float>{1, -3}));
  dequantize_row(tensors[1], 0, row);
  EXPECT_EQ(row, (std::vector<float>{1, -3}));
}

TEST(Safetensors, every_truncation_is_refused) {
  const FileBytes whole = safetensors(two());
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_NE(error_of(FileBytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length))), "no error")
        << length;
  }
}

TEST(Safetensors, an_absurd_header_length_is_refused) {
  FileBytes bytes = safetensors(two());
  for (const std::uint64_t length :
       {std::uint64_t{1} << 63, ~std::uint64_t{0}, std::uint64_t{bytes.size()}, std::uint64_t{bytes.size() - 7}}) {
    std::memcpy(bytes.data(), &length, 8);
    EXPECT_EQ(error_of(bytes).rfind("header.length: ", 0), 0u) << length;
  }
  // Of which all is there, but which no model has.
  EXPECT_EQ(error_of(safetensors(std::string(17 << 20, ' '), {})).rfind("header.length: 17825792, ", 0), 0u);
}

TEST(Safetensors, a_header_that_is_no_object_is_refused) {
  EXPECT_EQ(error_of(safetensors("", {})), "header: is no JSON");
  EXPECT_EQ(error_of(safetensors("{\"a\":", {})), "header: is no JSON");
  EXPECT_EQ(error_of(safetensors("[]", {})), "header: is not a JSON object");
  EXPECT_EQ(error_of(safetensors("{\"\xff\":1}", {})), "header: is no JSON");
  EXPECT_EQ(error_of(safetensors(std::string(1000000, '['), {})), "header: JSON nested deeper than 16");
}

TEST(Safetensors, a_name_that_stands_twice_is_refused) {
  const std::string entry = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_EQ(error_of(safetensors("{" + entry + "," + entry + "}", FileBytes(4))), "header: the key \"a\" stands twice");
  EXPECT_EQ(
      error_of(safetensors(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", FileBytes(4))),
      "header: the key \"dtype\" stands twice");
}

// Every field by itself: missing, of another type, out of range.
TEST(Safetensors, every_field_is_checked_and_named) {
  const auto [header, data] = header_and_data(two());  // a: 24 bytes, then b: 16
  const auto error_with = [&, &header = header, &data = data](const std::string& name, const char* field,
                                                              const nlohmann::json& value, Code code = Code::file) {
    nlohmann::json spoilt = header;
    if (value.is_null())
      spoilt[name].erase(field);
    else
      spoilt[name][field] = value;
    return error_of(safetensors(spoilt.dump(), data), code);
  };
  using Json = nlohmann::json;
  const std::vector<std::tuple<const char*, Json, Code>> cases{
      {"dtype", Json(), Code::file},
      {"dtype", 7, Code::file},
      {"dtype", "I64", Code::unsupported},
      {"dtype", "F8_E4M3", Code::unsupported},
      {"shape", Json(), Code::file},
      {"shape", 6, Code::file},
      {"shape", Json::array(), Code::file},
      {"shape", {1, 1, 1, 2, 3}, Code::file},
      {"shape", {2, 0}, Code::file},
      {"shape", {2, -3}, Code::file},
      {"shape", {2, 3.0}, Code::file},
      {"shape", {2, "3"}, Code::file},
      {"shape", {std::uint64_t{1} << 32, std::uint64_t{1} << 32}, Code::file},
      {"shape", {~std::uint64_t{0}, 2}, Code::file}};
  for (const auto& [field, value, code] : cases) {
    EXPECT_EQ(error_with("a", field, value, code).rfind(std::string("tensor a.") + field + ": ", 0), 0u)
        << value << ": " << error_with("a", field, value, code);
  }
  // The shape does not fit the data, or the data is not there.
  const std::vector<Json> offsets{Json(),   0,         Json::array({0}),       {0, 12, 24}, {0, 20}, {0, 28}, {24, 0},
                                  {-1, 23}, {0, 24.0}, {0, ~std::uint64_t{0}}, {24, 48},    {4, 28}};
  for (const Json& value : offsets)
    EXPECT_EQ(error_with("a", "data_offsets", value).rfind("tensor a.data_offsets: ", 0), 0u)
        << value << ": " << error_with("a", "data_offsets", value);
  EXPECT_EQ(error_with("a", "shape", {2, 4}).rfind("tensor a.data_offsets: holds 24 bytes, its shape takes 32", 0), 0u);
  EXPECT_EQ(error_with("a", "more", 1), "tensor a: is described by more than dtype, shape and data_offsets");
  EXPECT_EQ(error_of(safetensors(R"({"a":[]})", {})), "tensor a: is not described by a JSON object");
}

TEST(Safetensors, overlaps_holes_and_leftovers_are_refused) {
  const auto file = [](int a_end, int b_begin, std::size_t size) {
    const nlohmann::json header{{"a", {{"dtype", "F16"}, {"shape", {a_end / 2}}, {"data_offsets", {0, a_end}}}},
                                {"b", {{"dtype", "F16"}, {"shape", {4}}, {"data_offsets", {b_begin, b_begin + 8}}}}};
    return safetensors(header.dump(), FileBytes(size));
  };
  EXPECT_EQ(error_of(file(8, 8, 16)), "no error");
  EXPECT_EQ(error_of(file(8, 6, 14)),
            "tensor b.data_offsets: does not begin where the tensor before it ends (an overlap or a hole)");
  EXPECT_EQ(error_of(file(8, 0, 8)).substr(8),
            ".data_offsets: does not begin where the tensor before it ends (an overlap or a hole)");
  EXPECT_EQ(error_of(file(8, 10, 18)),
            "tensor b.data_offsets: does not begin where the tensor before it ends (an overlap or a hole)");
  EXPECT_EQ(error_of(file(8, 8, 17)), "header: the file goes on behind its last tensor");
}

// ---- Folders -------------------------------------------------------------------------------------------------------------

// Two shards with their index.
struct Sharded {
  TemporaryFolder folder;
  nlohmann::json places{{"a", "model-1.safetensors"}, {"b", "model-2.safetensors"}};
  Sharded() {
    folder.write("config.json", bytes_of("{}"));
    folder.write("model-1.safetensors", safetensors(std::map<std::string, SmallTensor>{*two().begin()}));
    folder.write("model-2.safetensors", safetensors(std::map<std::string, SmallTensor>{*std::next(two().begin())}));
    write_index();
  }
  void write_index() const {
    folder.write("model.safetensors.index.json",
                 bytes_of(nlohmann::json{{"metadata", {{"total_size", 40}}}, {"weight_map", places}}.dump()));
  }
  std::string error(Code code = Code::file) const {
    return error_of([&] { ModelFile::open(folder.path()); }, code);
  }
};

TEST(Folder, shards_are_one_model) {
  const Sharded sharded;
  const ModelFile file = ModelFile::open(sharded.folder.path());
  EXPECT_EQ(file.tensors().size(), 2u);
  ASSERT_NE(file.find("b"), nullptr);
  std::vector<float> row(4);
  dequantize_row(*file.find("b"), 0, row);
  EXPECT_EQ(row, two().at("b").values);
  EXPECT_EQ(file.gguf(), nullptr);
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST(Folder, one_file_needs_no_index) {
  const Sharded sharded;
  sharded.folder.write("model.safetensors", safetensors(two()));
  std::filesystem::remove(sharded.folder.path() / "model.safetensors.index.json");
  EXPECT_EQ(ModelFile::open(sharded.folder.path()).tensors().size(), 2u);
}

TEST(Folder, the_hash_is_of_config_and_shards_in_order) {
  const TemporaryFolder folder;
  folder.write("config.json", bytes_of("{}"));
  folder.write("model.safetensors", safetensors("{}", {}));
  // printf '{}\x02\0\0\0\0\0\0\0{}' | sha256sum
  EXPECT_EQ(ModelFile::open(folder.path()).sha256(),
            "0eeec109c53b2a66f1b6d0de6c0f28c444ea76b163afb7e678a6200baf38ad1e");
  const Sharded sharded;
  const std::string whole = ModelFile::open(sharded.folder.path()).sha256();
  sharded.folder.write("config.json", bytes_of("{ }"));
  EXPECT_NE(ModelFile::open(sharded.folder.path()).sha256(), whole);
}

TEST(Folder, what_is_missing_is_named) {
  for (const char* name : {"model-2.safetensors", "config.json", "model.safetensors.index.json"}) {
    const Sharded sharded;
    std::filesystem::remove(sharded.folder.path() / name);
    EXPECT_NE(sharded.error().find(name), std::string::npos) << sharded.error();
  }
}

TEST(Folder, an_index_that_does_not_fit_is_refused) {
  {
    Sharded sharded;
    sharded.places["c"] = "model-1.safetensors";
    sharded.write_index();
    EXPECT_NE(
        sharded.error().find("model.safetensors.index.json: names tensor c, which model-1.safetensors does not hold"),
        std::string::npos)
        << sharded.error();
  }
  {
    Sharded sharded;
    sharded.places["a"] = "model-2.safetensors";
    sharded.write_index();
    EXPECT_NE(
        sharded.error().find("model.safetensors.index.json: names tensor a, which model-2.safetensors does not hold"),
        std::string::npos)
        << sharded.error();
  }
  {
    Sharded sharded;  // b stands in both shards
    sharded.folder.write("model-1.safetensors", safetensors(two()));
    EXPECT_NE(sharded.error().find("does not say that tensor b is in model-1.safetensors"), std::string::npos)
        << sharded.error();
  }
  for (const nlohmann::json& place : std::vector<nlohmann::json>{"../model-1.safetensors", "/etc/passwd", "model-1.bin",
                                                                 1, nullptr, std::string("model\0.safetensors", 18)}) {
    Sharded sharded;
    sharded.places["a"] = place;
    sharded.write_index();
    EXPECT_NE(sharded.error().find("weight_map.a: is not the name"), std::string::npos)
        << place << ": " << sharded.error();
  }
  for (const char* index : {"", "[]", "{}", R"({"weight_map":1})", R"({"weight_map":{"a":"x","a":"y"}})"}) {
    const Sharded sharded;
    sharded.folder.write("model.safetensors.index.json", bytes_of(index));
    EXPECT_NE(sharded.error(), "no error") << index;
  }
}

TEST(Folder, a_fault_within_a_shard_names_the_shard) {
  const Sharded sharded;
  sharded.folder.write("model-2.safetensors", safetensors("[]", {}));
  EXPECT_NE(sharded.error().find("model-2.safetensors: header: is not a JSON object"), std::string::npos)
      << sharded.error();
}

TEST(Folder, config_json_has_to_be_an_object) {
  for (const char* config : {"", "{", "[]", "1", R"({"a":1,"a":2})"}) {
    const Sharded sharded;
    sharded.folder.write("config.json", bytes_of(config));
    EXPECT_NE(sharded.error().find("config.json: "), std::string::npos) << config << ": " << sharded.error();
  }
}

TEST(ModelFile, what_is_no_model_is_told_what_is) {
  const TemporaryFolder folder;
  EXPECT_NE(error_of([&] {
              ModelFile::open(folder.path());
            }).find("a folder without config.json; a model is a GGUF file, or a folder"),
            std::string::npos);
  folder.write("text", bytes_of("some text"));
  EXPECT_NE(error_of([&] {
              ModelFile::open(folder.path() / "text");
            }).find("this is not a GGUF file; a model is a GGUF file, or a folder"),
            std::string::npos);
  EXPECT_NE(error_of([&] { ModelFile::open(folder.path() / "nothing"); }).find("there is no such file"),
            std::string::npos);
  folder.write("empty", {});
  EXPECT_NE(error_of([&] { ModelFile::open(folder.path() / "empty"); }), "no error");
}

}  // namespace
}  // namespace permllm::test
