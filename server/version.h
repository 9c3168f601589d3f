// The version of this build, from CMake's project(). Constant.
#ifndef EVENFLOW_SERVER_VERSION_H_
#define EVENFLOW_SERVER_VERSION_H_

namespace evenflow {

inline constexpr const char* kVersion = EVENFLOW_VERSION;

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_VERSION_H_
