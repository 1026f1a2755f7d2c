#include "server/loader/proofs.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/loader/answers.h"
#include "server/registry/signature_rules.h"

namespace sconce {
namespace {

bool Fits(const std::vector<KeptTensor>& tensors, const std::vector<TensorSpec>& specs,
          const models::RowRules& rules, int64_t max_batch_size) {
  if (tensors.size() != specs.size()) return false;
  for (size_t i = 0; i < specs.size(); ++i) {
    const KeptTensor& tensor = tensors[i];
    if (tensor.dtype != specs[i].dtype || !ShapeFits(specs[i], rules.batched, tensor.shape)) {
      return false;
    }
    if (rules.batched &&
        (tensor.shape[0] < 1 || tensor.shape[0] > LargestBatch(rules, max_batch_size))) {
      return false;
    }
    const absl::Span<const std::byte> bytes = tensor.bytes;
    if (!CheckValues("", specs[i], tensor.shape, {&bytes, 1}).ok()) return false;
  }
  return true;
}

// The last of them, as far as the new version can be asked at all.
std::vector<Sample> RecentSamples(const LoadRequest& request, const Signature& signature) {
  std::vector<Sample> samples;
  const auto most = static_cast<size_t>(request.config.proof.agreement_requests);
  const size_t first = request.recent.size() - std::min(most, request.recent.size());
  for (size_t i = first; i < request.recent.size(); ++i) {
    const RecentRequest& recent = *request.recent[i];
    if (!Fits(recent.inputs, signature.inputs, signature.rows, request.config.max_batch_size) ||
        !Fits(recent.outputs, signature.outputs, signature.rows, request.config.max_batch_size)) {
      continue;
    }
    samples.push_back(
        {absl::StrCat("recent request ", i - first + 1, " of ", request.recent.size() - first,
                      ", as version ", recent.version, " answered it"),
         recent.inputs, recent.outputs});
  }
  return samples;
}

}  // namespace

absl::Status CheckAnswers(const LoadRequest& request, const WeightsStructure& structure,
                          absl::Span<const std::shared_ptr<Replica>> replicas,
                          const std::function<void()>& between) {
  const Signature& signature = structure.signature.served;
  const std::vector<Sample> recent = RecentSamples(request, signature);
  std::set<std::string> asked;
  for (const auto& replica : replicas) {
    if (!asked.insert(replica->device()).second) continue;
    const auto ask = [&](const std::vector<Sample>& samples, const Tolerance& tolerance) {
      for (const Sample& sample : samples) {
        if (between) between();
        absl::Status answered = AskSample(*replica, signature, sample, tolerance);
        if (!answered.ok()) return answered;
      }
      return absl::OkStatus();
    };
    const ProofConfig& proof = request.config.proof;
    if (absl::Status proven = ask(structure.golden, proof.golden); !proven.ok()) return proven;
    if (absl::Status alike = ask(recent, proof.agreement); !alike.ok()) return alike;
  }
  return absl::OkStatus();
}

}  // namespace sconce
