#include "offline/stock.h"

#include <fmt/format.h>

#include <numeric>

#include "permllm/error.h"

namespace permllm {

void Stock::keep_in(const std::filesystem::path& folder, const std::string& name, std::uint64_t chain, const std::string& plan_hash, Lengths lengths) {
  for (const Source source : {Source::helper, Source::user}) {
    Half& here = half(source);
    PERMLLM_ASSERT(here.rows.empty());
    const auto number = static_cast<std::uint8_t>(source);
    const auto each = [&](const PackFile::Record& record) {
      Row& row = here.rows[{record.kind, record.layer}];
      if (record.batch.first > row.size()) return;  // none before it: never made
      row.resize(record.batch.first);
      for (const PackFile::Place& place : record.pieces) {
        row.push_back({nullptr, place});
        bytes_ += place.bytes;
      }
    };
    here.file = std::make_unique<PackFile>(folder / (name + (source == Source::helper ? ".helper" : ".user")), number, chain, plan_hash,
                                           lengths[number], each);
    here.length = here.file->length();
  }
}

void Stock::put(Source source, std::uint8_t kind, std::uint32_t layer, Batch batch,
                const std::vector<std::size_t>& sizes, Bytes material) {
  PERMLLM_ASSERT(sizes.size() == batch.count);
  if (!deals(source, kind)) {
    throw Error(Code::malformed, "PackMaterial", source == Source::user ? "a user deals nothing where the weights are public" : "the helper deals no queries");
  }
  const std::size_t expected = std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
  if (material.size() != expected) {
    throw Error(Code::malformed, "PackMaterial.material",
                fmt::format("{} bytes, the plan says {}", material.size(), expected));
  }
  Half& here = half(source);
  const auto check = [&]() -> Row& {  // with the lock
    Row& row = here.rows[{kind, layer}];
    if (batch.first != row.size()) {
      throw Error(Code::malformed, "PackMaterial.first", fmt::format("{}, expected {}", batch.first, row.size()));
    }
    return row;
  };
  if (here.file) {
    (std::lock_guard(mutex_), check());
    const PackFile::Record record = here.file->append(kind, layer, batch, sizes, material);  // one thread puts what a source sends
    const std::lock_guard lock(mutex_);
    Row& row = check();
    for (const PackFile::Place& place : record.pieces) row.push_back({nullptr, place});
    here.length = here.file->length();
    bytes_ += expected;
  } else {
    const auto shared = std::make_shared<const Bytes>(std::move(material));
    const std::lock_guard lock(mutex_);
    Row& row = check();
    std::uint64_t offset = 0;
    for (const std::size_t size : sizes) {
      row.push_back({shared, {offset, 0, static_cast<std::uint32_t>(size)}});
      offset += size;
    }
    bytes_ += expected;
  }
  arrived_.notify_all();
}

Stock::Piece* Stock::find(Source source, std::uint8_t kind, std::uint32_t layer, std::uint32_t index) {
  auto& rows = half(source).rows;
  const auto row = rows.find({kind, layer});
  return row == rows.end() || index >= row->second.size() || row->second[index].taken ? nullptr : &row->second[index];
}

Pack Stock::take(std::uint8_t kind, std::uint32_t layer, std::uint32_t index, Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  const auto ready = [&] {
    for (const Source source : {Source::helper, Source::user}) {
      if (deals(source, kind) && find(source, kind, layer, index) == nullptr) return false;
    }
    return true;
  };
  if (!arrived_.wait_until(lock, deadline, [&] { return ready() || failure_; })) {
    throw Error(Code::timeout, "stock", "no offline material arrived from helper and user before the deadline");
  }
  if (!ready()) std::rethrow_exception(failure_);
  std::shared_ptr<const Bytes> memory[2];
  PackFile::Place places[2];
  const PackFile* files[2] = {};
  for (const Source source : {Source::helper, Source::user}) {
    if (!deals(source, kind)) continue;
    const auto h = static_cast<std::size_t>(source);
    Piece& piece = *find(source, kind, layer, index);
    memory[h] = std::move(piece.memory);
    places[h] = piece.place;
    if (!memory[h]) files[h] = halves_[h].file.get();
    piece.taken = true;
    bytes_ -= piece.place.bytes;
  }
  lock.unlock();
  const auto reader = [&](const char* name, std::size_t h) {
    if (files[h] != nullptr) {
      memory[h] = std::make_shared<const Bytes>(files[h]->read(places[h]));
      places[h].offset = 0;
    }
    return memory[h] ? Reader(name, std::span(*memory[h]).subspan(places[h].offset, places[h].bytes)) : Reader(name, {});
  };
  Reader from_helper = reader("helper's pack", 0), from_user = reader("user's pack", 1);
  return {std::move(from_helper), std::move(from_user), memory[0], memory[1]};
}

void Stock::fail(std::exception_ptr error) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::move(error);
  }
  arrived_.notify_all();
}

Marks Stock::made() const {
  const std::lock_guard lock(mutex_);
  Marks made;
  for (const std::uint8_t kind : {k_slot_kind, k_entry_kind, k_pass_kind, k_users_kind}) {
    std::size_t least = SIZE_MAX;
    for (const Source source : {Source::helper, Source::user}) {
      if (!deals(source, kind)) continue;
      for (std::uint32_t layer = 0; layer < (kind == k_slot_kind ? layers_ : 1); ++layer) {
        const auto row = half(source).rows.find({kind, layer});
        least = std::min(least, row == half(source).rows.end() ? 0 : row->second.size());
      }
    }
    made[kind] = least == SIZE_MAX ? 0 : static_cast<std::uint32_t>(least);
  }
  return made;
}

void Stock::begin_filling(const Marks& made) {
  const std::lock_guard lock(mutex_);
  for (Half& here : halves_) {
    for (auto& [place, row] : here.rows) {
      for (; row.size() > made[place.first]; row.pop_back()) {
        if (!row.back().taken) bytes_ -= row.back().place.bytes;
      }
    }
  }
  failure_ = nullptr;
}

void Stock::clear() {
  begin_filling({});
  const std::lock_guard lock(mutex_);
  for (Half& here : halves_) {
    if (!here.file) continue;
    here.file->clear();
    here.length = here.file->length();
  }
}

Stock::Lengths Stock::sync() {
  Lengths lengths{};
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t h = 0; h < 2; ++h) lengths[h] = halves_[h].length;
  }
  for (const Half& here : halves_) {
    if (here.file) here.file->sync();
  }
  return lengths;
}

std::size_t Stock::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace permllm
