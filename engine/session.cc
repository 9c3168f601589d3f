#include "engine/session.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace evenflow {

void TokenHistory::Append(int32_t token) {
  if (ring_.empty()) {
    ring_.resize(static_cast<size_t>(capacity_));
  }
  ring_[static_cast<size_t>(position_ % capacity_)] = token;
  ++position_;
}

int32_t TokenHistory::newest() const {
  return ring_[static_cast<size_t>((position_ - 1) % capacity_)];
}

Session::Session(std::string session_id, std::chrono::milliseconds idle, int history_tokens)
    : id(std::move(session_id)), idle_timeout(idle), history(history_tokens) {}

absl::Status ValidateSessionId(const std::string& id) {
  const bool clean = std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
  if (id.empty() || id.size() > 128 || !clean) {
    return absl::InvalidArgumentError(absl::StrCat("session_id has ", id.size(), " bytes",
                                                   clean ? "" : ", some not allowed",
                                                   "; it must be 1 to 128 of [A-Za-z0-9._-]"));
  }
  return absl::OkStatus();
}

std::string RandomSessionId() {
  std::random_device bits;
  return absl::StrFormat("%08x%08x%08x%08x", bits(), bits(), bits(), bits());
}

absl::Status SessionTable::Insert(std::shared_ptr<Session> session) {
  if (sessions_.count(session->id) != 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("session_id '", session->id, "' is taken by another session"));
  }
  if (sessions_.size() >= limit_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", limit_, " sessions already, as many as are allowed"));
  }
  const std::string id = session->id;
  sessions_.emplace(id, std::move(session));
  return absl::OkStatus();
}

std::shared_ptr<Session> SessionTable::Find(const std::string& id) const {
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Session>> SessionTable::List(const std::string& after,
                                                         size_t limit) const {
  std::vector<std::shared_ptr<Session>> sessions;
  for (auto it = sessions_.upper_bound(after); it != sessions_.end() && sessions.size() < limit;
       ++it) {
    sessions.push_back(it->second);
  }
  return sessions;
}

std::vector<std::shared_ptr<Session>> SessionTable::TakeExpired(SteadyTime now) {
  std::vector<std::shared_ptr<Session>> expired;
  for (auto it = sessions_.begin(); it != sessions_.end();) {
    if (!it->second->leased && it->second->expires <= now) {
      expired.push_back(std::move(it->second));
      it = sessions_.erase(it);
    } else {
      ++it;
    }
  }
  return expired;
}

SteadyTime SessionTable::NextExpiry() const {
  SteadyTime next = SteadyTime::max();
  for (const auto& [id, session] : sessions_) {
    if (!session->leased) {
      next = std::min(next, session->expires);
    }
  }
  return next;
}

int SessionTable::quarantined() const {
  return static_cast<int>(std::count_if(sessions_.begin(), sessions_.end(), [](const auto& entry) {
    return entry.second->quarantined.load();
  }));
}

}  // namespace evenflow
