// The weights of an exported program, as torch.export.save writes it since PyTorch 2.8: a zip
// archive
//
//   archive_format, archive_version                   "pt2", a number
//   data/weights/<model>_weights_config.json          which tensor lies where (payload_config.h)
//   data/weights/weight_<n>                           a storage's bytes, or what torch.save wrote
//   data/constants/<model>_constants_config.json, data/constants/tensor_<n>    the same of
//   constants models/<model>.json, data/sample_inputs/**, data/aotinductor/**, extra/**  never
//   looked at
#ifndef SCONCE_SERVER_CHECKPOINT_PYTORCH_EXPORTED_PROGRAM_H_
#define SCONCE_SERVER_CHECKPOINT_PYTORCH_EXPORTED_PROGRAM_H_

#include <memory>

#include "absl/status/statusor.h"
#include "server/base/file.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/archive/zip_archive.h"

namespace sconce {

// `archive`: of `file`.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenExportedProgram(File file,
                                                                const ZipArchive& archive,
                                                                const CheckpointOptions& options);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PYTORCH_EXPORTED_PROGRAM_H_
