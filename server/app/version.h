// The version of this build, for --version, ServerMetadata and logs.

#ifndef SCONCE_SERVER_APP_VERSION_H_
#define SCONCE_SERVER_APP_VERSION_H_

namespace sconce {

inline constexpr char kVersion[] = SCONCE_VERSION;

}  // namespace sconce

#endif  // SCONCE_SERVER_APP_VERSION_H_
