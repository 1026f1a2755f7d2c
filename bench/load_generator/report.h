// What a run found, as a line of a table or as JSON. Pure but for the printing; main thread.

#ifndef SCONCE_BENCH_LOAD_GENERATOR_REPORT_H_
#define SCONCE_BENCH_LOAD_GENERATOR_REPORT_H_

#include <cstdint>
#include <string>

#include "bench/load_generator/load.h"

namespace sconce::bench {

void PrintTableHead();
// `load`: "closed 64", "open 500/s".
void PrintTableLine(const std::string& load, int64_t rows, const LoadResult& result);
// What lines have no room for: who answered, and what failed.
void PrintRemarks(const std::string& load, const LoadResult& result);

void PrintJson(const std::string& load, int64_t rows, const LoadResult& result);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_LOAD_GENERATOR_REPORT_H_
