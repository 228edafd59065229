// Streams a generation: the text to stdout as it comes, one line of figures to stderr at the end.

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>

#include <grpcpp/grpcpp.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "outrider/v1/generation.grpc.pb.h"

namespace v1 = outrider::v1;

constexpr char kUsage[] =
    "usage: generate [--address A] [--max-tokens N] [--temperature T] [--seed S] [--timeout S] PROMPT\n";

// What a terminal would obey, in UTF-8: C0 but tab and line feed, DEL, C1, separators, overrides and isolates.
std::string printable(const std::string& text) {
  static const std::regex acting(
      "[\\x00-\\x08\\x0b-\\x1f\\x7f]|\\xc2[\\x80-\\x9f]|\\xe2\\x80[\\xa8-\\xae]|\\xe2\\x81[\\xa6-\\xa9]");
  std::string shown;
  auto last = text.begin();
  for (std::sregex_iterator found(text.begin(), text.end(), acting), end; found != end; ++found) {
    shown.append(last, (*found)[0].first);
    for (unsigned char byte : found->str()) {
      char spelled[5];
      std::snprintf(spelled, sizeof spelled, "\\x%02x", byte);
      shown += spelled;
    }
    last = (*found)[0].second;
  }
  return shown.append(last, text.end());
}

// The error in one line: our stable reason where there is one, and a sentence.
std::string describe(const grpc::Status& status) {
  google::rpc::Status rich;
  std::string reason = "code " + std::to_string(status.error_code());
  if (rich.ParseFromString(status.error_details())) {
    for (const auto& detail : rich.details()) {
      google::rpc::ErrorInfo info;
      if (detail.UnpackTo(&info)) reason = info.reason();
    }
  }
  return reason + ": " + printable(status.error_message());
}

int main(int argc, char** argv) {
  std::map<std::string, std::string> flags = {
      {"--address", "127.0.0.1:50050"}, {"--max-tokens", "128"}, {"--temperature", "0"}, {"--timeout", "120"}};
  v1::GenerateRequest request;
  std::chrono::system_clock::time_point deadline;
  try {
    int index = 1;
    for (; index + 2 < argc; index += 2) flags[argv[index]] = argv[index + 1];
    if (index + 1 != argc) throw std::invalid_argument("one prompt is needed");
    if (flags.size() > 4 + flags.count("--seed")) throw std::invalid_argument("there is no such flag");
    request.set_text(argv[index]);
    request.set_max_tokens(std::stoi(flags.at("--max-tokens")));
    request.mutable_sampling()->set_temperature(std::stod(flags.at("--temperature")));
    if (flags.count("--seed")) request.set_seed(std::stoull(flags.at("--seed")));
    deadline = std::chrono::system_clock::now() + std::chrono::seconds(std::stoi(flags.at("--timeout")));
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n" << kUsage;
    return 2;
  }

  grpc::ChannelArguments options;
  // A server that has vanished is given up after 25 s; it allows a ping every 10 s.
  options.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  options.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  options.SetInt("grpc.http2.ping_timeout_ms", 5'000);
  options.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  options.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto channel = grpc::CreateCustomChannel(flags["--address"], grpc::InsecureChannelCredentials(), options);
  auto stub = v1::GenerationService::NewStub(channel);

  grpc::ClientContext context;
  context.set_deadline(deadline);
  auto stream = stub->Generate(&context, request);
  v1::GenerateResponse message;
  const bool is_terminal = isatty(STDOUT_FILENO);
  while (stream->Read(&message)) {
    if (message.has_chunk()) {
      const std::string& text = message.chunk().text();
      std::cout << (is_terminal ? printable(text) : text) << std::flush;
    } else {
      const v1::GenerateSummary& summary = message.summary();
      const unsigned num_tokens = summary.usage().num_generated_tokens();
      std::fprintf(stderr, "\n%u tokens, %.1f tokens/s, seed %llu\n", num_tokens,
                   num_tokens / summary.timings().total_ms() * 1e3, (unsigned long long)summary.seed());
    }
  }
  const grpc::Status status = stream->Finish();
  if (!status.ok()) {
    std::cerr << describe(status) << std::endl;
    return 1;
  }
  return 0;
}
