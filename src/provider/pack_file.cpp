#include "provider/pack_file.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <cstring>

namespace permllm {
namespace {

constexpr std::uint64_t k_magic = 0x4b4341504d524550;                // "PERMPACK"
constexpr std::uint32_t k_version = 2, k_record_magic = 0x44524352;  // "RCRD"
constexpr std::size_t k_record_head = 4 + 1 + 4 + 4 + 4, k_piece_head = 4 + 8, k_sum = 8;

std::uint64_t sum_of(std::span<const std::uint8_t> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Bytes with_sum(Writer writer) {
  Bytes bytes = writer.take();
  const std::uint64_t sum = sum_of(bytes);
  const auto* at = reinterpret_cast<const std::uint8_t*>(&sum);
  bytes.insert(bytes.end(), at, at + sizeof sum);
  return bytes;
}
bool sum_fits(const Bytes& bytes) {
  std::uint64_t sum = 0;
  std::memcpy(&sum, bytes.data() + bytes.size() - k_sum, k_sum);
  return sum == sum_of(std::span(bytes).first(bytes.size() - k_sum));
}

}  // namespace

PackFile::PackFile(const std::filesystem::path& path, std::uint8_t source, std::uint64_t chain,
                   const std::string& plan_hash, std::uint64_t length, const std::function<void(Record)>& each)
    : file_(path, File::Mode::create) {
  Writer writer;
  writer.number("magic", k_magic);
  writer.number("version", k_version);
  writer.number("source", source);
  writer.number("chain", chain);
  writer.text("plan hash", plan_hash, 64);
  const Bytes head = with_sum(std::move(writer));
  head_ = length_ = head.size();
  if (length < head_) {
    file_.resize(0);
    file_.write(0, head);
    return;
  }
  if (file_.size() > length) file_.resize(length);
  Bytes there(head.size());
  if (!file_.read(0, there) || there != head) {
    throw Error(Code::file, file_.name(), "damaged, or of another chain, plan or version");
  }
  for (Record record; read_record(file_.size(), record);) each(std::move(record));
}

bool PackFile::read_record(std::uint64_t end, Record& record) {
  Bytes head(k_record_head);
  if (length_ + k_record_head > end || !file_.read(length_, head)) return false;
  Reader reader("record", head);
  std::uint32_t magic = 0, count = 0;
  reader.number("magic", magic);
  reader.number("kind", record.kind);
  reader.number("layer", record.layer);
  reader.number("first", record.batch.first);
  reader.number("count", count);
  const std::uint64_t whole = k_record_head + std::uint64_t{count} * k_piece_head + k_sum;
  if (magic != k_record_magic || length_ + whole > end) return false;
  head.resize(whole);
  if (!file_.read(length_, head) || !sum_fits(head)) return false;
  record.batch.count = count;
  record.pieces.clear();
  Reader pieces("record", std::span(head).subspan(k_record_head));
  std::uint64_t at = length_ + whole;
  for (std::uint32_t i = 0; i < count; ++i) {
    Place place{at, 0, 0};
    pieces.number("bytes", place.bytes);
    pieces.number("sum", place.sum);
    at += place.bytes;
    record.pieces.push_back(place);
  }
  if (at > end) return false;
  length_ = at;
  return true;
}

PackFile::Record PackFile::append(std::uint8_t kind, std::uint32_t layer, Batch batch,
                                  const std::vector<std::size_t>& sizes, const Bytes& material) {
  Record record{kind, layer, batch, {}};
  Writer writer;
  writer.number("magic", k_record_magic);
  writer.number("kind", kind);
  writer.number("layer", layer);
  writer.number("first", batch.first);
  writer.number("count", static_cast<std::uint32_t>(batch.count));
  std::uint64_t at = 0;
  for (const std::size_t size : sizes) {
    Place place{at, sum_of(std::span(material).subspan(at, size)), static_cast<std::uint32_t>(size)};
    writer.number("bytes", place.bytes);
    writer.number("sum", place.sum);
    record.pieces.push_back(place);
    at += size;
  }
  const Bytes head = with_sum(std::move(writer));
  for (Place& place : record.pieces) place.offset += length_ + head.size();
  file_.write(length_, head);
  file_.write(length_ + head.size(), material);
  file_.start_sync(length_, head.size() + material.size());
  length_ += head.size() + material.size();
  return record;
}

Bytes PackFile::read(const Place& place) const {
  Bytes bytes(place.bytes);
  if (!file_.read(place.offset, bytes) || sum_of(bytes) != place.sum) {
    throw Error(Code::file, file_.name(),
                fmt::format("{} bytes at {} are damaged; the chain goes on behind them", place.bytes, place.offset));
  }
  return bytes;
}

void PackFile::clear() {
  file_.resize(head_);
  length_ = head_;
}

}  // namespace permllm
