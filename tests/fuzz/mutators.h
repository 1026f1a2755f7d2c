// Mutators that know what they change: each decodes its input as far as that goes, changes records,
// opcodes, tokens or fields, and encodes the result with the lengths, checksums and offsets that
// belong to it, so that a change reaches the code behind the first checks. They never fail: what
// cannot be decoded is changed as plain bytes.
#ifndef SCONCE_TESTS_FUZZ_MUTATORS_H_
#define SCONCE_TESTS_FUZZ_MUTATORS_H_

#include <string>

#include "tests/fuzz/random.h"

namespace sconce {

// libFuzzer's own mutations of bytes, with its dictionary of compared values.
void MutateBytes(std::string& bytes);

// By what the bytes look like: one of the following.
void MutateFile(std::string& bytes, Random& random);

void MutatePickle(std::string& bytes, Random& random);     // one pickle, and what comes after it
void MutatePicklesIn(std::string& bytes, Random& random);  // pickles between other bytes
void MutateZip(std::string& bytes, Random& random);        // torch.save's zip archive
void MutateTar(std::string& bytes, Random& random);        // torch.save's first container
void MutateJson(std::string& bytes, Random& random);
void MutateSafetensors(std::string& bytes, Random& random);
void MutateProtobuf(std::string& bytes, Random& random);  // any message

}  // namespace sconce

#endif  // SCONCE_TESTS_FUZZ_MUTATORS_H_
