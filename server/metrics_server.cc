#include "server/metrics_server.h"

#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include <CivetServer.h>
#include <prometheus/text_serializer.h>

#include "absl/strings/str_cat.h"

namespace evenflow {

namespace {

struct Answer {
  int code = 200;
  const char* type = "text/plain; charset=utf-8";
  std::string body;
};

// GET and HEAD of one path.
template <typename Make>
class Page : public CivetHandler {
 public:
  explicit Page(Make make) : make_(std::move(make)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    return Send(connection, true);
  }

  bool handleHead(CivetServer*, mg_connection* connection) override {
    return Send(connection, false);
  }

 private:
  bool Send(mg_connection* connection, bool with_body) {
    const Answer answer = make_();
    mg_printf(connection,
              "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n"
              "\r\n",
              answer.code, mg_get_response_code_text(connection, answer.code), answer.type,
              answer.body.size());
    if (with_body) {
      mg_write(connection, answer.body.data(), answer.body.size());
    }
    return true;
  }

  Make make_;
};

template <typename Make>
std::unique_ptr<CivetHandler> MakePage(Make make) {
  return std::make_unique<Page<Make>>(std::move(make));
}

// Where a thread that is in Start gathers what the HTTP library complains of.
thread_local std::string* complaints = nullptr;

int Complain(const mg_connection*, const char* message) {
  if (complaints != nullptr) {
    absl::StrAppend(complaints, ": ", message);
  }
  return 1;  // not written elsewhere
}

}  // namespace

// The pages outlive the server that calls them.
struct MetricsServer::Http {
  std::unique_ptr<CivetHandler> metrics, health, ready;
  std::unique_ptr<CivetServer> server;
};

MetricsServer::MetricsServer(const prometheus::Collectable& collectable)
    : collectable_(collectable), http_(std::make_unique<Http>()) {
  http_->metrics = MakePage([this] {
    return Answer{200, "text/plain; version=0.0.4; charset=utf-8",
                  prometheus::TextSerializer().Serialize(collectable_.Collect())};
  });
  http_->health = MakePage([] { return Answer{.body = "ok\n"}; });
  http_->ready = MakePage([this] {
    return ready_.load() ? Answer{.body = "ready\n"} : Answer{.code = 503, .body = "not ready\n"};
  });
}

// The listening thread looks up only every two seconds, unless somebody connects.
MetricsServer::~MetricsServer() {
  if (http_->server == nullptr) {
    return;
  }
  const int to = port();
  std::atomic<bool> stopped{false};
  std::thread visitor([&stopped, to] {
    while (!stopped.load()) {
      char error[128];
      if (mg_connection* const visit =
              mg_connect_client("127.0.0.1", to, /*use_ssl=*/0, error, sizeof(error));
          visit != nullptr) {
        mg_close_connection(visit);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  http_->server.reset();
  stopped.store(true);
  visitor.join();
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& address, const prometheus::Collectable& collectable) {
  std::unique_ptr<MetricsServer> server(new MetricsServer(collectable));
  Http& http = *server->http_;
  const std::vector<std::string> options = {"listening_ports",    address, "num_threads", "4",
                                            "request_timeout_ms", "10000"};
  CivetCallbacks callbacks;
  callbacks.log_message = Complain;
  std::string why;
  complaints = &why;
  try {
    http.server = std::make_unique<CivetServer>(options, &callbacks);
  } catch (const CivetException&) {
  }
  complaints = nullptr;
  if (http.server == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("--metrics-listen: address ", address, " is in use or cannot be bound", why));
  }
  http.server->addHandler("/metrics$", http.metrics.get());
  http.server->addHandler("/healthz$", http.health.get());
  http.server->addHandler("/readyz$", http.ready.get());
  return server;
}

int MetricsServer::port() const {
  const std::vector<int> ports = http_->server->getListeningPorts();
  return ports.empty() ? 0 : ports.front();
}

}  // namespace evenflow
