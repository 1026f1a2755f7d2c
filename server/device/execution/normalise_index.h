// Where each element of a normalised image comes from and goes to: the one piece of arithmetic that
// the CPU's loop and the CUDA kernel share. Free of torch and of CUDA, so that unit tests run it as
// plain C++. Pure functions of their arguments.
//
// The elements are cut into runs, each short enough for one thread and regular enough for vector
// loads and stores. A run is up to `run_length` neighbouring pixels of one channel, or, where the
// channels come last on both sides, neighbouring elements in memory.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_NORMALISE_INDEX_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_NORMALISE_INDEX_H_

#ifdef __CUDACC__
#define SCONCE_HOST_DEVICE __host__ __device__
#else
#define SCONCE_HOST_DEVICE
#endif

namespace sconce {

// `Index` is an unsigned integer that holds images * channels * pixels + run_length * channels;
// division by 32 bits is several times faster on a GPU than by 64.
template <typename Index>
struct NormalisePlan {
  Index images = 0;
  Index channels = 0;
  Index pixels = 0;  // of one image
  bool source_channels_last = false;
  bool target_channels_last = false;
  Index run_length = 1;
};

// Element k of the run, 0 <= k < length, is at source + k * source_step, goes to
// target + k * target_step, and is of channel (channel + k * channel_step) % channels.
template <typename Index>
struct NormaliseRun {
  Index source = 0;
  Index source_step = 1;
  Index target = 0;
  Index target_step = 1;
  Index channel = 0;
  Index channel_step = 0;
  Index length = 0;
};

template <typename Index>
SCONCE_HOST_DEVICE inline Index CountRuns(const NormalisePlan<Index>& plan) {
  const bool flat = plan.source_channels_last && plan.target_channels_last;
  const Index whole = flat ? plan.images * plan.pixels * plan.channels : plan.pixels;
  const Index runs = whole / plan.run_length + (whole % plan.run_length != 0);
  return flat ? runs : runs * plan.images * plan.channels;
}

// REQUIRES: index < CountRuns(plan).
template <typename Index>
SCONCE_HOST_DEVICE inline NormaliseRun<Index> RunAt(const NormalisePlan<Index>& plan, Index index) {
  NormaliseRun<Index> run;
  Index rest = 0;  // elements from the run's first to the last one it could have
  if (plan.source_channels_last && plan.target_channels_last) {
    run.source = run.target = index * plan.run_length;
    run.channel = run.source % plan.channels;
    run.channel_step = 1;
    rest = plan.images * plan.pixels * plan.channels - run.source;
  } else {
    const Index runs_per_plane =
        plan.pixels / plan.run_length + (plan.pixels % plan.run_length != 0);
    Index image = 0, run_of_plane = 0;
    if (plan.source_channels_last || plan.target_channels_last) {
      // Channels change fastest, so that neighbouring threads share cache lines on the side where
      // the channels are neighbours.
      run.channel = index % plan.channels;
      const Index others = index / plan.channels;
      run_of_plane = others % runs_per_plane;
      image = others / runs_per_plane;
    } else {
      run_of_plane = index % runs_per_plane;
      const Index plane = index / runs_per_plane;
      run.channel = plane % plan.channels;
      image = plane / plan.channels;
    }
    const Index pixel = run_of_plane * plan.run_length;
    const Index planar = (image * plan.channels + run.channel) * plan.pixels + pixel;
    const Index interleaved = (image * plan.pixels + pixel) * plan.channels + run.channel;
    run.source = plan.source_channels_last ? interleaved : planar;
    run.source_step = plan.source_channels_last ? plan.channels : 1;
    run.target = plan.target_channels_last ? interleaved : planar;
    run.target_step = plan.target_channels_last ? plan.channels : 1;
    rest = plan.pixels - pixel;
  }
  run.length = rest < plan.run_length ? rest : plan.run_length;
  return run;
}

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_NORMALISE_INDEX_H_
