#include "provider/stock.h"

#include <fmt/format.h>

#include <numeric>

#include "page/declared.h"
#include "permllm/error.h"

namespace permllm {

void Stock::keep_in(const std::filesystem::path& folder, const std::string& name, std::uint64_t chain,
                    const std::string& plan_hash, HalfLengths lengths) {
  const Lock lock(mutex_);
  for (const Source source : {Source::helper, Source::user}) {
    Half& here = half(source);
    PERMLLM_ASSERT(here.rows.empty());
    const auto number = static_cast<std::uint8_t>(source);
    Row again;  // pieces that were dealt again
    const auto each = [&](const PackFile::Record& record) REQUIRES(mutex_) {
      Row& row = here.rows[{record.kind, record.layer}];
      if (record.batch.first > row.pieces.size()) return;  // none before it: never made
      again.pieces.insert(again.pieces.end(), row.pieces.begin() + record.batch.first, row.pieces.end());
      cut(row, record.batch.first);
      for (const PackFile::Place& place : record.pieces) {
        row.pieces.push_back({nullptr, place});
        bytes_ += place.bytes;
      }
    };
    here.file = std::make_unique<PackFile>(folder / (name + (source == Source::helper ? ".helper" : ".user")), number,
                                           chain, plan_hash, lengths[number], each);
    here.length = here.file->length();
    free(here, again, 0, again.pieces.size());
  }
}

void Stock::put(Source source, std::uint8_t kind, std::uint32_t layer, Batch batch,
                const std::vector<std::size_t>& sizes, Bytes material) {
  PERMLLM_ASSERT(sizes.size() == batch.count);
  if (!deals(source, kind)) {
    throw Error(
        Code::malformed, "PackMaterial",
        source == Source::user ? "a user deals nothing where the weights are public" : "the helper deals no queries");
  }
  const std::size_t expected = std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
  if (material.size() != expected) {
    throw Error(Code::malformed, "PackMaterial.material",
                fmt::format("{} bytes, the plan says {}", material.size(), expected));
  }
  Half& here = half(source);
  const auto check = [&]() REQUIRES(mutex_) -> Row& {
    Row& row = here.rows[{kind, layer}];
    if (batch.first != row.pieces.size()) {
      throw Error(Code::malformed, "PackMaterial.first",
                  fmt::format("{}, expected {}", batch.first, row.pieces.size()));
    }
    return row;
  };
  if (here.file) {
    {
      const Lock lock(mutex_);
      check();
    }
    const PackFile::Record record =
        here.file->append(kind, layer, batch, sizes, material);  // one thread puts what a source sends
    const Lock lock(mutex_);
    Row& row = check();
    for (const PackFile::Place& place : record.pieces) row.pieces.push_back({nullptr, place});
    here.length = here.file->length();
    bytes_ += expected;
  } else {
    const auto shared = std::make_shared<const Bytes>(std::move(material));
    const Lock lock(mutex_);
    Row& row = check();
    std::uint64_t offset = 0;
    for (const std::size_t size : sizes) {
      row.pieces.push_back({shared, {offset, 0, static_cast<std::uint32_t>(size)}});
      offset += size;
    }
    bytes_ += expected;
  }
  arrived_.notify_all();
}

Stock::Piece* Stock::find(Source source, std::uint8_t kind, std::uint32_t layer, std::uint32_t index) {
  auto& rows = half(source).rows;
  const auto row = rows.find({kind, layer});
  if (row == rows.end() || index >= row->second.pieces.size()) return nullptr;
  Piece& piece = row->second.pieces[index];
  return piece.taken ? nullptr : &piece;
}

template <class Ready>
void Stock::wait(Lock& lock, Clock::time_point deadline, const Ready& ready) {
  if (ready()) return;
  waits_since_ = Clock::now();
  const bool arrived = arrived_.wait_until(lock, deadline, [&]() REQUIRES(mutex_) { return ready() || failure_; });
  waits_since_.reset();
  if (!arrived)
    throw Error(Code::timeout, Reason::out_of_stock, "stock",
                "no offline material arrived from helper and user before the deadline");
  if (!ready()) std::rethrow_exception(failure_);
}

Pack Stock::take(std::uint8_t kind, std::uint32_t layer, std::uint32_t index, Clock::time_point deadline) {
  Lock lock(mutex_);
  const auto ready = [&]() REQUIRES(mutex_) {
    for (const Source source : {Source::helper, Source::user}) {
      if (deals(source, kind) && find(source, kind, layer, index) == nullptr) return false;
    }
    return true;
  };
  wait(lock, deadline, ready);
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
  }
  lock.unlock();
  const auto reader = [&](const char* name, std::size_t h) {
    if (files[h] != nullptr) {
      memory[h] = std::make_shared<const Bytes>(files[h]->read(places[h]));
      places[h].offset = 0;
    }
    return memory[h] ? Reader(name, std::span(*memory[h]).subspan(places[h].offset, places[h].bytes))
                     : Reader(name, {});
  };
  Reader from_helper = reader("helper's pack", 0), from_user = reader("user's pack", 1);
  return {std::move(from_helper), std::move(from_user), memory[0], memory[1]};
}

std::optional<Clock::time_point> Stock::waits_since() const {
  const Lock lock(mutex_);
  return waits_since_;
}

void Stock::fail(std::exception_ptr error) {
  {
    const Lock lock(mutex_);
    if (!failure_) failure_ = std::move(error);
  }
  arrived_.notify_all();
}

void Stock::await(const Marks& needed, Clock::time_point deadline) {
  Lock lock(mutex_);
  wait(lock, deadline, [&]() REQUIRES(mutex_) { return within(needed, made_here()); });
}

Marks Stock::made() const {
  const Lock lock(mutex_);
  return made_here();
}

Marks Stock::made_here() const {
  Marks made;
  for (const std::uint8_t kind : {k_slot_kind, k_entry_kind, k_pass_kind, k_users_kind}) {
    std::size_t least = SIZE_MAX;
    for (const Source source : {Source::helper, Source::user}) {
      if (!deals(source, kind)) continue;
      for (std::uint32_t layer = 0; layer < (kind == k_slot_kind ? layers_ : 1); ++layer) {
        const auto row = half(source).rows.find({kind, layer});
        least = std::min(least, row == half(source).rows.end() ? 0 : row->second.pieces.size());
      }
    }
    made[kind] = least == SIZE_MAX ? 0 : static_cast<std::uint32_t>(least);
  }
  return made;
}

bool Stock::free(const Half& half, const Row& row, std::size_t first, std::size_t end) {
  for (std::size_t i = first; half.file && i < end;) {
    const std::uint64_t begin = row.pieces[i].place.offset;
    std::uint64_t to = begin;  // pieces of a record lie side by side
    for (; i < end && row.pieces[i].place.offset == to; ++i) to += row.pieces[i].place.bytes;
    if (!half.file->free(begin, to - begin)) return false;
  }
  return true;
}

void Stock::free(const Marks& burnt) {
  const Lock lock(mutex_);
  for (Half& here : halves_) {
    for (auto& [place, row] : here.rows) {
      const std::size_t end = std::min<std::size_t>(burnt[place.first], row.pieces.size());
      if (row.freed >= end) continue;
      for (std::size_t i = row.freed; i < end; ++i) {
        row.pieces[i].taken = true;
        row.pieces[i].memory = nullptr;
      }
      // With those before them, which are free: the block goes that both have a part of.
      std::size_t first = row.freed;
      const auto adjoins = [&](const Piece& a, const Piece& b) {
        return a.place.offset + a.place.bytes == b.place.offset;
      };
      while (first > 0 && adjoins(row.pieces[first - 1], row.pieces[first])) --first;
      if (!free(here, row, first, end)) continue;
      for (; row.freed < end; ++row.freed) bytes_ -= row.pieces[row.freed].place.bytes;
    }
  }
}

void Stock::cut(Row& row, std::size_t size) {
  for (std::size_t i = std::max(size, row.freed); i < row.pieces.size(); ++i) bytes_ -= row.pieces[i].place.bytes;
  row.pieces.resize(size);
  row.freed = std::min(row.freed, size);
}

void Stock::drop_behind(const Marks& made) {
  const Lock lock(mutex_);
  for (Half& here : halves_) {
    for (auto& [place, row] : here.rows) {
      if (row.pieces.size() <= made[place.first]) continue;
      std::size_t first = made[place.first];
      while (first < row.pieces.size() && row.pieces[first].taken) ++first;  // may be read now
      free(here, row, first, row.pieces.size());
      cut(row, made[place.first]);
    }
  }
}

void Stock::begin_filling(const Marks& made) {
  drop_behind(made);
  const Lock lock(mutex_);
  failure_ = nullptr;
}

void Stock::clear() {
  begin_filling({});
  const Lock lock(mutex_);
  for (Half& here : halves_) {
    if (!here.file) continue;
    here.file->clear();
    here.length = here.file->length();
  }
}

HalfLengths Stock::sync() {
  HalfLengths lengths{};
  {
    const Lock lock(mutex_);
    for (std::size_t h = 0; h < 2; ++h) lengths[h] = halves_[h].length;
  }
  for (const Half& here : halves_) {
    if (here.file) here.file->sync();
  }
  return lengths;
}

std::size_t Stock::bytes() const {
  const Lock lock(mutex_);
  return bytes_;
}

void put_in_stock(Stock& stock, Stock::Source source, const Plan& plan, PackMaterial message) {
  const PackOrder order{message.kind, message.first, message.count};
  check_pieces(plan, order);
  const auto kind = static_cast<Part::Kind>(message.kind);
  const std::size_t parts = kind == Part::Kind::slot ? plan.config.layers : 1;
  if (message.layer >= parts) {
    throw Error(Code::malformed, "PackMaterial.layer", fmt::format("{}, expected less than {}", message.layer, parts));
  }
  std::vector<std::size_t> sizes;
  for (std::size_t i = 0; i < order.count; ++i) {
    const Cost cost = piece_cost(plan, kind, message.layer, order.batch().index(i));
    sizes.push_back(source == Stock::Source::helper ? cost.offline.helper_to_provider : cost.offline.user_to_provider);
  }
  stock.put(source, message.kind, message.layer, order.batch(), sizes, std::move(message.material));
}

}  // namespace permllm
